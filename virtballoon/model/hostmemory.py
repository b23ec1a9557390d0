"""A host's memory next to that of its domains. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Self

from virtballoon.model.statistics import figure
from virtballoon.model.value import Value
from virtballoon.model.verdict import State, Verdict

if TYPE_CHECKING:
    from virtballoon.model.report import DomainReport

_KIB = 1024


class HostFigures(Value):
    """The memory of a host, without its domains.

    :ivar available_bytes: free, buffers and cached
    :ivar ksm_shared_pages: pages of the host that KSM has merged others into
    :ivar ksm_saved_pages: pages that would be in use without KSM, in addition to those
    """

    total_bytes: int
    free_bytes: int | None = None
    available_bytes: int | None = None
    ksm_shared_pages: int | None = None
    ksm_saved_pages: int | None = None

    @classmethod
    def from_libvirt(cls, memory: Mapping[str, Any], ksm: Mapping[str, Any]) -> Self | None:
        """From ``virNodeGetMemoryStats`` and ``virNodeGetMemoryParameters``; None without a
        total."""
        total = figure(memory.get("total"))
        if not total:
            return None
        free = figure(memory.get("free"))
        available = _sum([free, figure(memory.get("buffers")), figure(memory.get("cached"))])
        return cls(
            total_bytes=total * _KIB,
            free_bytes=None if free is None else free * _KIB,
            available_bytes=None if available is None else available * _KIB,
            ksm_shared_pages=figure(ksm.get("shm_pages_shared")),
            ksm_saved_pages=figure(ksm.get("shm_pages_sharing")),
        )


class HostMemory(HostFigures):
    """The memory of a host, and the sums over its running domains.

    A sum is None where a part of it is unknown, and all are None where only some of the running
    domains were read: for these alone they would say nothing about the host.

    :ivar unknown_domains: the number of domains that are not fresh or do not say what they use
    :ivar rss_bytes: None, too, where a domain has huge pages, which are not part of its RSS
    :ivar used_bytes: what the guests use
    :ivar used_min_bytes: the same, with 0 for each unknown domain
    :ivar used_max_bytes: the same, with its current memory for each unknown domain
    """

    unknown_domains: int | None = None
    maximum_bytes: int | None = None
    current_bytes: int | None = None
    rss_bytes: int | None = None
    used_bytes: int | None = None
    used_min_bytes: int | None = None
    used_max_bytes: int | None = None

    @classmethod
    def of(cls, host: HostFigures, rows: Iterable[DomainReport] | None) -> Self:
        """Add up.

        :param rows: all running domains, and any others; None where some were not read
        """
        figures = {name: getattr(host, name) for name in HostFigures.field_names}
        if rows is None:
            return cls(**figures)
        return cls(**figures, **sums(rows))

    @property
    def current_ratio(self) -> float | None:
        """Overcommit: the domains' current memory as a share of the host's total."""
        return self.share(self.current_bytes)

    @property
    def maximum_ratio(self) -> float | None:
        """Overcommit if all balloons were empty: the domains' maximum as a share of the total."""
        return self.share(self.maximum_bytes)

    def share(self, count: int | None) -> float | None:
        """A number of bytes as a share of the host's total."""
        return None if count is None else count / self.total_bytes


def sums(rows: Iterable[DomainReport]) -> dict[str, Any]:
    """The sums over those of the domains that run, by their names in :class:`HostMemory`."""
    running = [row for row in rows if row.state is not State.SHUTOFF]
    used = [row.usage.used_bytes if row.verdict is Verdict.FRESH else None for row in running]
    current = [row.figures.current_bytes for row in running]
    most = [of if use is None else use for use, of in zip(used, current, strict=True)]
    return {
        "unknown_domains": used.count(None),
        "maximum_bytes": _sum(row.figures.maximum_bytes for row in running),
        "current_bytes": _sum(current),
        "rss_bytes": _sum(None if row.has_hugepages else row.figures.rss_bytes for row in running),
        "used_bytes": _sum(used),
        "used_min_bytes": sum(use or 0 for use in used),
        "used_max_bytes": _sum(most),
    }


def _sum(parts: Iterable[int | None]) -> int | None:
    known = list(parts)
    return None if None in known else sum(filter(None, known))
