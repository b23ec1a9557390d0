"""Advice as records, as a table, with all its evidence, and as commands of virsh."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TextIO

from virtballoon.render import columns, table, text
from virtballoon.render.documents import timestamp
from virtballoon.render.formats import Record
from virtballoon.sizing.day import DAY_SECONDS, bucket_start
from virtballoon.sizing.rule import HEADROOM, Advice, Sizing

_TEXT: Final = frozenset(
    {"name", "uuid", "uri", "verdict", "flat", "because", "profile"}
    | {"used_max_at", "started_at", "ended_at"}
)
#: The lines of a histogram, and the width of a bar, on a terminal.
_MOST_LINES: Final = 12
_BAR: Final = 40


def _day_records(advice: Advice) -> list[Record]:
    return [
        {
            "date": day.date.isoformat(),
            "covered_seconds": day.covered_seconds,
            "used_max_bytes": day.peak.value if day.peak is not None else None,
        }
        for day in advice.days
    ]


#: The keys of a domain's advice, and how to get the value of each; columns are derived from it.
ADVICE: Final[Mapping[str, Callable[[Advice], Any]]] = {
    "name": lambda row: row.name,
    "uuid": lambda row: row.uuid,
    "labels": lambda row: dict(row.history.labels),
    "verdict": lambda row: row.verdict,
    "flat": lambda row: row.is_flat,
    "because": lambda row: row.because,
    "profile": lambda row: row.profile,
    "current_bytes": lambda row: row.current_bytes,
    "maximum_bytes": lambda row: row.latest.maximum_bytes if row.latest else None,
    "need_bytes": lambda row: row.need_bytes,
    "gain_bytes": lambda row: row.gain_bytes,
    "reclaimable_bytes": lambda row: row.reclaimable_bytes,
    "used_p5_bytes": lambda row: row.percentile(0.05),
    "used_p50_bytes": lambda row: row.percentile(0.50),
    "used_p95_bytes": lambda row: row.percentile(0.95),
    "used_p99_bytes": lambda row: row.percentile(0.99),
    "used_max_bytes": lambda row: row.peak.value if row.peak else None,
    "used_max_at": lambda row: timestamp(row.peak.at) if row.peak else None,
    "cache_p50_bytes": lambda row: row.cache.percentile(0.50),
    "started_at": lambda row: timestamp(row.started_at),
    "ended_at": lambda row: timestamp(row.ended_at),
    "covered_seconds": lambda row: row.covered_seconds,
    "coverage_ratio": lambda row: round(row.coverage, 4),
    "oom_kills": lambda row: row.oom_kills,
    "pressure_hours": lambda row: row.pressure_hours,
    "restarts": lambda row: row.restarts,
    "resizes": lambda row: row.resizes,
}


class Total:
    """What the domains with too much of a host, or of another group, would free.

    :ivar value: the host's URI, or what the domains have in common
    :ivar over: the number of these
    :ivar gain_bytes: what they have more than they need
    :ivar reclaimable_bytes: what of that the host would get back; None where it is not known of one
    """

    def __init__(self, value: Any, rows: Sequence[Advice]) -> None:
        over = [row for row in rows if row.verdict is Sizing.OVER]
        freed = [row.reclaimable_bytes for row in over]
        self.value = value
        self.rows = rows
        self.over = len(over)
        self.gain_bytes = sum(row.gain_bytes or 0 for row in over)
        self.reclaimable_bytes = None if None in freed else sum(filter(None, freed))

    def record(self) -> Record:
        """Without the domains, as it stands in JSON."""
        return {
            "over_domains": self.over,
            "gain_bytes": self.gain_bytes,
            "reclaimable_bytes": self.reclaimable_bytes,
        }


def totals_by(rows: Sequence[Advice], value: Callable[[Advice], Any]) -> list[Total]:
    """The totals by a value of the domains; those that have none are last."""
    groups: dict[Any, list[Advice]] = {}
    for row in rows:
        groups.setdefault(value(row), []).append(row)
    ordered = sorted(groups, key=lambda found: (found is None, found))
    return [Total(found, groups[found]) for found in ordered]


def by_host(rows: Sequence[Advice]) -> list[Total]:
    """The totals by the domains' hosts."""
    return totals_by(rows, lambda row: row.uri)


