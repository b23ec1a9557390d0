"""Reports as Prometheus' text. The only module that imports prometheus_client.

Every series of a domain has the labels ``host`` and ``domain``, its name, which no other domain of
the host has; every series of a host has ``host``. What else is known of a domain that is no figure
has a series of its own, for queries to join with. Sizes are in bytes, times in seconds, shares from
0 to 1. A figure that is absent has no series.

A program with a registry of its own registers a :class:`Collector`::

    from virtballoon.exporter.metrics import Collector
    registry.register(Collector(SharedReader({"hv1": "qemu+ssh://root@hv1/system"})))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, NamedTuple, Protocol, TypeAlias

from prometheus_client import PROCESS_COLLECTOR, CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    UnknownMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector as _Collector

from virtballoon import __version__
from virtballoon.errors import Busy, BusyReason
from virtballoon.exporter.snapshots import SharedReader, Snapshot
from virtballoon.hypervisor import labels as domain_labels
from virtballoon.model.report import DomainReport
from virtballoon.model.statistics import STATISTIC_BY_NAME, Kind, Unit
from virtballoon.model.verdict import State, Verdict

_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0"
_HOST: Final = ("host",)
_DOMAIN: Final = ("host", "domain")
#: Of every series, the last two from Prometheus itself: labels of domains have other names.
_RESERVED: Final = frozenset({*_DOMAIN, "job", "instance"})

_Rows: TypeAlias = list[tuple[tuple[str, str], DomainReport]]


class _Figure(NamedTuple):
    """A metric with at most one series for each domain; a counter's name ends with ``_total``."""

    name: str
    help: str
    value: Callable[[DomainReport], float | None]

    def empty(self) -> CounterMetricFamily | GaugeMetricFamily:
        """Without a series."""
        if self.name.endswith("_total"):
            return CounterMetricFamily(self.name, self.help, labels=_DOMAIN)
        return GaugeMetricFamily(self.name, self.help, labels=_DOMAIN)


def _statistic(name: str) -> Callable[[DomainReport], float | None]:
    def value(row: DomainReport) -> float | None:
        figure: int | None = getattr(row.stats, name)
        return figure

    return value


_FIGURES: Final = (
    _Figure(
        "virtballoon_domain_polling_interval_seconds",
        "The polling interval in force, 0 for off.",
        lambda row: row.interval.in_force if row.balloon is not None else None,
    ),
    _Figure(
        "virtballoon_domain_last_update_timestamp_seconds",
        "When the guest last reported its figures, by the host's clock.",
        lambda row: row.last_update,
    ),
    _Figure(
        "virtballoon_domain_age_seconds",
        "Age of the guest's figures when they were read.",
        lambda row: row.age_seconds,
    ),
    _Figure(
        "virtballoon_domain_current_bytes",
        "The memory that the balloon leaves the guest.",
        lambda row: row.figures.current_bytes,
    ),
    _Figure(
        "virtballoon_domain_maximum_bytes",
        "The memory that the guest can have at most.",
        lambda row: row.figures.maximum_bytes,
    ),
    _Figure(
        "virtballoon_domain_rss_bytes",
        "Resident memory of the QEMU process on the host.",
        lambda row: row.figures.rss_bytes,
    ),
    *(
        _Figure(
            f"virtballoon_domain_{statistic.name}"
            f"{'_bytes' if statistic.unit is Unit.BYTES else ''}"
            f"{'_total' if statistic.kind is Kind.COUNTER else ''}",
            f"In the guest: {statistic.about}.",
            _statistic(statistic.name),
        )
        for statistic in STATISTIC_BY_NAME.values()
    ),
)


def _used_percent(row: DomainReport) -> float | None:
    # The other exporters compute it from the available memory or not at all.
    formula = row.usage.formula
    return row.usage.percent if formula is not None and formula.leaves_out_caches else None


