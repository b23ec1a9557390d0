"""What is kept of a day: histograms, their buckets and percentiles, and merging."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtballoon.sizing.day import (
    DAY_SECONDS,
    FIRST_BUCKET_BYTES,
    Day,
    Histogram,
    History,
    Latest,
    Peak,
    bucket_of,
    bucket_start,
)

MIB = 1024**2
DATE = date(2026, 11, 27)

sizes = st.integers(0, 2**63 - 1)
optional_sizes = st.none() | sizes
times = st.integers(0, 2**33)
histograms = st.dictionaries(st.integers(0, 700), st.integers(1, DAY_SECONDS), max_size=8).map(
    lambda seconds: Histogram(seconds=seconds)
)
days = st.builds(
    Day,
    date=st.just(DATE),
    used=histograms,
    available=histograms,
    cache=histograms,
    peak=st.none() | st.builds(Peak, sizes, times),
    covered_seconds=st.integers(0, DAY_SECONDS),
    gains=st.dictionaries(st.sampled_from(("swap_in", "oom_kills", "x")), sizes),
    pressure_hours=st.frozensets(st.integers(0, 23)),
    latest=st.none() | st.builds(Latest, times, *[optional_sizes] * 4),
    current_min_bytes=optional_sizes,
    current_max_bytes=optional_sizes,
    restarts=st.integers(0, 9),
    resizes=st.integers(0, 9),
    resized_at=st.none() | times,
    formulas=st.frozensets(st.sampled_from(("total-available", "total-free"))),
)


@pytest.mark.parametrize(
    ("number", "start"),
    [(0, 0), (1, 10_000_000), (2, 20_500_000), (3, 31_525_000), (100, 26_100_251_570)],
)
def test_buckets_start_where_those_of_the_vertical_pod_autoscaler_do(
    number: int, start: int
) -> None:
    assert bucket_start(number) == start
    assert bucket_of(start) == number


@given(value=sizes)
def test_a_value_is_in_its_bucket_which_is_narrow(value: int) -> None:
    number = bucket_of(value)
    start, end = bucket_start(number), bucket_start(number + 1)
    assert start <= value < end
    # Floats are not exact.
    assert end - start <= (FIRST_BUCKET_BYTES + 0.05 * start) * (1 + 1e-9) + 1


@given(added=st.lists(st.tuples(sizes, st.integers(1, 900)), min_size=1), share=st.floats(0, 1))
def test_a_percentile_is_at_most_a_bucket_above_the_exact_one(
    added: list[tuple[int, int]], share: float
) -> None:
    histogram = reduce(lambda done, pair: done.add(*pair), added, Histogram())
    total = sum(seconds for _, seconds in added)
    counted = 0
    exact = 0
    for value, seconds in sorted(added):
        counted, exact = counted + seconds, value
        if counted >= share * total:
            break
    found = histogram.percentile(share)
    assert found is not None
    assert exact < found <= bucket_start(bucket_of(exact) + 1)
    assert histogram.total_seconds == total


def test_nothing_is_known_of_no_time() -> None:
    assert Histogram().percentile(0.5) is None
    assert Histogram().add(MIB, 0) == Histogram()


@given(one=days, other=days, third=days)
def test_days_are_merged_in_any_order(one: Day, other: Day, third: Day) -> None:
    assert one + other == other + one
    assert (one + other) + third == one + (other + third)
    assert one + Day(date=DATE) == one


@given(day=days)
def test_a_day_is_the_same_after_it_was_stored(day: Day) -> None:
    assert Day.from_dict(json.loads(json.dumps(day.as_dict()))) == day


def test_of_equal_maxima_the_first_counts() -> None:
    days = [Day(date=DATE, peak=Peak(MIB, at)) for at in (5, 3, 4)]
    assert (days[0] + days[1] + days[2]).peak == Peak(MIB, 3)


def test_two_dates_are_not_merged() -> None:
    with pytest.raises(ValueError, match="two days"):
        Day(date=DATE) + Day(date=date(2026, 11, 28))


@pytest.mark.parametrize(
    "stored",
    [
        {},
        {"date": "yesterday"},
        {"date": 5},
        {"date": "2026-11-27", "used": ["x"]},
        {"date": "2026-11-27", "used": [5, "x"]},
        {"date": "2026-11-27", "used": [-5, 1]},
        {"date": "2026-11-27", "used": 5},
        {"date": "2026-11-27", "used": [5, -1]},
        {"date": "2026-11-27", "peak": {"bytes": 1}},
        {"date": "2026-11-27", "formulas": 7},
    ],
)
def test_something_else_is_not_a_day(stored: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="not a "):
        Day.from_dict(stored)


def test_days_and_histories_go_into_sets() -> None:
    day = Day(date=DATE, used=Histogram().add(MIB, 60))
    history = History(uuid="u", name="n", labels={"title": "shop"}, days=(day,))
    assert {day, replace(day)} == {day}
    assert {history, replace(history)} == {history}
    assert history.title == "shop"
