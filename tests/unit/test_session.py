"""Sessions with hosts that are only pretended: connecting, keeping and losing the connection."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import libvirt
import pytest

from tests.unit.fake_hypervisor import URI, FakeHost, connected
from virtballoon import (
    Busy,
    BusyReason,
    ConnectError,
    ConnectionLost,
    HostReport,
    HostStatus,
    Incoming,
    IntervalRequest,
    Outcome,
    Source,
    Verdict,
    read_host,
    set_interval,
    set_intervals,
)
from virtballoon.engine.scheduler import Scheduler
from virtballoon.engine.session import HostSession, KeptConnection
from virtballoon.hypervisor import domainxml
from virtballoon.hypervisor.connection import Connection
from virtballoon.operations.reading import read_domain, read_session

#: Far more than any of this takes.
TIMEOUT = 30.0
GIB = 1024**3


class Opener:
    """Opens the hosts that it is given, one after the other, the last one again and again.

    :ivar opened: the connections that were opened
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.hosts: list[FakeHost] = []
        self.opened: list[Connection] = []
        self.before_opening: Callable[[], object] = lambda: None
        monkeypatch.setattr(Connection, "open", self._open)

    def _open(self, _uri: str | None, *, readonly: bool) -> Connection:
        del readonly
        self.before_opening()
        host = self.hosts[min(len(self.opened), len(self.hosts) - 1)]
        connection = Connection(host, uri=URI, owned=True)
        self.opened.append(connection)
        return connection

    @property
    def still_open(self) -> list[Connection]:
        return [connection for connection in self.opened if connection._raw is not None]


@pytest.fixture
def opener(monkeypatch: pytest.MonkeyPatch) -> Opener:
    return Opener(monkeypatch)


@pytest.fixture
def host(opener: Opener) -> Iterator[FakeHost]:
    host = FakeHost(20)
    opener.hosts = [host]
    yield host
    host.wake()


def session(kept: KeptConnection | None = None, **options: Any) -> HostSession:
    return HostSession(URI, None, kept=kept, **{"timeout": TIMEOUT} | options)


def wait_until_closed(opener: Opener) -> None:
    """Closing is done in the background."""
    for thread in threading.enumerate():
        if thread.name == "virtballoon-closing":
            thread.join(TIMEOUT)
    assert opener.still_open == []


def read(kept: KeptConnection | None = None) -> HostReport:
    return read_session(session(kept, reads_memory=True), inactive=True, via=Source.LIBVIRT)


def test_a_session(opener: Opener, host: FakeHost) -> None:
    with session() as one:
        one.connect()
        assert [selected.domain.name for selected in one.selection.domains] == [
            domain.name() for domain in host.domains
        ]
        result = one.result(HostReport, domains=(), complete=True)
    assert (result.uri, result.hostname, result.status) == (URI, "fake", HostStatus.OK)
    wait_until_closed(opener)


def test_no_error_is_swallowed_unless_that_is_wanted(host: FakeHost) -> None:
    host.breaks_after = 0
    with pytest.raises(ConnectionLost), session(timeout=0.5) as one:
        one.connect()
    with session(timeout=0.5) as one, one.errors_kept():
        one.connect()
        pytest.fail("it went on")
    assert isinstance(one.error, ConnectionLost)
    result = one.result(HostReport, domains=(), complete=True)
    assert (result.status, result.hostname) == (HostStatus.UNREACHABLE, None)


def test_unexpected_exception_propagates(host: FakeHost) -> None:
    def fail() -> None:
        with session() as one, one.errors_kept():
            one.connect()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()


@pytest.mark.parametrize("uses", range(2, 70, 5))
def test_a_connection_that_breaks_is_opened_again(opener: Opener, uses: int) -> None:
    first = FakeHost(20)
    first.breaks_after = uses
    opener.hosts = [first, FakeHost(20)]
    report = read()
    assert report.status is HostStatus.OK
    assert {domain.verdict for domain in report.domains} == {Verdict.FRESH}
    assert len(report.domains) == 20
    assert len(opener.opened) == (2 if first.uses > uses else 1)
    wait_until_closed(opener)


def test_a_domain_that_is_gone_after_reconnecting(opener: Opener) -> None:
    first, second = FakeHost(20), FakeHost(19)
    first.breaks_after = 20
    opener.hosts = [first, second]
    assert len(read().domains) == 19


def test_connection_that_cannot_be_reopened(opener: Opener) -> None:
    hosts = [FakeHost(20) for _ in range(6)]
    for host in hosts:
        host.breaks_after = 20
    opener.hosts = hosts
    report = read()
    assert report.status is HostStatus.PARTIAL
    assert isinstance(report.error, ConnectionLost)
    assert len(report.domains) == 20
    assert len(opener.opened) == 4
    wait_until_closed(opener)


def test_the_callers_connection_is_not_renewed(opener: Opener) -> None:
    host = FakeHost(20)
    host.breaks_after = 20
    report = read_host(Connection(host))
    assert isinstance(report.error, ConnectionLost)
    assert opener.opened == []


