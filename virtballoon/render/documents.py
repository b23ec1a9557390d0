"""Reports as records, as they stand in JSON, JSON lines and CSV. ``schema.json`` in the package
describes the JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from virtballoon.errors import Busy, VirtballoonError
from virtballoon.model.balloon import Balloon
from virtballoon.model.memory import Figures
from virtballoon.model.report import DomainReport, HostReport, HostStatus, Interval
from virtballoon.model.source import Source
from virtballoon.model.verdict import State
from virtballoon.render.formats import Record, columns_of

if TYPE_CHECKING:
    from virtballoon.configuration import ConfiguredHost
    from virtballoon.doctor.results import Diagnosis, PossibleCause
    from virtballoon.model.outcome import HostChanges, HostProbe, IntervalChange, Waited
    from virtballoon.model.rates import Rates
    from virtballoon.model.report import Refresh

SCHEMA: Final = 1

#: An error to derive columns from.
_SAMPLE: Final = VirtballoonError("")


def _balloon(balloon: Balloon | None) -> Record | None:
    if balloon is None:
        return None
    return {"model": balloon.model, "alias": balloon.alias, "qom_path": balloon.qom_path}


def _in_force(row: DomainReport) -> Record:
    in_force = row.interval.in_force if row.balloon is not None else None
    return _interval(row.interval) | {"in_force": in_force}


#: The keys of a domain of a reading, and how to get the value of each; columns are derived from it.
DOMAIN: Final[Mapping[str, Callable[[DomainReport], Any]]] = {
    "name": lambda row: row.name,
    "uuid": lambda row: row.uuid,
    "id": lambda row: row.id,
    "state": lambda row: row.state.value,
    "machine": lambda row: row.machine,
    "balloon": lambda row: _balloon(row.balloon),
    "interval": _in_force,
    "verdict": lambda row: row.verdict.value,
    "source": lambda row: row.source.value,
    "last_update": lambda row: timestamp(row.last_update),
    "age_seconds": lambda row: _rounded(row.age_seconds, 1),
    "maximum_bytes": lambda row: row.figures.maximum_bytes,
    "current_bytes": lambda row: row.figures.current_bytes,
    "ballooned_bytes": lambda row: row.figures.ballooned_bytes,
    "rss_bytes": lambda row: row.figures.rss_bytes,
    "stats": lambda row: row.stats.as_dict(),
    "used_bytes": lambda row: row.usage.used_bytes,
    "used_ratio": lambda row: _rounded(row.usage.ratio, 4),
    "used_formula": lambda row: _value(row.usage.formula),
    "anomalies": lambda row: [anomaly.value for anomaly in row.anomalies],
    "error": lambda row: error_record(row.error),
}


def domain_record(row: DomainReport) -> Record:
    """One domain of a reading."""
    record = {key: get(row) for key, get in DOMAIN.items()}
    if row.refresh is not None:
        record["refresh"] = refresh_record(row.refresh)
    if row.rates is not None:
        record["rates"] = rates_record(row.rates)
    return record if type(row) is DomainReport else record | _more(row)


def domain_columns(
    *, refresh: bool = False, rates: bool = False, kind: type[DomainReport] = DomainReport
) -> tuple[str, ...]:
    """The columns of a reading in CSV.

    :param kind: what the domains are
    """
    from virtballoon.model.rates import Rates
    from virtballoon.model.report import Refresh

    row = kind.of(
        name="",
        uuid="",
        id=None,
        state=State.RUNNING,
        balloon=Balloon(model=None),
        interval=Interval(),
        source=Source.LIBVIRT,
        figures=Figures(),
        host="",
        now=0.0,
        error=_SAMPLE,
    )
    more = refresh_record(Refresh(fresh=None, error=_SAMPLE))
    record = domain_record(row) | ({"refresh": more} if refresh else {})
    return columns_of(record | ({"rates": rates_record(Rates())} if rates else {}))


def refresh_record(refresh: Refresh) -> Record:
    """Whether a guest's figures are as new as was wanted."""
    return {
        "fresh": refresh.fresh,
        "asked": refresh.asked,
        "seconds": _rounded(refresh.seconds, 1),
        "reason": _value(refresh.reason),
        "restored": refresh.restored,
        "error": error_record(refresh.error),
    }


def rates_record(rates: Rates) -> Record:
    """The rates between two readings."""
    return {
        "elapsed_seconds": rates.elapsed_seconds,
        "reason": _value(rates.reason),
        "per_second": {name: _rounded(rate, 3) for name, rate in rates.per_second.items()},
        "oom_kills": rates.oom_kills,
    }


def _more(row: DomainReport) -> Record:
    """The additional keys of a diagnosis."""
    # Not before it is needed: a list does without.
    from virtballoon.doctor.results import Diagnosis

    return _diagnosis_record(row) if isinstance(row, Diagnosis) else {}


def _diagnosis_record(row: Diagnosis) -> Record:
    return {
        "cause": _value(row.cause),
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
    """One domain whose interval was set."""
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


def change_columns(*, waited: bool = False) -> tuple[str, ...]:
    """The columns of setting intervals in CSV."""
    from virtballoon.model.outcome import IntervalChange, Outcome, Waited

    change = IntervalChange(
        name="",
        uuid="",
        outcome=Outcome.FAILED,
        changed=False,
        before=Interval(),
        after=Interval(),
        error=_SAMPLE,
        waited=Waited(answered=None) if waited else None,
    )
    return columns_of(change_record(change))


def waited_record(waited: Waited) -> Record:
    """Whether a guest has answered."""
    return {
        "answered": waited.answered,
        "seconds": _rounded(waited.seconds, 1),
        "reason": _value(waited.reason),
    }


def error_record(error: VirtballoonError | None) -> Record | None:
    """An error; ``code`` is libvirt's number, and ``reason`` says why a
    domain is busy."""
    if error is None:
        return None
    reason = error.reason.value if isinstance(error, Busy) else None
    return {"code": error.code, "message": error.message, "reason": reason, "hint": error.hint}


def host_record(host: HostReport | HostChanges) -> Record:
    """One host with its domains."""
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
    """One host without its domains.

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


def probe_columns() -> tuple[str, ...]:
    """The columns of hosts in CSV."""
    from virtballoon.model.outcome import HostProbe

    probe = HostProbe(
        uri="",
        hostname=None,
        status=HostStatus.UNREACHABLE,
        error=_SAMPLE,
        elapsed_seconds=0.0,
        running=None,
        defined=None,
    )
    return columns_of(probe_record(None, probe))


def domain_records(host: HostReport | HostChanges) -> list[Record]:
    """The domains of one host."""
    if isinstance(host, HostReport):
        return [domain_record(row) for row in host.domains]
    return [change_record(change) for change in host.domains]


def document(hosts: Iterable[Record], *, generated_at: float) -> Record:
    """A whole document."""
    return {"schema": SCHEMA, "generated_at": timestamp(int(generated_at)), "hosts": list(hosts)}


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


def _value(member: StrEnum | None) -> str | None:
    return None if member is None else member.value


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
