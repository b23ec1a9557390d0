"""The examples, each run as its reader would run it, on real guests."""

from __future__ import annotations

import csv
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import virtballoon
from tests.conftest import GuestFactory, started
from tests.lab import Guest, GuestSpec, Hypervisor, wait_until

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(
    hypervisor: Hypervisor, *command: str | Path, cwd: Path | str = "/"
) -> subprocess.CompletedProcess[str]:
    """Run a command that finds the installed virtballoon and the private hypervisor."""
    binaries = Path(sys.executable).parent
    return subprocess.run(
        command,
        cwd=cwd,
        env={
            "PATH": f"{binaries}:/usr/bin:/bin:/usr/sbin:/sbin",
            "LIBVIRT_DEFAULT_URI": hypervisor.uri,
            "VIRTBALLOON_CONFIG_FILE": os.devnull,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def program(name: str) -> str:
    """A program that must be there to check an example."""
    if (path := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"no {name} here")
    return path


def test_existing_connection(hypervisor: Hypervisor, guests: dict[str, Guest]) -> None:
    wait_until(
        lambda: virtballoon.read_domain(guests["classic"].domain).verdict == "fresh", 30, "figures"
    )
    result = run(hypervisor, sys.executable, EXAMPLES / "existing_connection.py", "classic", "off")
    assert (result.returncode, result.stderr) == (0, "")
    assert re.fullmatch(r"classic: \d+% used, \d+ s ago\noff: shutoff\n", result.stdout)


def test_set_and_read(hypervisor: Hypervisor, guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("example"))
    result = run(hypervisor, sys.executable, EXAMPLES / "set_and_read.py", "example", "1")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("example: changed, 1\n")
    assert f"total_memory         {guest.meminfo()['MemTotal']}\n" in result.stdout
    result = run(hypervisor, sys.executable, EXAMPLES / "set_and_read.py", "nobody")
    assert result.returncode == 1


def test_memory_report(hypervisor: Hypervisor, guests: dict[str, Guest]) -> None:
    result = run(hypervisor, sys.executable, EXAMPLES / "memory_report.py")
    assert (result.returncode, result.stderr) == (3, "")
    assert re.search(r"\d+ of \d+ domains have fresh figures", result.stdout)
    assert re.search(r"^  'nodevice': no-device$", result.stdout, re.MULTILINE)


def check_report(report: Path, hypervisor: Hypervisor) -> None:
    with report.open(newline="") as lines:
        rows = {row["name"]: row for row in csv.DictReader(lines)}
    assert rows["example-off"]["verdict"] == "shutoff"
    assert rows["example-on"]["interval.live"] == "60"
    assert hypervisor.virsh("dumpxml", "example-on").stdout.count("period='60'") == 1
    assert [path.name for path in report.parent.iterdir()] == [report.name]


@pytest.fixture
def alone() -> Iterator[Hypervisor]:
    """A hypervisor of the test's own, since these examples set every guest's interval."""
    with started() as hypervisor:
        hypervisor.add(GuestSpec("example-on", paused=True))
        hypervisor.add(GuestSpec("example-off", start=False))
        yield hypervisor


def test_crontab(alone: Hypervisor, tmp_path: Path) -> None:
    crontab = EXAMPLES / "cron" / "virtballoon.crontab"
    checked = subprocess.run(
        [program("crontab"), "-n", crontab], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    (line,) = [x for x in crontab.read_text().splitlines() if x.startswith("*/")]
    command = line.split(maxsplit=5)[5]
    assert "%" not in command
    here = command.replace("/var/lib/virtballoon", str(tmp_path / "state"))
    here = here.replace("/run/lock", str(tmp_path))
    result = run(alone, "/bin/sh", "-c", here)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    check_report(tmp_path / "state" / "report.csv", alone)
    # What is not well is mailed, and the report is there all the same.
    alone.add(GuestSpec("example-silent", period=1, driver=False)).wait_booted()
    result = run(alone, "/bin/sh", "-c", here)
    assert (result.returncode, result.stdout) == (0, "")
    assert re.fullmatch(r"virtballoon: domain 'example-silent' on \S+: unanswered\n", result.stderr)
    # While another run is at it, there is a line of each command and no new report.
    before = (tmp_path / "state" / "report.csv").stat()
    with (tmp_path / "virtballoon.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = run(alone, "/bin/sh", "-c", here)
    assert (result.returncode, result.stdout) == (75, "")
    assert result.stderr.count("is locked by process") == 2
    assert (tmp_path / "state" / "report.csv").stat() == before


def test_systemd_timer(alone: Hypervisor, tmp_path: Path) -> None:
    units = tmp_path / "units"
    shutil.copytree(EXAMPLES / "systemd", units)
    service = units / "virtballoon-report.service"
    # No systemd runs in a test's sandbox: the unit is checked by its own tool, and what it would
    # start is started here.
    installed = service.read_text().replace("/usr/local/bin", str(Path(sys.executable).parent))
    service.write_text(installed)
    checked = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", *units.iterdir()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (checked.returncode, checked.stderr) == (0, "")
    state = tmp_path / "state"
    state.mkdir()
    for start in re.findall(r"^ExecStart=-?(.*)$", installed, re.MULTILINE):
        words = shlex.split(start.replace("${STATE_DIRECTORY}", str(state)))
        result = run(alone, *words)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    check_report(state / "report.csv", alone)
