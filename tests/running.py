"""Running the command, its examples and an exporter on real guests, and reading what they print."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import process
from tests.lab import Guest, Hypervisor, wait_until
from tests.lab.keeper import lab_processes, signal_process
from virtballoon import Verdict, read_host

COMMAND = Path(sys.executable).with_name("virtballoon")


def run(
    hypervisor: Hypervisor, *words: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the installed command as a user would, elsewhere than in the checkout."""
    if not COMMAND.exists():
        pytest.fail(f"{COMMAND} is missing: install the package into this environment")
    return process.finished(
        [COMMAND, *words],
        env={**os.environ, "LIBVIRT_DEFAULT_URI": hypervisor.uri, **environment},
        cwd="/",
    )


def take_advice(hypervisor: Hypervisor, complaint: str) -> subprocess.CompletedProcess[str]:
    """Have a shell do what a list says about polling."""
    return process.finished(
        ["/bin/sh", "-c", complaint.partition("to turn polling on: ")[2]],
        env={
            **os.environ,
            "LIBVIRT_DEFAULT_URI": hypervisor.uri,
            "PATH": f"{COMMAND.parent}:{os.environ['PATH']}",
        },
    )


def on_a_terminal(
    hypervisor: Hypervisor, columns: int, *words: str, stderr: bool = False, **environment: str
) -> str:
    """What the command writes to a terminal of this width, on stderr, too, if wanted."""
    inherited = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "COLUMNS", "LINES"}}
    env = {**inherited, "LIBVIRT_DEFAULT_URI": hypervisor.uri, "TERM": "xterm", **environment}
    with process.on_a_terminal([COMMAND, *words], columns, env=env, stderr=stderr) as (run, ours):
        output = process.read_until(ours)
        assert run.wait(60) == 0
    return output.replace("\r\n", "\n")


EXAMPLES = Path(__file__).parent.parent / "examples"
NOBODY_LISTENS = "qemu:///session?socket=/no/such/sock"


def run_example(
    hypervisor: Hypervisor, *command: str | Path, configuration: Path | str = os.devnull
) -> subprocess.CompletedProcess[str]:
    """Run a command that finds the installed virtballoon, and the private hypervisor or those of
    a configuration."""
    binaries = Path(sys.executable).parent
    return process.finished(
        command,
        cwd="/",
        env={
            "PATH": f"{binaries}:/usr/bin:/bin:/usr/sbin:/sbin",
            "LIBVIRT_DEFAULT_URI": hypervisor.uri,
            "VIRTBALLOON_CONFIG_FILE": str(configuration),
        },
    )


