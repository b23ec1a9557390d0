"""How long a list of many domains takes behind a slow link, against virsh; prints the ratio.

Whole processes, in turns, on a private hypervisor with paused domains. With --calls, what each
sends and gets, and when, as libvirt's RPC numbers it (remote_protocol.x, enum remote_procedure).

usage: python -m tests.bench.link [--rounds N] [--round-trip MS] [--calls] [DOMAINS]
"""

from __future__ import annotations

import argparse
import struct
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.listing import contenders, measure
from tests.lab import Hypervisor, Link

if TYPE_CHECKING:
    from collections.abc import Iterator

_COMMANDS = ("virtballoon list --format json", "virsh domstats --balloon")


def calls(trace: Path) -> Iterator[tuple[float, str, int, int, int]]:
    """What passed: seconds, direction, procedure, serial number and bytes of each RPC message."""
    streams: defaultdict[str, bytearray] = defaultdict(bytearray)
    for line in trace.read_text().splitlines():
        seconds, connection, direction, chunk = line.split()
        stream = streams[connection + direction]
        stream += bytes.fromhex(chunk)
        while len(stream) >= 4 and len(stream) >= (size := struct.unpack_from(">I", stream)[0]):
            _program, _version, procedure, _kind, serial = struct.unpack_from(">5I", stream, 4)
            yield float(seconds), direction, procedure, serial, size
            del stream[:size]


def main() -> None:
    """Run both in turns and print their best, then what they said."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--round-trip", type=float, default=40, metavar="MS")
    parser.add_argument("--calls", action="store_true")
    parser.add_argument("domains", type=int, nargs="?", default=100)
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in _COMMANDS}
    with Hypervisor() as hypervisor, tempfile.TemporaryDirectory() as directory:
        hypervisor.create_blank(options.domains, period=10)
        for _ in range(options.rounds):
            for name in _COMMANDS:
                trace = Path(directory) / name.partition(" ")[0]
                delay = options.round_trip / 1000
                with Link(hypervisor.socket, delay=delay, trace=trace) as link:
                    command = contenders(link.uris[0], with_shell=False)[name]
                    seconds[name].append(measure(command).elapsed)
        said = {name: list(calls(Path(directory) / name.partition(" ")[0])) for name in _COMMANDS}
    ours = min(seconds[_COMMANDS[0]])
    print(f"{options.domains} domains, {options.round_trip:g} ms there and back")
    for name in _COMMANDS:
        best = min(seconds[name])
        requests = sum(direction == ">" for _, direction, *_ in said[name])
        print(f"  {name:32} {best * 1000:6.0f} ms {requests:4} requests, ours is {ours / best:.2f}")
    for name in _COMMANDS if options.calls else ():
        print(name)
        for at, direction, procedure, serial, size in said[name]:
            since = (at - said[name][0][0]) * 1000
            print(f"  {since:8.1f} ms {direction} {procedure:3} #{serial:<3} {size:6} bytes")


if __name__ == "__main__":
    main()
