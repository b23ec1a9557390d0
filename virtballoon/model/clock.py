"""The offset of a host's clock against this machine's. Pure.

A last update is in whole seconds of the host's clock, the time of reading in this machine's. Where
the two differ, an age computed from both is wrong by the difference. Nothing in libvirt gives the
host's time, so it is estimated from the last updates themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

from virtballoon.model.verdict import CLOCK_SKEW_SECONDS, fresh_seconds

#: Between the moment that a last update is valid for and its time of reading lies a call of libvirt
#: that takes up to this long, unless the domain is busy.
_READING_SECONDS: Final = 1.0

#: The number of domains that must be late by about the same time before the clock is the likely
#: cause: a single one may just as well have stopped answering.
_FEWEST_LATE: Final = 2


class Look(NamedTuple):
    """The last update of a domain, as it was read once: epoch seconds by the host's clock, 0 for
    never, and by this machine's. The interval is 0 for a domain that is not polled now."""

    interval: int
    last_update: int
    read_at: float

    @property
    def age(self) -> float:
        """The time of reading minus the last update, as if both clocks were equal."""
        return self.read_at - self.last_update


class ClockOffset(NamedTuple):
    """The host's clock minus this machine's, in seconds: between these two.

    An age is the time of reading plus this offset, minus the last update.
    """

    low: float
    high: float

    @property
    def seconds(self) -> float:
        """The best estimate: 0 where the clocks may be equal."""
        return 0.0 if self.low <= 0 <= self.high else (self.low + self.high) / 2

    def narrowed(self, newer: ClockOffset) -> ClockOffset:
        """Both combined; the newer one alone where they contradict, since a clock can be set."""
        low, high = max(self.low, newer.low), min(self.high, newer.high)
        return ClockOffset(low, high) if low <= high else newer


def offset_by_lateness(looks: Collection[Look], *, is_remote: bool) -> ClockOffset | None:
    """The likely offset by one look at a host's domains; None where nothing points to one.

    The host's clock is behind where most of the polled domains, and at least two, are late by about
    the same time and none is earlier. It is ahead where most of the last updates lie in the future
    or agree with one that does. On this machine, being late has other causes.
    """
    return _likely(looks, fewest=_FEWEST_LATE, may_be_late=is_remote)


def offset_by_movement(before: Mapping[str, Look], after: Mapping[str, Look]) -> ClockOffset | None:
    """The offset by two looks at a host's domains; None where no last update has moved.

    When a last update moved, the host's clock showed it at some time between the two looks.
    """
    moved = [
        (before[key], look)
        for key, look in after.items()
        if key in before and look.last_update not in {0, before[key].last_update}
    ]
    if not moved:
        return None
    low = max(look.last_update - look.read_at for _, look in moved)
    high = min(
        look.last_update + 1 - (earlier.read_at - _READING_SECONDS) for earlier, look in moved
    )
    if low > high:
        # A clock was set between the two looks.
        return None
    proven = ClockOffset(low, high)
    # A domain that answers has most likely answered in time: that is the closer estimate where the
    # two looks lie far apart.
    fewest = _FEWEST_LATE if low <= 0 <= high else 1
    likely = _likely([look for _, look in moved], fewest=fewest, may_be_late=True)
    if likely is None or likely.low > high or likely.high < low:
        return proven
    return proven.narrowed(likely)


def _likely(looks: Collection[Look], *, fewest: int, may_be_late: bool) -> ClockOffset | None:
    polled = [look for look in looks if look.interval > 0 and look.last_update > 0]
    if not polled:
        return None
    youngest = min(look.age for look in polled)
    if youngest < -CLOCK_SKEW_SECONDS:
        off, fewest = polled, 1
    elif may_be_late and not any(look.last_update > 0 and look.age < youngest for look in looks):
        off = [look for look in polled if look.age > fresh_seconds(look.interval)]
    else:
        return None
    agreeing = [look for look in off if look.age <= youngest + fresh_seconds(look.interval)]
    if len(agreeing) < fewest or 2 * len(agreeing) <= len(polled):
        return None
    high = min(look.interval + 1 - look.age for look in agreeing)
    return ClockOffset(-youngest, max(-youngest, high))
