"""A domain's memory figures, their anomalies, and the guest's used memory. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Self

from virtballoon.model.statistics import MemoryStats, figure
from virtballoon.model.value import Value

_KIB: Final = 1024

#: A guest's total may be this many times the domain's maximum: memory may have been unplugged since
#: its last update, and libvirt need not know of all memory.
_SLACK: Final = 2


class Anomaly(StrEnum):
    """Something about a domain's figures that cannot be right. A guest is not trusted: it can
    write any 64 bits."""

    TOTAL_ZERO = "total-zero"
    TOTAL_ABOVE_MAXIMUM = "total-above-maximum"
    AVAILABLE_ABOVE_TOTAL = "available-above-total"
    FREE_ABOVE_TOTAL = "free-above-total"
    CACHES_ABOVE_TOTAL = "caches-above-total"
    BALLOON_ABOVE_TOTAL = "balloon-above-total"
    FIGURE_TOO_LARGE = "figure-too-large"
    RSS_WITHOUT_HUGEPAGES = "rss-without-hugepages"
    UPDATE_IN_FUTURE = "update-in-future"

    @property
    def text(self) -> str:
        """The anomaly as a sentence, without a full stop."""
        return _ANOMALY_TEXTS[self]


_ANOMALY_TEXTS: Final[Mapping[Anomaly, str]] = MappingProxyType(
    {
        Anomaly.TOTAL_ZERO: "the guest reports a total of 0",
        Anomaly.TOTAL_ABOVE_MAXIMUM: "the guest reports more than twice the domain's maximum",
        Anomaly.AVAILABLE_ABOVE_TOTAL: "the guest reports more available memory than its total",
        Anomaly.FREE_ABOVE_TOTAL: "the guest reports more free memory than its total",
        Anomaly.CACHES_ABOVE_TOTAL: "the guest reports larger disk caches than its total",
        Anomaly.BALLOON_ABOVE_TOTAL: "the balloon and the memory that is available exceed the "
        "total: the balloon has changed since the guest's last update",
        Anomaly.FIGURE_TOO_LARGE: "the guest reports a figure of 2^63 or more, which is ignored",
        Anomaly.RSS_WITHOUT_HUGEPAGES: "the domain uses huge pages, which RSS does not count",
        Anomaly.UPDATE_IN_FUTURE: "the last update is in the future: the clocks of this machine "
        "and of the host differ, or one was set back",
    }
)


class Figures(Value):
    """One reading of a domain's memory: the guest's figures and the host's.

    :ivar stats: the guest's figures
    :ivar last_update: when the guest gave them, epoch seconds by the host's clock; 0 for never;
        None where that could not be read
    :ivar current_bytes: the memory that the balloon leaves the guest; None for a domain that does
        not run
    :ivar maximum_bytes: the memory that the guest has with an empty balloon
    :ivar rss_bytes: the resident memory of the QEMU process
    :ivar unplugged_bytes: the memory of virtio-mem devices that is not plugged: libvirt counts it
        into the maximum
    """

    stats: MemoryStats = MemoryStats()
    last_update: int | None = None
    current_bytes: int | None = None
    maximum_bytes: int | None = None
    rss_bytes: int | None = None
    unplugged_bytes: int = 0

    @property
    def ballooned_bytes(self) -> int | None:
        """The memory that the domain does not have: maximum less current; None where one is
        unknown. It is in the balloon, or is that of a virtio-mem device and not plugged."""
        if self.maximum_bytes is None or self.current_bytes is None:
            return None
        return max(0, self.maximum_bytes - self.current_bytes)

    @property
    def balloon_in_total(self) -> int:
        """The bytes of the balloon that the guest's total contains.

        Linux takes the balloon from its total (``adjust_managed_page_count`` in
        drivers/virtio/virtio_balloon.c), but not with ``autodeflate='on'``, and Windows never
        does. Without the balloon, a guest's total is less than its current memory, since the
        kernel keeps some.
        """
        total = self.stats.total_memory
        if total is None or total <= (self.current_bytes or 0):
            return 0
        return max(0, (self.ballooned_bytes or 0) - self.unplugged_bytes)

    @classmethod
    def from_libvirt(cls, figures: Mapping[str, Any]) -> Self:
        """From ``virDomainMemoryStats``, or the bulk call's answer with its ``balloon.`` cut off.

        The balloon's size is ``actual`` in the one and ``current`` in the other. An RSS of 0 is
        what libvirt reports of a QEMU that is gone, and counts as absent.
        """
        last_update = figure(figures.get("last-update", figures.get("last_update")))
        return cls(
            stats=MemoryStats.from_libvirt(figures),
            last_update=last_update,
            current_bytes=_bytes(figures.get("current", figures.get("actual"))),
            maximum_bytes=_bytes(figures.get("maximum")),
            rss_bytes=_bytes(figures.get("rss")) or None,
        )


def _bytes(kib: object) -> int | None:
    number = figure(kib)
    return None if number is None else number * _KIB


#: The figures that used memory is computed from, or that would contradict it.
_OF_USE: Final = frozenset({"total_memory", "available_memory", "free_memory", "disk_caches"})


class UsedFormula(StrEnum):
    """How used memory was computed; ``-balloon`` where the total contains the balloon."""

    TOTAL_AVAILABLE = "total-available"
    TOTAL_FREE = "total-free"
    TOTAL_AVAILABLE_BALLOON = "total-available-balloon"
    TOTAL_FREE_BALLOON = "total-free-balloon"

    @property
    def leaves_out_caches(self) -> bool:
        """Whether the memory that it takes as unused includes what caches would give back."""
        return self in {UsedFormula.TOTAL_AVAILABLE, UsedFormula.TOTAL_AVAILABLE_BALLOON}


class Usage(Value):
    """The guest's used memory; all None where the figures do not allow to say.

    :ivar used_bytes: total less available, else total less free; less the balloon where the total
        contains it
    :ivar total_bytes: the total; less the balloon where it contains it
    :ivar formula: how it was computed
    """

    used_bytes: int | None = None
    total_bytes: int | None = None
    formula: UsedFormula | None = None

    @property
    def ratio(self) -> float | None:
        """The used share of the total, 0 to 1."""
        return self._share_of(1)

    @property
    def percent(self) -> float | None:
        """The used share of the total in percent."""
        # Not a hundred times the ratio, which is 28.999999999999996 for 0.29.
        return self._share_of(100)

    def _share_of(self, whole: int) -> float | None:
        if self.used_bytes is None or not self.total_bytes:
            return None
        return whole * self.used_bytes / self.total_bytes

    @classmethod
    def of(cls, figures: Figures) -> Self:
        """Compute it. :func:`contradictions` give None, not the next formula: a guest with one
        wrong figure is not trusted in another."""
        stats = figures.stats
        balloon = figures.balloon_in_total
        if stats.available_memory is not None:
            rest, formula = stats.available_memory, "total-available"
        elif stats.free_memory is not None:
            rest, formula = stats.free_memory, "total-free"
        else:
            return cls()
        if not stats.total_memory or contradictions(figures):
            return cls()
        if not _OF_USE.isdisjoint(stats.too_large):
            return cls()
        total = stats.total_memory - balloon
        formula += "-balloon" if balloon else ""
        return cls(used_bytes=total - rest, total_bytes=total, formula=UsedFormula(formula))


#: The share of a guest's memory that stays available to it, whatever is taken.
KEPT_RATIO: Final = 0.2


def reclaimable(figures: Figures, usage: Usage) -> int | None:
    """What a larger balloon could give back to the host; None for what is not known.

    The guest keeps a fifth of its memory available, and what it has beyond that counts as far as it
    is resident: the host does not have what the guest has never touched. RSS above the current
    memory is QEMU's own, and stays.
    """
    available, current, rss = (
        figures.stats.available_memory,
        figures.current_bytes,
        figures.rss_bytes,
    )
    used, total = usage.used_bytes, usage.total_bytes
    if available is None or current is None or rss is None or used is None or total is None:
        return None
    spare = min(available - int(KEPT_RATIO * total), current - used)
    return max(0, min(spare, rss - (current - spare)))


def contradictions(figures: Figures) -> tuple[Anomaly, ...]:
    """The anomalies of the guest's memory sizes."""
    stats, maximum = figures.stats, figures.maximum_bytes
    total = stats.total_memory
    if total is None:
        return ()
    parts = (
        (Anomaly.AVAILABLE_ABOVE_TOTAL, stats.available_memory),
        (Anomaly.FREE_ABOVE_TOTAL, stats.free_memory),
        (Anomaly.CACHES_ABOVE_TOTAL, stats.disk_caches),
    )
    found = [anomaly for anomaly, part in parts if part is not None and part > total]
    if maximum is not None and 0 < _SLACK * maximum < total:
        found.insert(0, Anomaly.TOTAL_ABOVE_MAXIMUM)
    if total == 0:
        found.insert(0, Anomaly.TOTAL_ZERO)
    rest = stats.free_memory if stats.available_memory is None else stats.available_memory
    balloon = figures.balloon_in_total
    if balloon and not found and (balloon >= total or balloon + (rest or 0) > total):
        found.append(Anomaly.BALLOON_ABOVE_TOTAL)
    return tuple(found)


def anomalies(figures: Figures) -> tuple[Anomaly, ...]:
    """The anomalies of a domain's figures."""
    return (*contradictions(figures), *[Anomaly.FIGURE_TOO_LARGE] * bool(figures.stats.too_large))
