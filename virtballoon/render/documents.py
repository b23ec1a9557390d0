"""Reports as JSON, JSON lines and CSV. ``schema.json`` in the package describes the JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from virtballoon.configuration import ConfiguredHost
from virtballoon.errors import Busy, VirtballoonError
from virtballoon.model.report import DomainReport, HostReport, Interval

if TYPE_CHECKING:
    from virtballoon.doctor.results import Diagnosis, PossibleCause
    from virtballoon.model.outcome import HostChanges, HostProbe, IntervalChange, Waited
    from virtballoon.model.rates import Rates
    from virtballoon.model.report import Refresh

SCHEMA: Final = 1

#: What is indented in a document: the document, its hosts, a host, its domains.
_LEVELS: Final = 4

Record = dict[str, Any]


def domain_record(row: DomainReport) -> Record:
    """One domain of a reading, as it stands in a document."""
    balloon = row.balloon
    record: Record = {
        "name": row.name,
        "uuid": row.uuid,
        "id": row.id,
        "state": row.state.value,
        "machine": row.machine,
        "balloon": {"model": balloon.model, "alias": balloon.alias, "qom_path": balloon.qom_path}
        if balloon is not None
        else None,
        "interval": _interval(row.interval)
        | {"in_force": row.interval.in_force if balloon is not None else None},
        "verdict": row.verdict.value,
        "source": row.source.value,
        "last_update": timestamp(row.last_update),
        "age_seconds": _rounded(row.age_seconds, 1),
        "maximum_bytes": row.figures.maximum_bytes,
        "current_bytes": row.figures.current_bytes,
        "ballooned_bytes": row.figures.ballooned_bytes,
        "rss_bytes": row.figures.rss_bytes,
        "stats": row.stats.as_dict(),
        "used_bytes": row.usage.used_bytes,
        "used_ratio": _rounded(row.usage.ratio, 4),
        "used_formula": row.usage.formula.value if row.usage.formula is not None else None,
        "anomalies": [anomaly.value for anomaly in row.anomalies],
        "error": error_record(row.error),
    }
    if row.refresh is not None:
        record["refresh"] = refresh_record(row.refresh)
    if row.rates is not None:
        record["rates"] = rates_record(row.rates)
    return record if type(row) is DomainReport else record | _more(row)


def refresh_record(refresh: Refresh) -> Record:
    """Whether a guest's figures are as new as was wanted, as it stands in a document."""
    return {
        "fresh": refresh.fresh,
        "asked": refresh.asked,
        "seconds": _rounded(refresh.seconds, 1),
        "reason": refresh.reason.value if refresh.reason is not None else None,
        "restored": refresh.restored,
        "error": error_record(refresh.error),
    }


def rates_record(rates: Rates) -> Record:
    """What a guest did between two readings, as it stands in a document."""
    return {
        "elapsed_seconds": rates.elapsed_seconds,
        "reason": rates.reason.value if rates.reason is not None else None,
        "per_second": {name: _rounded(rate, 3) for name, rate in rates.per_second.items()},
        "oom_kills": rates.oom_kills,
    }


def _more(row: DomainReport) -> Record:
    """What a reading that is more than a reading has beside it."""
    # Not before it is needed: a list does without.
    from virtballoon.doctor.results import Diagnosis

    return _diagnosis_record(row) if isinstance(row, Diagnosis) else {}


def _diagnosis_record(row: Diagnosis) -> Record:
    return {
        "cause": row.cause.value if row.cause is not None else None,
        "possible_causes": [_cause_record(each) for each in row.possible_causes],
        "evidence": [
            {"asked": each.asked, "by": each.by.value, "answer": each.answer}
            for each in row.evidence
        ],
        "remedy": row.remedy,
        "findings": [_cause_record(each) for each in row.findings],
        "signs": {
            "seen": [sign.value for sign in row.seen],
            "absent": [sign.value for sign in row.absent],
        },
    }


def _cause_record(each: PossibleCause) -> Record:
    return {
        "cause": each.cause.value,
        "meaning": each.meaning,
        "remedy": each.remedy,
        "check": each.check,
    }


def change_record(change: IntervalChange) -> Record:
    """One domain whose interval was set, as it stands in a document."""
    record: Record = {
        "name": change.name,
        "uuid": change.uuid,
        "outcome": change.outcome.value,
        "changed": change.changed,
        "before": _interval(change.before),
        "after": _interval(change.after),
        "error": error_record(change.error),
    }
    if change.waited is not None:
        record["waited"] = waited_record(change.waited)
    return record


