"""How long the command takes to start, against importing click alone; prints the ratio.

usage: python -m tests.bench.startup [ROUNDS]
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

COMMAND = Path(sys.executable).with_name("virtballoon")
PEER = [sys.executable, "-c", "import click"]


def seconds(command: list[str]) -> float:
    """The processor time of one whole process, which other processes do not lengthen much."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd="/") as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_utime + usage.ru_stime


def measure(rounds: int) -> tuple[float, float]:
    """The best of both, run in turns: what disturbs a run only ever makes it longer."""
    ours: list[float] = []
    peers: list[float] = []
    for _ in range(rounds):
        ours.append(seconds([str(COMMAND), "--version"]))
        peers.append(seconds(PEER))
    return min(ours), min(peers)


def main() -> None:
    """Print both and their ratio."""
    ours, peers = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    print(f"virtballoon --version    {ours * 1000:6.1f} ms")
    print(f"python -c 'import click' {peers * 1000:6.1f} ms")
    print(f"ratio {ours / peers:.2f}")


if __name__ == "__main__":
    main()