def program(name: str) -> str:
    """A program that must be there to check an example."""
    if (path := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no {name} here")
    return path


class Exporter:
    """An exporter that runs.

    :ivar address: where it listens
    :ivar lines: what it has said on stderr since
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self._stderr = process.stderr
        self.process = process
        self.lines: list[str] = []
        first = process.stderr.readline()
        serving = re.fullmatch(r"virtballoon: serving metrics on (\S+)\n", first)
        assert serving is not None, first + process.stderr.read()
        self.address = serving[1]
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self.lines.extend(self._stderr)

    def get(self, path: str = "/metrics", **headers: str) -> str:
        request = urllib.request.Request(f"http://{self.address}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=120) as answer:
            return str(answer.read().decode())

    def scrape(self, timeout: float | None = None) -> dict[str, list[tuple[dict[str, str], float]]]:
        """The series by name."""
        headers = {"X-Prometheus-Scrape-Timeout-Seconds": str(timeout)} if timeout else {}
        found: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(self.get(**headers)):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
        return found

    def verdicts(self, timeout: float | None = None) -> dict[str, str]:
        """The domains' verdicts by name."""
        states = self.scrape(timeout)["virtballoon_domain_verdict"]
        return {labels["domain"]: labels["verdict"] for labels, _ in states}

    def held(self) -> tuple[int, int]:
        """How many threads and file descriptors it has."""
        process = Path(f"/proc/{self.process.pid}")
        return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join(60)
        return status


@contextmanager
def exporting(*words: str, before: tuple[str, ...] = ()) -> Iterator[Exporter]:
    """Serve metrics with these words."""
    command = [*before, str(COMMAND), "export", "--listen", "127.0.0.1:0", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield Exporter(process)
        finally:
            process.kill()


@contextmanager
def hanging(hypervisor: Hypervisor, *names: str) -> Iterator[None]:
    """Stop the QEMU of these domains, and let them go on afterwards."""
    uuids = [hypervisor.connection.lookupByName(name).UUIDString() for name in names]
    pids = [pid for uuid in uuids for pid in lab_processes(hypervisor.directory, uuid)]
    for pid in pids:
        signal_process(pid, signal.SIGSTOP, hypervisor.directory)
    try:
        yield
    finally:
        for pid in pids:
            signal_process(pid, signal.SIGCONT, hypervisor.directory)
    wait_until(
        lambda: (
            {row.verdict for row in read_host(hypervisor.uri, names).domains} == {Verdict.SUSPENDED}
        ),
        60,
        "the hung guests to go on",
    )


def in_xml(guest: Guest, *flags: str) -> int:
    """The interval in the XML as virsh shows it."""
    domain = ET.fromstring(guest.hypervisor.virsh("dumpxml", guest.name, *flags).stdout)
    stats = domain.find("./devices/memballoon/stats")
    return 0 if stats is None else int(stats.get("period", "0"))


def in_qemu(guest: Guest) -> int:
    """The interval that QEMU itself has."""
    return int(guest.balloon_property("guest-stats-polling-interval"))


def set_in_qemu(guest: Guest, seconds: int) -> None:
    """Set the interval of QEMU itself, of which libvirt does not learn."""
    path = "/machine/peripheral/balloon0"
    interval = {"path": path, "property": "guest-stats-polling-interval", "value": seconds}
    assert "error" not in guest.qmp({"execute": "qom-set", "arguments": interval})


#: A figure of the guidelines: 'label'=value[UOM];[warn];[crit];[min];[max]
NUMBER = r"-?\d+(?:\.\d+)?"
RANGE = rf"@?(?:(?:~|{NUMBER})?:)?(?:{NUMBER})?"
PERFDATUM = re.compile(
    rf"'((?:[^'=|]|'')+)'=({NUMBER})(s|%|B|c|)"
    rf"(?:;({RANGE})(?:;({RANGE})(?:;({NUMBER})?(?:;({NUMBER})?)?)?)?)?"
)
STATUS = re.compile(r"MEMORY (OK|WARNING|CRITICAL|UNKNOWN) - (.+)")


def parsed(text: str) -> tuple[str, dict[str, tuple[str | None, ...]], list[str]]:
    """The status, the performance data by label, and the other lines, read as strictly as the
    guidelines put it."""
    assert text.endswith("\n")
    first, *others = text.removesuffix("\n").split("\n")
    said, separator, data = first.partition(" | ")
    assert STATUS.fullmatch(said), said
    assert len(said) <= 80
    assert all("|" not in line and line.isprintable() for line in (said, data, *others))
    figures: dict[str, tuple[str | None, ...]] = {}
    at = 0
    while separator and at < len(data):
        found = PERFDATUM.match(data, at)
        assert found, data[at:]
        label = found[1].replace("''", "'")
        assert label not in figures
        figures[label] = found.groups()[1:]
        at = found.end()
        assert data[at : at + 1] in {"", " "}
        at += 1
    return said, figures, others


def fields(line: str) -> dict[str, str]:
    """A line of logfmt, read as others do: words, of which some are quoted."""
    assert line.isprintable()
    return dict(word.split("=", 1) for word in shlex.split(line))
