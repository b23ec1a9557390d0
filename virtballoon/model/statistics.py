"""The statistics of a guest: each is a field of :class:`MemoryStats`, with what is known of it.

Facts are from QEMU's hw/virtio/virtio-balloon.c, Linux's drivers/virtio/virtio_balloon.c and
libvirt's include/libvirt/libvirt-domain.h. Tests compare each with a guest's own ``/proc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, Self

from virtballoon.model.value import Value

_KIB: Final = 1024

#: What QEMU reports for a figure that the guest did not give; very old QEMU has -1. Figures have
#: 64 bits, so nothing is above.
_UNSET: Final = 2**64 - 1

#: Larger than any memory or count. The service for Windows gives such a figure, a negative one, for
#: a counter that Windows lacks.
_ABSURD: Final = 2**63


class Unit(StrEnum):
    """What a statistic is measured in."""

    BYTES = "bytes"
    COUNT = "count"


class Kind(StrEnum):
    """How a statistic changes."""

    #: Up and down: it says how things are.
    GAUGE = "gauge"
    #: Only up, from 0 when the guest boots: its rate says what happens.
    COUNTER = "counter"


class Statistic(Value):
    """One statistic. virtballoon-stats(7) has its names and first versions elsewhere.

    :ivar about: what it is, in one line
    :ivar libvirt: libvirt's key, or None where libvirt does not give it. libvirt's sizes are in
        KiB.
    :ivar qemu_since: the first QEMU that has it
    :ivar name: its name in figures, columns and documents
    """

    about: str
    unit: Unit
    kind: Kind
    libvirt: str | None
    qemu_since: str
    name: str = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.__dict__["name"] = name

    def __get__(self, stats: MemoryStats | None, owner: type) -> Statistic | None:
        # A figure that the guest did not give.
        return self if stats is None else None


def _gauge(about: str, libvirt: str, qemu_since: str = "1.5") -> Any:
    return Statistic(
        about=about, unit=Unit.BYTES, kind=Kind.GAUGE, libvirt=libvirt, qemu_since=qemu_since
    )


def _counter(about: str, unit: Unit, libvirt: str | None = None, qemu_since: str = "9.2") -> Any:
    return Statistic(
        about=about, unit=unit, kind=Kind.COUNTER, libvirt=libvirt, qemu_since=qemu_since
    )


class MemoryStats(Value):
    """The guest's figures; None for what it does not give.

    Names are QEMU's without ``stat-``. Sizes are in bytes, the rest are counts. The guest is not
    trusted: values are what it wrote, unchecked. The class' own attributes are the
    :class:`Statistic` of each.

    :ivar other: figures that this version does not know, under their names in the same spelling
        and as they came
    :ivar too_large: the names of those that the guest put at 2^63 or more: they count as absent
    """

    swap_in: int | None = _counter("memory read back from swap", Unit.BYTES, "swap_in", "1.5")
    swap_out: int | None = _counter("memory written to swap", Unit.BYTES, "swap_out", "1.5")
    major_faults: int | None = _counter(
        "page faults that needed I/O", Unit.COUNT, "major_fault", "1.5"
    )
    minor_faults: int | None = _counter(
        "page faults; from Linux all of them, including the major ones",
        Unit.COUNT,
        "minor_fault",
        "1.5",
    )
    free_memory: int | None = _gauge("memory that nothing uses, not even as a cache", "unused")
    total_memory: int | None = _gauge("memory that the guest's kernel manages", "available")
    available_memory: int | None = _gauge(
        "memory that new programs could have without swapping, by the guest's estimate",
        "usable",
        "2.6",
    )
    disk_caches: int | None = _gauge(
        "the page cache; from Linux with shared memory and tmpfs, which cannot be dropped",
        "disk_caches",
        "2.12",
    )
    htlb_pgalloc: int | None = _counter(
        "huge pages allocated for the pool", Unit.COUNT, "hugetlb_pgalloc", "3.0"
    )
    htlb_pgfail: int | None = _counter(
        "huge pages that could not be allocated for the pool", Unit.COUNT, "hugetlb_pgfail", "3.0"
    )
    oom_kills: int | None = _counter("processes killed for lack of memory", Unit.COUNT)
    alloc_stalls: int | None = _counter("allocations that had to reclaim memory first", Unit.COUNT)
    async_scans: int | None = _counter("memory scanned for reclaim in the background", Unit.BYTES)
    direct_scans: int | None = _counter(
        "memory scanned for reclaim by waiting allocations", Unit.BYTES
    )
    async_reclaims: int | None = _counter("memory reclaimed in the background", Unit.BYTES)
    direct_reclaims: int | None = _counter("memory reclaimed by waiting allocations", Unit.BYTES)
    other: Mapping[str, int] = MappingProxyType({})
    too_large: tuple[str, ...] = ()

    @classmethod
    def from_libvirt(cls, figures: Mapping[str, Any]) -> Self:
        """From the answer of ``virDomainMemoryStats``, or the bulk call's with its ``balloon.``
        cut off. Sizes come in KiB. The host's keys (``rss``, ``actual`` …) are passed over."""
        known: dict[str, int] = {}
        other: dict[str, int] = {}
        for key, value in figures.items():
            if (number := figure(value)) is None:
                continue
            if key in _LIBVIRT:
                name, factor = _LIBVIRT[key]
                known[name] = number * factor
            elif key not in _LIBVIRT_HOST:
                other[key.replace("-", "_")] = number
        return cls._of(known, other)

    @classmethod
    def from_qemu(cls, stats: Mapping[str, Any]) -> Self:
        """From the ``stats`` of QEMU's ``guest-stats`` property. Sizes come in bytes."""
        known: dict[str, int] = {}
        other: dict[str, int] = {}
        for key, value in stats.items():
            name = key.removeprefix("stat-").replace("-", "_")
            number = figure(value)
            if number is not None:
                (known if name in STATISTIC_BY_NAME else other)[name] = number
        return cls._of(known, other)

    @classmethod
    def _of(cls, known: dict[str, int], other: dict[str, int]) -> Self:
        # An unknown key must not be able to replace a known one.
        other = {name: value for name, value in sorted(other.items()) if name not in cls._known}
        too_large = tuple(n for n, value in (known | other).items() if value >= _ABSURD)
        for name in too_large:
            (known if name in known else other).pop(name)
        return cls(**known, other=MappingProxyType(other), too_large=too_large)

    @property
    def is_empty(self) -> bool:
        """Whether the guest gave no figure at all, not even an impossible one."""
        given = set(map(self.__dict__.get, STATISTICS))
        return given == {None} and not self.other and not self.too_large

    def as_dict(self) -> dict[str, int | None]:
        """Every known statistic, None where it is absent, then the unknown ones."""
        return (
            _NOTHING | {n: v for n, v in self.__dict__.items() if n in _NOTHING} | dict(self.other)
        )

    # A mapping proxy can be neither hashed nor pickled.
    def __hash__(self) -> int:
        return hash((frozenset(self.as_dict().items()), self.too_large))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"other": dict(self.other)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, other=MappingProxyType(state["other"]))


