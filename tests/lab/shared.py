"""Guests that many tests share, and proof that no test ended one."""

from __future__ import annotations

import time
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt

from .waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .guest import Guest

_CONSOLE_LINES = 15
#: A guest that is asked every second or two and has not answered for this time has lost a request.
_LOST_SECONDS = 20


class SharedGuests:
    """The QEMU processes of running guests that no test may end, stop or replace.

    A process is known by its pid and its start time: a pid alone can be used again.
    """

    def __init__(self) -> None:
        self._processes: dict[Guest, tuple[int, str]] = {}
        self._ended: list[str] = []

    def watch(self, guests: Iterable[Guest]) -> None:
        """Watch guests from now on; those that do not run are left out."""
        for guest in guests:
            if guest.spec.start:
                pid = guest.pid
                self._processes[guest] = pid, _running_since(pid)

    @property
    def ended(self) -> list[str]:
        """The names of those that were found not to run any more."""
        return self._ended

    def check(self) -> list[str]:
        """Return a report of each guest that has ended or was stopped since the last check."""
        reports = []
        for guest, (pid, started) in tuple(self._processes.items()):
            if _running_since(pid) != started:
                del self._processes[guest]
                self._ended.append(guest.name)
                reports.append(
                    f"shared guest {guest.name!r} (pid {pid}) does not run any more; "
                    + last_words(guest)
                )
        return reports

    def renew_drivers(self) -> None:
        """Load the balloon's driver again in each guest that has lost a request for statistics.

        QEMU does not ask again before it has an answer, so such a guest gives no figures any more.
        An emulated guest loses one in some hours; why is not known.

        :raise AssertionError: when QEMU's interval is another than the guest was made with
        """
        for guest in self._processes:
            last = _last_update(guest)
            if not guest.spec.driver or not last or time.time() - last < _LOST_SECONDS:
                continue
            interval = guest.balloon_property("guest-stats-polling-interval")
            if interval != guest.spec.period:
                raise AssertionError(f"the interval of {guest.name!r} was changed to {interval} s")
            clues = guest.run("cat /proc/uptime; grep virtio /proc/interrupts", check=False).stdout
            message = f"{guest.name!r} lost a request; its driver is loaded again\n{clues}"
            warnings.warn(message, stacklevel=2)
            guest.run("unload_driver; load_driver")
            wait_until(partial(_is_newer, guest, last), 60, f"new figures of {guest.name!r}")


def _is_newer(guest: Guest, last: int) -> bool:
    return _last_update(guest) > last


def _last_update(guest: Guest) -> int:
    """Return when a polled guest that runs gave its last figures, 0 for any other."""
    if not guest.spec.period or guest.domain.state()[0] != libvirt.VIR_DOMAIN_RUNNING:
        return 0
    return int(guest.domain.memoryStats().get("last_update", 0))


def last_words(guest: Guest) -> str:
    """Return the end of a guest's console and of its QEMU's log."""
    console = "\n".join(guest.console().splitlines()[-_CONSOLE_LINES:])
    log = guest.hypervisor.directory / f"cache/libvirt/qemu/log/{guest.name}.log"
    output = log.read_text(errors="replace")[-1000:] if log.exists() else ""
    return f"its console:\n{console}\nits QEMU's log:\n{output}"


def _running_since(pid: int) -> str:
    """Return the start time of a process, in clock ticks; empty if it ended or is stopped."""
    try:
        # The name before it, in parentheses, may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in "ZXTt" else fields[19]
