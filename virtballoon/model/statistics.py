"""The statistics that a guest can give: what each is, its unit, and who calls it what. Pure data.

The one table of them: figures are read by it, columns are shown by it, the manual is held against
it. Facts are from QEMU's hw/virtio/virtio-balloon.c, Linux's drivers/virtio/virtio_balloon.c and
libvirt's include/libvirt/libvirt-domain.h; each line of the table was compared with a guest's own
``/proc``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Unit(StrEnum):
    """What a statistic is measured in."""

    BYTES = "bytes"
    COUNT = "count"


class Kind(StrEnum):
    """How a statistic moves."""

    #: Up and down: it says how things are.
    GAUGE = "gauge"
    #: Only up, from 0 when the guest boots: its rate says what happens.
    COUNTER = "counter"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistic:
    """One statistic.

    :ivar name: ours, in figures, columns and documents
    :ivar unit: bytes or a count, as QEMU has it and we give it
    :ivar kind: gauge or counter
    :ivar about: what it is, in one line
    :ivar qemu_since: the first QEMU that has it
    :ivar linux_since: the first Linux that gives it
    :ivar libvirt: libvirt's key, or None where libvirt does not pass it on. libvirt's sizes are in
        KiB.
    :ivar libvirt_since: the first libvirt that passes it on, or None
    :ivar meminfo: the fields of a Linux guest's ``/proc/meminfo`` that add up to it
    :ivar vmstat: the same of ``/proc/vmstat``, which counts pages where we have bytes; a final
        ``*`` stands for every ending
    """

    name: str
    unit: Unit
    kind: Kind
    about: str
    qemu_since: str
    linux_since: str
    libvirt: str | None = None
    libvirt_since: str | None = None
    meminfo: tuple[str, ...] = ()
    vmstat: tuple[str, ...] = ()

    @property
    def qemu(self) -> str:
        """QEMU's key, in the property ``guest-stats``."""
        return f"stat-{self.name.replace('_', '-')}"

    @property
    def libvirt_tag(self) -> str | None:
        """libvirt's constant for ``virDomainMemoryStats``."""
        return None if self.libvirt is None else f"VIR_DOMAIN_MEMORY_STAT_{self.libvirt.upper()}"

    @property
    def libvirt_bulk(self) -> str | None:
        """The key in libvirt's bulk call and in ``virsh domstats``."""
        return None if self.libvirt is None else f"balloon.{self.libvirt}"


