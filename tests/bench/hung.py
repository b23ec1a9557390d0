"""How long reading a host takes whose QEMUs hang, against one where none does; prints the ratios.

On a private hypervisor with paused domains, some of which are stopped with SIGSTOP. The first run
finds them out, the later ones know them. Ends with status 1 if a run has lost any other domain.

usage: python -m tests.bench.hung [--rounds N] [--hung N] [--via libvirt|qom] [DOMAINS]
"""

from __future__ import annotations

import argparse
import signal
import sys
import time

from tests.lab import Hypervisor
from tests.lab.keeper import lab_processes, signal_process
from virtballoon import Source, Verdict, read_host
from virtballoon.hypervisor.translation import keep_stderr_quiet

#: Far more than any run takes.
TIMEOUT = 60.0


def measure(uri: str, via: Source) -> tuple[float, int]:
    """The time of one reading, connecting included, and how many domains were not read."""
    started = time.perf_counter()
    host = read_host(uri, via=via, timeout=TIMEOUT)
    elapsed = time.perf_counter() - started
    return elapsed, sum(row.verdict is not Verdict.SUSPENDED for row in host.domains)


def main() -> None:
    """Read without hung domains, then with them, and print the best of each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--hung", type=int, default=3)
    parser.add_argument("--via", type=Source, choices=list(Source), default=Source.LIBVIRT)
    parser.add_argument("domains", type=int, nargs="?", default=100)
    options = parser.parse_args()
    keep_stderr_quiet()
    with Hypervisor() as hypervisor:
        names = hypervisor.create_blank(options.domains, period=10)
        # Spread over the host, two of them next to each other.
        step = max(1, options.domains // options.hung)
        hung = [names[3], *[names[(4 + i * step) % len(names)] for i in range(options.hung - 1)]]
        uri, via = hypervisor.uri, options.via
        well = min(measure(uri, via)[0] for _ in range(options.rounds))
        for name in hung:
            uuid = hypervisor.connection.lookupByName(name).UUIDString()
            for pid in lab_processes(hypervisor.directory, uuid):
                signal_process(pid, signal.SIGSTOP, hypervisor.directory)
        first, lost = measure(uri, via)
        later = [measure(uri, via) for _ in range(options.rounds)]
        best = min(elapsed for elapsed, _ in later)
    print(f"{options.domains} domains, {len(hung)} of them hung, via {via}")
    print(f"  none hung       {well * 1000:6.0f} ms")
    print(f"  the first run   {first * 1000:6.0f} ms")
    print(f"  later runs      {best * 1000:6.0f} ms  {best / well:5.2f} of a run with none hung")
    most = max(lost, *(number for _, number in later))
    print(f"  not read        {most:6}")
    sys.exit(most != len(hung))


if __name__ == "__main__":
    main()
