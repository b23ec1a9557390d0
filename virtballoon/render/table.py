"""Tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, TextIO

from virtballoon.model.statistics import STATISTIC_BY_NAME, Unit
from virtballoon.model.verdict import Verdict
from virtballoon.render import text
from virtballoon.render.columns import TITLE, Column, column, figure_name, figures

if TYPE_CHECKING:
    from virtballoon.configuration import ConfiguredHost
    from virtballoon.model.outcome import HostChanges, HostProbe
    from virtballoon.model.rates import Rates
    from virtballoon.model.report import DomainReport, HostReport
    from virtballoon.render.formats import Record

#: The colours of verdicts, outcomes and states of hosts.
STYLES: Final = {
    **{verdict.value: verdict.style for verdict in Verdict},
    "changed": "green",
    "unchanged": "dim",
    "skipped": "dim",
    "ok": "green",
    "unreachable": "bold red",
    "over": "yellow",
    "under": "bold red",
    "right": "green",
    "unknown": "dim",
}
_GAP: Final = "  "
#: The first column, the name, is cut to this width before others are.
_NARROWEST_NAME: Final = 12
#: Of a list with titles, what is left out on a terminal that has no room for all.
_LEFT_OUT: Final = ("TOTAL", "INTERVAL")


def list_table(
    rows: Sequence[tuple[HostReport, DomainReport]],
    columns: Sequence[Column],
    *,
    exact: bool,
    with_host: bool,
    with_header: bool = True,
    stream: TextIO,
) -> None:
    """Print a line per domain, with the host last where there are several."""
    heads = [(c.title, c.is_number) for c in columns] + [("HOST", False)] * with_host
    lines = [
        [column.cell(row, exact=exact) for column in columns]
        + [text.printable(host.uri)] * with_host
        for host, row in rows
    ]
    titled = TITLE in columns
    print_table(heads, lines, titled=titled, with_header=with_header, stream=stream)


def groups_table(
    records: Sequence[Record], column: Column, *, exact: bool, with_header: bool, stream: TextIO
) -> None:
    """Print a line per group of domains."""
    heads = [(column.title, column.is_number)]
    heads += [(title, True) for title in ("DOMAINS", "CURRENT", "USED", "UNKNOWN")]
    lines = [
        [
            column.show(group["value"], exact),
            str(group["domains"]),
            text.size(group["current_bytes"], exact=exact),
            text.span(group["used_min_bytes"], group["used_max_bytes"], exact=exact),
            str(group["unknown_domains"]),
        ]
        for group in records
    ]
    print_table(heads, lines, with_header=with_header, stream=stream)


def totals(hosts: Sequence[HostReport], *, stream: TextIO) -> None:
    """Print a line for the memory of each host whose running domains have all been read."""
    for host in hosts:
        if host.memory is not None and host.memory.unknown_domains is not None:
            name = text.printable(host.hostname or host.uri)
            stream.write(f"total on {name}: {text.host_memory(host.memory)}\n")


def stats_blocks(
    rows: Sequence[tuple[HostReport, DomainReport]],
    *,
    exact: bool,
    with_host: bool,
    stream: TextIO,
) -> None:
    """Print a block per domain with every statistic."""
    coloured = text.is_coloured(stream)
    for index, (host, row) in enumerate(rows):
        interval = text.seconds(row.interval.in_force)
        facts = [row.verdict.value, f"from {text.source(row.source)}", f"interval {interval}"]
        if row.age_seconds is not None:
            facts.append(f"{text.duration(row.age_seconds)} old")
        if row.refresh is not None:
            facts.append(text.refreshed(row.refresh))
        if row.rates is not None:
            facts.append(text.rated(row.rates))
        if with_host:
            facts.append(text.printable(host.uri))
        name = text.styled(text.printable(row.name), "bold", coloured=coloured)
        stream.write(f"{chr(10) * bool(index)}{name}: {', '.join(facts)}\n")
        rates = _rates(row.rates, exact=exact)
        lines = [
            [f"  {figure_name(key)}", column(key).cell(row, exact=exact), rates.get(key, "")]
            for key in figures(row)
        ]
        heads = [("", False), ("", True), ("", True)]
        print_table(heads, lines, with_header=False, stream=stream)
        for anomaly in row.anomalies:
            stream.write(f"  {anomaly.value}: {anomaly.text}\n")


def _rates(rates: Rates | None, *, exact: bool) -> dict[str, str]:
    """The cells behind the statistics; none where there are no rates."""
    if rates is None or rates.reason is not None:
        return {}
    cells = {}
    for name, rate in rates.per_second.items():
        sized = STATISTIC_BY_NAME[name].unit is Unit.BYTES and not exact
        if rate is None:
            cells[f"stats.{name}"] = text.ABSENT
        else:
            cells[f"stats.{name}"] = f"{text.size(round(rate)) if sized else f'{rate:.1f}'}/s"
    if rates.oom_kills is not None:
        cells["stats.oom_kills"] = f"+{rates.oom_kills}"
    return cells


def changes_table(
    hosts: Sequence[HostChanges],
    *,
    with_qemu: bool,
    with_wait: bool = False,
    with_host: bool,
    with_header: bool = True,
    stream: TextIO,
) -> None:
    """Print a line per domain with its intervals before and after."""
    titles = ["DOMAIN", "OUTCOME", "LIVE", "CONFIG"] + ["QEMU"] * with_qemu
    titles += ["ANSWERED"] * with_wait + ["HOST"] * with_host
    lines = []
    for host in hosts:
        for change in host.domains:
            before, after = change.before, change.after
            cells = [text.printable(change.name), change.outcome.value]
            cells += [_from_to(before.live, after.live), _from_to(before.config, after.config)]
            cells += [_from_to(before.qemu, after.qemu)] * with_qemu
            waited = text.ABSENT if change.waited is None else text.waiting(change.waited)
            lines.append(cells + [waited] * with_wait + [text.printable(host.uri)] * with_host)
    heads = [(title, False) for title in titles]
    print_table(heads, lines, with_header=with_header, stream=stream)


def _from_to(before: int | None, after: int | None) -> str:
    if before == after:
        return text.seconds(after)
    return f"{text.seconds(before)} -> {text.seconds(after)}"


def hosts_table(
    rows: Sequence[tuple[ConfiguredHost | None, HostProbe]],
    *,
    with_header: bool = True,
    stream: TextIO,
) -> None:
    """Print a line per host: its name in the configuration, and what it reported."""
    heads = [
        *((title, False) for title in ("NAME", "STATUS", "HOSTNAME")),
        *((title, True) for title in ("RUNNING", "DEFINED", "TOTAL", "AVAILABLE")),
        *((title, True) for title in ("CURRENT", "OVERCOMMIT", "USED", "TIME")),
        *((title, False) for title in ("GROUPS", "URI")),
    ]
    lines = []
    for host, probe in rows:
        name, groups = (host.name, ", ".join(host.groups)) if host is not None else ("", "")
        counts = [text.ABSENT if n is None else str(n) for n in (probe.running, probe.defined)]
        cells = [name, probe.status.value, probe.hostname or "", *counts]
        memory = probe.memory
        if memory is not None:
            numbers = [memory.total_bytes, memory.available_bytes, memory.current_bytes]
            cells += [*map(text.size, numbers), text.percent(memory.current_ratio)]
            cells.append(text.span(memory.used_min_bytes, memory.used_max_bytes))
        else:
            cells += [""] * 5
        cells += [f"{probe.elapsed_seconds:.2f} s", groups, probe.uri]
        lines.append([text.printable(cell or text.ABSENT) for cell in cells])
    print_table(heads, lines, with_header=with_header, stream=stream)


def print_table(
    heads: Sequence[tuple[str, bool]],
    lines: Sequence[list[str]],
    *,
    with_header: bool,
    stream: TextIO,
    titled: bool = False,
) -> None:
    """Print a plain table: as wide as it needs in a pipe, cut to the width of a terminal.

    :param heads: the headings, each with whether the column is flush right
    :param titled: whether the second column is a title, which is cut before the first
    """
    heading = [title for title, _ in heads]
    rows = [*([heading] if with_header else []), *lines]
    if not rows:
        return
    coloured = text.is_coloured(stream)
    limit = text.terminal_width(stream) if stream.isatty() else None
    widths = [max(map(text.width, cells)) for cells in zip(*rows, strict=True)]
    if limit is not None:
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - limit
        for word in _LEFT_OUT if titled else ():
            if excess > max(0, widths[1] - _NARROWEST_NAME):
                index = heading.index(word)
                excess -= widths[index] + len(_GAP)
                heads = [head for head in heads if head[0] != word]
                del widths[index]
                for cells in (heading, *lines):
                    del cells[index]
        for index in (1, 0) if titled else (0,):
            cut = min(max(0, excess), max(0, widths[index] - _NARROWEST_NAME))
            widths[index] -= cut
            excess -= cut
    for cells in rows:
        parts = []
        for cell, wide, (_, flush_right) in zip(cells, widths, heads, strict=True):
            shown = text.cut(cell, wide)
            blank = " " * (wide - text.width(shown))
            parts.append(blank + shown if flush_right else shown + blank)
        line = _GAP.join(parts).rstrip()
        if limit:
            line = text.cut(line, limit)
        if coloured:
            line = _coloured(line, cells, is_heading=cells is heading)
        stream.write(f"{line}\n")


def _coloured(line: str, cells: Sequence[str], *, is_heading: bool) -> str:
    if is_heading:
        return text.styled(line, "bold", coloured=True)
    for word in {cell.removesuffix(" (flat)") for cell in cells[1:]} & STYLES.keys():
        before, gap, after = line.rpartition(f"{_GAP}{word}")
        if gap:
            line = f"{before}{_GAP}{text.styled(word, STYLES[word], coloured=True)}{after}"
    return line
