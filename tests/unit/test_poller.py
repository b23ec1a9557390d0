"""The poller: no host waits for another, and none is read too often."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.lab.waiting import wait_until
from tests.unit.command import LONG, NOBODY_LISTENS, TEST
from tests.unit.silence import SilentHost, held
from tests.unit.view_builders import BIG, FULL, host
from virtballoon import (
    HostPoller,
    HostReport,
    HostStatus,
    Reading,
)
from virtballoon.hypervisor.translation import keep_stderr_quiet
from virtballoon.operations.rereading import HostReader
from virtballoon.watch import poller

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_noise() -> None:
    keep_stderr_quiet()


def collect(hosts: HostPoller, seen: list[Reading], number: int) -> None:
    """Wait for this number of readings."""

    def enough() -> bool:
        seen.extend(hosts.drain())
        return len(seen) >= number

    wait_until(enough, LONG, f"{number} reports")


def test_host_is_read_repeatedly_on_one_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "virtballoon.hypervisor")
    told = threading.Event()
    seen: list[Reading] = []
    with HostPoller([TEST], ["test"], period=0.01, notify=told.set) as hosts:
        assert told.wait(LONG)
        collect(hosts, seen, 5)
        # A reading that begins as the block is left makes a connection of its own.
        assert sum("openAuth(read-only)" in record.getMessage() for record in caplog.records) == 1

    assert {(r.index, r.report.status) for r in seen} == {(0, HostStatus.OK)}
    assert {row.name for r in seen for row in r.report.domains} == {"test"}


def test_silent_host_does_not_delay_others(tmp_path: Path) -> None:
    begun: list[int] = []

    class Counting(HostPoller):
        def _read(self, index: int, host: HostReader) -> HostReport:
            begun.append(index)
            return super()._read(index, host)

    seen: list[Reading] = []
    with (
        SilentHost(tmp_path / "socket") as silent,
        Counting([silent.uri, TEST], period=0.01, timeout=LONG) as hosts,
    ):
        collect(hosts, seen, 5)
        assert {(reading.index, reading.is_complete) for reading in seen} == {(1, True)}
        assert begun.count(0) == 1


def test_silent_host_is_not_connected_to_again(tmp_path: Path) -> None:
    before = held()
    seen: list[Reading] = []
    with (
        SilentHost(tmp_path / "socket") as silent,
        HostPoller([silent.uri], period=0.01, timeout=0.3) as hosts,
    ):
        collect(hosts, seen, 2)
        after_two = held()
        collect(hosts, seen, 6)
        threads, files = held()
        assert threads <= after_two[0]
        assert files <= after_two[1]
        first, *others = (str(reading.report.error) for reading in seen)
        assert "no answer within 0.3 s" in first
        assert all("no answer for" in error for error in others)
        assert {reading.report.status for reading in seen} == {HostStatus.UNREACHABLE}
        silent.close()
        wait_until(
            lambda: any("no answer" not in str(r.report.error) for r in hosts.drain()),
            LONG,
            "another visit",
        )
    wait_until(lambda: held()[0] <= before[0], LONG, "the threads to end")


def test_pauses_grow_while_a_host_is_not_reached(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A clock that stands still, and what would be waited for.
    dues: list[float] = []
    monkeypatch.setattr(poller, "time", SimpleNamespace(monotonic=lambda: 100.0))

    class Hasty(HostPoller):
        def _may_begin(self, due: float) -> bool:
            dues.append(due)
            return len(dues) < 7

    with Hasty([NOBODY_LISTENS], period=2):
        wait_until(lambda: len(dues) == 7, LONG, "all readings")
    assert dues == [0, 104, 108, 116, 116, 116, 116]


def test_what_a_long_reading_has_so_far(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()
    part, whole = host([FULL]), host([FULL, BIG])

    def read(_: HostReader, _timeout: float) -> HostReport:
        go_on.wait()
        return whole

    monkeypatch.setattr(HostReader, "read", read)
    monkeypatch.setattr(HostReader, "so_far", lambda _: None if go_on.is_set() else part)
    monkeypatch.setattr(poller, "_PROGRESS_SECONDS", 0.0)
    seen: list[Reading] = []
    with HostPoller([TEST], period=LONG) as hosts:
        collect(hosts, seen, 1)
        go_on.set()
        while not seen[-1].is_complete:
            collect(hosts, seen, len(seen) + 1)
        assert hosts.drain() == []
    assert {each.report for each in seen[:-1]} == {part}
    assert not any(each.is_complete for each in seen[:-1])
    assert seen[-1].report == whole


def test_pausing() -> None:
    seen: list[Reading] = []
    meanwhile: list[Reading] = []
    with HostPoller([TEST], period=0.01) as hosts, HostPoller([TEST], period=0.01) as others:
        collect(hosts, seen, 1)
        hosts.is_paused = True
        assert hosts.is_paused
        seen.extend(hosts.drain())
        others.drain()
        collect(others, meanwhile, 5)
        # One reading may have begun before.
        late = hosts.drain()
        assert len(late) <= 1
        hosts.is_paused = False
        collect(hosts, late, 3)


def test_nothing_is_read_after_the_end() -> None:
    with HostPoller([TEST, NOBODY_LISTENS], period=0.01) as hosts:
        pass

    def gone() -> bool:
        return not any(t.name == poller._THREAD for t in threading.enumerate())

    wait_until(gone, LONG, "the threads to end")
    hosts.drain()
    assert hosts.drain() == []


def test_unexpected_exception_propagates() -> None:
    class Failing(HostPoller):
        def _read(self, *_: object) -> HostReport:
            raise MemoryError

    told = threading.Event()
    with Failing([TEST], notify=told.set) as hosts:
        assert told.wait(LONG)
        with pytest.raises(MemoryError):
            hosts.drain()
