"""Setting the interval of a domain that is not one: plans, outcomes, and half-done changes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakedomain import HELD, FakeDomain
from virtballoon.engine.limits import Deadline
from virtballoon.engine.scheduler import Scheduler
from virtballoon.errors import (
    Busy,
    BusyReason,
    InvalidInterval,
    LibvirtFailure,
    NoBalloon,
    NotRunning,
    TransientDomain,
)
from virtballoon.hypervisor.domain import Domain
from virtballoon.model.outcome import Outcome
from virtballoon.model.report import Interval
from virtballoon.model.selection import Selected
from virtballoon.model.source import Source
from virtballoon.operations.setting import IntervalRequest, _set_all, set_interval

#: What has no such XML: a domain that does not run, or a transient one.
NONE = None


def test_a_running_domain_is_set_live_and_another_in_its_configuration() -> None:
    running, off = FakeDomain(0, 5), FakeDomain(NONE, 5)

    change = set_interval(running, 10)
    assert (change.outcome, change.after) == (Outcome.CHANGED, Interval(live=10, config=5))
    change = set_interval(off, 10)
    assert (change.outcome, change.after) == (Outcome.CHANGED, Interval(config=10))
    assert (running.sent, off.sent) == ([("live", 10)], [("config", 10)])


@pytest.mark.parametrize("via", Source)
def test_live_interval_is_sent_even_if_equal(via: Source) -> None:
    """QEMU may differ from the XML."""
    domain = FakeDomain(10, 10, qemu=None if via is Source.QOM else 0)
    change = set_interval(domain, IntervalRequest(10, via=via))

    assert (change.outcome, change.changed) == (Outcome.UNCHANGED, False)
    assert domain.sent == [("qemu" if via is Source.QOM else "live", 10)]
    assert domain.qemu == 10


def test_qom_sets_qemu_alone() -> None:
    domain = FakeDomain(10, 10, qemu=3)
    change = set_interval(domain, IntervalRequest(5, via=Source.QOM, live=True, config=True))

    assert change.before == Interval(live=10, config=10, qemu=3)
    assert change.after == Interval(live=10, config=5, qemu=5)
    assert (domain.live, domain.config, domain.qemu) == (10, 5, 5)


def test_a_dry_run_sets_nothing() -> None:
    domain = FakeDomain(0, 0)
    change = set_interval(domain, IntervalRequest(10, live=True, config=True, dry_run=True))

    assert (change.outcome, change.changed) == (Outcome.CHANGED, True)
    assert domain.sent == []


@pytest.mark.parametrize(
    ("domain", "request_", "error"),
    [
        (FakeDomain(NONE, 5), IntervalRequest(9, live=True), NotRunning),
        (FakeDomain(0, NONE), IntervalRequest(9, config=True), TransientDomain),
        (FakeDomain(0, 0, balloon=None), IntervalRequest(9), NoBalloon),
        (FakeDomain(0, 0, config_balloon=None), IntervalRequest(9, config=True), NoBalloon),
        (FakeDomain(NONE, 0), IntervalRequest(2**31, via=Source.QOM), InvalidInterval),
        # The first obstacle of either is told, and the other interval is not set.
        (FakeDomain(0, NONE), IntervalRequest(9, live=True, config=True), TransientDomain),
    ],
)
def test_impossible_changes(
    domain: FakeDomain, request_: IntervalRequest, error: type[Exception]
) -> None:
    change = set_interval(domain, request_)

    assert (change.outcome, change.changed, domain.sent) == (Outcome.FAILED, False, [])
    assert isinstance(change.error, error)
    assert (change.error.host, change.error.domain) == ("qemu:///system", "web1")


@pytest.mark.parametrize(
    ("domain", "outcome", "after"),
    [
        (FakeDomain(NONE, 0), Outcome.CHANGED, Interval(config=9)),
        (FakeDomain(0, NONE), Outcome.CHANGED, Interval(live=9)),
        (
            FakeDomain(0, 0, balloon=None, config_balloon=None),
            Outcome.SKIPPED,
            Interval(live=0, config=0),
        ),
    ],
)
def test_domain_of_a_pattern_is_set_where_it_can_be(
    domain: FakeDomain, outcome: Outcome, after: Interval
) -> None:
    request = IntervalRequest(9, live=True, config=True)
    chosen = [Selected[Domain](domain=domain, exact=False)]
    scheduler = Scheduler(domain.connection, None)
    (done,) = _set_all(scheduler, request, chosen, Deadline.after(5), watch=False)
    assert (done.change.outcome, done.change.after) == (outcome, after)


@pytest.mark.parametrize(
    ("failing", "after"),
    [("config", Interval(live=10, config=0)), ("live", Interval(live=10, config=0))],
)
def test_partly_applied_change_is_read_again(failing: str, after: Interval) -> None:
    domain = FakeDomain(0, 0, failing=failing)
    change = set_interval(domain, IntervalRequest(10, live=True, config=True))

    assert (change.outcome, change.changed) == (Outcome.FAILED, True)
    assert isinstance(change.error, LibvirtFailure)
    assert (change.before, change.after) == (Interval(live=0, config=0), after)


def test_a_held_domain_is_not_touched() -> None:
    domain = FakeDomain(0, 0, control=HELD)
    change = set_interval(domain, 10, timeout=0.2)

    assert (change.outcome, domain.sent) == (Outcome.FAILED, [])
    assert isinstance(change.error, Busy)
    assert change.error.reason is BusyReason.MONITOR


@pytest.mark.parametrize("seconds", [-1, 2**31, True, 1.5, "5"])
def test_request_rejects_invalid_interval(seconds: Any) -> None:
    with pytest.raises(InvalidInterval):
        IntervalRequest(seconds)


intervals = st.integers(0, 3)


@given(
    live=st.none() | intervals,
    config=st.none() | intervals,
    qemu=st.none() | intervals,
    seconds=intervals,
    options=st.fixed_dictionaries(
        {name: st.booleans() for name in ("live", "config", "where_off", "dry_run")}
    ),
    via=st.sampled_from(Source),
)
def test_the_outcome_says_what_was_done(
    *,
    live: int | None,
    config: int | None,
    qemu: int | None,
    seconds: int,
    options: dict[str, bool],
    via: Source,
) -> None:
    if live is None and config is None:
        return
    domain = FakeDomain(live, config, qemu=qemu if live is not None else None)
    change = set_interval(domain, IntervalRequest(seconds, via=via, **options))
    before, after = change.before, change.after

    assert (before.live, before.config) == (live, config)
    assert change.changed == (before != after)
    if options["dry_run"] or change.outcome in {Outcome.SKIPPED, Outcome.FAILED}:
        assert domain.sent == []
    else:
        assert (after.live, after.config) == (domain.live, domain.config)
        assert after.qemu in {None, domain.qemu}
    if options["where_off"]:
        was = {"live": before.live, "config": before.config, "qemu": before.qemu}
        assert all(was[name] == 0 for name, _ in domain.sent)
