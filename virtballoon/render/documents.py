"""Reports as records, as they stand in JSON, JSON lines and CSV. ``schema.json`` in the package
describes the JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from virtballoon.errors import Busy, VirtballoonError
from virtballoon.model.balloon import Balloon
from virtballoon.model.report import DomainReport, HostReport, Interval
from virtballoon.model.statistics import COUNTERS, STATISTICS
from virtballoon.model.value import Value
from virtballoon.render.formats import Record

if TYPE_CHECKING:
    from virtballoon.configuration import ConfiguredHost
    from virtballoon.model.hostmemory import HostMemory
    from virtballoon.model.outcome import (
        HostChanges,
        HostProbe,
        HostQomPath,
        IntervalChange,
        Waited,
    )
    from virtballoon.model.report import Refresh

SCHEMA: Final = 1

_MEMORY_RATIOS: Final = ("current_ratio", "maximum_ratio")


def _fields(value: Value) -> Record:
    return {name: getattr(value, name) for name in value.field_names}


def _timed(value: Waited | Refresh) -> Record:
    return _fields(value) | {"seconds": _rounded(value.seconds, 1)}


def _in_force(row: DomainReport) -> Record:
    in_force = row.interval.in_force if row.balloon is not None else None
    return _fields(row.interval) | {"in_force": in_force}


#: The keys of a domain of a reading, and how to get the value of each; columns are derived from it.
DOMAIN: Final[Mapping[str, Callable[[DomainReport], Any]]] = {
    "name": lambda row: row.name,
    "uuid": lambda row: row.uuid,
    "id": lambda row: row.id,
    "state": lambda row: row.state,
    "machine": lambda row: row.machine,
    "balloon": lambda row: None if row.balloon is None else _fields(row.balloon),
    "interval": _in_force,
    "verdict": lambda row: row.verdict,
    "source": lambda row: row.source,
    "labels": lambda row: dict(row.labels),
    "excluded": lambda row: row.excluded,
    "read_at": lambda row: timestamp(int(row.read_at)),
    "last_update": lambda row: timestamp(row.last_update),
    "age_seconds": lambda row: _rounded(row.age_seconds, 1),
    "maximum_bytes": lambda row: row.figures.maximum_bytes,
    "current_bytes": lambda row: row.figures.current_bytes,
    "ballooned_bytes": lambda row: row.figures.ballooned_bytes,
    "rss_bytes": lambda row: row.figures.rss_bytes,
    "reclaimable_bytes": lambda row: row.reclaimable_bytes,
    "free_page_reporting": lambda row: row.free_page_reporting,
    "stats": lambda row: row.stats.as_dict(),
    "used_bytes": lambda row: row.usage.used_bytes,
    "used_ratio": lambda row: _rounded(row.usage.ratio, 4),
    "used_formula": lambda row: row.usage.formula,
    "anomalies": lambda row: list(row.anomalies),
    "error": lambda row: error_record(row.error),
}


def domain_record(row: DomainReport) -> Record:
    """One domain of a reading."""
    record = {key: get(row) for key, get in DOMAIN.items()}
    if row.refresh is not None:
        record["refresh"] = _timed(row.refresh) | {"error": error_record(row.refresh.error)}
    if row.rates is not None:
        per_second = {name: _rounded(rate, 3) for name, rate in row.rates.per_second.items()}
        record["rates"] = _fields(row.rates) | {"per_second": per_second}
    if type(row) is not DomainReport:
        record |= {key: get(row) for key, get in DIAGNOSIS.items()}
    return record


#: The additional keys of a diagnosis, which is the other kind of report.
DIAGNOSIS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "cause": lambda row: row.cause,
    "possible_causes": lambda row: [asdict(each) for each in row.possible_causes],
    "evidence": lambda row: [asdict(each) for each in row.evidence],
    "remedy": lambda row: row.remedy,
    "findings": lambda row: [asdict(each) for each in row.findings],
    "signs": lambda row: {"seen": list(row.seen), "absent": list(row.absent)},
}


def change_record(change: IntervalChange) -> Record:
    """One domain whose interval was set."""
    record = _fields(change) | {
        "before": _fields(change.before),
        "after": _fields(change.after),
        "error": error_record(change.error),
    }
    waited = record.pop("waited")
    return record if waited is None else record | {"waited": _timed(waited)}


def error_record(error: VirtballoonError | None) -> Record | None:
    """An error; ``code`` is libvirt's number, and ``reason`` says why a
    domain is busy."""
    if error is None:
        return None
    reason = error.reason if isinstance(error, Busy) else None
    return {"code": error.code, "message": error.message, "reason": reason, "hint": error.hint}


def host_record(host: HostReport | HostChanges | HostQomPath) -> Record:
    """One host with its domains."""
    record: Record = {
        "uri": host.uri,
        "hostname": host.hostname,
        "status": host.status,
        "error": error_record(host.error),
        "elapsed_seconds": _rounded(host.elapsed_seconds, 3),
    }
    if isinstance(host, HostReport):
        offset = host.clock.seconds if host.clock is not None else None
        record["clock_offset_seconds"] = _rounded(offset, 1)
        record["memory"] = memory_record(host.memory)
    return record | {"domains": domain_records(host)}


def memory_record(memory: HostMemory | None) -> Record | None:
    """The memory of a host."""
    if memory is None:
        return None
    ratios = {name: _rounded(getattr(memory, name), 4) for name in _MEMORY_RATIOS}
    return _fields(memory) | ratios


#: The keys of a host without its domains, and how to get the value of each from its
#: configuration, if it has one, and from what it answered.
PROBE: Final[Mapping[str, Callable[[ConfiguredHost | None, HostProbe], Any]]] = {
    "uri": lambda _, probe: probe.uri,
    "name": lambda host, _: host.name if host is not None else None,
    "groups": lambda host, _: list(host.groups) if host is not None else [],
    "hostname": lambda _, probe: probe.hostname,
    "status": lambda _, probe: probe.status,
    "error": lambda _, probe: error_record(probe.error),
    "elapsed_seconds": lambda _, probe: _rounded(probe.elapsed_seconds, 3),
    "running": lambda _, probe: probe.running,
    "defined": lambda _, probe: probe.defined,
    "memory": lambda _, probe: memory_record(probe.memory),
}


def probe_record(host: ConfiguredHost | None, probe: HostProbe) -> Record:
    """One host without its domains."""
    return {key: get(host, probe) for key, get in PROBE.items()}


def group_records(
    rows: Iterable[DomainReport], value: Callable[[DomainReport], Any]
) -> list[Record]:
    """Sums over the domains that have the same value, by value; those that have none are last."""
    from virtballoon.model.hostmemory import sums

    groups: dict[Any, list[DomainReport]] = {}
    for row in rows:
        groups.setdefault(value(row), []).append(row)
    return [
        {"value": key, "domains": len(groups[key])} | sums(groups[key])
        for key in sorted(groups, key=lambda key: (key is None, key))
    ]


def group_document(groups: list[Record], key: str, *, generated_at: float) -> Record:
    """A whole document of groups, which are by this column."""
    return _top(generated_at) | {"group_by": key, "groups": groups}


def group_columns() -> tuple[str, ...]:
    """The columns of groups."""
    from virtballoon.model.hostmemory import sums

    return ("value", "domains", *sums([]))


def domain_records(host: HostReport | HostChanges | HostQomPath) -> list[Record]:
    """The domains of one host."""
    if isinstance(host, HostReport):
        return [domain_record(row) for row in host.domains]
    from virtballoon.model.outcome import QomPath

    return [dict(vars(r)) if isinstance(r, QomPath) else change_record(r) for r in host.domains]


def document(hosts: Iterable[Record], *, generated_at: float) -> Record:
    """A whole document."""
    return _top(generated_at) | {"hosts": list(hosts)}


def _top(generated_at: float) -> Record:
    return {"schema": SCHEMA, "generated_at": timestamp(int(generated_at))}


def timestamp(seconds: int | None) -> str | None:
    """Epoch seconds as UTC, by ISO 8601; None for what no calendar has."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return None


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