def host_record(host: Total) -> Record:
    """A host with its domains as it stands in JSON."""
    domains = [record(row) for row in host.rows]
    return {"uri": host.value} | host.record() | {"domains": domains}


def group_records(rows: Sequence[Advice], by: columns.Column | None) -> Record:
    """The totals by a column, as a document has them."""
    if by is None:
        return {}
    groups = [
        {"value": total.value, "domains": len(total.rows)} | total.record()
        for total in totals_by(rows, by.value)
    ]
    return {"group_by": by.key, "groups": groups}


def record(row: Advice) -> Record:
    """The advice for a domain as it stands in JSON."""
    return {key: get(row) for key, get in ADVICE.items()} | {"days": _day_records(row)}


def advice_columns() -> tuple[str, ...]:
    """The columns of advice."""
    from virtballoon.hypervisor import labels

    named = (f"labels.{name}" for name in labels.names())
    return ("uri", *(key for key in ADVICE if key != "labels"), *named)


def column(word: str) -> columns.Column:
    """The column of advice that a word means.

    :raise ValueError: when there is none, with the nearest
    """
    key = columns.meant(word, advice_columns())
    label = key.removeprefix("labels.")
    get = ADVICE.get(key, lambda row: row.uri)
    if label != key:
        get = lambda row: row.history.labels.get(label)  # noqa: E731
    is_text = key in _TEXT or label != key
    return columns.Column(key, key, not is_text, get, lambda value, _exact: str(value))


def advice_table(
    rows: Sequence[Advice],
    *,
    by: columns.Column | None = None,
    with_header: bool,
    stream: TextIO,
) -> None:
    """Print a line per domain, and what each host would gain.

    :param by: the column whose values have lines in place of the hosts'
    """
    hosts = by_host(rows)
    titled = any(row.history.title for row in rows)
    heads = [("DOMAIN", False), *([("TITLE", False)] if titled else [])]
    heads += [("CURRENT", True), ("NEED", True), ("GAIN", True)]
    heads += [("VERDICT", False), ("BECAUSE", False), *([("HOST", False)] if hosts[1:] else [])]
    lines = []
    for row in rows:
        cells = [row.name, *([row.history.title or text.ABSENT] if titled else [])]
        cells += [text.size(row.current_bytes), text.size(row.need_bytes), gain(row.gain_bytes)]
        cells += [row.verdict.value + " (flat)" * row.is_flat, row.because]
        cells += [row.uri or text.ABSENT] if hosts[1:] else []
        lines.append([text.printable(cell) for cell in cells])
    table.print_table(heads, lines, with_header=with_header, stream=stream, titled=titled)
    what = "on" if by is None else f"of {by.key.rpartition('.')[2]}"
    for total in (hosts if by is None else totals_by(rows, by.value)) if with_header else ():
        if total.over:
            value = text.ABSENT if total.value is None else text.printable(str(total.value))
            stream.write(f"total {what} {value}: {totals(total)}\n")


def totals(total: Total) -> str:
    """What the domains with too much would free, for people."""
    gain, freed = text.size(total.gain_bytes), total.reclaimable_bytes
    back = "an unknown part" if freed is None else text.size(freed)
    return f"{text.counted(total.over, 'domain')} over, {gain} to gain, {back} for the host"


def gain(size: int | None) -> str:
    """A size that may be below 0."""
    return text.size(size) if size is None or size >= 0 else f"-{text.size(-size)}"


def evidence(row: Advice, *, stream: TextIO) -> None:
    """Print all that the advice for a domain is based on."""
    coloured = text.is_coloured(stream)
    title = f" ({row.history.title})" if row.history.title else ""
    verdict = row.verdict.value + " (flat)" * row.is_flat
    name = text.styled(text.printable(row.name + title), "bold", coloured=coloured)
    shown = text.styled(verdict, table.STYLES[row.verdict.value], coloured=coloured)
    stream.write(f"{name}: {shown}, {text.printable(row.because)}\n")
    for what, value in facts(row):
        stream.write(f"  {what:10}  {text.printable(value)}\n")
    if row.used.seconds:
        stream.write("  used, share of the time:\n")
    for low, high, share in bins(row, _MOST_LINES):
        bar = "#" * round(share * _BAR)
        amounts = f"{text.size(low):>10} to {text.size(high):>10}"
        stream.write(f"  {amounts}  {share:6.1%}  {bar}".rstrip() + "\n")
    stream.write("  days, by UTC:\n")
    for day in row.days:
        peak = text.size(day.peak.value) if day.peak else text.ABSENT
        covered = text.percent(min(1, day.covered_seconds / DAY_SECONDS))
        stream.write(f"  {day.date}  {covered:>4} covered, at most {peak:>10} used\n")


