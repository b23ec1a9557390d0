"""Verdicts: each row of the table, its boundaries, and which row comes first."""

from __future__ import annotations

from itertools import product
from typing import Any

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtballoon.model.verdict import CLOCK_SKEW_SECONDS, STOPPED_STATES, State, Verdict, judge

NOW = 1_700_000_000

#: A guest with nothing the matter.
HEALTHY: dict[str, Any] = {
    "state": State.RUNNING,
    "has_balloon": True,
    "interval": 10,
    "last_update": NOW - 3,
    "age_seconds": 3.0,
    "is_empty": False,
    "is_busy": False,
    "has_failed": False,
}


def verdict(**facts: Any) -> Verdict:
    return judge(**(HEALTHY | facts))


def aged(age: float, interval: int = 10) -> Verdict:
    return verdict(last_update=NOW, age_seconds=age, interval=interval)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, Verdict.FRESH),
        ({"age_seconds": 100.0}, Verdict.STALE),
        ({"interval": 0}, Verdict.POLLING_OFF),
        ({"last_update": 0, "age_seconds": None, "is_empty": True}, Verdict.UNANSWERED),
        ({"is_empty": True}, Verdict.EMPTY),
        ({"state": State.PAUSED}, Verdict.SUSPENDED),
        ({"state": State.PMSUSPENDED}, Verdict.SUSPENDED),
        ({"state": State.CRASHED}, Verdict.SUSPENDED),
        ({"has_balloon": False}, Verdict.NO_DEVICE),
        ({"state": State.SHUTOFF}, Verdict.SHUTOFF),
        ({"is_busy": True}, Verdict.BUSY),
        ({"is_busy": True, "has_failed": True}, Verdict.BUSY),
        ({"has_failed": True}, Verdict.FAILED),
        ({"interval": None}, Verdict.FAILED),
        ({"last_update": None, "age_seconds": None}, Verdict.FAILED),
    ],
)
def test_each_verdict(facts: dict[str, Any], expected: Verdict) -> None:
    assert verdict(**facts) is expected


def test_states_are_in_the_order_of_libvirts_numbers() -> None:
    assert [getattr(libvirt, f"VIR_DOMAIN_{state.name}") for state in State] == [*range(len(State))]


@pytest.mark.parametrize("state", sorted(set(State) - STOPPED_STATES - {State.SHUTOFF}))
def test_every_other_state_is_running(state: State) -> None:
    assert verdict(state=state) is Verdict.FRESH


@pytest.mark.parametrize("interval", [1, 2, 10, 60, 2**31 - 1, 2**32 - 1])
def test_two_intervals_and_five_seconds_are_still_fresh(interval: int) -> None:
    limit = 2 * interval + 5

    assert aged(0, interval) is Verdict.FRESH
    assert aged(limit, interval) is Verdict.FRESH
    assert aged(limit + 0.001, interval) is Verdict.STALE


def test_an_update_from_the_future() -> None:
    assert aged(-0.5) is Verdict.FRESH
    assert aged(-CLOCK_SKEW_SECONDS) is Verdict.FRESH
    assert aged(-CLOCK_SKEW_SECONDS - 0.001) is Verdict.STALE
    assert aged(-1e9) is Verdict.STALE


def test_stale_without_figures_is_empty() -> None:
    assert verdict(is_empty=True, age_seconds=1e6) is Verdict.EMPTY


def test_old_figures_of_a_guest_that_is_not_polled_are_polling_off() -> None:
    for last_update, empty in product((None, 0, NOW), (False, True)):
        facts = {"last_update": last_update, "age_seconds": None, "is_empty": empty}
        assert verdict(interval=0, **facts) is Verdict.POLLING_OFF


FACTS = {
    "state": tuple(State),
    "has_balloon": (True, False),
    "interval": (None, 0, 1, 10),
    "last_update": (None, 0, NOW),
    "age_seconds": (None, -100.0, 0.0, 7.0, 25.0, 100.0),
    "is_empty": (True, False),
    "is_incoming": (True, False),
    "is_busy": (True, False),
    "has_failed": (True, False),
}


def test_the_first_thing_that_is_the_matter_decides() -> None:
    """Whatever else is true."""
    first = (
        (Verdict.BUSY, lambda facts: facts["is_busy"]),
        (Verdict.FAILED, lambda facts: facts["has_failed"]),
        (Verdict.INCOMING, lambda facts: facts["is_incoming"]),
        (Verdict.SHUTOFF, lambda facts: facts["state"] is State.SHUTOFF),
        (Verdict.NO_DEVICE, lambda facts: not facts["has_balloon"]),
        (Verdict.SUSPENDED, lambda facts: facts["state"] in STOPPED_STATES),
        (Verdict.POLLING_OFF, lambda facts: facts["interval"] == 0),
        (Verdict.FAILED, lambda facts: facts["interval"] is None),
        (Verdict.FAILED, lambda facts: facts["last_update"] is None),
        (Verdict.UNANSWERED, lambda facts: facts["last_update"] == 0),
        (Verdict.EMPTY, lambda facts: facts["is_empty"]),
        (Verdict.STALE, lambda facts: facts["age_seconds"] is None or facts["age_seconds"] < -5),
        (Verdict.STALE, lambda facts: facts["age_seconds"] > 2 * facts["interval"] + 5),
        (Verdict.FRESH, lambda _facts: True),
    )
    seen = set()
    for values in product(*FACTS.values()):
        facts: dict[str, Any] = dict(zip(FACTS, values, strict=True))
        expected = next(verdict for verdict, holds in first if holds(facts))
        assert judge(**facts) is expected, facts
        seen.add(expected)
    assert seen == set(Verdict)


@given(
    interval=st.none() | st.integers(0, 2**64),
    last_update=st.none() | st.integers(0, 2**64),
    age_seconds=st.none() | st.floats(allow_nan=False),
)
def test_fresh_is_promised_of_nothing_old(
    interval: int | None, last_update: int | None, age_seconds: float | None
) -> None:
    found = verdict(interval=interval, last_update=last_update, age_seconds=age_seconds)

    if found is Verdict.FRESH:
        assert interval
        assert last_update
        assert age_seconds is not None
        assert age_seconds <= 2 * interval + 5