_TABLE: Final = (
    Statistic(
        name="swap_in",
        unit=Unit.BYTES,
        kind=Kind.COUNTER,
        about="memory that was read back from swap",
        qemu_since="1.5",
        linux_since="2.6.34",
        libvirt="swap_in",
        libvirt_since="0.7.5",
        vmstat=("pswpin",),
    ),
    Statistic(
        name="swap_out",
        unit=Unit.BYTES,
        kind=Kind.COUNTER,
        about="memory that was written to swap",
        qemu_since="1.5",
        linux_since="2.6.34",
        libvirt="swap_out",
        libvirt_since="0.7.5",
        vmstat=("pswpout",),
    ),
    Statistic(
        name="major_faults",
        unit=Unit.COUNT,
        kind=Kind.COUNTER,
        about="page faults that needed I/O",
        qemu_since="1.5",
        linux_since="2.6.34",
        libvirt="major_fault",
        libvirt_since="0.7.5",
        vmstat=("pgmajfault",),
    ),
    Statistic(
        name="minor_faults",
        unit=Unit.COUNT,
        kind=Kind.COUNTER,
        about="page faults; from Linux all of them, the major ones too",
        qemu_since="1.5",
        linux_since="2.6.34",
        libvirt="minor_fault",
        libvirt_since="0.7.5",
        vmstat=("pgfault",),
    ),
    Statistic(
        name="free_memory",
        unit=Unit.BYTES,
        kind=Kind.GAUGE,
        about="memory that nothing uses, not even as a cache",
        qemu_since="1.5",
        linux_since="2.6.34",
        libvirt="unused",
        libvirt_since="0.7.5",
        meminfo=("MemFree",),
        vmstat=("nr_free_pages",),
    ),
    Statistic(
        name="total_memory",
        unit=Unit.BYTES,
        kind=Kind.GAUGE,
        about="memory that the guest's kernel manages",
        qemu_since="1.5",
        linux_since="2.6.34",
        libvirt="available",
        libvirt_since="0.7.5",
        meminfo=("MemTotal",),
    ),
    Statistic(
        name="available_memory",
        unit=Unit.BYTES,
        kind=Kind.GAUGE,
        about="memory that new programs could have without swapping, by the guest's estimate",
        qemu_since="2.6",
        linux_since="4.6",
        libvirt="usable",
        libvirt_since="2.1.0",
        meminfo=("MemAvailable",),
    ),
    Statistic(
        name="disk_caches",
        unit=Unit.BYTES,
        kind=Kind.GAUGE,
        about="the page cache; from Linux with shared memory and tmpfs, which cannot be dropped",
        qemu_since="2.12",
        linux_since="4.16",
        libvirt="disk_caches",
        libvirt_since="4.6.0",
        meminfo=("Buffers", "Cached", "SwapCached"),
        vmstat=("nr_file_pages",),
    ),
    Statistic(
        name="htlb_pgalloc",
        unit=Unit.COUNT,
        kind=Kind.COUNTER,
        about="huge pages that were allocated for the pool",
        qemu_since="3.0",
        linux_since="4.17",
        libvirt="hugetlb_pgalloc",
        libvirt_since="5.4.0",
        vmstat=("htlb_buddy_alloc_success",),
    ),
    Statistic(
        name="htlb_pgfail",
        unit=Unit.COUNT,
        kind=Kind.COUNTER,
        about="huge pages that could not be allocated for the pool",
        qemu_since="3.0",
        linux_since="4.17",
        libvirt="hugetlb_pgfail",
        libvirt_since="5.4.0",
        vmstat=("htlb_buddy_alloc_fail",),
    ),
    Statistic(
        name="oom_kills",
        unit=Unit.COUNT,
        kind=Kind.COUNTER,
        about="processes that were killed for want of memory",
        qemu_since="9.2",
        linux_since="6.12",
        vmstat=("oom_kill",),
    ),
    Statistic(
        name="alloc_stalls",
        unit=Unit.COUNT,
        kind=Kind.COUNTER,
        about="allocations that had to reclaim memory themselves first",
        qemu_since="9.2",
        linux_since="6.12",
        vmstat=("allocstall_*",),
    ),
    Statistic(
        name="async_scans",
        unit=Unit.BYTES,
        kind=Kind.COUNTER,
        about="memory that was looked at for reclaim in the background",
        qemu_since="9.2",
        linux_since="6.12",
        vmstat=("pgscan_kswapd",),
    ),
    Statistic(
        name="direct_scans",
        unit=Unit.BYTES,
        kind=Kind.COUNTER,
        about="memory that was looked at for reclaim by allocations that waited for it",
        qemu_since="9.2",
        linux_since="6.12",
        vmstat=("pgscan_direct",),
    ),
    Statistic(
        name="async_reclaims",
        unit=Unit.BYTES,
        kind=Kind.COUNTER,
        about="memory that was reclaimed in the background",
        qemu_since="9.2",
        linux_since="6.12",
        vmstat=("pgsteal_kswapd",),
    ),
    Statistic(
        name="direct_reclaims",
        unit=Unit.BYTES,
        kind=Kind.COUNTER,
        about="memory that was reclaimed by allocations that waited for it",
        qemu_since="9.2",
        linux_since="6.12",
        vmstat=("pgsteal_direct",),
    ),
)

#: Every statistic that this version knows, by its name, in QEMU's order.
STATISTIC_BY_NAME: Final[Mapping[str, Statistic]] = MappingProxyType(
    {statistic.name: statistic for statistic in _TABLE}
)

#: The statistics that only ever grow while a guest runs, save ``oom_kills``, which are too few to
#: have a rate.
COUNTERS: Final = tuple(
    name
    for name, statistic in STATISTIC_BY_NAME.items()
    if statistic.kind is Kind.COUNTER and name != "oom_kills"
)
