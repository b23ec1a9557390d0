"""Whose figures are new enough, who is asked, and how that is told."""

from __future__ import annotations

import threading
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import HOST, READ, SCHEMA, VALIDATOR, document, report
from tests.unit.fakedomain import FREE, HELD, FakeDomain
from virtballoon.cli.finish import with_problems
from virtballoon.errors import (
    AccessDenied,
    Busy,
    ConnectionLost,
    NotRunning,
    ReadOnly,
    VirtballoonError,
)
from virtballoon.hypervisor.domain import Control
from virtballoon.log import log_host
from virtballoon.model.memory import Figures
from virtballoon.model.outcome import DomainWait, Waited
from virtballoon.model.report import DomainReport, Interval, Refresh, Unheard
from virtballoon.model.source import Source
from virtballoon.model.statistics import MemoryStats
from virtballoon.model.verdict import State
from virtballoon.operations import refreshing
from virtballoon.render import documents, formats, text

if TYPE_CHECKING:
    from virtballoon.engine.session import HostSession

NOW = 1_700_000_000


def row(age: int | None, *, interval: int = 10, **facts: Any) -> DomainReport:
    update = 0 if age is None else NOW - age
    figures = Figures(stats=MemoryStats(swap_in=0), last_update=update)
    return report(figures=figures, interval=Interval(live=interval), read_at=float(NOW), **facts)


@pytest.mark.parametrize(
    ("old", "may_be_newer", "needs_polling"),
    [
        (row(5), False, False),
        (row(6), True, False),
        (row(6, interval=0), True, True),
        (row(None, interval=0), True, True),
        # It answers by itself in 4 seconds; in 10; in 11, which is more than is waited.
        (row(6, interval=10), True, False),
        (row(6, interval=16), True, False),
        (row(6, interval=17), True, True),
        # A little late; and so late that QEMU may not poll it at all.
        (row(24, interval=10), True, False),
        (row(26, interval=10), True, True),
        # It has never answered, though it is polled.
        (row(None), True, False),
        # By this clock its figures are of tomorrow; it answers who knows when.
        (row(-86400), True, True),
        (row(-2), False, False),
        (row(60, state=State.PAUSED), False, False),
        (row(60, balloon=None), False, False),
        (row(60, state=State.SHUTOFF, id=None), False, False),
    ],
)
def test_which_domains_are_polled(
    old: DomainReport, may_be_newer: bool, needs_polling: bool
) -> None:
    assert old.may_be_newer(5) == may_be_newer
    if may_be_newer:
        assert refreshing._needs_polling(old, 10) == needs_polling


@pytest.mark.parametrize(
    ("now", "reason", "interval"),
    [
        ({}, None, Interval(live=60, config=60)),
        # Another QEMU never had the temporary interval.
        ({"id": 8}, Unheard.RESTARTED, Interval(live=1, config=60)),
        ({"id": None, "state": State.SHUTOFF}, Unheard.SHUTOFF, Interval(config=60)),
    ],
)
def test_the_interval_is_that_of_the_domain_as_it_is(
    now: dict[str, Any], reason: Unheard | None, interval: Interval
) -> None:
    live = None if reason is Unheard.SHUTOFF else 1
    after = report(interval=Interval(live=live, config=60), **now)
    waited = Waited(answered=reason is None, seconds=2.0, reason=reason)
    wait = DomainWait(name=after.name, uuid=after.uuid, waited=waited, report=after)
    before = report(interval=Interval(live=60, config=60))
    domain = FakeDomain(60, 60)
    assert refreshing._report(before, wait, temporary(domain), 5).interval == interval


def temporary(domain: FakeDomain) -> refreshing._Temporary:
    session = SimpleNamespace(uri=HOST, domains={domain.uuid: domain}, connection=domain.connection)
    return refreshing._Temporary(cast("HostSession", session), Source.LIBVIRT, threading.Event())


def set_temporarily(domain: FakeDomain) -> refreshing._Temporary:
    intervals = temporary(domain)
    intervals.set([old(domain)], 5)
    return intervals


def old(domain: FakeDomain) -> DomainReport:
    interval = Interval(live=domain.live, config=domain.config)
    return report(uuid=domain.uuid, id=domain.id, interval=interval)


def restored(intervals: refreshing._Temporary, domain: FakeDomain) -> bool | None:
    intervals.restore_all(5)
    done = refreshing._report(old(domain), None, intervals, 5).refresh
    assert done is not None
    assert done.asked == (domain.uuid in intervals.was_set)
    assert (done.restored is False) == bool(intervals.remaining())
    return done.restored


@given(before=st.integers(0, 3600), config=st.integers(0, 5))
def test_a_temporary_interval_is_restored(before: int, config: int) -> None:
    domain = FakeDomain(before, config)
    intervals = set_temporarily(domain)

    assert (domain.live, intervals.was_set) == (1, {domain.uuid})
    assert restored(intervals, domain) is True
    assert (domain.live, domain.config) == (before, config)


def test_change_by_another_program_is_kept() -> None:
    domain = FakeDomain(0)
    intervals = set_temporarily(domain)
    domain.live = 7
    assert restored(intervals, domain) is True
    assert domain.live == 7


def test_a_domain_that_was_restarted_keeps_its_interval() -> None:
    domain = FakeDomain(0)
    intervals = set_temporarily(domain)
    domain.id += 1
    assert restored(intervals, domain) is True
    assert domain.live == 1