def waited_record(waited: Waited) -> Record:
    """Whether a guest has answered, as it stands in a document."""
    return {
        "answered": waited.answered,
        "seconds": _rounded(waited.seconds, 1),
        "reason": waited.reason.value if waited.reason is not None else None,
    }


def error_record(error: VirtballoonError | None) -> Record | None:
    """An error as it stands in a document; ``code`` is libvirt's number, and ``reason`` says why a
    domain is busy."""
    if error is None:
        return None
    reason = error.reason.value if isinstance(error, Busy) else None
    return {"code": error.code, "message": error.message, "reason": reason, "hint": error.hint}


def host_record(host: HostReport | HostChanges) -> Record:
    """One host, as it stands in a document, with its domains."""
    record: Record = {
        "uri": host.uri,
        "hostname": host.hostname,
        "status": host.status.value,
        "error": error_record(host.error),
        "elapsed_seconds": _rounded(host.elapsed_seconds, 3),
    }
    if isinstance(host, HostReport):
        offset = host.clock.seconds if host.clock is not None else None
        record["clock_offset_seconds"] = _rounded(offset, 1)
    return record | {"domains": domain_records(host)}


def probe_record(host: ConfiguredHost | None, probe: HostProbe) -> Record:
    """One host, as it stands in a document, without its domains.

    :param host: what the configuration calls it, if it does
    """
    return {
        "uri": probe.uri,
        "name": host.name if host is not None else None,
        "groups": list(host.groups) if host is not None else [],
        "hostname": probe.hostname,
        "status": probe.status.value,
        "error": error_record(probe.error),
        "elapsed_seconds": _rounded(probe.elapsed_seconds, 3),
        "running": probe.running,
        "defined": probe.defined,
    }


def domain_records(host: HostReport | HostChanges) -> list[Record]:
    """The domains of one host, as they stand in a document."""
    if isinstance(host, HostReport):
        return [domain_record(row) for row in host.domains]
    return [change_record(change) for change in host.domains]


def document(hosts: Iterable[Record], *, generated_at: float) -> Record:
    """A whole document."""
    return {"schema": SCHEMA, "generated_at": timestamp(int(generated_at)), "hosts": list(hosts)}


def to_json(value: Record) -> str:
    """A document as JSON, for people to read, too: indented, with a line for each domain."""
    return _laid_out(value, _LEVELS) + "\n"


def _laid_out(value: object, levels: int, indent: str = "") -> str:
    # json.dumps would indent every level or none, and takes ten times as long over indenting.
    inner = indent + "  "
    if levels and value and isinstance(value, dict):
        pairs = value.items()
        lines = [f"{json.dumps(k)}: {_laid_out(v, levels - 1, inner)}" for k, v in pairs]
        return f"{{\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}}}"
    if levels and value and isinstance(value, list):
        lines = [_laid_out(item, levels - 1, inner) for item in value]
        return f"[\n{inner}" + f",\n{inner}".join(lines) + f"\n{indent}]"
    return json.dumps(value)


def to_jsonl(records: Iterable[Record]) -> str:
    """Records as JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


def to_csv(records: Iterable[Record], columns: Sequence[str]) -> str:
    """Records as CSV with a header; nested keys are joined with a dot, null is an empty cell."""
    flat = (flattened(record) for record in records)
    rows = [columns, *([_cell(cells.get(column)) for column in columns] for cells in flat)]
    return "".join(_csv_line(row) for row in rows)


def _csv_line(cells: Sequence[object]) -> str:
    import csv
    import io

    # The module quotes a lone carriage return only where that ends its lines.
    out = io.StringIO()
    csv.writer(out, lineterminator="\r\n").writerow(cells)
    return out.getvalue().removesuffix("\r\n") + "\n"


def flattened(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A record without nesting: keys joined with a dot."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def timestamp(seconds: int | None) -> str | None:
    """Epoch seconds as UTC, by ISO 8601; None for what no calendar has."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return None


def _interval(interval: Interval) -> Record:
    return {
        "live": interval.live,
        "config": interval.config,
        "saved": interval.saved,
        "qemu": interval.qemu,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _cell(value: object) -> object:
    if value is None:
        return ""
    if isinstance(value, list):
        return ",".join(value) if all(isinstance(v, str) for v in value) else _listed(value)
    return str(value).lower() if isinstance(value, bool) else value


def _listed(records: Iterable[Mapping[str, Any]]) -> str:
    """Records in one cell, each by what it is about and what was said of it."""
    told = (
        record["cause"] if "cause" in record else f"{record['asked']}: {record['answer']}"
        for record in records
    )
    return "\n".join(told)
