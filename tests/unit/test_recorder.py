"""What a new sample adds to a domain's days."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.builders import STATS, report
from tests.unit.sizing_builders import GIB, HOST, MIB, MIDNIGHT, read, sample
from virtballoon.model.memory import Figures
from virtballoon.model.report import Interval
from virtballoon.model.verdict import State
from virtballoon.render.documents import domain_record
from virtballoon.sizing.day import DAY_SECONDS, Day, Peak, bucket_of
from virtballoon.sizing.recorder import COVERED_SECONDS, Sample, days_of

NOON = MIDNIGHT + DAY_SECONDS // 2


def recorded(*samples: Sample) -> dict[int, Day]:
    """The days of these samples, by their day of the month."""
    days: dict[int, Day] = {}
    for before, new in pairwise((None, *samples)):
        assert new is not None
        for day in days_of(new, before):
            days[day.date.day] = days[day.date.day] + day if day.date.day in days else day
    return days


@pytest.mark.parametrize(
    "facts",
    [
        {"interval": Interval(live=0)},
        {"state": State.PAUSED},
        {"state": State.SHUTOFF},
        {"balloon": None},
        {"read_at": NOON + 100.0},
        {"figures": Figures()},
        {"figures": Figures(stats=STATS, last_update=0)},
    ],
)
def test_only_fresh_figures_count(facts: dict[str, Any]) -> None:
    row = report(**({"figures": Figures(stats=STATS, last_update=NOON)} | facts))
    assert Sample.of(HOST, row) is None
    assert Sample.from_dict(json.loads(json.dumps({"uri": HOST} | domain_record(row)))) is None


@pytest.mark.parametrize("current", [GIB, GIB // 2])
def test_a_line_and_a_report_give_the_same_sample(current: int) -> None:
    row = read(
        NOON, 100 * MIB, current=current, maximum=2 * GIB, labels={"title": "shop"}, swap_in=0
    )
    live = Sample.of(HOST, row)
    line = json.loads(json.dumps({"uri": HOST} | domain_record(row)))
    assert live == Sample.from_dict(line)
    assert live == Sample.from_dict(json.loads(json.dumps(live and live.as_dict())))


def test_a_sample_covers_the_time_until_the_next_one() -> None:
    (day,) = recorded(sample(NOON, 100 * MIB), sample(NOON + 60, 200 * MIB)).values()
    assert day.used.seconds == {bucket_of(100 * MIB): 60}
    assert day.available.seconds == {bucket_of(GIB - 164 * MIB): 60}
    assert day.cache.seconds == {bucket_of(32 * MIB): 60}
    assert day.covered_seconds == 60
    # The last one counts for the maximum already.
    assert day.peak == Peak(200 * MIB, NOON + 60)
    assert day.formulas == {"total-available"}
    assert day.latest is not None
    assert day.latest[:4] == (NOON + 60, GIB, GIB, GIB - 64 * MIB)


def test_but_no_more_than_a_quarter_of_an_hour() -> None:
    (day,) = recorded(sample(NOON), sample(NOON + 7200)).values()
    assert day.covered_seconds == day.used.total_seconds == COVERED_SECONDS == 900


def test_time_is_split_at_midnight() -> None:
    days = recorded(sample(MIDNIGHT - 20), sample(MIDNIGHT + 40, 700 * MIB))
    assert {number: day.covered_seconds for number, day in days.items()} == {19: 20, 20: 40}
    assert days[19].peak == Peak(512 * MIB, MIDNIGHT - 20)
    assert days[20].peak == Peak(700 * MIB, MIDNIGHT + 40)


@settings(max_examples=30)
@given(steps=st.lists(st.integers(1, 3 * DAY_SECONDS), min_size=1, max_size=20))
def test_no_time_is_counted_twice(steps: list[int]) -> None:
    times = [MIDNIGHT + sum(steps[:number]) for number in range(len(steps) + 1)]
    days = recorded(*map(sample, times))
    assert sum(day.covered_seconds for day in days.values()) == sum(
        min(step, COVERED_SECONDS) for step in steps
    )
    assert all(day.covered_seconds <= DAY_SECONDS for day in days.values())


@pytest.mark.parametrize("phase", range(0, 900, 37))
def test_a_hog_of_a_minute_is_in_the_maximum_where_each_minute_is_sampled(phase: int) -> None:
    # It takes memory for 60 seconds of each 15 minutes. Figures are up to 10 s older than the
    # sweeps that read them: one may be missed, but not all of an hour.
    times = range(NOON, NOON + 3600, 60)
    updates = [at - 7 * number % 10 for number, at in enumerate(times)]
    used = [900 * MIB if (at - phase) % 900 < 60 else 100 * MIB for at in updates]
    (day,) = recorded(*map(sample, updates, used)).values()
    assert day.peak is not None
    assert day.peak.value == 900 * MIB


def test_gains_of_the_counters() -> None:
    (day,) = recorded(
        sample(NOON, swap_in=4096, major_faults=5, oom_kills=1),
        sample(NOON + 60, swap_in=8192, major_faults=5, oom_kills=3),
        sample(NOON + 120, swap_in=12288, major_faults=6, oom_kills=3),
    ).values()
    assert day.gains == {"minor_faults": 120, "swap_in": 8192, "major_faults": 1, "oom_kills": 2}
    # A process was killed in the first minute.
    assert day.pressure_hours == {12}
    assert (day.restarts, day.resizes, day.resized_at) == (0, 0, None)


def test_pressure_is_by_the_hour() -> None:
    faults = [0, 10, 400, 410, 420]
    (day,) = recorded(
        *(
            sample(NOON + 3600 * number, GIB - 74 * MIB, major_faults=3600 * count, swap_in=0)
            for number, count in enumerate(faults)
        )
    ).values()
    assert day.pressure_hours == {13, 14, 15, 16}


@pytest.mark.parametrize("facts", [{"id": 8, "minor_faults": 10**6}, {"minor_faults": 3}])
def test_a_restart_loses_what_was_gained_before_it(facts: dict[str, Any]) -> None:
    (day,) = recorded(sample(NOON), sample(NOON + 60, **facts)).values()
    assert (day.restarts, day.gains, day.covered_seconds) == (1, {}, 60)


def test_a_migration_is_no_restart() -> None:
    (day,) = recorded(sample(NOON), sample(NOON + 60, id=3, host="qemu+ssh://hv2/system")).values()
    assert (day.restarts, day.gains["minor_faults"]) == (0, 60)


def test_resizes() -> None:
    (day,) = recorded(
        sample(NOON, 100 * MIB),
        sample(NOON + 60, 100 * MIB, current=GIB // 2, maximum=GIB),
        sample(NOON + 120, 100 * MIB, current=GIB // 2, maximum=2 * GIB),
        sample(NOON + 180, 100 * MIB, current=GIB // 2, maximum=2 * GIB),
    ).values()
    assert (day.resizes, day.resized_at) == (2, NOON + 120)
    assert (day.current_min_bytes, day.current_max_bytes) == (GIB // 2, GIB)


def test_impossible_figures_are_in_no_histogram() -> None:
    lie = sample(NOON, total_memory=MIB, available_memory=GIB)
    (day,) = recorded(lie, sample(NOON + 60)).values()
    assert (day.used.seconds, day.available.seconds, day.cache.seconds) == ({}, {}, {})
    assert day.covered_seconds == 60
    assert day.peak == Peak(512 * MIB, NOON + 60)


@pytest.mark.parametrize(
    "change",
    [
        {"uri": None},
        {"uuid": 5},
        {"uuid": "\ud800"},
        {"stats": []},
        {"last_update": "yesterday"},
        {"last_update": None},
        {"labels": {"title": 5}},
        {"used_formula": "magic"},
    ],
)
def test_something_else_is_not_a_sample(change: dict[str, Any]) -> None:
    line = {"uri": HOST} | domain_record(read(NOON))
    with pytest.raises(ValueError, match="not a line"):
        Sample.from_dict(line | change)
    for key in change:
        with pytest.raises(ValueError, match="not a line"):
            Sample.from_dict({name: value for name, value in line.items() if name != key})
