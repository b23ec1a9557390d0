"""Whether a domain has the memory that it needs, by its recorded history. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from virtballoon.model.memory import UsedFormula
from virtballoon.model.value import Value
from virtballoon.sizing.day import DAY_SECONDS, Day, Histogram, History, Latest, Peak

if TYPE_CHECKING:
    from collections.abc import Mapping

_MIB: Final = 1024**2
_GIB: Final = 1024**3

#: The window by default, as AWS Compute Optimizer has it.
DEFAULT_SECONDS: Final = 14 * DAY_SECONDS
#: The shortest window: AWS Compute Optimizer gives no advice on less (user guide, "Resource
#: requirements").
LEAST_SECONDS: Final = 30 * 3600
#: So much history is needed, unless a shorter window is asked for: a week has all that happens
#: weekly. Kubernetes' VPA takes 8 days.
NEEDED_SECONDS: Final = 7 * DAY_SECONDS
#: The share of the window that fresh figures must cover.
NEEDED_COVERAGE: Final = 0.80
#: Used memory is multiplied by this: AWS Compute Optimizer adds a headroom of 20 % by default; VPA
#: 15 % (pkg/recommender/logic/recommender.go, recommendation-margin-fraction).
HEADROOM: Final = 1.20
#: What is used most, or by all but 1 % or 5 % of the time. AWS takes 99.5 % by default, VPA 90 %.
PROFILES: Final[Mapping[str, float]] = MappingProxyType({"max": 1.0, "p99": 0.99, "p95": 0.95})
#: No guest is to have less. VPA has 250 MB for a pod (pod-recommendation-min-memory-mb).
LEAST_BYTES: Final = 512 * _MIB
#: Sizes are rounded up to the first, from the second up to the third.
STEP_BYTES: Final = 256 * _MIB
LARGE_BYTES: Final = 8 * _GIB
LARGE_STEP_BYTES: Final = _GIB
#: A domain has too much if it needs at most this share, and so much would be gained.
OVER_RATIO: Final = 0.70
OVER_GAIN_BYTES: Final = 512 * _MIB
#: It has too little if it was short of memory in so many hours. One may be a backup, say.
UNDER_HOURS: Final = 3
#: Use is flat if it stays within this share of its 99th percentile, and above this share of what
#: the domain has.
FLAT_RATIO: Final = 0.10
FLAT_USED_RATIO: Final = 0.50


class Sizing(StrEnum):
    """Whether a domain has the memory that it needs."""

    OVER = "over"
    UNDER = "under"
    RIGHT = "right"
    UNKNOWN = "unknown"


class Advice(Value):
    """What is advised for a domain, and by what. Sizes are in bytes, None for what is not known.

    :ivar profile: by which of :data:`PROFILES` the need is computed
    :ivar verdict: whether the domain has the memory that it needs
    :ivar because: the reason, for people
    :ivar is_flat: whether used memory hardly changes: a database or a JVM, say, whose pool may be
        larger than it must be, which cannot be seen from outside
    :ivar need_bytes: what the domain should have; None for an unknown verdict
    :ivar days: the recorded days in the window
    :ivar started_at: the beginning of the window, epoch seconds: of a day by UTC, or of the history
    :ivar ended_at: the end of the window
    :ivar covered_seconds: the time in the window for which fresh figures say what was used
    :ivar used: used memory in the window
    :ivar cache: disk caches in the window, part of which a smaller guest would lose
    :ivar peak: the largest used memory in the window, and when it was
    :ivar latest: the sizes by the last sample in the window
    """

    history: History
    profile: str
    verdict: Sizing
    because: str
    is_flat: bool
    need_bytes: int | None
    days: tuple[Day, ...]
    started_at: int
    ended_at: int
    covered_seconds: int
    used: Histogram
    cache: Histogram
    peak: Peak | None
    latest: Latest | None
    oom_kills: int | None
    pressure_hours: int
    restarts: int
    resizes: int

    def __hash__(self) -> int:
        return hash((self.history, self.profile, self.started_at, self.ended_at))

    @property
    def name(self) -> str:
        """The domain's name, foreign text."""
        return self.history.name

    @property
    def uuid(self) -> str:
        """The domain's UUID."""
        return self.history.uuid

    @property
    def uri(self) -> str | None:
        """The host that the domain was seen on last."""
        return self.history.uris[0] if self.history.uris else None

    @property
    def current_bytes(self) -> int | None:
        """What the domain has."""
        return self.latest.current_bytes if self.latest is not None else None

    @property
    def gain_bytes(self) -> int | None:
        """Current less need; below 0 where more is needed."""
        if self.current_bytes is None or self.need_bytes is None:
            return None
        return self.current_bytes - self.need_bytes

    @property
    def reclaimable_bytes(self) -> int | None:
        """What of the gain the host would get back, if it is known."""
        freed = self.latest.reclaimable_bytes if self.latest is not None else None
        gain = self.gain_bytes
        return None if freed is None or gain is None else max(0, min(freed, gain))

    @property
    def coverage(self) -> float:
        """The share of the window that fresh figures cover."""
        return min(1.0, self.covered_seconds / max(1, self.ended_at - self.started_at))

    def percentile(self, share: float) -> int | None:
        """What was used for this share of the time, at most; up to 5 % more than that, and no more
        than the peak."""
        found = self.used.percentile(share)
        return min(found, self.peak.value) if found is not None and self.peak else found