def figure(value: object) -> int | None:
    """A figure as libvirt or QEMU gives it, or None where it is unset or not a figure."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value < _UNSET else None


#: Every statistic that this version knows, by its name, in QEMU's order.
STATISTIC_BY_NAME: Final[Mapping[str, Statistic]] = MappingProxyType(
    {name: known for name, known in vars(MemoryStats).items() if isinstance(known, Statistic)}
)

#: The names of the statistics that this version knows, in QEMU's order.
STATISTICS: Final = tuple(STATISTIC_BY_NAME)

#: The names of those that grow often enough while a guest runs to have a rate.
COUNTERS: Final = tuple(
    name
    for name, known in STATISTIC_BY_NAME.items()
    if known.kind is Kind.COUNTER and name != "oom_kills"
)

_NOTHING: Final[dict[str, int | None]] = dict.fromkeys(STATISTICS)

#: libvirt's names of the guest's figures, in ``virDomainMemoryStats`` and, behind ``balloon.``,
#: in its bulk call, with those used here and the factor to the unit.
_LIBVIRT: Final[Mapping[str, tuple[str, int]]] = {
    known.libvirt: (known.name, _KIB if known.unit is Unit.BYTES else 1)
    for known in STATISTIC_BY_NAME.values()
    if known.libvirt is not None
}

#: libvirt's keys for what the host knows.
_LIBVIRT_HOST: Final = frozenset(
    {"actual", "current", "maximum", "rss", "last_update", "last-update"}
)
