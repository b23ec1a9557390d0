"""What is kept of a domain's memory use: a record for each day, with histograms. Pure.

Everything is a whole number, and merging two records adds them up: in any order and grouping, the
result is the same as recording everything together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self, TypeVar

from virtballoon.model.report import title_of
from virtballoon.model.value import Value

#: The buckets are those of the recommender of Kubernetes' Vertical Pod Autoscaler
#: (pkg/recommender/model/aggregations_config.go and util/histogram_options.go): the first one has
#: this many bytes, and each is 5 % larger than the one before.
FIRST_BUCKET_BYTES: Final = 10_000_000
BUCKET_RATIO: Final = 1.05

DAY_SECONDS: Final = 24 * 3600

T = TypeVar("T")


def bucket_start(number: int) -> int:
    """The smallest number of bytes in a bucket; the buckets are numbered from 0."""
    return math.ceil(FIRST_BUCKET_BYTES * (BUCKET_RATIO**number - 1) / (BUCKET_RATIO - 1))


def bucket_of(value: int) -> int:
    """The number of the bucket that a number of bytes is in."""
    share = value * (BUCKET_RATIO - 1) / FIRST_BUCKET_BYTES + 1
    number = int(math.log(share) / math.log(BUCKET_RATIO))
    # A logarithm can be off by one at the limits of a bucket.
    if value >= bucket_start(number + 1):
        return number + 1
    return number - 1 if number and value < bucket_start(number) else number


class Histogram(Value):
    """For how long a figure was in each bucket.

    :ivar seconds: by the number of the bucket; only buckets that have any
    """

    seconds: Mapping[int, int] = MappingProxyType({})

    def __hash__(self) -> int:
        return hash(frozenset(self.seconds.items()))

    @property
    def total_seconds(self) -> int:
        """For how long the figure was known."""
        return sum(self.seconds.values())

    def add(self, value: int, seconds: int) -> Self:
        """The same with a number of bytes, at least 0, that was seen for this time."""
        return self + type(self)(seconds={bucket_of(value): seconds} if seconds else {})

    def __add__(self, other: Self) -> Self:
        merged = {**self.seconds}
        for number, seconds in other.seconds.items():
            merged[number] = merged.get(number, 0) + seconds
        return type(self)(seconds=merged)

    def percentile(self, share: float) -> int | None:
        """The bytes that the figure did not exceed for this share of the time, 0 to 1: the end of
        its bucket, up to 5 % above the figure itself. None for an empty histogram.
        """
        wanted, counted = share * self.total_seconds, 0
        for number in sorted(self.seconds):
            counted += self.seconds[number]
            if counted >= wanted:
                return bucket_start(number + 1)
        return None

    def as_list(self) -> list[int]:
        """As JSON can hold it: the number of the first bucket, and the seconds from there on."""
        if not self.seconds:
            return []
        first, last = min(self.seconds), max(self.seconds)
        return [first, *(self.seconds.get(number, 0) for number in range(first, last + 1))]

    @classmethod
    def from_list(cls, stored: Sequence[int]) -> Self:
        """From what :meth:`as_list` gave.

        :raise ValueError: when it is not a histogram
        """
        first, *seconds = map(int, stored or (0,))
        if min((first, *seconds)) < 0:
            raise ValueError("not a histogram")
        found = dict(zip(range(first, first + len(seconds)), seconds, strict=True))
        return cls(seconds={n: s for n, s in found.items() if s} if 0 in seconds else found)


class Peak(NamedTuple):
    """The largest figure, and when it was seen first: epoch seconds."""

    value: int
    at: int


class Latest(NamedTuple):
    """The sizes by the last sample, in bytes; None for what is not known.

    :ivar at: the time of the sample, epoch seconds
    :ivar total_bytes: what the guest's kernel manages, without the balloon: current less this is
        what the kernel keeps for itself
    :ivar reclaimable_bytes: what the host would get back
    """

    at: int
    current_bytes: int | None = None
    maximum_bytes: int | None = None
    total_bytes: int | None = None
    reclaimable_bytes: int | None = None


class Day(Value):
    """What a domain's memory use was on one day, by UTC.

    :ivar used: used memory
    :ivar available: the guest's available memory
    :ivar cache: the guest's disk caches
    :ivar peak: the largest used memory of all samples; None where it was never known
    :ivar covered_seconds: the time that is covered by fresh figures
    :ivar gains: what the counters have gained, by the names of the statistics; a restart loses what
        was gained since the sample before it
    :ivar pressure_hours: the hours, 0 to 23, in which the guest was short of memory
    :ivar latest: the sizes by the last sample of the day; None where it has none
    :ivar current_min_bytes: the smallest current memory of the day
    :ivar current_max_bytes: the largest current memory of the day
    :ivar restarts: the number of times that the guest has booted between two samples
    :ivar resizes: the number of times that its current memory or maximum was another one
    :ivar resized_at: the last of these, epoch seconds
    :ivar formulas: how used memory was computed
    """

    date: date
    used: Histogram = Histogram()
    available: Histogram = Histogram()
    cache: Histogram = Histogram()
    peak: Peak | None = None
    covered_seconds: int = 0
    gains: Mapping[str, int] = MappingProxyType({})
    pressure_hours: frozenset[int] = frozenset()
    latest: Latest | None = None
    current_min_bytes: int | None = None
    current_max_bytes: int | None = None
    restarts: int = 0
    resizes: int = 0
    resized_at: int | None = None
    formulas: frozenset[str] = frozenset()

    def __hash__(self) -> int:
        return hash((self.date, self.covered_seconds, self.used))

    @classmethod
    def at(cls, seconds: int, **values: Any) -> Self:
        """The day that a time, in epoch seconds, lies in."""
        return cls(date=datetime.fromtimestamp(seconds, UTC).date(), **values)

    def __add__(self, other: Self) -> Self:
        """Both recorded together.

        :raise ValueError: when they are of two dates
        """
        if self.date != other.date:
            raise ValueError(f"two days: {self.date} and {other.date}")
        names = [*self.gains, *(name for name in other.gains if name not in self.gains)]
        return type(self)(
            date=self.date,
            used=self.used + other.used,
            available=self.available + other.available,
            cache=self.cache + other.cache,
            peak=_most(self.peak, other.peak, key=lambda peak: (peak.value, -peak.at)),
            covered_seconds=self.covered_seconds + other.covered_seconds,
            gains={name: self.gains.get(name, 0) + other.gains.get(name, 0) for name in names},
            pressure_hours=self.pressure_hours | other.pressure_hours,
            latest=_most(self.latest, other.latest, key=_known),
            current_min_bytes=_most(
                self.current_min_bytes, other.current_min_bytes, key=lambda size: -size
            ),
            current_max_bytes=_most(self.current_max_bytes, other.current_max_bytes),
            restarts=self.restarts + other.restarts,
            resizes=self.resizes + other.resizes,
            resized_at=_most(self.resized_at, other.resized_at),
            formulas=self.formulas | other.formulas,
        )

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it; what has its default is left out."""
        values = {
            "date": self.date.isoformat(),
            "used": self.used.as_list(),
            "available": self.available.as_list(),
            "cache": self.cache.as_list(),
            "peak": self.peak and self.peak._asdict(),
            "covered_seconds": self.covered_seconds,
            "gains": dict(self.gains),
            "pressure_hours": sorted(self.pressure_hours),
            "latest": self.latest and self.latest._asdict(),
            "current_min_bytes": self.current_min_bytes,
            "current_max_bytes": self.current_max_bytes,
            "restarts": self.restarts,
            "resizes": self.resizes,
            "resized_at": self.resized_at,
            "formulas": sorted(self.formulas),
        }
        return {name: value for name, value in values.items() if value not in (None, {}, [])}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """From what :meth:`as_dict` gave, which may have been changed on a disk.

        :raise ValueError: when it is not a day
        """
        try:
            kept = {name: stored[name] for name in cls.field_names if name in stored}
            kept["date"] = date.fromisoformat(kept["date"])
            for name in ("used", "available", "cache"):
                kept[name] = Histogram.from_list(kept.get(name, ()))
            for name, kind in (("peak", Peak), ("latest", Latest)):
                if name in kept:
                    kept[name] = kind(**kept[name])
            for name in ("pressure_hours", "formulas"):
                kept[name] = frozenset(kept.get(name, ()))
            return cls(**kept)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a day of a history: {error}") from error


class History(Value):
    """What is known of a domain over time.

    :ivar name: its name by the last sample, foreign text: sanitise it before showing it
    :ivar labels: what its XML says about it for people, by the last sample; foreign text, too
    :ivar uris: the hosts that it was seen on, the last one first
    :ivar days: the days that have anything, in order
    """

    uuid: str
    name: str
    labels: Mapping[str, str] = MappingProxyType({})
    uris: tuple[str, ...] = ()
    days: tuple[Day, ...] = ()

    def __hash__(self) -> int:
        return hash((self.uuid, self.days))

    @property
    def title(self) -> str | None:
        """What people call it: its title, else the name that its platform shows, or None."""
        return title_of(self.labels)


def _most(one: T | None, other: T | None, *, key: Callable[[T], Any] | None = None) -> T | None:
    known = [value for value in (one, other) if value is not None]
    return max(known, key=key, default=None)  # type: ignore[type-var,arg-type]


def _known(latest: Latest) -> tuple[int, ...]:
    return tuple(-1 if value is None else value for value in latest)
