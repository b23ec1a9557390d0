"""A guest's own memory figures, and what of its memory is used. Pure: no libvirt, no QEMU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Self

from virtballoon.model.note import Note
from virtballoon.model.statistics import STATISTIC_BY_NAME, Unit

_KIB: Final = 1024

#: What QEMU reports for a figure that the guest did not give; very old QEMU has -1. Figures have
#: 64 bits, so nothing lies above.
_UNSET: Final = 2**64 - 1

#: What no machine has, and nothing counts to; what signed 64 bits do not hold. The service for
#: Windows gives such a figure, a negative one, for a counter that Windows lacks.
_ABSURD: Final = 2**63

#: A guest may say that it has so many times the memory that libvirt says it can have: some may have
#: been unplugged since, and libvirt need not know of all.
_SLACK: Final = 2

#: libvirt's names of the guest's figures, in ``virDomainMemoryStats`` and, behind ``balloon.``,
#: in its bulk call, with ours and the factor to our unit.
_LIBVIRT: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        known.libvirt: (known.name, _KIB if known.unit is Unit.BYTES else 1)
        for known in STATISTIC_BY_NAME.values()
        if known.libvirt is not None
    }
)

#: libvirt's keys that are not the guest's word but the host's.
_LIBVIRT_HOST: Final = frozenset({"actual", "current", "maximum", "rss", "last_update"})


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStats:
    """What the guest says of its memory; None for what it does not say.

    Names are QEMU's without ``stat-``; :data:`STATISTIC_BY_NAME` says what each is. Sizes are in
    bytes, the rest are counts. The guest is not trusted: values are what it wrote, unchecked.

    :ivar swap_in: bytes read back from swap since the guest booted
    :ivar swap_out: bytes written to swap since then
    :ivar major_faults: page faults that needed I/O, since then
    :ivar minor_faults: page faults since then; Linux counts the major ones here, too
    :ivar free_memory: bytes that nothing uses (``MemFree``)
    :ivar total_memory: bytes that the guest's kernel manages (``MemTotal``)
    :ivar available_memory: bytes that a new program could have without swapping
        (``MemAvailable``)
    :ivar disk_caches: bytes of page cache, from Linux with shared memory and tmpfs
    :ivar htlb_pgalloc: huge pages that were allocated, since the guest booted
    :ivar htlb_pgfail: huge pages that could not be, since then
    :ivar oom_kills: processes killed for want of memory, since then (this and the following:
        QEMU 9.2 and a Linux 6.12 guest, and only through QOM)
    :ivar alloc_stalls: allocations that had to reclaim memory first, since then
    :ivar async_scans: bytes scanned by background reclaim, since then
    :ivar direct_scans: bytes scanned by the allocating process, since then
    :ivar async_reclaims: bytes reclaimed by background reclaim, since then
    :ivar direct_reclaims: bytes reclaimed by the allocating process, since then
    :ivar other: figures that this version does not know, under their names in the same spelling
        and as they came
    :ivar too_large: the names of those that the guest put at 2^63 or more, which nothing comes to:
        they count as absent
    """

    swap_in: int | None = None
    swap_out: int | None = None
    major_faults: int | None = None
    minor_faults: int | None = None
    free_memory: int | None = None
    total_memory: int | None = None
    available_memory: int | None = None
    disk_caches: int | None = None
    htlb_pgalloc: int | None = None
    htlb_pgfail: int | None = None
    oom_kills: int | None = None
    alloc_stalls: int | None = None
    async_scans: int | None = None
    direct_scans: int | None = None
    async_reclaims: int | None = None
    direct_reclaims: int | None = None
    other: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    too_large: tuple[str, ...] = ()

    @classmethod
    def from_libvirt(cls, figures: Mapping[str, Any]) -> Self:
        """From the answer of ``virDomainMemoryStats``, or the bulk call's with its ``balloon.``
        cut off. Sizes come in KiB. Keys of the host's (``rss``, ``actual`` …) are passed over."""
        known: dict[str, int] = {}
        other: dict[str, int] = {}
        for key, value in figures.items():
            name = _underscored(key)
            number = figure(value)
            if name in _LIBVIRT_HOST or number is None:
                continue
            if name in _LIBVIRT:
                ours, factor = _LIBVIRT[name]
                known[ours] = number * factor
            else:
                other[name] = number
        return cls._of(known, other)

    @classmethod
    def from_qemu(cls, stats: Mapping[str, Any]) -> Self:
        """From the ``stats`` of QEMU's ``guest-stats`` property. Sizes come in bytes."""
        known: dict[str, int] = {}
        other: dict[str, int] = {}
        for key, value in stats.items():
            name = _underscored(key.removeprefix("stat-"))
            number = figure(value)
            if number is None:
                continue
            (known if name in STATISTICS else other)[name] = number
        return cls._of(known, other)

    @classmethod
    def _of(cls, known: dict[str, int], other: dict[str, int]) -> Self:
        # An unknown key must not be able to stand beside, or in place of, a known one.
        other = {name: value for name, value in sorted(other.items()) if name not in _FIELDS}
        too_large = tuple(n for n, value in (known | other).items() if value >= _ABSURD)
        for name in too_large:
            (known if name in known else other).pop(name)
        return cls(**known, other=MappingProxyType(other), too_large=too_large)

    @property
    def is_empty(self) -> bool:
        """Whether the guest gave no figure at all, not even one that cannot be so."""
        return not self.too_large and all(value is None for value in self.as_dict().values())

    def as_dict(self) -> dict[str, int | None]:
        """Every known statistic, None where it is absent, then the unknown ones."""
        return {name: getattr(self, name) for name in STATISTICS} | dict(self.other)

    # A mapping proxy can be neither hashed nor pickled.
    def __hash__(self) -> int:
        return hash(frozenset(self.as_dict().items()))

    def __reduce__(self) -> tuple[Any, ...]:
        known = {name: getattr(self, name) for name in STATISTICS}
        return _rebuild, (known, dict(self.other), self.too_large)