# The columns of CSV: the keys, nested ones with those above them.


def domain_columns(
    *, refresh: bool = False, rates: bool = False, diagnosis: bool = False
) -> tuple[str, ...]:
    """The columns of a reading."""
    more = ["refresh"] * refresh + ["rates"] * rates + list(DIAGNOSIS) * diagnosis
    return _columns([*DOMAIN, *more])


def change_columns(*, waited: bool = False) -> tuple[str, ...]:
    """The columns of setting intervals."""
    from virtballoon.model.outcome import IntervalChange

    return _columns([key for key in IntervalChange.field_names if waited or key != "waited"])


def probe_columns() -> tuple[str, ...]:
    """The columns of hosts."""
    return _columns(PROBE)


def _columns(keys: Iterable[str]) -> tuple[str, ...]:
    from virtballoon.hypervisor import labels
    from virtballoon.model.hostmemory import HostMemory
    from virtballoon.model.outcome import Waited
    from virtballoon.model.rates import Rates
    from virtballoon.model.report import Refresh

    nested: dict[str, Sequence[str]] = {
        "balloon": Balloon.field_names,
        "interval": (*Interval.field_names, "in_force"),
        "labels": labels.names(),
        "before": Interval.field_names,
        "after": Interval.field_names,
        "stats": STATISTICS,
        "error": ("code", "message", "reason", "hint"),
        "refresh": Refresh.field_names,
        "rates": Rates.field_names,
        "per_second": COUNTERS,
        "waited": Waited.field_names,
        "signs": ("seen", "absent"),
        "memory": (*HostMemory.field_names, *_MEMORY_RATIOS),
    }

    def below(key: str) -> list[str]:
        inner = [name for each in nested.get(key, ()) for name in below(each)]
        return [f"{key}.{name}" for name in inner] or [key]

    return tuple(name for key in keys for name in below(key))