#: What other exporters of libvirt's figures call them, after ``libvirt_domain_``, and what they are
#: called here, after ``virtballoon_domain_``. The former are the names of Tinkoff's exporter and
#: those before it, and of inovex's, which differ in places. The words are libvirt's: its
#: ``available`` is the total.
_NAME_HERE: Final = {
    "info_maximum_memory_bytes": "maximum_bytes",
    "info_memory_usage_bytes": "current_bytes",
    "memory_stats_actual_balloon_bytes": "current_bytes",
    "memory_stats_current_balloon_bytes": "current_bytes",
    "memory_stats_maximum_bytes": "maximum_bytes",
    "memory_stats_rss_bytes": "rss_bytes",
    "memory_stats_last_update_timestamp_seconds": "last_update_timestamp_seconds",
    "memory_stats_unused_bytes": "free_memory_bytes",
    "memory_stats_available_bytes": "total_memory_bytes",
    "memory_stats_usable_bytes": "available_memory_bytes",
    "memory_stats_disk_cache_bytes": "disk_caches_bytes",
    "memory_stats_disk_caches_bytes": "disk_caches_bytes",
    "memory_stats_swap_in_bytes": "swap_in_bytes_total",
    "memory_stats_swap_out_bytes": "swap_out_bytes_total",
    "memory_stats_major_fault_total": "major_faults_total",
    "memory_stats_minor_fault_total": "minor_faults_total",
    "memory_stats_hugetlb_pgalloc_total": "htlb_pgalloc_total",
    "memory_stats_hugetlb_pgfail_total": "htlb_pgfail_total",
}
_FIGURE_BY_NAME: Final = {figure.name: figure for figure in _FIGURES}
_LIBVIRT_EXPORTER: Final = (
    *(
        _Figure(f"libvirt_domain_{name}", f"As {here}.", _FIGURE_BY_NAME[here].value)
        for name, part in _NAME_HERE.items()
        for here in (f"virtballoon_domain_{part}",)
    ),
    _Figure(
        "libvirt_domain_memory_stats_used_percent",
        "As virtballoon_domain_used_ratio, times 100.",
        _used_percent,
    ),
    _Figure(
        "libvirt_domain_info_vstate",
        "As virtballoon_domain_state, as libvirt's number.",
        lambda row: [*State].index(row.state),
    ),
)
#: The states in libvirt's order, as inovex's exporter describes them.
_STATE_DESC: Final = {
    State.NOSTATE: "no state",
    State.RUNNING: "the domain is running",
    State.BLOCKED: "the domain is blocked on resource",
    State.PAUSED: "the domain is paused by user",
    State.SHUTDOWN: "the domain is being shut down",
    State.SHUTOFF: "the domain is shut off",
    State.CRASHED: "the domain is crashed",
    State.PMSUSPENDED: "the domain is suspended by guest power management",
}
#: The labels of their series to join with, by where they come from: a domain's labels, its title
#: and its UUID.
_JOINED: Final = {
    "libvirt_domain_openstack_info": {
        "instance_name": "title",
        "instance_id": "uuid",
        "flavor_name": "flavor",
        "user_name": "user",
        "user_id": "user_id",
        "project_name": "project",
        "project_id": "project_id",
    },
    "libvirt_domain_info_meta": {
        "uuid": "uuid",
        "instance_name": "title",
        "flavor": "flavor",
        "user_name": "user",
        "user_uuid": "user_id",
        "project_name": "project",
        "project_uuid": "project_id",
    },
}


class Advised(Protocol):
    """What is advised for a domain, by its history."""

    @property
    def verdict(self) -> str: ...
    @property
    def need_bytes(self) -> int | None: ...


def families(
    snapshot: Snapshot,
    *,
    libvirt_exporter: bool = False,
    labels: Collection[str] | None = None,
    advice: Mapping[str, Advised] | None = None,
) -> Iterator[Metric]:
    """The metrics of a snapshot.

    :param libvirt_exporter: whether to add the names of other exporters of libvirt's figures
    :param labels: the domains' labels to include; default: all but those of the configuration
    :param advice: what is advised for domains, by UUID
    """
    for family in _all(
        snapshot, libvirt_exporter=libvirt_exporter, labels=labels, advice=advice or {}
    ):
        if family.samples:
            yield family