def _rebuild(
    known: dict[str, int | None], other: dict[str, int], too_large: tuple[str, ...]
) -> MemoryStats:
    return MemoryStats(**known, other=MappingProxyType(other), too_large=too_large)


_FIELDS: Final = frozenset(f.name for f in fields(MemoryStats))

#: The names of the statistics that this version knows, in QEMU's order.
STATISTICS: Final = tuple(STATISTIC_BY_NAME)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """One reading of a domain's memory: the guest's figures and the host's beside them.

    :ivar stats: what the guest says
    :ivar last_update: when the guest said it, epoch seconds by the host's clock; 0 for never;
        None where that could not be read
    :ivar current_bytes: the balloon's size: what the guest has now
    :ivar maximum_bytes: what the guest can have at most
    :ivar rss_bytes: what QEMU's process has in the host's memory
    """

    stats: MemoryStats = MemoryStats()
    last_update: int | None = None
    current_bytes: int | None = None
    maximum_bytes: int | None = None
    rss_bytes: int | None = None

    @property
    def is_nothing(self) -> bool:
        """Whether neither the guest nor QEMU said anything."""
        return self.last_update is None and self.stats.is_empty

    @classmethod
    def from_libvirt(cls, figures: Mapping[str, Any]) -> Self:
        """From ``virDomainMemoryStats``, or the bulk call's answer with its ``balloon.`` cut off.

        The balloon's size is ``actual`` in the one and ``current`` in the other. An RSS of 0 is
        what libvirt reports of a QEMU that is gone, and counts as absent.
        """
        host = {_underscored(key): figure(value) for key, value in figures.items()}
        current = host.get("current")
        return cls(
            stats=MemoryStats.from_libvirt(figures),
            last_update=host.get("last_update"),
            current_bytes=_bytes(host.get("actual") if current is None else current),
            maximum_bytes=_bytes(host.get("maximum")),
            rss_bytes=_bytes(host.get("rss")) or None,
        )


def _bytes(kib: int | None) -> int | None:
    return None if kib is None else kib * _KIB


def figure(value: object) -> int | None:
    """A figure as libvirt or QEMU gives it, or None where it is unset or no figure at all."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _UNSET else None


def _underscored(key: str) -> str:
    return key.replace("-", "_")


#: Which figures have a part in what is used, or would speak against it.
_OF_USE: Final = frozenset({"total_memory", "available_memory", "free_memory", "disk_caches"})


class UsedFormula(StrEnum):
    """How used memory was computed."""

    TOTAL_AVAILABLE = "total-available"
    TOTAL_FREE = "total-free"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What of the guest's memory is used; all None where nothing sane can be said.

    :ivar used_bytes: total less available, else total less free
    :ivar ratio: the used share of the total, 0 to 1
    :ivar formula: which of the two it was
    """

    used_bytes: int | None = None
    ratio: float | None = None
    formula: UsedFormula | None = None

    @classmethod
    def of(cls, stats: MemoryStats, *, maximum_bytes: int | None = None) -> Self:
        """Compute it. :func:`contradictions` give None, not the next formula: whoever lies in one
        figure is not believed in another.

        :param maximum_bytes: what the guest can have at most, or None where that is not known
        """
        total = stats.total_memory
        if stats.available_memory is not None:
            rest, formula = stats.available_memory, UsedFormula.TOTAL_AVAILABLE
        elif stats.free_memory is not None:
            rest, formula = stats.free_memory, UsedFormula.TOTAL_FREE
        else:
            return cls()
        if not total or contradictions(stats, maximum_bytes=maximum_bytes):
            return cls()
        if not _OF_USE.isdisjoint(stats.too_large):
            return cls()
        return cls(used_bytes=total - rest, ratio=(total - rest) / total, formula=formula)


def contradictions(stats: MemoryStats, *, maximum_bytes: int | None = None) -> tuple[Note, ...]:
    """What the guest says of its memory that cannot be so.

    :param maximum_bytes: what the guest can have at most, or None where that is not known
    """
    total = stats.total_memory
    if total is None:
        return ()
    is_above = maximum_bytes is not None and 0 < _SLACK * maximum_bytes < total
    found = [Note.TOTAL_ZERO] * (total == 0) + [Note.TOTAL_ABOVE_MAXIMUM] * is_above
    parts = (
        (Note.AVAILABLE_ABOVE_TOTAL, stats.available_memory),
        (Note.FREE_ABOVE_TOTAL, stats.free_memory),
        (Note.CACHES_ABOVE_TOTAL, stats.disk_caches),
    )
    return (*found, *(note for note, part in parts if part is not None and part > total))


def notes_on(figures: Figures) -> tuple[Note, ...]:
    """What cannot be so about the guest's figures."""
    contradicting = contradictions(figures.stats, maximum_bytes=figures.maximum_bytes)
    return (*contradicting, *[Note.FIGURE_TOO_LARGE] * bool(figures.stats.too_large))
