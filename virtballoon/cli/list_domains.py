"""``virtballoon list``: a row per domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from virtballoon.cli import finish, options
from virtballoon.cli.context import Settings, warn
from virtballoon.model.report import DomainReport, HostReport
from virtballoon.render import documents
from virtballoon.render.formats import Data
from virtballoon.render.text import printable

if TYPE_CHECKING:
    from virtballoon.render.columns import Column

#: With more names a command would be too long to type.
_MOST_NAMES = 8


@click.command(
    "list", cls=options.Command, short_help="Show a row per domain: interval, age, use, verdict."
)
@click.option("--name", "names_only", is_flag=True, help="Print names only, one per line.")
@click.option("--wide", is_flag=True, help="Add model, alias, QOM path, RSS, intervals and labels.")
@click.option(
    "--columns",
    metavar="NAME,…",
    help="Columns of a table or CSV, as the JSON keys: name, used_bytes, interval.live; short "
    "forms are accepted: used, age, swap_in.",
)
@click.option("--sort", metavar="NAME", help="Sort by this column; -NAME reverses  [name]")
@click.option("--group-by", metavar="NAME", help="Sums over the domains with the same value of it.")
@click.option("--no-totals", is_flag=True, help="Omit the last lines, of the hosts' memory.")
@options.units
@options.domains
@options.data
def command(
    settings: Settings,
    *,
    domains: tuple[str, ...],
    inactive: bool,
    names_only: bool,
    wide: bool,
    columns: str | None,
    sort: str | None,
    group_by: str | None,
    no_totals: bool,
    units: str,
) -> int:
    """List running domains with polling interval, age of the figures, memory use and verdict.

    DOMAIN is a name, a UUID or a shell pattern; a named domain is listed even if it is not
    running. Listing is read-only and does not taint guests, unless --via qom is given.
    """
    chosen = _chosen_columns(columns, settings)
    if names_only and (chosen or wide or group_by or settings.format != "table"):
        raise click.UsageError("--name prints names only; omit the others")
    if group_by and (chosen or wide or sort):
        raise click.UsageError(
            "--group-by has columns of its own; omit --columns, --wide and --sort"
        )
    group = _column(group_by, "--group-by") if group_by else None
    reverse = sort is not None and sort.startswith("-")
    order = _column(sort.removeprefix("-"), "--sort") if sort else None
    read = finish.read_selected(settings, domains, inactive=inactive)
    hosts = finish.shown(settings, read)
    # The library has sorted each host's by name.
    rows = [(host, row) for host in hosts for row in host.domains]
    if order is not None:
        rows = _sorted(rows, order, reverse=reverse)

    def table() -> None:
        from virtballoon.render.columns import usual
        from virtballoon.render.table import groups_table, list_table, totals

        stream, has_header, exact = settings.stream, settings.has_header, units == "bytes"
        if names_only:
            _print_names(settings, [row.name for _, row in rows])
            return
        is_empty = not domains and not settings.where and any(host.error is None for host in hosts)
        if not rows and not is_empty:
            return
        if group is not None:
            groups_table(groups, group, exact=exact, with_header=has_header, stream=stream)
        else:
            list_table(
                rows,
                [c for c in chosen if c.key != "uri"] or usual([row for _, row in rows], wide=wide),
                exact=exact,
                with_host=len(read) > 1 or any(c.key == "uri" for c in chosen),
                with_header=has_header,
                stream=stream,
            )
        if has_header and not no_totals:
            totals(hosts, stream=stream)

    def csv_columns() -> list[str]:
        return [column.key for column in chosen] or ["uri", *documents.domain_columns()]

    if order is not None:
        # A document keeps the hosts together.
        hosts = [
            replace(host, domains=tuple(row for of, row in rows if of is host)) for host in hosts
        ]
    if group is None:
        finish.print_hosts(settings, hosts, csv_columns, table, rows=rows)
    else:
        groups = documents.group_records((row for _, row in rows), group.value)
        document = documents.group_document(groups, group.key, generated_at=settings.started)
        finish.print_data(
            settings, Data(lambda: document, lambda: groups, documents.group_columns, table)
        )
    status = finish.finish_reading(settings, read, domains)
    is_read = settings.format == "table" and not names_only
    if is_read or (settings.is_quiet and settings.output is not None):
        for host in finish.with_problems(read) if settings.is_quiet else read:
            _advise(host, settings, is_all=not domains)
    return status


def _chosen_columns(words: str | None, settings: Settings) -> list[Column]:
    if words is None:
        return []
    if settings.format in {"json", "jsonl"}:
        raise click.UsageError("--columns requires --format table or csv")
    return [_column(word, "--columns") for word in words.split(",")]


def _column(word: str, option: str) -> Column:
    from virtballoon.render import columns

    if word == "uri" and option == "--columns":
        # The host's URI, which no report of a domain has; a table shows it as HOST.
        return columns.column("name")._replace(key=word)
    try:
        return columns.known(word)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}") from None


Row = tuple[HostReport, DomainReport]


def _sorted(rows: Sequence[Row], column: Column, *, reverse: bool) -> list[Row]:
    # Rows without a value come last either way.
    given = [pair for pair in rows if column.value(pair[1]) is not None]
    absent = [pair for pair in rows if column.value(pair[1]) is None]
    given.sort(key=lambda pair: column.value(pair[1]), reverse=reverse)
    return given + absent


def _print_names(settings: Settings, names: Sequence[str]) -> None:
    on_a_terminal = settings.stream.isatty()
    for name in names:
        # A name may contain a newline, which would make two of it.
        shows = printable(name) if on_a_terminal or "\n" in name else name
        click.echo(shows, file=settings.stream)


def _advise(host: HostReport, settings: Settings, *, is_all: bool) -> None:
    """Print the command that turns on polling of the listed domains where it is off, and of no
    others."""
    unpolled = [row for row in host.domains if row.needs_polling]
    if not unpolled:
        return
    import shlex

    from virtballoon.model.report import via_to_advise
    from virtballoon.model.selection import words_for
    from virtballoon.model.source import Source

    words = [*finish.command_prefix(settings, host.uri), "set-interval", "10"]
    words += via_to_advise(unpolled, is_qom=settings.configuration.via is Source.QOM)
    if is_all and len(unpolled) > _MOST_NAMES:
        words += [f"--exclude={word}" for word in settings.excluded]
        words += [*(f"--where={word}" for word in settings.where), "--all", "--where-off"]
    else:
        words += words_for(unpolled)
    domains = "1 domain is" if len(unpolled) == 1 else f"{len(unpolled)} domains are"
    warn(f"{domains} not polled; to turn polling on: {shlex.join(words)}")
