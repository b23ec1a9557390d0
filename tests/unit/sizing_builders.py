"""Samples and lines of domains for tests of their histories."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.unit.builders import UUID, report
from virtballoon.model.memory import Figures
from virtballoon.model.report import DomainReport
from virtballoon.model.statistics import MemoryStats
from virtballoon.render.documents import domain_record
from virtballoon.sizing.recorder import Sample

MIB = 1024**2
GIB = 1024**3
HOST = "qemu+ssh://hv1/system"
#: A midnight, by UTC.
MIDNIGHT = int(datetime(2026, 11, 20, tzinfo=UTC).timestamp())


def read(at: int, used: int = 512 * MIB, **facts: Any) -> DomainReport:
    """A fresh report of a guest with 1 GiB, or what its facts are, with these counters."""
    current = facts.pop("current", GIB)
    counters = {name: facts.pop(name) for name in list(facts) if name in MemoryStats.field_names}
    stats = {
        "minor_faults": at % 10**6,
        "total_memory": current - 64 * MIB,
        "available_memory": current - 64 * MIB - used,
        "disk_caches": 32 * MIB,
    }
    figures = Figures(
        stats=MemoryStats(**(stats | counters)),
        last_update=at,
        current_bytes=current,
        maximum_bytes=facts.pop("maximum", current),
        rss_bytes=GIB,
    )
    return report(figures=figures, read_at=at + 1.5, **facts)


def sample(at: int, used: int = 512 * MIB, *, host: str = HOST, **facts: Any) -> Sample:
    """The sample of such a report."""
    found = Sample.of(host, read(at, used, **facts))
    assert found is not None
    return found


def write_lines(path: Path, *reports: DomainReport, host: str = HOST) -> Path:
    """A file as ``list --format jsonl`` writes it."""
    lines = (json.dumps({"uri": host} | domain_record(row)) + "\n" for row in reports)
    path.write_text("".join(lines), encoding="ascii")
    return path


def uuid(number: int) -> str:
    """The UUID of one of many domains."""
    return f"{UUID[:-4]}{number:04}"
