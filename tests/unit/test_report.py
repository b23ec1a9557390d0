"""Reports: the interval in force, the age, and an error that says what failed."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.check_builders import NOW, report
from virtballoon.errors import Busy, LibvirtFailure, NotSupported, VirtballoonError
from virtballoon.model.memory import Anomaly, Figures, Usage
from virtballoon.model.report import HostReport, HostStatus, Interval
from virtballoon.model.statistics import MemoryStats
from virtballoon.model.verdict import State, Verdict


@pytest.mark.parametrize(
    ("interval", "in_force"),
    [
        (Interval(), None),
        (Interval(config=3), 3),
        (Interval(live=0, config=3), 0),
        (Interval(live=2, config=3), 2),
        (Interval(live=2, config=3, qemu=0), 0),
        (Interval(live=0, config=3, qemu=5), 5),
        (Interval(config=3, saved=7), 7),
        (Interval(config=3, saved=0), 0),
        (Interval(live=2, config=3, saved=7), 2),
    ],
)
def test_the_interval_in_force(interval: Interval, in_force: int | None) -> None:
    assert interval.in_force == in_force


def test_the_age_is_now_minus_last_update() -> None:
    assert report().age_seconds == 0.5
    assert report().last_update == 1_700_000_000


@pytest.mark.parametrize("never", [0, None])
def test_never_updated_has_no_age(never: int | None) -> None:
    found = report(figures=Figures(last_update=never))

    assert (found.last_update, found.age_seconds) == (None, None)


def test_an_error_makes_the_verdict() -> None:
    assert report(error=Busy("held")).verdict is Verdict.BUSY
    assert report(error=LibvirtFailure("no")).verdict is Verdict.FAILED


def test_failed_domain_has_an_error() -> None:
    """The verdict "failed" never stands without an error that names host and domain."""
    stats = (MemoryStats(), MemoryStats(total_memory=5))
    updates = (None, 0, 1_699_999_000, 1_700_000_000, 1_700_000_100)
    intervals = (Interval(), Interval(live=0), Interval(live=10), Interval(config=10))
    for stat, update, interval, state in product(stats, updates, intervals, State):
        figures = Figures(stats=stat, last_update=update)
        found = report(figures=figures, interval=interval, state=state)
        if found.verdict is Verdict.FAILED:
            assert isinstance(found.error, VirtballoonError)
            assert found.error.message
            assert (found.error.host, found.error.domain) == ("qemu:///system", "web1")
        else:
            assert found.error is None


def test_an_update_in_the_future_has_no_age() -> None:
    found = report(figures=Figures(last_update=1_700_000_100, stats=MemoryStats(swap_in=1)))

    assert found.verdict is Verdict.STALE
    assert found.error is None
    assert (found.last_update, found.age_seconds) == (1_700_000_100, None)


def host(*ages: float, uri: str = "qemu+ssh://hv1/system", **facts: Any) -> HostReport:
    """A host whose domains have last updates of these ages, as if the clocks were equal."""
    rows = [
        report(
            uuid=str(number),
            figures=Figures(stats=MemoryStats(total_memory=5), last_update=int(NOW - age)),
            **facts,
        )
        for number, age in enumerate(ages)
    ]
    return HostReport(
        uri=uri,
        hostname="hv1",
        status=HostStatus.OK,
        error=None,
        elapsed_seconds=0.1,
        domains=tuple(rows),
    )


def verdicts(host: HostReport) -> set[Verdict]:
    return {row.verdict for row in host.domains}


@pytest.mark.parametrize("offset", [-90, 90, -86400, 3600])
def test_a_host_with_another_clock_has_fresh_figures(offset: int) -> None:
    found = host(-offset, 6 - offset)
    assert verdicts(found) == {Verdict.STALE}
    found = found.by_clock(is_remote=True)

    assert found.clock is not None
    assert found.clock.seconds == pytest.approx(offset, abs=6)
    assert verdicts(found) == {Verdict.FRESH}
    assert all(0 <= (row.age_seconds or 0) <= 11 for row in found.domains)
    assert all(row.anomalies == () for row in found.domains)
    assert ("ahead of" if offset > 0 else "behind") in str(found.clock_problem)


def test_a_known_offset_shows_what_stopped_answering() -> None:
    """Two guests that stop answering later do not change what is known of the clock."""
    first = host(90, 96).by_clock(is_remote=True)
    assert verdicts(first) == {Verdict.FRESH}
    later = host(150, 156).by_clock(first, is_remote=True)

    assert later.clock == first.clock
    assert verdicts(later) == {Verdict.STALE}


def test_equal_clocks_make_no_offset() -> None:
    first = host(150, 156).by_clock(is_remote=False)
    second = host(150, 156).by_clock(first, is_remote=True)

    assert (first.clock, second.clock, second.clock_problem) == (None, None, None)
    assert verdicts(second) == {Verdict.STALE}


def test_movement_corrects_a_single_domain() -> None:
    first = host(92, read_at=NOW - 1).by_clock(is_remote=False)
    second = host(90).by_clock(first, is_remote=False)

    assert second.clock is not None
    assert second.clock.seconds == pytest.approx(-90, abs=3)
    assert verdicts(second) == {Verdict.FRESH}


def test_the_clock_changes_only_what_depends_on_it() -> None:
    facts: list[dict[str, Any]] = [
        {"error": LibvirtFailure("no")},
        {"interval": Interval(live=0)},
        {"state": State.PAUSED},
        {"figures": Figures(stats=MemoryStats(), last_update=1_699_999_900)},
        {"figures": Figures(last_update=0)},
    ]
    for fact in facts:
        row = report(**fact)
        moved = replace(row, clock_offset=-90)
        assert (moved.verdict, moved.error) == (row.verdict, row.error)
        if row.age_seconds is not None and row.age_seconds > 85:
            assert moved.age_seconds == row.age_seconds - 90


@pytest.mark.parametrize(
    ("age", "anomalies"),
    [
        (0, ()),
        (-5, ()),
        (-5.5, (Anomaly.UPDATE_IN_FUTURE,)),
        (-(2.0**63), (Anomaly.UPDATE_IN_FUTURE,)),
    ],
)
@pytest.mark.parametrize("interval", [0, 10])
def test_a_future_update_is_noted_whatever_the_verdict(
    age: float, anomalies: tuple[Anomaly, ...], interval: int
) -> None:
    stats = MemoryStats(swap_in=1)
    found = report(
        figures=Figures(last_update=1_700_000_000, stats=stats),
        read_at=1_700_000_000 + age,
        interval=Interval(live=interval),
    )

    assert found.anomalies == anomalies


def sized(*, available: int | None, current: int, rss: int | None) -> Figures:
    """A guest with a total of 1000."""
    stats = {"stat-total-memory": 1000, "stat-free-memory": 700}
    if available is not None:
        stats["stat-available-memory"] = available
    return Figures(
        stats=MemoryStats.from_qemu(stats),
        last_update=int(NOW),
        current_bytes=current,
        maximum_bytes=current,
        rss_bytes=rss,
    )


@pytest.mark.parametrize(
    ("available", "current", "rss", "expected"),
    [
        # A fifth stays available.
        (600, 1100, 1100, 400),
        # RSS above current is QEMU's own.
        (600, 1100, 1300, 400),
        # What was never touched is not there to be given back.
        (600, 1100, 900, 200),
        (600, 1100, 700, 0),
        (600, 1100, 500, 0),
        (200, 1100, 1100, 0),
        (100, 1100, 1100, 0),
        (1000, 1100, 1100, 800),
        (600, 1100, None, None),
        (None, 1100, 1100, None),
    ],
)
def test_what_a_larger_balloon_could_give_back(
    available: int | None, current: int, rss: int | None, expected: int | None
) -> None:
    figures = sized(available=available, current=current, rss=rss)
    assert report(figures=figures).reclaimable_bytes == expected


@pytest.mark.parametrize(
    "facts",
    [
        {"has_hugepages": True},
        {"is_pinned": True},
        {"interval": Interval(live=0)},
        {"read_at": NOW + 100},
        {"state": State.PAUSED},
    ],
)
def test_what_cannot_be_given_back(facts: dict[str, Any]) -> None:
    figures = sized(available=600, current=1100, rss=1100)
    assert report(figures=figures, **facts).reclaimable_bytes is None


@given(st.integers(0, 1000), st.integers(1000, 2000), st.integers(0, 3000))
def test_the_guest_keeps_what_it_uses(available: int, current: int, rss: int) -> None:
    row = report(figures=sized(available=available, current=current, rss=rss))
    assert row.reclaimable_bytes is not None
    assert row.usage.used_bytes is not None
    assert 0 <= row.reclaimable_bytes <= max(0, current - row.usage.used_bytes)
    assert row.reclaimable_bytes <= rss
    assert row.reclaimable_bytes <= max(0, available - 200)


def test_rss_of_a_domain_with_hugepages() -> None:
    figures = Figures(last_update=1_700_000_000, rss_bytes=7)

    assert report(figures=figures).anomalies == ()
    found = report(figures=figures, has_hugepages=True)
    assert found.anomalies == (Anomaly.RSS_WITHOUT_HUGEPAGES,)


@pytest.mark.parametrize(
    ("host", "hint"),
    [
        ("qemu:///system", True),
        ("qemu+ssh://hv1/session", True),
        ("xen:///system", False),
        ("test:///default", False),
    ],
)
def test_libvirt_gives_no_statistics(host: str, hint: bool) -> None:
    found = report(figures=Figures(current_bytes=80, rss_bytes=7), host=host)

    assert found.verdict is Verdict.FAILED
    assert type(found.error) is NotSupported
    assert "--via qom" in str(found.error) if hint else found.error.hint is None


def test_what_the_domain_can_have_at_most_counts() -> None:
    stats = MemoryStats(total_memory=201, available_memory=1)
    found = report(figures=Figures(stats=stats, last_update=1_700_000_000, maximum_bytes=100))

    assert found.anomalies == (Anomaly.TOTAL_ABOVE_MAXIMUM,)
    assert found.usage == Usage()
    assert found.verdict is Verdict.FRESH


def test_an_unknown_interval_is_not_blamed_on_the_clock() -> None:
    found = report(interval=Interval())

    assert found.verdict is Verdict.FAILED
    assert "interval" in str(found.error)
    assert "future" not in str(found.error)


def test_figure_beyond_float_range() -> None:
    # QEMU's figures have 64 bits; JSON has no such limit.
    figures = Figures(stats=MemoryStats.from_qemu({"stat-total-memory": 10**400}))

    assert report(figures=figures).stats == MemoryStats()


@pytest.mark.parametrize(
    ("facts", "needs"),
    [
        ({"interval": Interval(live=0)}, True),
        ({"interval": Interval(live=0), "state": State.PAUSED}, True),
        ({"interval": Interval(live=10), "state": State.PAUSED}, False),
        ({"interval": Interval(live=0), "state": State.SHUTOFF}, False),
        ({"interval": Interval(live=0), "balloon": None}, False),
        ({}, False),
    ],
)
def test_what_setting_an_interval_would_help(facts: dict[str, Any], needs: bool) -> None:
    assert report(**facts).needs_polling is needs
