"""How long a list of many domains takes, against what people use today; prints the ratios.

Whole processes, in turns, on a private hypervisor with paused domains.

usage: python -m tests.bench.listing [--rounds N] [DOMAINS...]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from tests.lab import Hypervisor

COMMAND = Path(sys.executable).with_name("virtballoon")

# What people write: a call for the figures and one for the XML, domain by domain.
PYTHON_LOOP = """
import sys
import xml.etree.ElementTree as ET
import libvirt
connection = libvirt.openReadOnly(sys.argv[1])
for domain in connection.listAllDomains():
    stats = domain.memoryStats() if domain.isActive() else {}
    period = ET.fromstring(domain.XMLDesc()).find("devices/memballoon/stats")
    print(domain.name(), stats, period is not None and period.get("period"))
"""
SHELL_LOOP = """
for domain in $(virsh -q -c "$1" list --name); do
  virsh -q -c "$1" dommemstat "$domain"
  virsh -q -c "$1" dumpxml "$domain" | grep "period="
done
"""


def contenders(uri: str, *, with_shell: bool) -> dict[str, list[str]]:
    """The commands by name, ours first."""
    commands = {
        "virtballoon list --format json": [str(COMMAND), "-c", uri, "list", "--format", "json"],
        "virsh domstats --balloon": ["virsh", "-q", "-c", uri, "domstats", "--balloon"],
        "a Python loop": [sys.executable, "-c", PYTHON_LOOP, uri],
    }
    if with_shell:
        commands["a shell loop of virsh"] = ["sh", "-c", SHELL_LOOP, "sh", uri]
    return commands


class Usage(NamedTuple):
    """Of one whole process: seconds, those of its processor time, and its peak memory in bytes."""

    elapsed: float
    processor: float
    memory: int


def measure(command: list[str]) -> Usage:
    """Run a process, without its output."""
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    elapsed = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    # The loop of the shell ends with that of grep.
    if process.returncode and command[0] != "sh":
        raise subprocess.CalledProcessError(process.returncode, command)
    return Usage(elapsed, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def compare(hypervisor: Hypervisor, number: int, rounds: int) -> None:
    """Run everyone in turns and print their best, and the ratio of ours to each."""
    best: dict[str, float] = {}
    peak: dict[str, int] = {}
    for turn in range(rounds):
        # One round of the shell loop takes as long as all else together.
        for name, command in contenders(hypervisor.uri, with_shell=turn == 0).items():
            elapsed, _, memory = measure(command)
            best[name] = min(best.get(name, elapsed), elapsed)
            peak[name] = max(peak.get(name, 0), memory)
    ours = next(iter(best.values()))
    print(f"{number} domains")
    for name, elapsed in best.items():
        ratio = f"ours is {ours / elapsed:5.2f} of it" if elapsed != ours else ""
        print(f"  {name:32} {elapsed * 1000:8.0f} ms {peak[name] / 1024**2:6.0f} MiB  {ratio}")


def main() -> None:
    """Compare at each number of domains."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("domains", type=int, nargs="*", default=[100, 400])
    options = parser.parse_args()
    with Hypervisor() as hypervisor:
        there = 0
        for number in sorted(options.domains):
            hypervisor.create_blank(number - there, prefix=f"blank{number}-", period=10)
            there = number
            compare(hypervisor, number, options.rounds)


if __name__ == "__main__":
    main()