def test_a_domain_that_is_gone_needs_nothing() -> None:
    domain = FakeDomain(0)
    intervals = set_temporarily(domain)
    intervals._session.domains.clear()
    assert restored(intervals, domain) is True


@pytest.mark.parametrize("error", [ReadOnly("no"), AccessDenied("no"), NotRunning("no")])
def test_refused_change_is_not_a_change(error: VirtballoonError) -> None:
    domain = FakeDomain(0, error=error)
    intervals = set_temporarily(domain)
    assert intervals.errors == {domain.uuid: error}
    assert restored(intervals, domain) is None
    assert domain.sent == []


def test_a_refusal_is_no_change_of_an_interval_that_was_the_temporary_one() -> None:
    domain = FakeDomain(1, error=AccessDenied("no"))
    intervals = set_temporarily(domain)
    assert restored(intervals, domain) is None
    assert intervals.remaining() == []


@pytest.mark.parametrize("takes_effect", [True, False])
def test_a_change_that_failed_may_have_taken_effect(takes_effect: bool) -> None:
    error = None if takes_effect else ConnectionLost("gone")
    domain = FakeDomain(0, failing="live" if takes_effect else "", error=error)
    intervals = set_temporarily(domain)
    assert intervals.errors
    assert intervals.remaining()
    domain.failing, domain.error = "", None
    assert restored(intervals, domain) is (True if takes_effect else None)
    assert domain.live == 0


def test_nothing_is_set_after_it_was_restored() -> None:
    domain = FakeDomain(0)
    intervals = temporary(domain)
    intervals.restore_all(5)
    intervals.set([old(domain)], 5)
    assert restored(intervals, domain) is None
    assert domain.sent == []


def test_a_held_domain_is_neither_polled_nor_restored() -> None:
    domain = FakeDomain(0, control=HELD)
    intervals = set_temporarily(domain)
    assert isinstance(intervals.errors[domain.uuid], Busy)
    assert restored(intervals, domain) is None
    domain.held = FREE
    intervals = set_temporarily(domain)
    domain.held = HELD
    assert restored(intervals, domain) is False
    assert domain.live == 1
    (line,) = intervals.remaining()
    assert line.endswith(f"--live 0 {domain.uuid})")


def test_what_was_not_set_because_the_process_ends_is_not_left() -> None:
    domain = FakeDomain(0)
    intervals = temporary(domain)

    def held_when_the_process_ends() -> Control:
        intervals._is_over = True
        return Control(free=False, seconds=0.1, waiting=True)

    domain.hold = held_when_the_process_ends  # type: ignore[method-assign]
    intervals.set([old(domain)], 5)
    assert domain.sent == []
    assert intervals.remaining() == []


def test_what_was_not_set_because_the_connection_broke_before_is_not_left() -> None:
    domain = FakeDomain(0)

    def broken() -> Control:
        raise ConnectionLost("gone")

    domain.hold = broken  # type: ignore[method-assign]
    intervals = set_temporarily(domain)
    assert intervals.errors
    assert intervals.remaining() == []


REFRESHES = (
    Refresh(fresh=True),
    Refresh(fresh=True, asked=True, seconds=0.26, restored=True),
    Refresh(fresh=False, asked=True, seconds=10.0, reason=Unheard.NO_ANSWER, restored=True),
    Refresh(fresh=True, asked=True, seconds=1.0, restored=False, error=ReadOnly("no", host=HOST)),
    Refresh(fresh=None, reason=Unheard.SHUTOFF),
)


def test_documents_with_refresh() -> None:
    rows = tuple(replace(row(0), refresh=refresh) for refresh in REFRESHES)
    whole = document(replace(READ, domains=rows))
    VALIDATOR.validate(whole)
    found = [domain["refresh"] for domain in whole["hosts"][0]["domains"]]
    assert found[1] == {
        "fresh": True,
        "asked": True,
        "seconds": 0.3,
        "reason": None,
        "restored": True,
        "error": None,
    }
    assert found[3]["error"]["message"] == "no"
    flat = formats.flattened(documents.domain_record(rows[3]))
    assert [key for key in flat if key.startswith("refresh.")] == [
        c for c in documents.domain_columns(refresh=True) if c.startswith("refresh.")
    ]
    reasons = SCHEMA["$defs"]["refresh"]["properties"]["reason"]["enum"]
    assert set(reasons) == {*Unheard, None} - {Unheard.NOT_SET}
    assert [text.refreshed(refresh) for refresh in REFRESHES] == [
        "fresh enough",
        "asked, and answered after 0.3 s",
        "not fresh: no answer (10 s)",
        "asked, and answered after 1.0 s",
        "not fresh: shutoff",
    ]
    # Quiet about all but what is not as new as wanted, or was not put back.
    (shown,) = with_problems([replace(READ, domains=rows)])
    assert [one.refresh for one in shown.domains] == [REFRESHES[2], REFRESHES[3]]


def test_problems_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    rows = tuple(replace(row(0), refresh=refresh) for refresh in REFRESHES)
    log_host(replace(READ, domains=rows))
    warnings = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len(warnings) == 2
    assert warnings[0].endswith("its figures are older than requested: no-answer")
    assert warnings[1].endswith(": no")
