"""Guests whose QEMU does not answer: each costs its own row, and the daemon stays well."""

from __future__ import annotations

import signal
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
from tests.lab.keeper import signal_process
from tests.process import finished
from tests.running import hanging, run
from tests.unit.silence import SilentHost
from virtballoon import (
    Busy,
    BusyReason,
    Cause,
    IntervalRequest,
    Outcome,
    Source,
    Verdict,
    read_domain,
    read_host,
    set_intervals,
)
from virtballoon.engine.session import HostSession

#: Time enough for what answers, with other guests booting on the same two cores.
TIMEOUT = 5.0
#: A time that no run takes for a hung domain, however busy the machine is.
LONG = 60.0

COMMAND = Path(sys.executable).with_name("virtballoon")


@pytest.fixture(scope="module")
def alone() -> Iterator[Hypervisor]:
    """A hypervisor of this module's own: hung guests burden its daemon."""
    with started() as hypervisor:
        yield hypervisor


@pytest.fixture(scope="module")
def thirty(alone: Hypervisor) -> list[str]:
    """Thirty domains, suspended and so cheap."""
    return alone.create_blank(30, period=5)


def run_python(script: str) -> subprocess.CompletedProcess[str]:
    """Run a program that imports the package, in a Python of its own."""
    return finished([sys.executable, "-c", script], cwd=Path(__file__).parent.parent)


@pytest.mark.parametrize("via", Source)
def test_three_hung_among_thirty(alone: Hypervisor, thirty: list[str], via: Source) -> None:
    hung = [thirty[3], thirty[11], thirty[27]]
    with hanging(alone, *hung):
        for _ in range(5 if via is Source.LIBVIRT else 2):
            host = read_host(alone.uri, via=via, timeout=LONG)
            assert host.elapsed_seconds < LONG / 2
            verdicts = {row.name: row.verdict for row in host.domains}
            assert [name for name in thirty if verdicts[name] is Verdict.BUSY] == hung
            assert Counter(verdicts.values()) == {Verdict.SUSPENDED: 27, Verdict.BUSY: 3}
            assert host.status is virtballoon.HostStatus.PARTIAL
            busy = next(row for row in host.domains if row.name == hung[0])
            assert isinstance(busy.error, virtballoon.Busy)
            assert busy.error.reason is BusyReason.MONITOR
            # Where libvirt gives the XML of a guest that is held.
            if alone.connection.getLibVersion() < 9_001_000:
                assert busy.interval.live == 5
        # After that the daemon serves others, a healthy guest's monitor included.
        assert thirty[0] in alone.virsh("list").stdout
        assert "actual" in alone.virsh("dommemstat", thirty[0], timeout=60).stdout


def test_no_command_waits_for_a_hung_one(alone: Hypervisor, thirty: list[str]) -> None:
    commands = ("list", "stats", "set-interval 5 --all", "export", "check", "doctor")
    with hanging(alone, thirty[3]):
        for words in commands:
            started = time.monotonic()
            result = run(alone, *words.split(), "--timeout", str(int(LONG)))
            assert time.monotonic() - started < LONG / 2, words
            # Of the plugin it is UNKNOWN, of the others a part.
            assert (result.returncode, words) == (3, words), result.stderr
            assert all(name in result.stdout for name in thirty) or words == "check", words
            assert thirty[3] in result.stdout + result.stderr


def test_many_hung_domains_do_not_use_up_the_daemon(alone: Hypervisor, thirty: list[str]) -> None:
    """As when their storage is gone. Each call that waits for one of them keeps one of the daemon's
    twenty workers, so that a few runs could take them all."""
    hung = thirty[4:28]
    with hanging(alone, *hung):
        for _ in range(5):
            host = read_host(alone.uri, timeout=LONG)
            assert len(host.domains) == len(thirty)
            changes = set_intervals(alone.uri, 5, hung, timeout=LONG)
            assert {change.outcome for change in changes.domains} == {Outcome.FAILED}
            assert host.elapsed_seconds + changes.elapsed_seconds < LONG / 2
        # The limit on blocked calls is reached; a domain that is known to hang is not concerned.
        reasons = Counter(r.error.reason for r in host.domains if isinstance(r.error, Busy))
        assert reasons.keys() == {BusyReason.MONITOR, BusyReason.LIMIT}
        assert reasons[BusyReason.MONITOR] >= 4
        with alone.conn() as connection:
            held = [c for n in hung if (c := connection.lookupByName(n).controlInfo())[0] == 2]
        assert 4 <= len(held) <= 16
        assert thirty[0] in alone.virsh("list").stdout
        assert "actual" in alone.virsh("dommemstat", thirty[0], timeout=60).stdout
        (row,) = read_host(alone.uri, [thirty[0]], timeout=TIMEOUT).domains
        assert row.verdict is Verdict.SUSPENDED


