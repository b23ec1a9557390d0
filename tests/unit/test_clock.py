"""The offset of a host's clock: by movement between two looks, and by lateness in one."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtballoon.model.clock import (
    ClockOffset,
    Look,
    offset_by_lateness,
    offset_by_movement,
)
from virtballoon.model.verdict import CLOCK_SKEW_SECONDS, fresh_seconds

NOW = 1_700_000_000.25

offsets = st.floats(-1e5, 1e5)
intervals = st.integers(1, 60)


def look(age: float, *, interval: int = 10, offset: float = 0, at: float = NOW) -> Look:
    """A look at a domain that gave its figures so many seconds before."""
    return Look(interval, math.floor(at + offset - age), at)


def late(*ages: float, interval: int = 10) -> list[Look]:
    return [look(age, interval=interval) for age in ages]


@st.composite
def polled(draw: st.DrawFn, *, fewest: int = 2) -> list[tuple[int, float]]:
    """Polled domains that answer: the interval of each, and when it answered last."""
    interval = draw(intervals)
    ages = draw(st.lists(st.floats(0, interval), min_size=fewest, max_size=8))
    return [(interval, age) for age in ages]


@given(domains=polled(), offset=offsets)
def test_domains_that_answer_give_the_offset_in_one_look(
    domains: list[tuple[int, float]], offset: float
) -> None:
    found = offset_by_lateness(
        [look(age, interval=interval, offset=offset) for interval, age in domains], is_remote=True
    )
    interval = domains[0][0]

    if offset < -fresh_seconds(interval) - 1:
        assert found is not None
    if abs(offset) < CLOCK_SKEW_SECONDS:
        assert found is None
    if found is not None:
        assert found.low <= offset <= found.high + 1
        assert found.high - found.low <= interval + 1


@given(domains=polled(), offset=offsets, gap=st.floats(0, 100), data=st.data())
def test_movement_gives_the_offset(
    domains: list[tuple[int, float]], offset: float, gap: float, data: st.DataObject
) -> None:
    before, after = {}, {}
    for number, (interval, age) in enumerate(domains):
        after[str(number)] = look(age, interval=interval, offset=offset)
        # Before the gap it had given figures once more, or not moved.
        age_before = data.draw(st.floats(0, interval)) if age < gap else age - gap
        then = NOW - gap
        before[str(number)] = look(age_before, interval=interval, offset=offset, at=then)
    found = offset_by_movement(before, after)
    moved = [after[key].last_update != before[key].last_update for key in after]

    assert (found is not None) == any(moved)
    if found is not None:
        assert found.low <= offset <= found.high + 1


def test_movement_of_one_domain_suffices() -> None:
    before = {"a": Look(10, 1000, 1090.0), "b": Look(10, 900, 1090.0)}
    after = {"a": Look(10, 1010, 1102.0), "b": Look(10, 900, 1102.0)}

    found = offset_by_movement(before, after)

    # At 1010 by its clock it was between 1090 and 1102 by ours.
    assert found == ClockOffset(-92.0, -78.0) or (found and -92 <= found.low <= found.high <= -78)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"a": look(3)}),
        ({"a": look(3, at=NOW - 2)}, {}),
        ({"a": Look(10, 1000, 1090.0)}, {"a": Look(10, 1000, 1095.0)}),
        ({"a": Look(10, 1000, 1090.0)}, {"a": Look(10, 0, 1095.0)}),
    ],
)
def test_without_movement_nothing_is_known(before: dict[str, Look], after: dict[str, Look]) -> None:
    assert offset_by_movement(before, after) is None


def test_a_first_update_counts() -> None:
    found = offset_by_movement({"a": Look(1, 0, 1090.0)}, {"a": Look(1, 1000, 1092.0)})

    assert found is not None
    assert found.seconds == pytest.approx(-91, abs=2)


def test_a_clock_set_between_the_looks_gives_nothing() -> None:
    before = {"a": Look(1, 1000, 1000.0), "b": Look(1, 1000, 1000.0)}
    after = {"a": Look(1, 1001, 1002.0), "b": Look(1, 4600, 1002.0)}

    assert offset_by_movement(before, after) is None


def test_two_guests_that_answered_long_ago_at_the_same_time() -> None:
    assert offset_by_lateness(late(90, 95), is_remote=True) == pytest.approx((-90.25, -84.25))


@pytest.mark.parametrize(
    "looks",
    [
        pytest.param([], id="no domain"),
        pytest.param(late(90), id="a single one"),
        pytest.param(late(90, 3), id="one answers"),
        pytest.param(late(90, 500), id="at different times"),
        pytest.param(late(90, 500, 900, 94), id="half of them"),
        pytest.param(late(24, 20, 21), id="none is stale"),
        pytest.param(late(90, 94, interval=60), id="polled seldom"),
        pytest.param([*late(90, 94), *late(3, interval=0)], id="a recent unpolled one"),
        pytest.param(late(90, 94, interval=0), id="not polled"),
        pytest.param([*late(-500), *late(3, 4)], id="a clock was set back"),
    ],
)
def test_late_for_other_reasons(looks: list[Look]) -> None:
    assert offset_by_lateness(looks, is_remote=True) is None


def test_a_local_host_is_not_behind() -> None:
    assert offset_by_lateness(late(90, 91, 92), is_remote=False) is None


@pytest.mark.parametrize("is_remote", [True, False])
@pytest.mark.parametrize("ages", [(-90.0,), (-95.0, -88.0), (-95.0, -90.0, -1.0, 5000)])
def test_most_updates_in_the_future(
    ages: tuple[float, ...],
    is_remote: bool,
) -> None:
    found = offset_by_lateness(late(*ages), is_remote=is_remote)

    if len(ages) < 4:
        assert found is not None
        assert found.seconds == pytest.approx(-min(ages), abs=6)
    else:
        assert found is None


def test_the_estimate_is_0_where_the_clocks_may_be_equal() -> None:
    assert ClockOffset(-3, 9).seconds == 0
    assert ClockOffset(-31, -29).seconds == -30


@given(
    known=st.tuples(st.floats(-9, 9), st.floats(0, 5)),
    newer=st.tuples(st.floats(-9, 9), st.floats(0, 5)),
)
def test_bounds_are_narrowed_unless_they_contradict(
    known: tuple[float, float], newer: tuple[float, float]
) -> None:
    first, second = (ClockOffset(low, low + width) for low, width in (known, newer))
    both = first.narrowed(second)

    assert both.low <= both.high
    assert both.low >= second.low
    assert both.high <= second.high
