"""Every speed that CONTRIBUTING promises, as a ratio to a peer; prints a table with the bars.

Each of ours and its peer run in turns, and the best of each counts: what disturbs a run only ever
makes it longer. Domains are paused and have no kernel.

usage: python -m tests.bench [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.bench.listing import COMMAND, contenders, measure
from tests.lab import Hypervisor, Link
from tests.unit.sizing_builders import HOST, MIB, MIDNIGHT, read, uuid
from tests.unit.sizing_histories import GIB, bursts, history, store
from virtballoon.sizing.recorder import Sample
from virtballoon.sizing.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

_IMPORTS = "import click, libvirt, lxml.etree, dataclasses, json"

# A reading and its peers, in one process that is warm; prints the best of each.
_READ_HOST = """
import json, sys, time
import libvirt, virtballoon

uri, rounds = sys.argv[1], int(sys.argv[2])
connection = libvirt.openReadOnly(uri)

def read():
    assert len(virtballoon.read_host(connection).domains) == 100

def bulk():
    connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_BALLOON)

def bulk_and_xml():
    bulk()
    for domain in connection.listAllDomains():
        domain.XMLDesc()

best = {}
for _ in range(rounds + 2):
    for work in read, bulk, bulk_and_xml:
        wall, own = time.perf_counter(), time.process_time()
        work()
        taken = time.perf_counter() - wall, time.process_time() - own
        best[work.__name__] = [min(*both) for both in zip(taken, best.get(work.__name__, taken))]
print(json.dumps(best))
"""


@dataclass(frozen=True)
class Bar:
    """What is measured against what, in seconds, and the highest ratio allowed."""

    name: str
    ours: float
    peer: float
    most: float

    def __str__(self) -> str:
        ratio = self.ours / self.peer
        times = f"{self.ours * 1000:8.1f} ms {self.peer * 1000:8.1f} ms"
        return f"{self.name:68} {times} {ratio:6.2f} {self.most:6.2f}" + " !" * (ratio > self.most)


def best(rounds: int, *works: Callable[[], float]) -> list[float]:
    """The best of each, in turns."""
    return list(map(min, zip(*([work() for work in works] for _ in range(rounds)), strict=True)))


def wall(command: list[str]) -> Callable[[], float]:
    """What runs a process and gives its time."""
    return lambda: measure(command).elapsed


def processor(command: list[str]) -> Callable[[], float]:
    """What runs a process and gives its processor time."""
    return lambda: measure(command).processor


def scrape_seconds(uri: str, scrapes: int) -> float:
    """The processor time of one scrape of a served exporter, each of which reads the host."""
    words = ["-c", uri, "export", "--listen", "127.0.0.1:0", "--max-age", "0"]
    with subprocess.Popen([str(COMMAND), *words], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            address = f"http://{process.stderr.readline().split()[-1]}/metrics"

            def scrape() -> None:
                with urllib.request.urlopen(address) as answer:
                    text = answer.read()
                assert text.count(b"virtballoon_domain_info{") == 100
                # Prometheus parses and keeps what is scraped.
                assert len(text) < 160_000

            def used() -> float:
                fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
                return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

            scrape()
            before = used()
            for _ in range(scrapes):
                scrape()
            return (used() - before) / scrapes
        finally:
            process.kill()


def adding_seconds(path: Path) -> float:
    """The time for adding the samples of 100 domains to their days so far."""
    taken = []
    for minute in range(30):
        at = MIDNIGHT + 60 * minute
        rows = [read(at, (100 + at % 977) * MIB, uuid=uuid(n), swap_in=at) for n in range(100)]
        started = time.perf_counter()
        with Store(path, create=True) as opened:
            opened.add([found for row in rows if (found := Sample.of(HOST, row))], now=at)
        taken.append(time.perf_counter() - started)
    return min(taken[-10:])


def advising(rounds: int) -> Bar:
    """Advice for 400 domains from the store of 90 days."""
    of = history(bursts(GIB, 3 * GIB), days=90, end=int(time.time()))
    with tempfile.TemporaryDirectory() as folder:
        path = store(
            Path(folder, "history.db"),
            [replace(of, uuid=uuid(number), name=f"domain{number}") for number in range(400)],
        )
        command = [str(COMMAND), "advise", "--store", str(path), "--format", "json"]
        (ours,) = best(rounds, wall(command))
    return Bar("advise for 400 with 90 days each, to a second", ours, 1.0, 1.0)


def bars_of_100(hypervisor: Hypervisor, rounds: int) -> list[Bar]:
    """Everything that is measured with 100 domains."""
    uri = hypervisor.uri
    ours = [str(COMMAND), "-c", uri, "list"]
    names = list(contenders(uri, with_shell=False).values())
    table, as_json, virsh = best(rounds, wall(ours), wall(names[0]), wall(names[1]))
    with tempfile.TemporaryDirectory() as folder:
        record = [str(COMMAND), "-c", uri, "record", "--store", f"{folder}/history.db"]
        recorded, listed = best(rounds, wall(record), wall(ours))
        # Paused domains have no fresh figures.
        recorded += adding_seconds(Path(folder, "other.db"))
    inside = subprocess.run(
        [sys.executable, "-c", _READ_HOST, uri, str(rounds * 3)],
        stdout=subprocess.PIPE,
        check=True,
    )
    warm = json.loads(inside.stdout)
    (scrape,) = best(3, lambda: scrape_seconds(uri, 5 * rounds))
    with Link(hypervisor.socket, delay=0.04) as link:
        far = list(contenders(link.uris[0], with_shell=False).values())
        far_json, far_virsh = best(rounds, wall(far[0]), wall(far[1]))
    return [
        Bar("list of 100, table to JSON", table, as_json, 1.08),
        Bar("record of 100, to list", recorded, listed, 1.3),
        Bar("list of 100, JSON, to virsh domstats --balloon", as_json, virsh, 1.2),
        Bar("read_host() of 100, to libvirt's bulk call", warm["read"][0], warm["bulk"][0], 0.75),
        Bar(
            "read_host() of 100, processor, to the bulk call and XML of each",
            warm["read"][1],
            warm["bulk_and_xml"][1],
            3.5,
        ),
        Bar("scrape of 100, processor, to the same", scrape, warm["bulk_and_xml"][1], 5.0),
        Bar("list of 100 at 40 ms, to virsh", far_json, far_virsh, 0.9),
    ]


def main() -> int:
    """Print the table; the status is 1 where a bar is not met."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    with Hypervisor() as hypervisor:
        hypervisor.create_blank(1, prefix="one-", period=10)
        one = best(
            2 * rounds,
            processor([str(COMMAND), "-c", hypervisor.uri, "list"]),
            processor([sys.executable, "-c", _IMPORTS]),
        )
        bars = [
            Bar("list of one domain, processor, to importing its libraries", one[0], one[1], 1.15)
        ]
        hypervisor.create_blank(99, prefix="hundred-", period=10)
        bars += bars_of_100(hypervisor, rounds)
        bars.append(advising(rounds))
        hypervisor.create_blank(300, prefix="four-hundred-", period=10)
        commands = list(contenders(hypervisor.uri, with_shell=False).values())
        many = best(rounds, wall(commands[0]), wall(commands[1]))
        bars.append(Bar("list of 400, JSON, to virsh domstats --balloon", many[0], many[1], 0.85))
    print(f"{'':68} {'ours':>11} {'peer':>11} {'ratio':>6} {'bar':>6}")
    print(*bars, sep="\n")
    return int(any(bar.ours > bar.most * bar.peer for bar in bars))


if __name__ == "__main__":
    sys.exit(main())
