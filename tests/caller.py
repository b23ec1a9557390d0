"""A program that uses the library, as its type checker sees it from outside.

tests/test_library.py checks it against the installed wheel; nothing runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import assert_type

import virtballoon
from virtballoon import (
    STATISTIC_BY_NAME,
    Balloon,
    Configuration,
    ConfiguredHost,
    DomainReport,
    Figures,
    HostChanges,
    HostProbe,
    HostReport,
    Interval,
    IntervalChange,
    MemoryStats,
    Monitor,
    QomPath,
    Source,
    Statistic,
    UsedFormula,
    Verdict,
    VirtballoonError,
)


def read(uri: str) -> None:
    """What reading gives."""
    host = virtballoon.read_host(uri, ["web*"], inactive=True, via=Source.LIBVIRT, timeout=5)
    assert_type(host, HostReport)
    assert_type(host.error, VirtballoonError | None)
    assert_type(host.domains, tuple[DomainReport, ...])
    assert_type(virtballoon.iter_domains(uri), Iterator[DomainReport])
    assert_type(virtballoon.read_hosts([uri, None]), tuple[HostReport, ...])
    assert_type(virtballoon.iter_hosts([uri]), Iterator[HostReport])
    assert_type(virtballoon.probe_hosts([uri]), tuple[HostProbe, ...])
    for domain in host.domains:
        assert_type(domain.verdict, Verdict)
        assert_type(domain.age_seconds, float | None)
        assert_type(domain.balloon, Balloon | None)
        assert_type(domain.interval, Interval)
        assert_type(domain.figures, Figures)
        assert_type(domain.stats, MemoryStats)
        assert_type(domain.stats.swap_in, int | None)
        assert_type(domain.stats.other, Mapping[str, int])
        assert_type(domain.usage.formula, UsedFormula | None)
    assert_type(STATISTIC_BY_NAME, Mapping[str, Statistic])


def change(uri: str) -> None:
    """What setting gives."""
    changes = virtballoon.set_intervals(uri, 10, None, live=True, config=True, dry_run=True)
    assert_type(changes, HostChanges)
    assert_type(changes.changes, tuple[IntervalChange, ...])
    everywhere = virtballoon.set_intervals_on_hosts([uri], 10, ["web1"])
    assert_type(everywhere, tuple[HostChanges, ...])


def look(uri: str) -> None:
    """What else there is."""
    configuration = virtballoon.load_configuration()
    assert_type(configuration, Configuration)
    assert_type(configuration.select(["@prod"]), tuple[ConfiguredHost, ...])
    assert_type(virtballoon.find_qom_path(uri, "web1"), QomPath)
    paths = virtballoon.find_qom_paths([uri], "web1")
    assert_type(paths, tuple[QomPath | VirtballoonError, ...])
    assert_type(Monitor(lambda command: command).polling_interval("/machine"), int)
