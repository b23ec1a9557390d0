"""A program that uses the library, as its type checker sees it from outside.

tests/test_library.py checks it against the installed wheel; nothing runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import assert_type

import virtballoon
from virtballoon import (
    COUNTERS,
    STATISTIC_BY_NAME,
    Anomaly,
    Balloon,
    Cause,
    CheckedDomain,
    CheckResult,
    CheckStatus,
    CommandPrefixes,
    Configuration,
    ConfiguredHost,
    Diagnosis,
    DomainReport,
    DomainWait,
    Evidence,
    Figures,
    HostChanges,
    HostDiagnosis,
    HostPoller,
    HostProbe,
    HostReport,
    HostWait,
    Interval,
    IntervalChange,
    IntervalEnsurer,
    Measure,
    Measurement,
    MemoryStats,
    Monitor,
    NoRate,
    Policy,
    PossibleCause,
    Problem,
    QomPath,
    Range,
    Rates,
    Reading,
    Refresh,
    Sample,
    SharedReader,
    Sign,
    Snapshot,
    Source,
    Statistic,
    Thresholds,
    Unheard,
    UsedFormula,
    Verdict,
    VirtballoonError,
    Waited,
)


def read(uri: str) -> None:
    """What reading gives."""
    host = virtballoon.read_host(uri, ["web*"], inactive=True, via=Source.LIBVIRT, timeout=5)
    assert_type(host, HostReport)
    assert_type(host.error, VirtballoonError | None)
    assert_type(host.domains, tuple[DomainReport, ...])
    assert_type(virtballoon.iter_domains(uri), Iterator[DomainReport])
    assert_type(virtballoon.read_hosts([uri, None]), tuple[HostReport, ...])
    probes = virtballoon.on_hosts([uri, None], partial(virtballoon.probe_host, timeout=5))
    assert_type(probes, tuple[HostProbe, ...])
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
        assert_type(domain.anomalies, tuple[Anomaly, ...])
    assert_type(STATISTIC_BY_NAME, Mapping[str, Statistic])


def read_anew(uri: str) -> None:
    """What reading new figures, and reading twice, gives."""
    host = virtballoon.read_fresh(
        uri, max_age=5, on_waiting=lambda host, names: print(host, *names)
    )
    assert_type(host, HostReport)
    for domain in host.domains:
        assert_type(domain.refresh, Refresh | None)
        if domain.refresh is not None:
            assert_type(domain.refresh.reason, Unheard | None)
        assert_type(domain.sample, Sample)
        assert_type(domain.since(Sample.from_dict(domain.sample.as_dict())), DomainReport)
    assert_type(virtballoon.read_host(uri).since(host), HostReport)
    assert_type(COUNTERS, tuple[str, ...])
    for again in virtballoon.read_hosts([uri], rates_over=10, max_age=5):
        for domain in again.domains:
            assert_type(domain.rates, Rates | None)
            if domain.rates is not None:
                assert_type(domain.rates.per_second["swap_in"], float | None)
                assert_type(domain.rates.per_second, Mapping[str, float | None])
                assert_type(domain.rates.reason, NoRate | None)


def change(uri: str) -> None:
    """What setting gives."""
    changes = virtballoon.set_intervals(
        uri, virtballoon.IntervalRequest(10, live=True, config=True, dry_run=True), None
    )
    assert_type(changes, HostChanges)
    assert_type(changes.domains, tuple[IntervalChange, ...])
    everywhere = virtballoon.set_intervals_on_hosts(
        [uri], 10, ["web1"], wait=virtballoon.fresh_seconds(10)
    )
    assert_type(everywhere, tuple[HostChanges, ...])
    assert_type(changes.domains[0].waited, Waited | None)
    waiting = virtballoon.wait_for_update(uri, since={"uuid": 0}, seconds=30)
    assert_type(waiting, HostWait)
    assert_type(waiting.domains, tuple[DomainWait, ...])
    assert_type(waiting.domains[0].waited.answered, bool | None)
    assert_type(waiting.domains[0].report, DomainReport | None)


def diagnose(uri: str) -> None:
    """What diagnosing gives."""
    host = virtballoon.diagnose_host(uri, ["web*"], inactive=True, prefixes=CommandPrefixes.by_uri)
    assert_type(host, HostDiagnosis)
    everywhere = virtballoon.on_hosts([uri], virtballoon.diagnose_host, jobs=4)
    assert_type(everywhere, tuple[HostDiagnosis, ...])
    assert_type(host.domains, tuple[Diagnosis, ...])
    for domain in host.domains:
        assert_type(domain.cause, Cause | None)
        assert_type(domain.possible_causes, tuple[PossibleCause, ...])
        assert_type(domain.remedy, str | None)
        assert_type(domain.evidence, tuple[Evidence, ...])
        assert_type(domain.seen, tuple[Sign, ...])


def judge(uri: str) -> None:
    """What judging gives."""
    used = Thresholds(warning=Range(0, 80), critical=Range(0, 90))
    result = virtballoon.check_hosts(
        virtballoon.read_hosts([uri]), Policy(thresholds={Measure.USED: used}), former=None
    )
    assert_type(result, CheckResult)
    assert_type(result.status, CheckStatus)
    assert_type(result.hosts, tuple[HostReport, ...])
    assert_type(result.domains, tuple[CheckedDomain, ...])
    for domain in result.domains:
        assert_type(domain.report, DomainReport)
        assert_type(domain.measurements, tuple[Measurement, ...])
    assert_type(result.problems, tuple[Problem, ...])


def read_on(uri: str) -> None:
    """What a program that stays gets."""
    with HostPoller([uri], period=5) as poller:
        for reading in poller.drain():
            assert_type(reading, Reading)
            assert_type(reading.report, HostReport)
    ensurer = IntervalEnsurer(10)
    reader = SharedReader({"hv1": uri}, on_read=ensurer.ensure)
    assert_type(reader.read(), Snapshot)
    assert_type(reader.read().hosts, Mapping[str, HostReport])


def look(uri: str) -> None:
    """What else there is."""
    configuration = virtballoon.load_configuration()
    assert_type(configuration, Configuration)
    assert_type(configuration.select(["@prod"]), tuple[ConfiguredHost, ...])
    assert_type(virtballoon.find_qom_path(uri, "web1").domains, tuple[QomPath, ...])
    monitor = Monitor(lambda command: command)
    assert_type(monitor.polling_interval("/machine"), int)
