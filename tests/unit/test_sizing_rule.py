"""Advice: histories with a known use get the verdict that is right for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.sizing_histories import (
    GIB,
    MIB,
    NOW,
    bursts,
    changed,
    daily,
    history,
    leak,
    steady,
    store,
    weekly,
)
from virtballoon.sizing.day import DAY_SECONDS, Day, Histogram, History, Latest
from virtballoon.sizing.rule import (
    LEAST_SECONDS,
    NEEDED_COVERAGE,
    NEEDED_SECONDS,
    Advice,
    Sizing,
    advise,
    first_day,
    rounded_up,
)
from virtballoon.sizing.store import Store

IDLE = history(steady(GIB), days=20)
BUSY = history(steady(6 * GIB), days=20)


def judged(of: History, **options: object) -> Advice:
    return advise(of, **{"now": NOW} | options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("of", "verdict", "because"),
    [
        (IDLE, Sizing.OVER, "needs 19% of its memory by its use in 14.5 d"),
        (BUSY, Sizing.RIGHT, "needs 94% of its memory by its use in 14.5 d"),
        # A peak counts, however short.
        (history(daily(GIB, 5 * GIB)), Sizing.RIGHT, "needs 79% of its memory by its use in 14 d"),
        (history(weekly(GIB, 5 * GIB)), Sizing.RIGHT, "needs 79% of its memory by its use in 14 d"),
        (history(weekly(GIB, 2 * GIB)), Sizing.OVER, "needs 35% of its memory by its use in 14 d"),
        (history(bursts(GIB, 6 * GIB)), Sizing.RIGHT, "needs 94% of its memory by its use in 14 d"),
        # What it has leaked by now is what it needs by now.
        (history(leak(GIB, 0.1 * GIB)), Sizing.OVER, "needs 41% of its memory by its use in 14 d"),
        (history(leak(GIB, 0.45 * GIB)), Sizing.RIGHT, "and was not short of memory"),
        (
            history(steady(7 * GIB)),
            Sizing.RIGHT,
            "needs 113% of its memory by its use in 14 d, and was not short of memory",
        ),
        # Too little is gained.
        (history(steady(400 * MIB), current=GIB), Sizing.RIGHT, "needs 75% of its memory"),
        (history(steady(100 * MIB), current=GIB), Sizing.OVER, "needs 50% of its memory"),
        (history(steady(100 * MIB), current=1000 * MIB), Sizing.RIGHT, "needs 52% of its memory"),
        (changed(BUSY, 3, gains={"oom_kills": 2}), Sizing.UNDER, "2 OOM kills"),
        (changed(BUSY, 3, gains={"oom_kills": 0}), Sizing.RIGHT, "needs"),
        (
            changed(IDLE, 3, gains={"oom_kills": 1}),
            Sizing.UNDER,
            "1 OOM kill, though it needs no more by its use; a limit in the guest?",
        ),
        (
            changed(history(steady(7.5 * GIB)), 3, pressure_hours=frozenset({1, 2, 9})),
            Sizing.UNDER,
            "short of memory in 3 hours",
        ),
        (changed(BUSY, 3, pressure_hours=frozenset({1, 2})), Sizing.RIGHT, "needs"),
        (changed(IDLE, 3, restarts=4), Sizing.OVER, "needs"),
        (replace(IDLE, uris=("qemu://b/system", "qemu://a/system")), Sizing.OVER, "needs"),
        (
            changed(IDLE, 3, resizes=1, resized_at=NOW - 3 * DAY_SECONDS),
            Sizing.UNKNOWN,
            "its size was changed on 2026-11-24",
        ),
        # Before the window.
        (changed(IDLE, 17, resizes=1), Sizing.OVER, "needs"),
        (changed(BUSY, 17, gains={"oom_kills": 2}), Sizing.RIGHT, "needs"),
        (history(steady(GIB), days=7), Sizing.OVER, "needs 19% of its memory by its use in 7 d"),
        (history(steady(GIB), days=6.9), Sizing.UNKNOWN, "6.9 d recorded, of at least 7 d"),
        (history(steady(GIB), days=2), Sizing.UNKNOWN, "48 h recorded, of at least 7 d"),
        (history(steady(GIB), gaps=[(3, 5)]), Sizing.OVER, "needs"),
        (
            history(steady(GIB), gaps=[(3, 6)]),
            Sizing.UNKNOWN,
            "78% of 14 d covered, of at least 80%",
        ),
        # It does not run any more.
        (history(steady(GIB), gaps=[(10, 14)]), Sizing.UNKNOWN, "71% of 14 d covered"),
        (
            changed(history(steady(GIB), days=3), 1, gains={"oom_kills": 2}),
            Sizing.UNKNOWN,
            "3 d recorded, of at least 7 d; 2 OOM kills",
        ),
        (history(steady(GIB), gaps=[(0, 14)]), Sizing.UNKNOWN, "nothing is recorded"),
    ],
)
def test_verdict(of: History, verdict: Sizing, because: str) -> None:
    advice = judged(of)
    assert (advice.verdict, because in advice.because) == (verdict, True), advice.because
    assert (advice.need_bytes is None) is (verdict is Sizing.UNKNOWN)


def each_day(of: History, change: Callable[[Day], Day]) -> History:
    return replace(of, days=tuple(map(change, of.days)))


def test_without_balloon_statistics_nothing_is_known() -> None:
    of = each_day(IDLE, lambda day: Day(date=day.date, latest=Latest(0, GIB, GIB)))
    assert judged(of).verdict is Sizing.UNKNOWN
    assert judged(of).because == "the guest gave no balloon statistics"


def test_what_contains_caches_says_nothing() -> None:
    of = each_day(IDLE, lambda day: replace(day, formulas=frozenset({"total-free"})))
    assert judged(of).because == (
        "the guest reports no available memory, so that used contains caches"
    )
    # A figure too large does not make a domain too large.
    assert judged(changed(of, 3, formulas=frozenset({"total-available"}))).verdict is Sizing.OVER


@pytest.mark.parametrize(
    ("use", "current", "is_flat"),
    [
        (steady(5 * GIB), 8 * GIB, True),
        (steady(3 * GIB), 8 * GIB, False),
        (daily(5 * GIB, 6 * GIB), 8 * GIB, False),
        # A pool, and a minute a week without it.
        (weekly(6 * GIB, GIB), 8 * GIB, True),
    ],
)
def test_a_pool_is_marked(use: Callable[[int], float], current: int, is_flat: bool) -> None:
    advice = judged(history(use, current=current))
    assert advice.is_flat is is_flat
    assert judged(history(use, current=current, days=3)).is_flat is is_flat


def test_profiles_differ_by_what_is_rare() -> None:
    of = history(weekly(GIB, 5 * GIB))
    needs = [judged(of, profile=name).need_bytes for name in ("max", "p99", "p95")]
    assert needs == [6.25 * GIB, 6.25 * GIB, 1.5 * GIB]
    of = history(bursts(GIB, 5 * GIB))
    assert judged(of, profile="p95").verdict is Sizing.OVER


def test_the_peak_and_when_it_was() -> None:
    advice = judged(history(weekly(GIB, 5 * GIB), days=14))
    assert advice.peak == (5 * GIB, NOW - 14 * DAY_SECONDS)
    assert advice.percentile(0.999) == 5 * GIB
    assert 1 < (advice.percentile(0.5) or 0) / GIB < 1.05


def test_a_shorter_window_is_asked_for_knowingly() -> None:
    of = changed(history(steady(GIB), days=14), 3, resizes=1)
    assert judged(of).verdict is Sizing.UNKNOWN
    advice = judged(of, since=2 * DAY_SECONDS)
    assert advice.verdict is Sizing.OVER
    # Whole days, by UTC.
    assert advice.ended_at - advice.started_at == 2.5 * DAY_SECONDS
    assert judged(of, since=LEAST_SECONDS).verdict is Sizing.OVER
    with pytest.raises(ValueError, match="at least 30 h"):
        judged(of, since=LEAST_SECONDS - 1)
    with pytest.raises(ValueError, match="no profile 'p50'; there are: max, p99, p95"):
        judged(of, profile="p50")


def test_the_host_gets_back_no_more_than_is_gained() -> None:
    advice = judged(IDLE)
    assert advice.latest is not None
    assert advice.current_bytes == 8 * GIB
    assert advice.gain_bytes == 6.5 * GIB
    assert advice.reclaimable_bytes == 6.5 * GIB
    little = replace(advice, latest=advice.latest._replace(reclaimable_bytes=5))
    assert little.reclaimable_bytes == 5
    unknown = replace(advice, latest=advice.latest._replace(reclaimable_bytes=None))
    assert unknown.reclaimable_bytes is None


@pytest.mark.parametrize(
    ("size", "rounded"),
    [
        (0, 512 * MIB),
        (513 * MIB, 768 * MIB),
        (768 * MIB, 768 * MIB),
        (8 * GIB - 1, 8 * GIB),
        (8 * GIB, 8 * GIB),
        (8 * GIB + 1, 9 * GIB),
    ],
)
def test_rounding(size: int, rounded: int) -> None:
    assert rounded_up(size) == rounded


shown_days = st.sets(st.integers(0, 14))


@given(kept=shown_days, more=shown_days)
def test_a_certain_verdict_has_what_it_needs(kept: set[int], more: set[int]) -> None:
    for chosen in (kept, kept | more):
        of = replace(IDLE, days=tuple(d for n, d in enumerate(IDLE.days[-15:]) if n in chosen))
        advice = judged(of)
        is_enough = (
            advice.ended_at - advice.started_at >= NEEDED_SECONDS
            and advice.covered_seconds >= NEEDED_COVERAGE * (advice.ended_at - advice.started_at)
        )
        assert (advice.verdict is not Sizing.UNKNOWN) is is_enough
        # Days that were not recorded are not covered, wherever they are.
        assert advice.covered_seconds == sum(day.covered_seconds for day in of.days)


@given(factor=st.integers(2, 50))
def test_the_need_grows_with_all_figures(factor: int) -> None:
    def scaled(by: int) -> Advice:
        return judged(
            history(steady(2 * GIB * by), current=8 * GIB * by, kept=200 * MIB * by, step=21600)
        )

    one, many = scaled(1), scaled(factor)
    assert one.need_bytes is not None
    assert many.need_bytes is not None
    # Both are rounded up, the larger one by more.
    assert abs(many.need_bytes - factor * one.need_bytes) <= factor * 256 * MIB + GIB
    assert many.verdict is one.verdict


@given(cut=st.integers(1, 27))
def test_days_recorded_in_two_parts_are_those_recorded_together(cut: int) -> None:
    def recorded(first: int, last: int) -> dict[object, Day]:
        use = daily(GIB, 3 * GIB)
        part = history(use, days=14, gaps=[(0, first / 2), (last / 2, 14)], step=10800)
        return {day.date: day for day in part.days}

    one, other = recorded(0, cut), recorded(cut, 28)
    merged = tuple(
        one[date] + other[date] if date in one and date in other else (one | other)[date]
        for date in sorted({*one, *other}, key=str)
    )
    together = history(daily(GIB, 3 * GIB), days=14, step=10800)
    assert merged == together.days
    assert judged(replace(together, days=merged)) == judged(together)


def test_what_is_recorded_in_the_future_is_left_out() -> None:
    last = IDLE.days[-1]
    later = replace(last, date=last.date + timedelta(days=2), gains={"oom_kills": 1})
    assert judged(replace(IDLE, days=(*IDLE.days, later))).verdict is Sizing.OVER


def test_days_before_the_window_need_not_be_read(tmp_path: Path) -> None:
    long = history(steady(GIB), days=40, gaps=[(24, 29)])
    with Store(store(tmp_path / "history.db", [long])) as opened:
        (part,) = opened.histories(first_day(NOW, 14 * DAY_SECONDS))
        (whole,) = opened.histories()
    assert (len(part.days), len(whole.days)) == (13, 37)
    # A gap at the beginning is one only where there was something before it.
    assert judged(part).because == judged(whole).because == "75% of 14.5 d covered, of at least 80%"
    assert judged(replace(part, days=part.days[1:])).verdict is Sizing.OVER


@pytest.mark.parametrize("known", [0, 1])
def test_fresh_figures_that_do_not_say_what_is_used_cover_nothing(known: int) -> None:
    whole = history(steady(GIB))
    days = [replace(day, used=Histogram()) for day in whole.days[: -known or None]]
    found = advise(replace(whole, days=(*days, *whole.days[len(days) :])), now=NOW)
    assert found.verdict is Sizing.UNKNOWN
    assert found.coverage < 0.1
