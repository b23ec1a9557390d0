"""python -m tests.lab [-- COMMAND ARGUMENT...]: a private hypervisor to play with."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NoReturn

from . import Guest, GuestSpec, Hypervisor, LabUnavailable, wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import FrameType

DEMO = (
    GuestSpec("web1", period=2),
    GuestSpec("db1"),
    GuestSpec("legacy", model="none"),
    GuestSpec("appliance", period=2, driver=False),
    GuestSpec("build1", period=2),
)
ABOUT = {
    "web1": "polled every 2 s",
    "db1": "not polled",
    "legacy": "no balloon",
    "appliance": "polled, but the guest has no driver",
    "build1": "polled, under memory pressure",
}
_SPARED_MIB = 12
_ENDING = (signal.SIGINT, signal.SIGTERM)


def main() -> int:
    """Run the hypervisor until Ctrl-C, or as long as the command runs."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab",
        description="Start a private hypervisor with five demo guests; it leaves nothing behind.",
    )
    parser.add_argument("--no-guests", action="store_true", help="start the hypervisor alone")
    parser.add_argument(
        "command", nargs="*", help="run this with LIBVIRT_DEFAULT_URI set, then end"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, _terminate)
    # A shell has its background jobs ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Hypervisor() as hypervisor:
            started = time.monotonic()
            if not options.no_guests:
                _say(f"booting {len(DEMO)} guests")
                _pressure(hypervisor.boot(DEMO)["build1"])
                _say(f"ready after {time.monotonic() - started:.0f} s")
            if options.command:
                return _run(options.command, hypervisor)
            # From here on taken one by one, so that a second Ctrl-C does not disturb the end.
            signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
            _explain(hypervisor, {} if options.no_guests else ABOUT)
            number = signal.sigwait(_ENDING)
            _say("ending")
            return 128 + number
    except LabUnavailable as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def _pressure(guest: Guest) -> None:
    guest.hog(guest.meminfo()["MemAvailable"] // 1024**2 - _SPARED_MIB)
    wait_until(
        lambda: 0 < guest.domain.memoryStats().get("usable", 0) < 2 * _SPARED_MIB * 1024,
        60,
        f"the pressure to show in the figures of {guest.name}",
    )


def _run(command: list[str], hypervisor: Hypervisor) -> int:
    environment = {
        **os.environ,
        "LIBVIRT_DEFAULT_URI": hypervisor.uri,
        # The hosts of the machine's own configuration would be taken instead.
        "VIRTBALLOON_CONFIG_FILE": os.devnull,
    }
    try:
        process = subprocess.Popen(command, env=environment)
    except OSError as error:
        _say(f"{command[0]}: {error.strerror}")
        return 127
    with process:
        try:
            status = process.wait()
        except SystemExit:
            process.terminate()
            raise
    return status if status >= 0 else 128 - status


def _explain(hypervisor: Hypervisor, guests: Mapping[str, str]) -> None:
    for name, about in guests.items():
        _say(f"  {name:10} {about}")
    _say("in another shell:")
    uri = f"LIBVIRT_DEFAULT_URI='{hypervisor.uri}'"
    print(f"export {uri} VIRTBALLOON_CONFIG_FILE={os.devnull}", flush=True)
    _say("Ctrl-C ends it")


def _say(line: str) -> None:
    print(f"lab: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