def advise(
    history: History,
    *,
    now: float,
    since: float = DEFAULT_SECONDS,
    profile: str = "max",
) -> Advice:
    """Judge whether a domain has the memory that it needs.

    The window begins with the day, by UTC, that has the time ``now - since``; or with the history,
    if that is shorter.

    :param now: epoch seconds
    :param since: the length of the window, at least :data:`LEAST_SECONDS`
    :param profile: one of :data:`PROFILES`
    :raise ValueError: when the window is too short, or there is no such profile
    """
    if since < LEAST_SECONDS:
        raise ValueError(f"the window must be at least {LEAST_SECONDS // 3600} h")
    if profile not in PROFILES:
        raise ValueError(f"no profile {profile!r}; there are: {', '.join(PROFILES)}")
    end = int(now)
    first = first_day(now, since)
    last = datetime.fromtimestamp(end, UTC).date()
    days = tuple(day for day in history.days if first <= day.date <= last)
    began = _midnight(first)
    if days and days[0] is history.days[0]:
        # Nothing is known of the time before the first sample, which is not after this.
        known = _midnight(days[0].date + timedelta(days=1)) - days[0].covered_seconds
        began = max(began, min(known, end))
    used = _merged([day.used for day in days])
    kills = [day.gains["oom_kills"] for day in days if "oom_kills" in day.gains]
    found = Advice(
        history=history,
        profile=profile,
        verdict=Sizing.UNKNOWN,
        because="",
        is_flat=False,
        need_bytes=None,
        days=days,
        started_at=began,
        ended_at=end,
        # Fresh figures can be impossible, and say nothing of use.
        covered_seconds=used.total_seconds,
        used=used,
        cache=_merged([day.cache for day in days]),
        peak=max((d.peak for d in days if d.peak), key=lambda p: (p.value, -p.at), default=None),
        latest=next((day.latest for day in reversed(days) if day.latest is not None), None),
        oom_kills=sum(kills) if kills else None,
        pressure_hours=sum(len(day.pressure_hours) for day in days),
        restarts=sum(day.restarts for day in days),
        resizes=sum(day.resizes for day in days),
    )
    values = {name: getattr(found, name) for name in Advice.field_names}
    values["is_flat"] = _is_flat(found)
    if reason := _why_unknown(found, since):
        return Advice(**values | {"because": reason})
    need = _need(found)
    verdict, reason = _judge(found, need)
    return Advice(**values | {"verdict": verdict, "because": reason, "need_bytes": need})


def first_day(now: float, since: float) -> date:
    """The first day of a window: what is before matters only by whether it was recorded."""
    return datetime.fromtimestamp(int(now) - since, UTC).date()


