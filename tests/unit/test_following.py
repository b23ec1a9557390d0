"""Hosts that are read again and again: none waits for another, and none is asked too often."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from tests.lab.waiting import wait_until
from tests.unit.silence import SilentHost, held
from tests.unit.test_fleet import LONG, NOBODY_LISTENS, TEST
from virtballoon import (
    Following,
    HostReport,
    HostStatus,
    Reading,
    Target,
)
from virtballoon.hypervisor.connection import keep_stderr_quiet
from virtballoon.watch import poller

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_noise() -> None:
    keep_stderr_quiet()


def collect(hosts: Following, seen: list[Reading], number: int) -> None:
    """Wait for so many reports."""

    def enough() -> bool:
        seen.extend(hosts.take())
        return len(seen) >= number

    wait_until(enough, LONG, f"{number} reports")


def test_a_host_is_read_again_and_again_on_one_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "virtballoon.hypervisor.connection")
    told = threading.Event()
    seen: list[Reading] = []
    with Following([TEST], ["test"], every=0.01, notify=told.set) as hosts:
        assert told.wait(LONG)
        collect(hosts, seen, 5)

    assert {(r.index, r.report.status) for r in seen} == {(0, HostStatus.OK)}
    assert {row.name for r in seen for row in r.report.domains} == {"test"}
    assert sum("openAuth(read-only)" in record.getMessage() for record in caplog.records) == 1


def test_a_silent_host_holds_up_no_other_and_is_not_asked_again(tmp_path: Path) -> None:
    begun: list[int] = []

    class Counting(Following):
        def _read(self, index: int, target: Target) -> HostReport:
            begun.append(index)
            return super()._read(index, target)

    seen: list[Reading] = []
    with (
        SilentHost(tmp_path / "socket") as silent,
        Counting([silent.uri, TEST], every=0.01, timeout=LONG) as hosts,
    ):
        collect(hosts, seen, 5)
        assert {(reading.index, reading.is_complete) for reading in seen} == {(1, True)}
        assert begun.count(0) == 1


def test_a_silent_host_is_not_visited_again_before_it_answers(tmp_path: Path) -> None:
    before = held()
    seen: list[Reading] = []
    with (
        SilentHost(tmp_path / "socket") as silent,
        Following([silent.uri], every=0.01, timeout=0.3) as hosts,
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
            lambda: any("no answer" not in str(r.report.error) for r in hosts.take()),
            LONG,
            "another visit",
        )
    wait_until(lambda: held()[0] <= before[0], LONG, "the threads to end")


def test_a_host_that_is_not_reached_is_tried_later_and_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A clock that stands still, and what would be waited for.
    dues: list[float] = []
    monkeypatch.setattr(poller, "time", SimpleNamespace(monotonic=lambda: 100.0))

    class Hasty(Following):
        def _may_begin(self, due: float) -> bool:
            dues.append(due)
            return len(dues) < 7

    with Hasty([NOBODY_LISTENS], every=2):
        wait_until(lambda: len(dues) == 7, LONG, "all readings")
    assert dues == [0, 104, 108, 116, 116, 116, 116]


def test_pausing() -> None:
    seen: list[Reading] = []
    meanwhile: list[Reading] = []
    with Following([TEST], every=0.01) as hosts, Following([TEST], every=0.01) as others:
        collect(hosts, seen, 1)
        hosts.is_paused = True
        assert hosts.is_paused
        seen.extend(hosts.take())
        others.take()
        collect(others, meanwhile, 5)
        # One reading may have begun before.
        late = hosts.take()
        assert len(late) <= 1
        hosts.is_paused = False
        collect(hosts, late, 3)


def test_no_more_is_read_once_it_is_left() -> None:
    with Following([TEST, NOBODY_LISTENS], every=0.01) as hosts:
        pass

    def gone() -> bool:
        return not any(t.name == poller._THREAD for t in threading.enumerate())

    wait_until(gone, LONG, "the threads to end")
    hosts.take()
    assert hosts.take() == []


def test_what_is_no_error_of_ours_comes_out() -> None:
    class Failing(Following):
        def _read(self, *_: object) -> HostReport:
            raise MemoryError

    told = threading.Event()
    with Failing([TEST], notify=told.set) as hosts:
        assert told.wait(LONG)
        with pytest.raises(MemoryError):
            hosts.take()
