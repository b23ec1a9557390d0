"""Histories of domains that were never recorded, with a use that is known."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from virtballoon.sizing.day import DAY_SECONDS, Day, Histogram, History, Latest, Peak

MIB: Final = 1024**2
GIB: Final = 1024**3
#: Friday noon.
NOW: Final = int(datetime(2026, 11, 27, 12, tzinfo=UTC).timestamp())
STEP: Final = 900
UUID: Final = "6d1ad6a2-4e2b-4c71-9d1e-8c0b6f5f0a0{}"

#: Used bytes at a time, in seconds since the beginning of the history.
Use = Callable[[int], float]


def steady(size: float) -> Use:
    """Hardly any change."""
    return lambda at: size * (1 + 0.01 * math.sin(at))


def daily(low: float, high: float) -> Use:
    """A peak of two hours a day."""
    return lambda at: high if at % DAY_SECONDS < 7200 else low


def weekly(low: float, high: float) -> Use:
    """A peak of two hours a week."""
    return lambda at: high if at % (7 * DAY_SECONDS) < 7200 else low


def leak(start: float, per_day: float) -> Use:
    """More each day."""
    return lambda at: start + per_day * at / DAY_SECONDS


def bursts(low: float, high: float, seed: int = 1) -> Use:
    """One in fifty samples is a burst."""
    chance = random.Random(seed)
    return lambda _at: high if chance.random() < 0.02 else low


def history(
    use: Use,
    *,
    days: float = 14,
    current: int = 8 * GIB,
    kept: int = 200 * MIB,
    step: int = STEP,
    gaps: Iterable[tuple[float, float]] = (),
    uuid: str = UUID.format(0),
    end: int = NOW,
    **values: Any,
) -> History:
    """A domain that was recorded for some days.

    :param kept: what the kernel keeps of the current memory for itself
    :param gaps: the days from and to which nothing was recorded
    """
    found: dict[Any, dict[str, Any]] = {}
    began = end - int(days * DAY_SECONDS)
    gaps = tuple(gaps)
    for at in range(began, end, step):
        past = at - began
        if any(first <= past / DAY_SECONDS < last for first, last in gaps):
            continue
        date = datetime.fromtimestamp(at, UTC).date()
        used = int(use(past))
        one = found.setdefault(date, {"used": Histogram(), "peak": Peak(-1, 0), "covered": 0})
        one["used"] = one["used"].add(used, step)
        one["peak"] = max(one["peak"], Peak(used, at), key=lambda peak: peak.value)
        one["covered"] += step
        one["latest"] = Latest(at, current, current, current - kept, current - used)
    made = (
        Day(
            date=date,
            used=one["used"],
            cache=Histogram().add(300 * MIB, one["covered"]),
            peak=one["peak"],
            covered_seconds=one["covered"],
            latest=one["latest"],
            current_min_bytes=current,
            current_max_bytes=current,
            formulas=frozenset({"total-available"}),
        )
        for date, one in found.items()
    )
    settings = {"name": "web1", "uris": ("qemu:///system",)} | values
    return History(uuid=uuid, days=tuple(made), **settings)


def changed(history: History, ago: int, **values: Any) -> History:
    """The same with something else on the day that was so many days ago."""
    date = datetime.fromtimestamp(NOW, UTC).date() - timedelta(days=ago)
    days = (replace(day, **values) if day.date == date else day for day in history.days)
    return replace(history, days=tuple(days))
