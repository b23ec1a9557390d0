"""Histories of domains that were never recorded, with a use that is known."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from virtballoon.model.statistics import MemoryStats
from virtballoon.sizing.day import DAY_SECONDS, Day, Histogram, History, Latest, Peak
from virtballoon.sizing.recorder import Sample
from virtballoon.sizing.store import Store

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


def working(low: float, high: float) -> Use:
    """More by day, and more on some days."""

    def use(at: int) -> float:
        day, time = divmod(at, DAY_SECONDS)
        height = 0.5 + 0.5 * abs(math.sin(2 * day))
        return low + (high - low) * height * max(0, math.sin(2 * math.pi * time / DAY_SECONDS))

    return use


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


def store(path: Path, histories: Iterable[History]) -> Path:
    """A store with these, as if they had been recorded."""
    with Store(path, create=True) as opened:
        connection = opened._connection
        for of in histories:
            last = Sample(
                uri=of.uris[0],
                uuid=of.uuid,
                name=of.name,
                id=1,
                at=NOW,
                stats=MemoryStats(),
                labels=of.labels,
            )
            seen = {uri: NOW - ago for ago, uri in enumerate(of.uris)}
            row = (of.uuid, json.dumps(last.as_dict()), json.dumps(seen))
            connection.execute("INSERT INTO domains VALUES (?, ?, ?)", row)
            days = ((of.uuid, d.date.isoformat(), json.dumps(d.as_dict())) for d in of.days)
            connection.executemany("INSERT INTO days VALUES (?, ?, ?)", days)
    return path


def fleet(end: int = NOW) -> list[History]:
    """Domains of two hosts with every verdict."""

    def one(
        number: int, name: str, use: Use, current: int, title: str = "", **more: Any
    ) -> History:
        labels = {"title": title, "project": "acme"} if title else {}
        return history(
            use,
            uuid=UUID.format(number),
            name=name,
            current=current,
            labels=labels,
            end=end,
            **more,
        )

    mail = one(5, "mail", daily(2 * GIB, 3.7 * GIB), 4 * GIB)
    hours = replace(mail.days[-3], pressure_hours=frozenset({9, 10, 11}), gains={"oom_kills": 1})
    lab = one(7, "lab", steady(GIB), 4 * GIB)
    resized = replace(lab.days[-4], resizes=1, resized_at=end - 3 * DAY_SECONDS)
    return [
        one(0, "build1", working(GIB, 11 * GIB), 16 * GIB),
        one(1, "instance-0000000e", daily(GIB, 2 * GIB), 8 * GIB, "shop-web-1"),
        one(2, "instance-0000001f", steady(24 * GIB), 32 * GIB, "shop-db"),
        one(3, "legacy", steady(GIB), 4 * GIB, days=3),
        one(4, "logs", leak(GIB, 0.1 * GIB), 16 * GIB, uris=("qemu+ssh://hv2/system",)),
        replace(mail, days=(*mail.days[:-3], hours, *mail.days[-2:])),
        one(6, "wiki", bursts(GIB, 1.5 * GIB), 4 * GIB, uris=("qemu+ssh://hv2/system",)),
        replace(lab, days=(*lab.days[:-4], resized, *lab.days[-3:])),
    ]
