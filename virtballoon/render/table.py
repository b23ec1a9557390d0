"""Tables for people."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, TextIO

from rich.console import Console
from rich.text import Text

from virtballoon.configuration import ConfiguredHost
from virtballoon.model.outcome import HostChanges, HostProbe, Outcome, Waited
from virtballoon.model.rates import Rates
from virtballoon.model.report import DomainReport, HostReport, HostStatus, Interval
from virtballoon.model.source import Source
from virtballoon.model.statistics import STATISTIC_BY_NAME, Unit
from virtballoon.model.verdict import Verdict
from virtballoon.render import phrases, text
from virtballoon.render.columns import Column, column

_STYLES: Final = {
    **{verdict.value: verdict.traits.style for verdict in Verdict},
    Outcome.CHANGED.value: "green",
    Outcome.UNCHANGED.value: "dim",
    Outcome.SKIPPED.value: "dim",
    HostStatus.OK.value: "green",
    HostStatus.UNREACHABLE.value: "bold red",
}
_GAP: Final = "  "
#: The first column, the name, is cut down to this width before anything else is.
_NARROWEST_NAME: Final = 12


def list_table(
    rows: Sequence[tuple[HostReport, DomainReport]],
    columns: Sequence[Column],
    *,
    exact: bool,
    with_host: bool,
    stream: TextIO,
) -> None:
    """Print a line per domain, with the host behind it where there is more than one."""
    table = _Table([(c.title, c.is_number) for c in columns] + [("HOST", False)] * with_host)
    for host, row in rows:
        cells = [
            verdict_text(c.cell(row, exact=exact), is_verdict=c.key == "verdict") for c in columns
        ]
        table.add(cells + [Text(text.printable(host.uri))] * with_host)
    table.print(stream)


def stats_blocks(
    rows: Sequence[tuple[HostReport, DomainReport]],
    *,
    exact: bool,
    with_host: bool,
    stream: TextIO,
) -> None:
    """Print every statistic of each domain, a block a domain."""
    for index, (host, row) in enumerate(rows):
        if index:
            stream.write("\n")
        source = "libvirt" if row.source is Source.LIBVIRT else "QEMU"
        interval = text.seconds(row.interval.in_force)
        facts = [row.verdict.value, f"from {source}", f"interval {interval}"]
        if row.age_seconds is not None:
            facts.append(f"{text.duration(row.age_seconds)} old")
        if row.refresh is not None:
            facts.append(phrases.refreshed(row.refresh))
        if row.rates is not None:
            facts.append(phrases.rated(row.rates))
        heading = Text(text.printable(row.name), style="bold")
        if with_host:
            facts.append(text.printable(host.uri))
        console(stream).print(heading.append(f": {', '.join(facts)}"), soft_wrap=True)
        rates = _rates(row.rates, exact=exact)
        table = _Table([("", False), ("", True)] + [("", True)] * bool(rates), heading=False)
        statistics = [f"stats.{name}" for name in row.stats.as_dict()]
        others = ["used_bytes", "used_ratio", "current_bytes", "ballooned_bytes"]
        others += ["maximum_bytes", "rss_bytes"]
        for key in (*statistics, *others):
            name = key.removeprefix("stats.").removesuffix("_bytes")
            cells = [Text(f"  {text.printable(name)}"), Text(column(key).cell(row, exact=exact))]
            table.add(cells + [Text(rates.get(key, ""))] * bool(rates))
        table.print(stream)
        for anomaly in row.anomalies:
            console(stream).print(Text(f"  {anomaly.value}: {anomaly.text}"), soft_wrap=True)


def _rates(rates: Rates | None, *, exact: bool) -> dict[str, str]:
    """What stands beside each statistic; nothing at all where nothing can be said."""
    if rates is None or rates.reason is not None:
        return {}
    cells = {f"stats.{n}": text.ABSENT for n, rate in rates.per_second.items() if rate is None}
    for name, rate in rates.per_second.items():
        if rate is not None:
            sized = STATISTIC_BY_NAME[name].unit is Unit.BYTES and not exact
            amount = text.size(round(rate)) if sized else f"{rate:.1f}"
            cells[f"stats.{name}"] = f"{amount}/s"
    if rates.oom_kills is not None:
        cells["stats.oom_kills"] = f"+{rates.oom_kills}"
    return cells


def changes_table(
    hosts: Sequence[HostChanges],
    *,
    with_qemu: bool,
    with_wait: bool = False,
    with_host: bool,
    stream: TextIO,
) -> None:
    """Print a line per domain with what it was and what it is."""
    titles = ["DOMAIN", "OUTCOME", "LIVE", "CONFIG"] + ["QEMU"] * with_qemu
    titles += ["ANSWERED"] * with_wait + ["HOST"] * with_host
    table = _Table([(title, False) for title in titles])
    for host in hosts:
        for change in host.domains:
            pairs = zip(_intervals(change.before), _intervals(change.after), strict=True)
            cells = [Text(_from_to(before, after)) for before, after in pairs]
            table.add(
                [
                    Text(text.printable(change.name)),
                    verdict_text(change.outcome.value, is_verdict=True),
                    *cells[: 2 + with_qemu],
                    *[Text(phrases.waiting(change.waited or Waited(answered=None)))] * with_wait,
                    *[Text(text.printable(host.uri))] * with_host,
                ]
            )
    table.print(stream)


def hosts_table(rows: Sequence[tuple[ConfiguredHost | None, HostProbe]], *, stream: TextIO) -> None:
    """Print a line per host: what the configuration calls it, if it does, and what it said."""
    table = _Table(
        [
            *((title, False) for title in ("NAME", "STATUS", "HOSTNAME")),
            *((title, True) for title in ("RUNNING", "DEFINED", "TIME")),
            *((title, False) for title in ("GROUPS", "URI")),
        ]
    )
    for host, probe in rows:
        numbers = [text.ABSENT if n is None else str(n) for n in (probe.running, probe.defined)]
        groups = ", ".join(host.groups) if host is not None else ""
        table.add(
            [
                Text(text.printable(host.name) if host is not None else text.ABSENT),
                verdict_text(probe.status.value, is_verdict=True),
                Text(text.printable(probe.hostname or text.ABSENT)),
                *map(Text, numbers),
                Text(f"{probe.elapsed_seconds:.2f} s"),
                Text(text.printable(groups or text.ABSENT)),
                Text(text.printable(probe.uri)),
            ]
        )
    table.print(stream)


def _intervals(interval: Interval) -> tuple[int | None, int | None, int | None]:
    return interval.live, interval.config, interval.qemu


def _from_to(before: int | None, after: int | None) -> str:
    if before == after:
        return text.seconds(after)
    return f"{text.seconds(before)} -> {text.seconds(after)}"


def verdict_text(cell: str, *, is_verdict: bool = True) -> Text:
    """A verdict or another word that has a colour."""
    return Text(cell, style=_STYLES.get(cell, "") if is_verdict else "")


class _Table:
    """A plain table: as wide as it needs in a pipe, cut to the width of a terminal."""

    def __init__(self, columns: Sequence[tuple[str, bool]], *, heading: bool = True) -> None:
        self._flush_right = [is_number for _, is_number in columns]
        self._lines = [[Text(title, style="bold") for title, _ in columns]] if heading else []

    def add(self, cells: list[Text]) -> None:
        self._lines.append(cells)

    def print(self, stream: TextIO) -> None:
        out = console(stream)
        widest = [max(cell.cell_len for cell in cells) for cells in zip(*self._lines, strict=True)]
        excess = sum(widest) + len(_GAP) * (len(widest) - 1) - out.width
        if stream.isatty() and excess > 0:
            widest[0] = min(widest[0], max(_NARROWEST_NAME, widest[0] - excess))
        for cells in self._lines:
            line = Text(_GAP).join(
                aligned(cell, width, flush_right=flush_right)
                for cell, width, flush_right in zip(cells, widest, self._flush_right, strict=True)
            )
            line.rstrip()
            if stream.isatty():
                line.truncate(out.width, overflow="ellipsis")
            out.print(line, soft_wrap=True)


def aligned(cell: Text, width: int, *, flush_right: bool = False) -> Text:
    """The cell, cut or filled to this width."""
    fitted = cell.copy()
    fitted.truncate(width, overflow="ellipsis")
    padding = width - fitted.cell_len
    if flush_right:
        fitted.pad_left(padding)
    else:
        fitted.pad_right(padding)
    return fitted


def terminal_width(stream: TextIO) -> int | None:
    """The width of the terminal, or what COLUMNS says of it; None where neither says any."""
    # Rich would ask for the size of whatever standard input is.
    try:
        return (
            int(os.environ.get("COLUMNS") or os.get_terminal_size(stream.fileno()).columns) or None
        )
    except (OSError, ValueError):
        return None


def console(stream: TextIO) -> Console:
    """What prints on this stream: with colours on a terminal alone, and never with markup."""
    colour = stream.isatty() and not os.environ.get("NO_COLOR")
    return Console(
        file=stream,
        width=terminal_width(stream),
        force_terminal=stream.isatty(),
        color_system="auto" if colour else None,
        markup=False,
        emoji=False,
        highlight=False,
    )