@pytest.mark.parametrize("via", Source)
def test_a_doctor_among_many_that_hang(alone: Hypervisor, thirty: list[str], via: Source) -> None:
    hung = thirty[4:24]
    with hanging(alone, *hung):
        for _ in range(2):
            started = time.monotonic()
            host = virtballoon.diagnose_host(alone.uri, via=via, timeout=LONG)
            assert time.monotonic() - started < LONG / 2
            assert [row.name for row in host.domains] == thirty
            assert Cause.QEMU_HUNG in {row.cause for row in host.domains}
            for row in host.domains:
                assert row.verdict in {Verdict.BUSY, Verdict.SUSPENDED}
                assert (row.verdict is Verdict.SUSPENDED) == (row.cause is Cause.PAUSED)
        with alone.conn() as connection:
            held = [c for n in hung if (c := connection.lookupByName(n).controlInfo())[0] == 2]
        assert len(held) <= 16
        assert "actual" in alone.virsh("dommemstat", thirty[0], timeout=60).stdout


@pytest.mark.parametrize("via", Source)
def test_setting_the_interval_of_all_but_a_hung_one(
    alone: Hypervisor, thirty: list[str], via: Source
) -> None:
    with hanging(alone, thirty[5]):
        for seconds in (7, 8):
            host = set_intervals(alone.uri, IntervalRequest(seconds, via=via), None, timeout=LONG)
            assert host.elapsed_seconds < LONG / 2
            outcomes = {change.name: change.outcome for change in host.domains}
            assert Counter(outcomes.values()) == {Outcome.CHANGED: 29, Outcome.FAILED: 1}
            assert outcomes[thirty[5]] is Outcome.FAILED
    set_intervals(alone.uri, IntervalRequest(5, via=via), None)
    set_intervals(alone.uri, 5, None)


def test_hung_guest_that_continues(guest_factory: GuestFactory, guests: dict[str, Guest]) -> None:
    hung = guest_factory(GuestSpec("hung", period=2))
    uri = hung.hypervisor.uri
    hung.stop_process()
    rows = {row.name: row for row in read_host(uri, ["hung", "classic"], timeout=TIMEOUT).domains}
    assert rows["hung"].verdict is Verdict.BUSY
    assert rows["classic"].verdict is Verdict.FRESH
    hung.cont_process()
    wait_until(lambda: read_domain(hung.domain).verdict is Verdict.FRESH, 60, "it to go on")


def test_rows_come_as_they_are_read(alone: Hypervisor, thirty: list[str]) -> None:
    seen: list[tuple[str, float]] = []
    with hanging(alone, thirty[1]):
        begun = time.monotonic()
        for row in virtballoon.iter_domains(alone.uri, thirty[:3], timeout=TIMEOUT):
            seen.append((row.name, time.monotonic() - begun))
    assert [name for name, _ in seen][-1] == thirty[1]
    # The others did not have to wait for the time to be up.
    assert seen[1][1] < seen[2][1] / 2


def test_a_slow_reader_loses_no_row(alone: Hypervisor, thirty: list[str]) -> None:
    never = threading.Event()
    results = []
    for row in virtballoon.iter_domains(alone.uri, thirty[:12], timeout=6):
        results.append((row.verdict, row.error))
        # What the reader does with a row may take longer than the host is given.
        never.wait(0.6)
    assert results == [(Verdict.SUSPENDED, None)] * 12


def test_the_command_ends_at_once_when_interrupted(alone: Hypervisor, thirty: list[str]) -> None:
    command = [str(COMMAND), "-v", "-c", alone.uri, "list", "--timeout", "600"]
    with (
        hanging(alone, thirty[0]),
        subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        ) as process,
    ):
        assert process.stderr is not None
        for line in process.stderr:
            if "controlInfo" in line:
                break
        process.send_signal(signal.SIGINT)
        # Far less than the time that it was given; the call is stuck all the same.
        assert process.wait(30) == 130


def test_one_line_for_each_exception_where_the_data_is_in_a_file(
    alone: Hypervisor, thirty: list[str], tmp_path: Path
) -> None:
    report = tmp_path / "report"
    words = ["-c", alone.uri, "--timeout", "4", "list", "-q", "--format", "jsonl"]
    with hanging(alone, thirty[0]):
        plain, logged = (
            finished([str(COMMAND), *words, "--output", str(report), *more])
            for more in ([], ["--log", "stderr"])
        )
    assert (plain.returncode, plain.stdout) == (3, "")
    (line,) = plain.stderr.splitlines()
    assert line.startswith(f"virtballoon: domain '{thirty[0]}' on {alone.uri}: ")
    assert len(report.read_text().splitlines()) == len(thirty)
    warning, info = logged.stderr.splitlines()
    assert f" domain={thirty[0]} " in warning
    assert " level=warning " in warning
    assert " verdict=busy" in warning
    assert " level=info " in info
    assert " status=partial domains=30 " in info