@pytest.mark.parametrize("uses", range(9))
def test_reading_one_domain_over_a_connection_that_breaks(uses: int) -> None:
    host = FakeHost(3)
    _, domains = connected(host)
    host.breaks_after = host.uses + uses
    with pytest.raises(ConnectionLost):
        read_domain(domains[1])


def test_a_kept_connection_is_used_again(opener: Opener, host: FakeHost) -> None:
    kept = KeptConnection()
    for _ in range(3):
        assert read(kept).status is HostStatus.OK
    assert len(opener.opened) == 1
    kept.close()
    wait_until_closed(opener)


def test_xml_that_is_as_it_was_is_parsed_once(
    opener: Opener, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    root = domainxml._root

    def counted(text: str) -> object:
        parsed.append(text)
        return root(text)

    monkeypatch.setattr(domainxml, "_root", counted)
    monkeypatch.setattr(domainxml, "_parsed", {})
    kept = KeptConnection()
    read(kept)
    # The live and the inactive XML of each.
    assert len(parsed) == 40
    host.domains[5].live = 7
    (row,) = [row for row in read(kept).domains if row.name == host.domains[5].name()]
    assert (len(parsed), row.interval.live) == (41, 7)


def test_a_kept_connection_that_broke_in_between(opener: Opener, host: FakeHost) -> None:
    kept = KeptConnection()
    opener.hosts = [FakeHost(20), host]
    assert read(kept).status is HostStatus.OK
    opener.hosts[0].breaks_after = 0
    assert read(kept).status is HostStatus.OK
    assert len(opener.opened) == 2


def test_a_connection_with_blocked_calls_is_not_kept(opener: Opener, host: FakeHost) -> None:
    kept = KeptConnection()
    host.domains[3].hangs = True
    assert read(kept).status is HostStatus.PARTIAL
    wait_until_closed(opener)
    # It is known by now, so that no call is blocked.
    assert read(kept).status is HostStatus.PARTIAL
    assert len(opener.still_open) == 1


def test_connecting_that_hangs_is_not_tried_again(opener: Opener, host: FakeHost) -> None:
    kept, answers = KeptConnection(), threading.Event()
    opener.before_opening = lambda: answers.wait(TIMEOUT)
    for _ in range(3):
        with session(kept, timeout=0.05) as one, one.errors_kept():
            one.connect()
        assert isinstance(one.error, ConnectError)
        assert isinstance(kept.silence(URI), ConnectError)
    threads = threading.active_count()
    answers.set()
    # One that comes late is used.
    assert read(kept).status is HostStatus.OK
    assert len(opener.opened) == 1
    assert threading.active_count() <= threads + 8
    kept.close()
    wait_until_closed(opener)


def test_ssh_is_started_in_a_thread_that_has_no_other_children(
    opener: Opener, host: FakeHost
) -> None:
    """When connecting takes too long, the children of the thread are ended."""
    threads: list[threading.Thread] = []
    opener.before_opening = lambda: threads.append(threading.current_thread())
    for _ in range(2):
        # It leaves threads that may be used again.
        read()
        threads.clear()
        there = threading.enumerate()
        with HostSession("qemu+ssh://host/system", None, timeout=TIMEOUT) as one:
            one.connect()
        assert threads
        assert threads[0] not in there


def test_late_connection_is_closed(opener: Opener, host: FakeHost) -> None:
    answers = threading.Event()
    opener.before_opening = lambda: answers.wait(TIMEOUT)
    with session(timeout=0.05) as one, one.errors_kept():
        one.connect()
    answers.set()
    kept = one._kept.arriving
    assert kept is not None
    assert kept.wait(TIMEOUT)
    assert opener.still_open == []


# What is done in them.


@pytest.mark.parametrize("inactive", [0, 7])
def test_a_hung_domain_costs_its_own_row(host: FakeHost, inactive: int) -> None:
    host.domains[5].hangs = True
    host.domains[inactive].live = None
    report = read()
    assert report.elapsed_seconds < TIMEOUT / 2
    busy = {domain.name: domain.error for domain in report.domains if domain.error is not None}
    (error,) = busy.values()
    assert busy.keys() == {host.domains[5].name()}
    assert isinstance(error, Busy)
    assert error.reason is BusyReason.MONITOR
    # It is known by now.
    assert read().elapsed_seconds < report.elapsed_seconds / 2


def test_setting_around_a_hung_domain(host: FakeHost) -> None:
    host.domains[5].hangs = True
    changes = set_intervals(URI, 7, None, timeout=TIMEOUT)
    assert changes.elapsed_seconds < TIMEOUT / 2
    failed = [change for change in changes.domains if change.outcome is Outcome.FAILED]
    assert [change.name for change in failed] == [host.domains[5].name()]
    assert isinstance(failed[0].error, Busy)
    assert "may still take effect" in failed[0].error.message
    assert sum(domain.live == 7 for domain in host.domains) == 19


def test_a_domain_that_migrates_here_is_left_alone(host: FakeHost) -> None:
    moving = host.domains[5]
    moving.is_incoming = True
    (row,) = [domain for domain in read().domains if domain.name == moving.name()]
    assert (row.verdict, row.error) == (Verdict.INCOMING, None)
    changes = {change.name: change for change in set_intervals(URI, 7, None).domains}
    assert changes[moving.name()].outcome is Outcome.SKIPPED
    (named,) = set_intervals(URI, 7, [moving.name()]).domains
    assert named.outcome is Outcome.FAILED
    assert isinstance(named.error, Incoming)
    assert moving.live == 10


def test_partly_applied_change(host: FakeHost) -> None:
    host.domains[5].refuses_config = True
    changes = set_intervals(URI, IntervalRequest(7, live=True, config=True), None).domains
    half, *_ = [change for change in changes if change.outcome is Outcome.FAILED]
    assert (half.name, half.changed) == (host.domains[5].name(), True)
    assert (half.after.live, half.after.config) == (7, 10)
    assert sum(change.outcome is Outcome.CHANGED for change in changes) == 19


def test_a_connection_that_breaks_while_intervals_are_set(host: FakeHost) -> None:
    host.breaks_after = 60
    changes = set_intervals(Connection(host), 7, None).domains
    assert len(changes) == 20
    done = {change.name for change in changes if change.outcome is Outcome.CHANGED}
    assert done <= {domain.name() for domain in host.domains if domain.live == 7}
    for change in changes:
        if change.outcome is Outcome.FAILED:
            assert isinstance(change.error, ConnectionLost)


def test_one_domain_of_the_callers(host: FakeHost) -> None:
    (domain, *_) = Connection(host).domains()
    assert set_interval(domain, 7).outcome is Outcome.CHANGED
    assert host.domains[0].live == 7


def test_fake_has_only_calls_that_libvirt_has() -> None:
    """A stand-in must not be more than what it stands for."""
    for kind, real in ((FakeHost, libvirt.virConnect),):
        own = {"use", "wake"}
        names = {name for name in vars(kind) if not name.startswith("_")} - own
        assert names <= set(dir(real))
    assert math.isinf(FakeHost(0).breaks_after)


# The host's memory.


def test_memory_of_the_host(opener: Opener, host: FakeHost) -> None:
    memory = read().memory

    assert memory is not None
    assert (memory.total_bytes, memory.free_bytes) == (64 * GIB, GIB)
    assert memory.available_bytes == 3 * GIB + 3 * 1024
    assert memory.ksm_saved_pages is None
    assert (memory.current_bytes, memory.unknown_domains) == (20 * GIB, 0)
    assert host.memory_reads == 1
    wait_until_closed(opener)


def test_memory_that_the_host_refuses_costs_nothing_else(host: FakeHost) -> None:
    host.memory_error = libvirt.VIR_ERR_ACCESS_DENIED
    result = read()

    assert (result.memory, result.status, result.error) == (None, HostStatus.OK, None)
    assert len(result.domains) == 20


def test_memory_that_never_comes_is_asked_for_once(opener: Opener, host: FakeHost) -> None:
    host.memory_hangs = True
    kept = KeptConnection()
    results = [read(kept) for _ in range(3)]

    assert [(r.memory, r.status, len(r.domains)) for r in results] == [(None, "ok", 20)] * 3
    assert all(row.verdict is Verdict.FRESH for row in results[0].domains)
    assert host.memory_reads == 1
    # Not waited for again.
    assert results[2].elapsed_seconds < results[0].elapsed_seconds

    host.wake()
    assert kept.memory_call is not None
    assert kept.memory_call.wait(TIMEOUT)
    assert read(kept).memory is not None
    assert host.memory_reads == 2
    kept.close()
    wait_until_closed(opener)


def test_a_connection_is_kept_when_the_memory_was_read(opener: Opener, host: FakeHost) -> None:
    kept = KeptConnection()
    assert all(read(kept).memory for _ in range(3))

    assert len(opener.opened) == 1
    assert host.memory_reads == 3
    kept.close()
    wait_until_closed(opener)


@pytest.mark.parametrize("words", [["fake0001"], ["fake000?", "fake001?"], ["*"]])
def test_sums_are_of_all_running_domains(host: FakeHost, words: list[str]) -> None:
    host.domains[3].live = None
    memory = read_host(host, words).memory

    assert memory is not None
    expected = None if words == ["fake0001"] else 19 * GIB
    assert (memory.current_bytes, memory.total_bytes) == (expected, 64 * GIB)


def test_setting_does_not_ask_for_the_memory(host: FakeHost) -> None:
    set_intervals(connected(host)[0], IntervalRequest(seconds=5), None)

    assert host.memory_reads == 0


def test_a_call_for_the_host_blocks_the_connection_until_it_ends(host: FakeHost) -> None:
    goes_on = threading.Event()
    scheduler = Scheduler(connected(host)[0], None)
    call = scheduler.begin(goes_on.wait)
    assert scheduler.is_blocked

    goes_on.set()
    # Before the scheduler has been told.
    assert call.wait(TIMEOUT)
    assert not scheduler.is_blocked