def facts(row: Advice) -> list[tuple[str, str]]:
    """What the advice for a domain is based on, and its names, for people; not yet sanitised."""
    latest, size = row.latest, text.size
    kept = None
    if latest is not None and None not in (latest.current_bytes, latest.total_bytes):
        kept = max(0, (latest.current_bytes or 0) - (latest.total_bytes or 0))
    percentiles = (f"{size(row.percentile(p / 100))} for {p}% of the time" for p in (50, 95, 99))
    peak = f"{size(row.peak.value)} at {timestamp(row.peak.at)}" if row.peak else text.ABSENT
    kills = "unknown" if row.oom_kills is None else str(row.oom_kills)
    maximum = latest.maximum_bytes if latest is not None else None
    return [
        ("UUID", row.uuid),
        ("host", ", before that ".join(row.history.uris) or text.ABSENT),
        ("window", f"{timestamp(row.started_at)} to {timestamp(row.ended_at)}"),
        ("covered", f"{text.percent(row.coverage)} of it by fresh figures"),
        ("current", f"{size(row.current_bytes)}, maximum {size(maximum)}"),
        ("kernel", f"{size(kept)} of it kept by the guest's kernel"),
        ("used", f"at most {', '.join(percentiles)}"),
        ("peak", peak),
        ("need", f"{size(row.need_bytes)}, by {row.profile} x {HEADROOM:.2f}"),
        ("gain", f"{gain(row.gain_bytes)}, for the host {size(row.reclaimable_bytes)}"),
        (
            "caches",
            f"{size(row.cache.percentile(0.5))} half of the time; a smaller size loses some",
        ),
        ("short", f"in {text.counted(row.pressure_hours, 'hour')}; OOM kills: {kills}"),
        (
            "changes",
            f"{text.counted(row.restarts, 'restart')}, {text.counted(row.resizes, 'resize')}",
        ),
    ]


def bins(row: Advice, most: int) -> list[tuple[int, int, float]]:
    """The histogram of used memory in at most so many parts: from, to, and the share of the
    time."""
    seconds = row.used.seconds
    if not seconds:
        return []
    first, last = min(seconds), max(seconds)
    step = -(-(last - first + 1) // most)
    total = row.used.total_seconds
    return [
        (
            bucket_start(low),
            bucket_start(low + step),
            sum(seconds.get(number, 0) for number in range(low, low + step)) / total,
        )
        for low in range(first, last + 1, step)
    ]


def commands(rows: Sequence[Advice], *, stream: TextIO) -> None:
    """Print the commands that give domains what they need, for a shell. Nothing runs them.

    Domains are named by UUID: virsh takes a name that is a number for an ID.
    """
    for row in rows:
        need, current = row.need_bytes, row.current_bytes
        is_meant = row.verdict in {Sizing.OVER, Sizing.UNDER}
        if not is_meant or need is None or current is None or row.uri is None:
            continue
        if (row.verdict is Sizing.UNDER) is not (need > current):
            continue
        maximum = row.latest.maximum_bytes if row.latest is not None else None
        virsh = shlex.join(["virsh", "-c", row.uri])
        size = f"{shlex.quote(row.uuid)} {need // 1024}KiB"
        title = f" ({row.history.title})" if row.history.title else ""
        reason = f"{row.verdict.value}, {row.because}; now {text.size(current)}"
        stream.write(f"# {text.printable(row.name + title)}: {text.printable(reason)}\n")
        if "://" not in row.uri:
            # The name of a host, by a Prometheus.
            stream.write(f"# the URI of its host is not known: {text.printable(row.uri)}\n")
            continue
        if maximum is None or need > maximum:
            stream.write("# from its next start:\n")
            stream.write(f"{virsh} setmaxmem {size} --config\n{virsh} setmem {size} --config\n")
        else:
            stream.write(f"{virsh} setmem {size} --live --config\n")
            if row.verdict is Sizing.OVER:
                stream.write(f"# and from its next start:\n{virsh} setmaxmem {size} --config\n")
