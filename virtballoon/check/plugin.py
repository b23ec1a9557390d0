"""A check as the monitoring plugins' guidelines want it: a status line, performance data, and a
line for each problem and for each domain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from virtballoon.check.judging import (
    CheckedDomain,
    CheckResult,
    CheckStatus,
    Measure,
    Measurement,
    Thresholds,
)
from virtballoon.check.ranges import Range, number
from virtballoon.model.verdict import Verdict
from virtballoon.render import text

#: What the service is called in the status line.
SERVICE: Final = "MEMORY"

#: The status line without its performance data, which a pager or a phone has to show.
_WIDTH: Final = 80
_NAME_WIDTH: Final = 24

#: The counters that performance data has.
_COUNTERS: Final = ("swap_in", "swap_out", "major_faults", "oom_kills")


def status_line(status: CheckStatus, message: str) -> str:
    """The status line."""
    return _cut(f"{SERVICE} {status.name} - {safe(message)}", _WIDTH)


def failure(message: str) -> str:
    """What the plugin prints when it could not start."""
    message = " ".join(message.split())
    first = status_line(CheckStatus.UNKNOWN, message)
    return first if first.endswith(safe(message)) else f"{first}\n{safe(message)}"


def output(
    result: CheckResult,
    *,
    names: Mapping[str, str],
    everything: bool = False,
    perfdata: bool = True,
    quiet: bool = False,
) -> str:
    """Everything that the plugin prints.

    :param names: what to call a host, by its URI, where not by its own name
    :param everything: more performance data for each domain
    :param quiet: without the domains that are well
    """
    labels = _labels(result, names)
    first = status_line(result.status, summary(result, labels))
    if perfdata:
        first += f" | {' '.join(_perfdata(result, labels, everything=everything))}"
    return "\n".join([first, *_long(result, labels, quiet=quiet)]) + "\n"


def summary(result: CheckResult, labels: Mapping[str, str] | None = None) -> str:
    """What the status line says behind the state.

    :param labels: what stands before a domain's name, by its host's URI
    """
    labels = labels or {}
    rows = _worst_first(result)
    bad = [row for row in rows if row.status is not CheckStatus.OK]
    problems = sorted(result.problems, key=lambda problem: -problem.status.severity)
    problems = [problem for problem in problems if problem.status is not CheckStatus.OK]
    count = len(bad) + len(problems)
    is_bad = bool(bad) and bad[0].status is result.status
    if problems and not is_bad:
        more = f" (and {count - 1} more)" if count > 1 else ""
        return _cut(problems[0].message, _WIDTH - 20 - len(more)) + more
    if bad:
        name = _cut(_name(bad[0], labels), _NAME_WIDTH)
        others = len(rows) - 1
        more = f"; {count - 1} more not OK" if count > 1 else ""
        of = f" ({text.counted(len(rows), 'domain')}{more})" if others or more else ""
        return f"{name}: {_briefly(bad[0])}{of}"
    return _all_well(result, labels)


def _all_well(result: CheckResult, labels: Mapping[str, str]) -> str:
    rows = result.domains
    if not rows:
        return "no domain is running"
    domains = text.counted(len(rows), "domain")
    fresh = [row for row in rows if row.report.verdict is Verdict.FRESH]
    if not fresh:
        return f"{domains}, none with figures to judge"
    fullest = max(fresh, key=lambda row: row.report.usage.percent or 0)
    most = fullest.report.usage.percent or 0
    name = _cut(_name(fullest, labels), _NAME_WIDTH)
    unjudged = f", {len(rows) - len(fresh)} not judged" if len(fresh) < len(rows) else ""
    first = ", no rates yet" if result.is_first else ""
    return f"{domains}, at most {most:.1f}% used by {name}{unjudged}{first}"


def _worst_first(result: CheckResult) -> list[CheckedDomain]:
    return sorted(result.domains, key=lambda row: -row.status.severity)


def _name(row: CheckedDomain, labels: Mapping[str, str]) -> str:
    return labels.get(row.host.uri, "") + row.report.name


def _long(result: CheckResult, labels: Mapping[str, str], *, quiet: bool) -> Iterator[str]:
    for problem in result.problems:
        yield safe(f"[{problem.status.name}] {problem.message}")
    for row in _worst_first(result):
        if not quiet or row.status is not CheckStatus.OK:
            yield safe(f"[{row.status.name}] {_name(row, labels)}: {', '.join(details(row))}")
    if result.is_first:
        yield "No former readings to compare with: rates come with the next run."


def details(row: CheckedDomain) -> list[str]:
    """The details of one domain, problems first."""
    report = row.report
    alarms = [m for m in row.measurements if m.status is not CheckStatus.OK]
    said = [_measured(m, with_range=True) for m in alarms]
    if report.verdict is not Verdict.FRESH:
        why = report.error.message if report.error is not None else report.verdict.meaning
        said.insert(0, f"{report.verdict.value}: {why}")
    else:
        if any(m.measure is Measure.PRESSURE for m in row.measurements):
            said.append(report.pressure.text)
        others = [m for m in row.measurements if m not in alarms and m.value is not None]
        # The age follows in any case.
        said += [_measured(m) for m in others if m.measure is not Measure.AGE]
        if report.usage.used_bytes is not None:
            total = text.size(report.usage.total_bytes)
            said.append(f"{text.size(report.usage.used_bytes)} of {total}")
    said += [anomaly.text for anomaly in report.anomalies]
    if report.rates is not None and report.verdict is Verdict.FRESH:
        said.append(text.rated(report.rates))
    if report.age_seconds is not None and report.verdict.was_read:
        source = text.source(report.source)
        said.append(f"figures {text.duration(max(0.0, report.age_seconds))} old from {source}")
    return said


def _briefly(row: CheckedDomain) -> str:
    alarms = [m for m in row.measurements if m.status is row.status]
    if alarms:
        return _measured(alarms[0])
    return f"{row.report.verdict.value}, {row.report.verdict.meaning}"


def _measured(measurement: Measurement, *, with_range: bool = False) -> str:
    if measurement.value is None:
        return measurement.measure.missing
    said = measurement.measure.text(measurement.value)
    broken = measurement.thresholds.broken(measurement.status)
    return f"{said} (range {broken})" if with_range and broken is not None else said


def _labels(result: CheckResult, names: Mapping[str, str]) -> dict[str, str]:
    """What stands before a domain's name, by its host's URI; nothing where there is one host."""
    if len(result.hosts) < 2:  # noqa: PLR2004
        return {}
    hosts = {r.uri: names.get(r.uri) or r.hostname or r.uri for r in result.hosts}
    # Two ways to a host, or two hosts that took the same name.
    called = list(hosts.values())
    return {uri: f"{name if called.count(name) == 1 else uri}/" for uri, name in hosts.items()}


def _perfdata(result: CheckResult, labels: Mapping[str, str], *, everything: bool) -> Iterator[str]:
    """The numbers of domains and of those judged, the fresh used memory of each, and every other
    figure that was judged; with ``everything`` also used bytes, age and counters."""
    rows = result.domains
    judged = sum(row.report.verdict is Verdict.FRESH for row in rows)
    yield f"'domains'={_datum(len(rows))}"
    yield f"'judged'={_datum(judged, maximum=len(rows))}"
    taken: set[str] = set()
    for m in result.measurements:
        if m.value is not None:
            label = _label(f"{labels.get(m.host.uri, '')}host {m.measure}")
            taken.add(label)
            yield f"{label}={_datum(round(m.value, 2), '%', None, m.thresholds)}"
    for row in rows:
        name = _name(row, labels)
        for figure, datum in _figures(row, everything=everything):
            label = _label(f"{name} {figure}")
            if label in taken:
                # What makes names differ can be what does not survive in a label.
                label = _label(f"{name} {row.report.uuid} {figure}")
            taken.add(label)
            yield f"{label}={datum}"


def _figures(row: CheckedDomain, *, everything: bool) -> Iterator[tuple[str, str]]:
    """The figures of a domain: what each is, and what is said of it."""
    report, usage = row.report, row.report.usage
    values = {m.measure: m.value for m in row.measurements}
    thresholds = {m.measure: m.thresholds for m in row.measurements}
    fresh = report.verdict is Verdict.FRESH
    if Measure.PRESSURE in values:
        pressure = report.pressure
        values.setdefault(Measure.SWAP, pressure.swap_per_second)
        values.setdefault(Measure.FAULTS, pressure.faults_per_second)
        values.setdefault(Measure.OOM, pressure.oom_kills)
    if fresh:
        values.setdefault(Measure.USED, usage.percent)
    if everything and report.verdict.can_update:
        values.setdefault(Measure.AGE, report.age_seconds)
    for measure in sorted(values, key=list(Measure).index):
        value = values[measure]
        if value is not None:
            value = max(0, round(value, 1 if measure is Measure.AGE else 2))
            maximum = 100 if measure is Measure.USED else None
            judged_by = thresholds.get(measure, Thresholds())
            yield measure.label, _datum(value, measure.unit, maximum, judged_by)
    if everything and fresh:
        if usage.used_bytes is not None:
            yield "used_bytes", _datum(usage.used_bytes, "B", usage.total_bytes)
        for name in _COUNTERS:
            if (count := getattr(report.stats, name)) is not None:
                yield name, _datum(count, "c")


def _datum(
    value: float,
    unit: str = "",
    maximum: float | None = None,
    thresholds: Sequence[Range | None] = (None, None),
) -> str:
    """A figure in the form of the guidelines; the unit of a counter is ``c``."""
    limits = ["" if limit is None else str(limit) for limit in thresholds]
    most = "" if maximum is None else number(maximum)
    return ";".join([f"{number(value)}{unit}", *limits, "0", most]).rstrip(";")


def _label(label: str) -> str:
    return "'" + safe(label).replace("=", "\\x3d").replace("'", "''") + "'"


def safe(line: str) -> str:
    """A text in one line that does not begin the performance data."""
    return text.printable(line).replace("|", "\\x7c")


def _cut(line: str, width: int) -> str:
    return line if len(line) <= width else line[: width - 1] + "…"