def exposition(
    snapshot: Snapshot,
    *,
    openmetrics: bool = False,
    libvirt_exporter: bool = False,
    labels: Collection[str] | None = None,
    advice: Mapping[str, Advised] | None = None,
) -> bytes:
    """A snapshot as Prometheus' text, or as OpenMetrics."""
    metrics = families(snapshot, libvirt_exporter=libvirt_exporter, labels=labels, advice=advice)
    return _encoded(metrics, _OPENMETRICS if openmetrics else "")[0]


def scrape(collector: Collector, accept: str, timeout: float | None) -> tuple[bytes, str]:
    """The answer of a server of metrics, the hosts and this process, and its media type.

    :param accept: the media types that the client accepts, as HTTP's ``Accept``
    :param timeout: how long it waits, in seconds
    """
    return _encoded((*collector.collect(timeout), *PROCESS_COLLECTOR.collect()), accept)


def _encoded(metrics: Iterable[Metric], accept: str) -> tuple[bytes, str]:
    """Metrics as text, and its media type."""

    class Given(CollectorRegistry):
        def collect(self) -> Iterable[Metric]:
            return metrics

    encode, media_type = choose_encoder(accept)
    return encode(Given()), media_type


class Collector(_Collector):
    """Reads the hosts whenever its registry is asked."""

    def __init__(
        self,
        reader: SharedReader,
        *,
        libvirt_exporter: bool = False,
        labels: Collection[str] | None = None,
        advice: Callable[[], Mapping[str, Advised]] | None = None,
    ) -> None:
        self._reader = reader
        self._advice: Callable[[], Mapping[str, Advised]] = advice or dict
        self._families = partial(families, libvirt_exporter=libvirt_exporter, labels=labels)
        self._all = partial(_all, libvirt_exporter=libvirt_exporter, labels=labels)

    def collect(self, timeout: float | None = None) -> Iterable[Metric]:
        """The metrics of a snapshot."""
        return self._families(self._reader.read(timeout), advice=self._advice())

    def describe(self) -> Iterable[Metric]:
        """All possible metrics, without reading any host: for a registry to find duplicates."""
        return self._all(Snapshot(hosts={}, begun_at=0.0), advice={})


def _all(
    snapshot: Snapshot,
    *,
    libvirt_exporter: bool,
    labels: Collection[str] | None,
    advice: Mapping[str, Advised],
) -> Iterator[Metric]:
    yield from _of_snapshot(snapshot)
    yield from _of_hosts(snapshot)
    named: dict[tuple[str, str], DomainReport] = {}
    for host, report in snapshot.hosts.items():
        for row in report.domains:
            name = _text(row.name)
            # Two names can have the same text. A series that is there twice would make Prometheus
            # drop the whole answer.
            while (key := (_text(host), name)) in named:
                name = f"{name} ({row.uuid})"
            named[key] = row
    rows = [*named.items()]
    yield from _of_domains(rows)
    yield _labels_of(rows, domain_labels.names(own=False) if labels is None else labels)
    for figure in (*_FIGURES, *(_LIBVIRT_EXPORTER if libvirt_exporter else ())):
        family = figure.empty()
        for key, row in rows:
            value = figure.value(row)
            if value is not None:
                family.add_metric(key, value)
        yield family
    yield from _of_advice(rows, advice)
    if libvirt_exporter:
        yield from _of_other_exporters(snapshot, rows)


def _of_advice(rows: _Rows, advice: Mapping[str, Advised]) -> Iterator[Metric]:
    verdict = GaugeMetricFamily(
        "virtballoon_domain_advice",
        "1, with whether the domain has the memory that it needs by its history.",
        labels=(*_DOMAIN, "verdict"),
    )
    need = GaugeMetricFamily(
        "virtballoon_domain_need_bytes",
        "Memory that the domain should have by its history.",
        labels=_DOMAIN,
    )
    for key, row in rows:
        advised = advice.get(row.uuid)
        if advised is not None:
            verdict.add_metric((*key, str(advised.verdict)), 1)
            if advised.need_bytes is not None:
                need.add_metric(key, advised.need_bytes)
    yield from (verdict, need)