def _why_unknown(found: Advice, since: float) -> str | None:
    """Why nothing can be said of the domain's need; None if it can."""
    length, needed = found.ended_at - found.started_at, min(NEEDED_SECONDS, since)
    formulas = frozenset[str]().union(*(day.formulas for day in found.days))
    resized = max((day.resized_at or 0 for day in found.days), default=0)
    # Kills are no less certain for it.
    also = f"; {_kills(found)}" if found.oom_kills else ""
    if not found.days:
        return "nothing is recorded in the window"
    if found.peak is None or found.current_bytes is None:
        return f"the guest gave no balloon statistics{also}"
    if length < needed:
        return f"{_days(length)} recorded, of at least {_days(needed)}{also}"
    if found.coverage < NEEDED_COVERAGE:
        share = f"{math.floor(found.coverage * 100)}%"
        return f"{share} of {_days(length)} covered, of at least {NEEDED_COVERAGE:.0%}{also}"
    if found.resizes:
        day = f" on {_date(resized)}" if resized else ""
        return f"its size was changed{day}{also}"
    if not any(UsedFormula(formula).leaves_out_caches for formula in formulas):
        return f"the guest reports no available memory, so that used contains caches{also}"
    return None


def _need(found: Advice) -> int:
    used = found.percentile(PROFILES[found.profile])
    assert used is not None
    latest = found.latest
    kept = 0
    if latest is not None and latest.current_bytes is not None and latest.total_bytes is not None:
        kept = max(0, latest.current_bytes - latest.total_bytes)
    return rounded_up(math.ceil(used * HEADROOM) + kept)


def rounded_up(size: int) -> int:
    """A size that a domain can have: in steps, and not less than a guest should have."""
    step = STEP_BYTES if size < LARGE_BYTES else LARGE_STEP_BYTES
    return max(LEAST_BYTES, -(-size // step) * step)


def _judge(found: Advice, need: int) -> tuple[Sizing, str]:
    current = found.current_bytes
    assert current is not None
    if found.oom_kills or found.pressure_hours >= UNDER_HOURS:
        hours = found.pressure_hours
        parts = [_kills(found)] if found.oom_kills else []
        parts += [f"short of memory in {hours} {'hours' if hours > 1 else 'hour'}"] if hours else []
        if need <= current:
            # A kill may be one within a control group of the guest, too.
            parts.append("though it needs no more by its use; a limit in the guest?")
        return Sizing.UNDER, ", ".join(parts)
    share = need / current if current else math.inf
    length = _days(found.ended_at - found.started_at)
    reason = f"needs {math.ceil(share * 100)}% of its memory by its use in {length}"
    if share <= OVER_RATIO and current - need >= OVER_GAIN_BYTES:
        return Sizing.OVER, reason
    if need > current:
        return Sizing.RIGHT, f"{reason}, and was not short of memory"
    return Sizing.RIGHT, reason


def _is_flat(found: Advice) -> bool:
    low, high = found.percentile(0.05), found.percentile(0.99)
    if low is None or high is None or not found.current_bytes:
        return False
    return low >= high * (1 - FLAT_RATIO) and low >= found.current_bytes * FLAT_USED_RATIO


def _merged(parts: Sequence[Histogram]) -> Histogram:
    # Adding them up one by one would make a histogram of each.
    seconds: dict[int, int] = {}
    for part in parts:
        for bucket, time in part.seconds.items():
            seconds[bucket] = seconds.get(bucket, 0) + time
    return Histogram(seconds=seconds)


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _days(seconds: float) -> str:
    if seconds < 3 * DAY_SECONDS:
        return f"{int(seconds // 3600)} h"
    tenths = int(seconds * 10 // DAY_SECONDS)
    return f"{tenths // 10} d" if tenths % 10 == 0 else f"{tenths / 10} d"


def _kills(found: Advice) -> str:
    return f"{found.oom_kills} OOM kill{'s' if found.oom_kills != 1 else ''}"
