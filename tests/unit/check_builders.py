"""Reports of domains and hosts for tests of checks."""

from __future__ import annotations

from typing import Any

from virtballoon.check.judging import CheckResult, Measure, Policy, Thresholds, check_hosts
from virtballoon.check.ranges import Range
from virtballoon.errors import Busy, ConnectError, LibvirtFailure
from virtballoon.model.balloon import Balloon
from virtballoon.model.memory import Figures
from virtballoon.model.report import DomainReport, HostReport, HostStatus, Interval
from virtballoon.model.source import Source
from virtballoon.model.statistics import MemoryStats
from virtballoon.model.verdict import State, Verdict

NOW = 1_700_000_000.5


def report(*, host: str = "qemu:///system", **facts: Any) -> DomainReport:
    """A guest with nothing the matter, but for these facts."""
    healthy: dict[str, Any] = {
        "name": "web1",
        "uuid": "1d0f2f13-99f9-48fa-8fd5-33ad220a5ac5",
        "id": 7,
        "state": State.RUNNING,
        "balloon": Balloon(model="virtio"),
        "interval": Interval(live=10),
        "source": Source.LIBVIRT,
        "figures": Figures(stats=MemoryStats(total_memory=5), last_update=1_700_000_000),
        "read_at": NOW,
    }
    return DomainReport(**(healthy | facts)).explained(host)


UPDATE = 1_700_000_000


def figures(used: int, *, update: int = UPDATE, **stats: Any) -> Figures:
    """A guest that uses so many of its 1000 bytes."""
    given = {"total_memory": 1000, "available_memory": 1000 - used, "minor_faults": 1000} | stats
    return Figures(stats=MemoryStats(**given), last_update=update)


def guest(
    used: int = 100, *, name: str = "web1", update: int = UPDATE, **stats: Any
) -> DomainReport:
    """A guest with fresh figures."""
    read = figures(used, update=update, **stats)
    return report(name=name, uuid=f"uuid-{name}", figures=read, read_at=update + 0.5)


#: Memory nearly full by figures that nobody should trust, under each verdict that is not fresh.
FULL: dict[Verdict, dict[str, Any]] = {
    Verdict.STALE: {"figures": figures(999, update=UPDATE - 100)},
    Verdict.POLLING_OFF: {"interval": Interval(live=0), "figures": figures(999)},
    Verdict.UNANSWERED: {"figures": figures(999, update=0)},
    Verdict.EMPTY: {"figures": Figures(last_update=UPDATE)},
    Verdict.SUSPENDED: {"state": State.PAUSED, "figures": figures(999)},
    Verdict.NO_DEVICE: {"balloon": None, "figures": figures(999)},
    Verdict.SHUTOFF: {"state": State.SHUTOFF, "figures": figures(999)},
    Verdict.BUSY: {"error": Busy("no answer"), "figures": figures(999)},
    Verdict.FAILED: {"error": LibvirtFailure("no"), "figures": figures(999)},
}


def host(*rows: DomainReport, uri: str = "qemu:///system", **facts: Any) -> HostReport:
    """A host that was read."""
    told: dict[str, Any] = {
        "hostname": "hv1",
        "status": HostStatus.OK,
        "error": None,
        "elapsed_seconds": 0.1,
    }
    return HostReport(uri=uri, domains=rows, **(told | facts))


DEAD = host(
    uri="qemu+ssh://hv2/system",
    hostname=None,
    status=HostStatus.UNREACHABLE,
    error=ConnectError("no route", host="qemu+ssh://hv2/system"),
)


def judged(measure: Measure, warning: str | None, critical: str | None = None) -> Policy:
    """Thresholds for one measure alone."""
    ranges = [Range.parse(text, measure.units) if text else None for text in (warning, critical)]
    return Policy(thresholds={measure: Thresholds(warning=ranges[0], critical=ranges[1])})


def after(first: DomainReport, second: DomainReport, policy: Policy) -> CheckResult:
    """What the second of two checks comes to."""
    former = check_hosts([host(first)], policy)
    return check_hosts([host(second)], policy, former=former.samples)


SWAP = judged(Measure.SWAP, "1KiB", "1MiB")
OOM = judged(Measure.OOM, None, "0")
