"""Reports of domains and hosts for tests of the live view."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.unit.builders import report
from virtballoon.doctor.results import Diagnosis, HostDiagnosis
from virtballoon.errors import ConnectError
from virtballoon.model.memory import Figures
from virtballoon.model.report import DomainReport, HostReport, HostStatus, Interval
from virtballoon.model.statistics import MemoryStats
from virtballoon.watch.view import View

if TYPE_CHECKING:
    from collections.abc import Iterable


MIB = 1024**2
GIB = 1024 * MIB
UPDATE = 1_700_000_000


def guest(
    name: str,
    *,
    total: int | None = GIB,
    used: int = 0,
    last_update: int = UPDATE,
    **facts: Any,
) -> DomainReport:
    """A domain that uses this much of its memory; None for one without figures."""
    stats = MemoryStats()
    if total is not None:
        stats = MemoryStats(total_memory=total, available_memory=total - used, disk_caches=MIB)
    figures = Figures(
        stats=stats,
        last_update=last_update,
        current_bytes=max(2 * GIB, total or 0),
        maximum_bytes=2 * max(2 * GIB, total or 0),
    )
    known: dict[str, Any] = {"name": name, "uuid": f"uuid-{name}", "figures": figures}
    known["read_at"] = last_update + 3.0
    return report(**(known | facts))


def host_diagnosis(*rows: DomainReport, error: Exception | None = None) -> HostDiagnosis:
    """What the doctor returns of these domains."""
    found = host(rows, error=error)
    values = {name: getattr(found, name) for name in HostReport.field_names}
    diagnoses = tuple(
        Diagnosis(**{name: getattr(row, name) for name in DomainReport.field_names}) for row in rows
    )
    return HostDiagnosis(**(values | {"domains": diagnoses}))


def host(rows: Iterable[DomainReport] = (), *, error: Exception | None = None) -> HostReport:
    reached = error is None
    return HostReport(
        uri="qemu:///system",
        hostname="hv" if reached else None,
        status=HostStatus.OK if reached else HostStatus.UNREACHABLE,
        error=ConnectError(str(error)) if error is not None else None,
        elapsed_seconds=0.1,
        domains=tuple(rows),
    )


BIG = guest("big", total=8 * GIB, used=2 * GIB)
FULL = guest("full", total=1000 * MIB, used=900 * MIB)
OFF = guest("off", total=16 * GIB, used=15 * GIB, interval=Interval(live=0))
MUTE = guest("mute", total=None, last_update=0)


def press(shown: View, *keys: str) -> None:
    for key in keys:
        shown.press(key)
