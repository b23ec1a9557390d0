"""How a guest's counters change from one reading to another. Pure: no libvirt, no QEMU, no clock.

The guest counts from its boot on; what it did between two readings is the difference, over the
time between the two moments at which it gave them. Those are QEMU's last-update, whole seconds of
the host's clock that are cut off and not rounded, so that the time between has an uncertainty of
one second either way: over 10 seconds, a rate is right to a tenth.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Self

from virtballoon.model.statistics import COUNTERS, MemoryStats, figure
from virtballoon.model.value import Value

#: How far the time between two updates can be off, either way.
UNCERTAINTY_SECONDS: Final = 1

_NO_RATES: Final[Mapping[str, float | None]] = MappingProxyType(dict.fromkeys(COUNTERS))


class NoRate(StrEnum):
    """Why nothing can be said of the time between two readings."""

    NO_FIGURES = "no-figures"
    NOT_UPDATED = "not-updated"
    RESTARTED = "restarted"
    RESET = "reset"
    BACKWARDS = "backwards"
    CLOCK = "clock"


class Sample(Value):
    """The part of a reading that a later one is compared with.

    :ivar uuid: the domain's UUID
    :ivar id: libvirt's number of the running domain, which is another one after each start; None
        for one that does not run
    :ivar last_update: when the guest gave the figures, epoch seconds by the host's clock; 0 for
        never; None where it could not be read
    :ivar stats: the guest's figures
    """

    uuid: str
    id: int | None
    last_update: int | None
    stats: MemoryStats

    def as_dict(self) -> dict[str, Any]:
        """As JSON can hold it, for a program that compares with what its last run read."""
        return {
            "uuid": self.uuid,
            "id": self.id,
            "last_update": self.last_update,
            "stats": self.stats.as_dict(),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Self:
        """From what :meth:`as_dict` gave, which may have been changed on a disk.

        :raise ValueError: when it is not a sample
        """
        if not isinstance(stored, Mapping):
            raise ValueError(f"no sample: {stored!r}")
        uuid, stats = stored.get("uuid"), stored.get("stats")
        if not isinstance(uuid, str) or not isinstance(stats, Mapping):
            raise ValueError("a sample needs a uuid and stats")
        return cls(
            uuid=uuid,
            id=figure(stored.get("id")),
            last_update=figure(stored.get("last_update")),
            stats=MemoryStats.from_qemu({str(name): value for name, value in stats.items()}),
        )


class Rates(Value):
    """What a guest did between two readings; None for what cannot be said.

    The guest is not trusted: a rate is as true as the figures are.

    :ivar elapsed_seconds: the time between the guest's two updates, give or take
        :data:`UNCERTAINTY_SECONDS`
    :ivar reason: why nothing can be said, or None
    :ivar per_second: the rates by the names of the statistics, per second and in their units
    :ivar oom_kills: the number of processes killed for lack of memory in between
    """

    elapsed_seconds: int | None = None
    reason: NoRate | None = None
    per_second: Mapping[str, float | None] = _NO_RATES
    oom_kills: int | None = None

    @classmethod
    def between(cls, earlier: Sample, later: Sample) -> Self:
        """Compare two readings of the same domain.

        :raise ValueError: when they are of two domains
        """
        if earlier.uuid != later.uuid:
            raise ValueError(f"two domains: {earlier.uuid} and {later.uuid}")
        grown = {
            name: getattr(later.stats, name) - getattr(earlier.stats, name)
            for name in (*COUNTERS, "oom_kills")
            if None not in (getattr(earlier.stats, name), getattr(later.stats, name))
        }
        reason = _obstacle(earlier, later, grown)
        if reason is not None:
            return cls(reason=reason)
        elapsed = (later.last_update or 0) - (earlier.last_update or 0)
        rates = {name: grown[name] / elapsed for name in COUNTERS if name in grown}
        return cls(
            elapsed_seconds=elapsed,
            per_second=MappingProxyType({**_NO_RATES, **rates}),
            oom_kills=grown.get("oom_kills"),
        )


def _obstacle(earlier: Sample, later: Sample, grown: Mapping[str, int]) -> NoRate | None:
    if earlier.id is None or later.id is None:
        return NoRate.NO_FIGURES
    if earlier.id != later.id:
        return NoRate.RESTARTED
    if not earlier.last_update or later.last_update is None:
        return NoRate.NO_FIGURES
    if later.last_update == 0:
        # From QEMU 10 on, a reset forgets them; QEMU 7.2 keeps them until the guest answers.
        return NoRate.RESET
    if later.last_update == earlier.last_update:
        return NoRate.NOT_UPDATED
    if not grown:
        return NoRate.NO_FIGURES
    # Every guest has minor faults all the time, so that fewer of them mean a boot; of a guest that
    # does not give them, that nothing has grown. (Old Windows drivers gave figures per second.)
    faults = grown.get("minor_faults", max(grown.values()))
    if faults < 0 or (faults == 0 and "minor_faults" not in grown and min(grown.values()) < 0):
        return NoRate.RESET
    if min(grown.values()) < 0:
        # One wrong counter makes the others doubtful, too.
        return NoRate.BACKWARDS
    return NoRate.CLOCK if later.last_update < earlier.last_update else None
