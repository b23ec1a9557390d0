"""Guests whose QEMU does not answer: each costs its own row, and the daemon stays well."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import virtballoon
from tests.conftest import GuestFactory, started
from tests.lab import Guest, GuestSpec, Hypervisor, wait_until
from tests.lab.keeper import lab_processes, signal_process
from virtballoon import Outcome, Source, Verdict, read_domain, read_host, set_intervals

#: Time enough for what answers, with other guests booting on the same two cores.
TIMEOUT = 4.0


@pytest.fixture
def alone() -> Iterator[Hypervisor]:
    """A hypervisor of the test's own: hung guests burden its daemon."""
    with started() as hypervisor:
        yield hypervisor


def hang(hypervisor: Hypervisor, *names: str, number: signal.Signals = signal.SIGSTOP) -> None:
    """Stop the QEMU of these domains."""
    for name in names:
        uuid = hypervisor.connection.lookupByName(name).UUIDString()
        for pid in lab_processes(hypervisor.directory, uuid):
            signal_process(pid, number, hypervisor.directory)


@pytest.mark.parametrize("via", Source)
def test_three_hung_among_thirty(alone: Hypervisor, via: Source) -> None:
    names = alone.create_blank(30, period=5)
    hung = [names[3], names[11], names[27]]
    hang(alone, *hung)
    for _ in range(5):
        host = read_host(alone.uri, via=via, timeout=TIMEOUT)
        verdicts = {row.name: row.verdict for row in host.domains}
        assert [name for name in names if verdicts[name] is Verdict.BUSY] == hung
        assert Counter(verdicts.values()) == {Verdict.SUSPENDED: 27, Verdict.BUSY: 3}
        assert host.status is virtballoon.HostStatus.PARTIAL
        busy = next(row for row in host.domains if row.name == hung[0])
        assert isinstance(busy.error, virtballoon.Busy)
        assert busy.interval.live == 5
    # After that the daemon serves others, a healthy guest's monitor included.
    assert "blank0000" in alone.virsh("list").stdout
    assert "actual" in alone.virsh("dommemstat", names[0], timeout=60).stdout
    hang(alone, *hung, number=signal.SIGCONT)
    wait_until(
        lambda: {row.verdict for row in read_host(alone.uri).domains} == {Verdict.SUSPENDED},
        60,
        "the hung guests to go on",
    )


@pytest.mark.parametrize("via", Source)
def test_setting_the_interval_of_all_but_a_hung_one(alone: Hypervisor, via: Source) -> None:
    names = alone.create_blank(12)
    hang(alone, names[5])
    for again in (False, True):
        host = set_intervals(alone.uri, 7 + again, None, via=via, timeout=TIMEOUT)
        outcomes = {change.name: change.outcome for change in host.changes}
        assert [name for name in names if outcomes[name] is Outcome.FAILED] == [names[5]]
        assert Counter(outcomes.values()) == {Outcome.CHANGED: 11, Outcome.FAILED: 1}
    hang(alone, names[5], number=signal.SIGCONT)


def test_a_guest_that_hung_goes_on(guest_factory: GuestFactory, guests: dict[str, Guest]) -> None:
    hung = guest_factory(GuestSpec("hung", period=2))
    uri = hung.hypervisor.uri
    hung.stop_process()
    rows = {row.name: row for row in read_host(uri, ["hung", "classic"], timeout=3).domains}
    assert rows["hung"].verdict is Verdict.BUSY
    assert rows["classic"].verdict is Verdict.FRESH
    hung.cont_process()
    wait_until(lambda: read_domain(hung.domain).verdict is Verdict.FRESH, 30, "it to go on")


def test_rows_come_as_they_are_read(alone: Hypervisor) -> None:
    names = alone.create_blank(3)
    hang(alone, names[1])
    seen: list[tuple[str, float]] = []
    begun = time.monotonic()
    for row in virtballoon.iter_domains(alone.uri, timeout=TIMEOUT):
        seen.append((row.name, time.monotonic() - begun))
    assert [name for name, _ in seen][-1] == names[1]
    # The others did not have to wait for the time to be up.
    assert seen[1][1] < seen[2][1] / 2
    hang(alone, names[1], number=signal.SIGCONT)


def test_a_slow_reader_loses_no_row(alone: Hypervisor) -> None:
    names = alone.create_blank(12)
    released = threading.Event()
    verdicts = []
    for row in virtballoon.iter_domains(alone.uri, timeout=2):
        verdicts.append(row.verdict)
        # What the reader does with a row may take longer than the host is given.
        released.wait(0.3)
    assert verdicts == [Verdict.SUSPENDED] * len(names)


COMMAND = Path(sys.executable).with_name("virtballoon")


def test_the_command_ends_at_once_when_interrupted(alone: Hypervisor) -> None:
    names = alone.create_blank(2)
    hang(alone, names[0])
    with subprocess.Popen(
        [COMMAND, "-v", "-c", alone.uri, "list", "--timeout", "600"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "controlInfo" in line:
                break
        process.send_signal(signal.SIGINT)
        # Far less than the time that it was given; the call is stuck all the same.
        assert process.wait(60) == 130
    hang(alone, names[0], number=signal.SIGCONT)


def test_a_library_caller_can_end(alone: Hypervisor) -> None:
    (name,) = alone.create_blank(1)
    hang(alone, name)
    script = f"""
import libvirt, virtballoon
connection = libvirt.openReadOnly({alone.uri!r})
(row,) = virtballoon.read_host(connection, timeout=2).domains
print(row.verdict.value)
"""
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "busy\n"), result.stderr
    hang(alone, name, number=signal.SIGCONT)


@pytest.fixture
def silent_uri(tmp_path: Path) -> Iterator[str]:
    """A host that takes connections and never says a word."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(16)
        yield f"qemu+unix:///session?socket={path}"


def test_a_silent_host_costs_its_own_part(alone: Hypervisor, silent_uri: str) -> None:
    (name,) = alone.create_blank(1)
    targets = [silent_uri, alone.uri]
    silent, good = virtballoon.read_hosts(targets, timeout=3)
    assert isinstance(silent.error, virtballoon.ConnectError)
    assert (silent.status, silent.hostname) == (virtballoon.HostStatus.UNREACHABLE, None)
    assert [row.name for row in good.domains] == [name]
    silent_too, changed = virtballoon.set_intervals_on_hosts(targets, 5, [name], timeout=4)
    assert isinstance(silent_too.error, virtballoon.ConnectError)
    assert [change.outcome for change in changed.changes] == [Outcome.CHANGED]


def test_a_daemon_that_dies_leaves_a_row_for_each_domain(alone: Hypervisor) -> None:
    names = alone.create_blank(24)
    reading = virtballoon.iter_domains(alone.uri, timeout=TIMEOUT)
    rows = [next(reading)]
    os.kill(alone.pid, signal.SIGKILL)
    with pytest.raises(virtballoon.ConnectionLost):
        rows.extend(reading)
    assert {row.name for row in rows} == set(names)
    for row in rows:
        if row.verdict is not Verdict.SUSPENDED:
            assert row.verdict is Verdict.FAILED
            assert isinstance(row.error, virtballoon.ConnectionLost)
    alone.start_daemon()