def _of_other_exporters(snapshot: Snapshot, rows: _Rows) -> Iterator[Metric]:
    """What is no figure under the names of other exporters."""
    up = GaugeMetricFamily("libvirt_up", "As virtballoon_up.", labels=_HOST)
    for host, report in snapshot.hosts.items():
        up.add_metric((_text(host),), report.hostname is not None)
    state = GaugeMetricFamily(
        "libvirt_domain_info_state",
        "As virtballoon_domain_state, as libvirt's number.",
        labels=(*_DOMAIN, "state_desc"),
    )
    for key, row in rows:
        state.add_metric((*key, _STATE_DESC[row.state]), [*State].index(row.state))
    yield from (up, state)
    for name, labels in _JOINED.items():
        joined = GaugeMetricFamily(name, "The domain's title, user and project: always 1.")
        # As there, for every domain: a query that joins with it has no others.
        for key, row in rows:
            facts = {**row.labels, "title": row.title or "", "uuid": row.uuid}
            values = {label: _text(facts.get(ours, "")) for label, ours in labels.items()}
            joined.add_sample(name, _of_domain(key, values), 1)
        yield joined


def _of_domain(key: tuple[str, str], labels: dict[str, str]) -> dict[str, str]:
    """The labels of a domain's series; one that is empty is the same as none to Prometheus."""
    return dict(zip(_DOMAIN, key, strict=True)) | {k: text for k, text in labels.items() if text}


def _of_snapshot(snapshot: Snapshot) -> Iterator[Metric]:
    build = InfoMetricFamily("virtballoon_build", "The version of virtballoon.", labels=())
    when = GaugeMetricFamily(
        "virtballoon_sweep_timestamp_seconds",
        "When reading the hosts began, by this machine's clock.",
    )
    age = GaugeMetricFamily(
        "virtballoon_sweep_age_seconds", "How long ago reading the hosts began."
    )
    if snapshot.hosts:
        build.add_metric((), {"version": __version__})
        when.add_metric((), snapshot.begun_at)
        age.add_metric((), snapshot.age_seconds)
    yield from (build, when, age)


_HOST_MEMORY: Final = {
    "total_bytes": "The host's memory.",
    "free_bytes": "What is free of it.",
    "available_bytes": "What is free of it, in buffers and cached.",
    "ksm_shared_pages": "Pages that KSM has merged others into.",
    "ksm_saved_pages": "Pages that KSM saves.",
    "unknown_domains": "Number of running domains of which it is unknown what they use.",
    "maximum_bytes": "What the running domains have if all balloons are empty.",
    "current_bytes": "What the balloons leave the running domains.",
    "rss_bytes": "Resident memory of all QEMUs.",
    "used_bytes": "What the guests use; absent if one is unknown.",
    "used_min_bytes": "The same, with 0 for each unknown domain.",
    "used_max_bytes": "The same, with its current memory for each unknown domain.",
}


def _of_hosts(snapshot: Snapshot) -> Iterator[Metric]:
    up = GaugeMetricFamily("virtballoon_up", "Whether the host was reached.", labels=_HOST)
    info = InfoMetricFamily("virtballoon_host", "The host's URI and own name.", labels=_HOST)
    duration = GaugeMetricFamily(
        "virtballoon_sweep_duration_seconds", "Duration of reading the host.", labels=_HOST
    )
    offset = GaugeMetricFamily(
        "virtballoon_host_clock_offset_seconds",
        "The host's clock minus this machine's, by which ages are corrected; absent if unknown.",
        labels=_HOST,
    )
    domains = GaugeMetricFamily(
        "virtballoon_domains",
        "Number of the host's domains with this verdict.",
        labels=(*_HOST, "verdict"),
    )
    for name, report in snapshot.hosts.items():
        label = _text(name)
        up.add_metric((label,), report.hostname is not None)
        info.add_metric(
            (label,), {"uri": _text(report.uri), "hostname": _text(report.hostname or "")}
        )
        duration.add_metric((label,), report.elapsed_seconds)
        if report.clock is not None:
            offset.add_metric((label,), report.clock.seconds)
        if report.hostname is not None:
            counts = Counter(row.verdict for row in report.domains)
            for verdict in Verdict:
                domains.add_metric((label, verdict.value), counts[verdict])
    yield from (up, info, duration, offset, domains)
    for field, what in _HOST_MEMORY.items():
        family = GaugeMetricFamily(f"virtballoon_host_memory_{field}", what, labels=_HOST)
        for name, report in snapshot.hosts.items():
            value = None if report.memory is None else getattr(report.memory, field)
            if value is not None:
                family.add_metric((_text(name),), value)
        yield family