def test_a_library_caller_can_end(alone: Hypervisor, thirty: list[str]) -> None:
    script = f"""
import libvirt, virtballoon
connection = libvirt.openReadOnly({alone.uri!r})
(row,) = virtballoon.read_host(connection, [{thirty[0]!r}], timeout=2).domains
print(row.verdict.value)
"""
    with hanging(alone, thirty[0]):
        result = run_python(script)
    assert (result.returncode, result.stdout) == (0, "busy\n"), result.stderr


@pytest.fixture
def silent_uri(tmp_path: Path) -> Iterator[str]:
    with SilentHost(tmp_path / "socket") as host:
        yield host.uri


def test_a_silent_host_costs_its_own_part(
    alone: Hypervisor, thirty: list[str], silent_uri: str
) -> None:
    targets = [silent_uri, alone.uri]
    silent, good = virtballoon.read_hosts(targets, timeout=TIMEOUT)
    assert isinstance(silent.error, virtballoon.ConnectError)
    assert (silent.status, silent.hostname) == (virtballoon.HostStatus.UNREACHABLE, None)
    assert [row.name for row in good.domains] == thirty
    mute, changed = virtballoon.set_intervals_on_hosts(targets, 6, [thirty[0]], timeout=TIMEOUT)
    assert isinstance(mute.error, virtballoon.ConnectError)
    assert [change.outcome for change in changed.domains] == [Outcome.CHANGED]


def test_a_daemon_that_dies_leaves_a_row_for_each_domain(
    alone: Hypervisor, thirty: list[str]
) -> None:
    # Its own: when QEMU answers the earlier daemon's question, the next one may take that for an
    # error and end the domain.
    hung = alone.create_blank(2, prefix="hung")
    with hanging(alone, *hung):
        reading = virtballoon.iter_domains(alone.uri, timeout=TIMEOUT)
        rows = [next(reading)]
        alone.kill_daemon()
        with pytest.raises(virtballoon.ConnectionLost):
            rows.extend(reading)
        # For whoever uses this hypervisor afterwards.
        alone.start_daemon()
    for name in hung:
        alone.virsh("destroy", name, check=False)
    wait_until(
        lambda: sorted(alone.virsh("list", "--name").stdout.split()) == thirty, 60, "them to end"
    )
    assert {row.name for row in rows} == {*thirty, *hung}
    for row in rows:
        if row.verdict is not Verdict.SUSPENDED:
            assert row.verdict is Verdict.FAILED
            assert isinstance(row.error, virtballoon.ConnectionLost)


def test_closing_when_the_daemon_stops_answering(alone: Hypervisor, thirty: list[str]) -> None:
    """Closing a connection is a question to the daemon, too."""
    targets: list[list[str]] = [[], thirty[:3]]
    ended: list[list[str]] = []

    def visit(words: list[str]) -> None:
        with HostSession(alone.uri, words, timeout=TIMEOUT) as session:
            session.connect()
            visited.release()
            frozen.wait()
        ended.append(words)

    visited, frozen = threading.Semaphore(0), threading.Event()
    threads = [threading.Thread(target=visit, args=(words,), daemon=True) for words in targets]
    for thread in threads:
        thread.start()
        visited.acquire()
    signal_process(alone.pid, signal.SIGSTOP, alone.directory)
    try:
        frozen.set()
        for thread in threads:
            thread.join(60)
    finally:
        signal_process(alone.pid, signal.SIGCONT, alone.directory)
    assert sorted(ended) == targets


def test_daemon_that_answers_after_the_session(alone: Hypervisor, thirty: list[str]) -> None:
    script = f"""
import os, signal, virtballoon
from virtballoon.hypervisor.connection import (Connection)
opened = Connection.open.__func__
def open_and_freeze(cls, *args, **kwargs):
    connection = opened(cls, *args, **kwargs)
    os.kill({alone.pid}, signal.SIGSTOP)
    return connection
Connection.open = classmethod(open_and_freeze)
host = virtballoon.read_host({alone.uri!r}, timeout=1)
os.kill({alone.pid}, signal.SIGCONT)
Connection.open = classmethod(opened)
print(host.status.value, len(virtballoon.read_host({alone.uri!r}).domains))
"""
    result = run_python(script)
    assert (result.stdout, result.stderr) == ("unreachable 30\n", "")