def _labels_of(rows: _Rows, names: Collection[str]) -> Metric:
    family = GaugeMetricFamily(
        "virtballoon_domain_labels",
        "What the domain's XML says about it for people, such as its title: always 1.",
    )
    # The names follow Prometheus' rules, apart from those that are taken.
    shown = {name: name for name in names if name not in _RESERVED}
    for name in _RESERVED.intersection(names):
        shown[name] = name
        while shown[name] in names:
            shown[name] = f"label_{shown[name]}"
    if any(not row.labels.keys().isdisjoint(shown) for _, row in rows):
        # Also for a domain without labels, so that a query that joins with them has it.
        for key, row in rows:
            found = {label: _text(row.labels.get(name, "")) for name, label in shown.items()}
            family.add_sample(family.name, _of_domain(key, found), 1)
    return family


def _of_domains(rows: _Rows) -> Iterator[Metric]:
    info = InfoMetricFamily(
        "virtballoon_domain",
        "The domain's UUID, machine type and balloon, and where its figures come from.",
        labels=_DOMAIN,
    )
    verdicts = GaugeMetricFamily(
        "virtballoon_domain_verdict",
        "How reliable the domain's figures are: always 1.",
        labels=(*_DOMAIN, "verdict"),
    )
    states = GaugeMetricFamily(
        "virtballoon_domain_state",
        "The domain's state: always 1.",
        labels=(*_DOMAIN, "state"),
    )
    busy = GaugeMetricFamily(
        "virtballoon_domain_busy",
        "1 while QEMU's monitor or a job holds the domain, so that it cannot be read.",
        labels=(*_DOMAIN, "reason"),
    )
    used = GaugeMetricFamily(
        "virtballoon_domain_used_bytes",
        "The guest's used memory: the total minus available or free memory, and minus the balloon "
        "if the total contains it, as the formula says.",
        labels=(*_DOMAIN, "formula"),
    )
    ratio = GaugeMetricFamily(
        "virtballoon_domain_used_ratio",
        "The used share of the guest's total memory, without the balloon, 0 to 1.",
        labels=(*_DOMAIN, "formula"),
    )
    anomalies = GaugeMetricFamily(
        "virtballoon_domain_anomaly",
        "1 for something about the domain's figures that cannot be right.",
        labels=(*_DOMAIN, "anomaly"),
    )
    other = UnknownMetricFamily(
        "virtballoon_domain_other_statistic",
        "A statistic of QEMU that this version does not know, unchanged.",
        labels=(*_DOMAIN, "statistic"),
    )
    for labels, row in rows:
        balloon = row.balloon
        info.add_metric(
            labels,
            {
                "uuid": row.uuid,
                "machine": _text(row.machine or ""),
                "model": _text((balloon and balloon.model) or ""),
                "source": row.source.value,
            },
        )
        verdicts.add_metric((*labels, row.verdict.value), 1)
        states.add_metric((*labels, row.state.value), 1)
        if isinstance(row.error, Busy):
            busy.add_metric((*labels, row.error.reason.value), 1)
        elif row.is_incoming:
            busy.add_metric((*labels, BusyReason.JOB.value), 1)
        usage = row.usage
        if usage.formula is not None and usage.used_bytes is not None and usage.ratio is not None:
            used.add_metric((*labels, usage.formula.value), usage.used_bytes)
            ratio.add_metric((*labels, usage.formula.value), usage.ratio)
        for anomaly in row.anomalies:
            anomalies.add_metric((*labels, anomaly.value), 1)
        for name, value in row.stats.other.items():
            other.add_metric((*labels, _text(name)), value)
    yield from (info, verdicts, states, busy, used, ratio, anomalies, other)


def _text(value: str) -> str:
    """Text from outside as a label's value: anything that UTF-8 has."""
    return value.encode("utf-8", "backslashreplace").decode()
