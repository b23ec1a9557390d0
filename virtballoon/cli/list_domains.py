"""``virtballoon list``: a row per domain."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from virtballoon.cli.options import (
    NOTHING,
    OK,
    PARTLY,
    Settings,
    complain,
    complain_of_all,
    complain_of_session,
    domain_argument,
    print_records,
    read_meant,
    through_libvirt,
    units_option,
    with_settings,
    words_to_reach,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtballoon.model.report import HostReport
    from virtballoon.render.columns import Column

#: More names than this make no command that anyone would type.
_MOST_NAMES = 8


@click.command("list", short_help="Show a row per domain: interval, age, use, verdict.")
@click.option("--all", "inactive", is_flag=True, help="Show domains that do not run, too.")
@click.option("--wide", is_flag=True, help="Show model, alias, QOM path, RSS and intervals, too.")
@click.option(
    "--columns",
    metavar="NAME,…",
    help="The columns of a table or of CSV, by the keys of the JSON: name, used_bytes, "
    "interval.live, stats.swap_in; used, age and swap_in will do, and interval for the one in "
    "force.",
)
@click.option(
    "--sort", metavar="NAME", help="Sort by this column; -NAME reverses.  [default: name]"
)
@units_option
@domain_argument()
@with_settings
def command(
    settings: Settings,
    *,
    domains: tuple[str, ...],
    inactive: bool,
    wide: bool,
    columns: str | None,
    sort: str | None,
    units: str,
) -> int:
    """Show a row per running domain: its polling interval, the age of its figures, what it uses
    of its memory, and a verdict.

    DOMAIN is a name, a UUID or a shell pattern; a domain that is named is shown even if it does
    not run. Reading is read-only and marks no guest, unless --via qom is given.
    """
    named = _named_columns(columns, settings)
    reverse = sort is not None and sort.startswith("-")
    sorted_by = _column(sort.removeprefix("-"), "--sort") if sort else None
    started = time.time()
    read = read_meant(settings, domains, inactive=inactive)
    # The library has sorted them by name.
    hosts = [_sorted(host, sorted_by, reverse=reverse) for host in read] if sorted_by else read
    from virtballoon.cli import quiet
    from virtballoon.render import columns as known

    shown = quiet.shown(settings, hosts)
    if settings.format == "table":
        from virtballoon.render.table import list_table

        keys = known.WIDE if wide else known.DEFAULT
        rows = [(host, row) for host in shown for row in host.domains]
        if rows or (not domains and any(host.error is None for host in shown)):
            list_table(
                rows,
                named or [known.column(key) for key in keys],
                exact=units == "bytes",
                with_host=len(hosts) > 1,
                stream=settings.stream,
            )
    else:
        from virtballoon.render.documents import domain_columns

        chosen = [column.key for column in named]
        print_records(settings, shown, lambda: chosen or domain_columns(), generated_at=started)
    status = finish_reading(settings, hosts, domains)
    if settings.format == "table" or (settings.is_quiet and settings.output is not None):
        for host in quiet.exceptions(hosts) if settings.is_quiet else hosts:
            _advise(host, settings)
    return status


def finish_reading(settings: Settings, hosts: Sequence[HostReport], words: Sequence[str]) -> int:
    """Say what could not be read and, where data is in a file, what is not well; and give the
    exit status."""
    from virtballoon.cli import quiet
    from virtballoon.model.report import unmatched_everywhere

    if settings.is_quiet and settings.output is not None:
        quiet.complain_of_exceptions(hosts)
    for host in hosts:
        if host.clock_problem is not None:
            complain(host.clock_problem)
    rows = [row for host in hosts for row in host.domains]
    unread = [row for row in rows if row.has_failed]
    failed = complain_of_all(settings, hosts, [row.error for row in unread])
    unmatched = unmatched_everywhere(hosts)
    for word in unmatched:
        complain(f"no domain matches {word!r}")
    if not rows and hosts and hosts[0].error is None:
        complain_of_session(settings, hosts[0].uri)
    if all(host.error is not None for host in hosts) and not rows:
        return NOTHING
    if words and not rows:
        if not unmatched:
            complain("no running domain matches (--all shows those that do not run)")
        return NOTHING
    return PARTLY if failed or unmatched else OK


def _named_columns(words: str | None, settings: Settings) -> list[Column]:
    if words is None:
        return []
    if settings.format in {"json", "jsonl"}:
        raise click.UsageError("--columns goes with --format table and csv")
    return [_column(word, "--columns") for word in words.split(",")]


def _column(word: str, option: str) -> Column:
    from virtballoon.render import columns as known
    from virtballoon.render.documents import domain_columns

    column = known.find(word)
    if column is None:
        raise click.UsageError(
            f"{option}: no column {word!r}; there are: {', '.join(domain_columns())}"
        )
    return column


def _sorted(host: HostReport, column: Column, *, reverse: bool) -> HostReport:
    from dataclasses import replace

    # Rows without a value come last either way.
    given = [row for row in host.domains if column.value(row) is not None]
    absent = [row for row in host.domains if column.value(row) is None]
    given.sort(key=column.value, reverse=reverse)
    return replace(host, domains=(*given, *absent))


def _advise(host: HostReport, settings: Settings) -> None:
    import shlex

    from virtballoon.model.selection import words_for

    unpolled = [row for row in host.domains if row.needs_polling]
    if not unpolled:
        return
    words = [*words_to_reach(settings, host.uri), "set-interval", "10"]
    if any(row.balloon is not None and row.balloon.model is None for row in unpolled):
        # Libvirt does not know of this one.
        words += ["--via", "qom"]
    else:
        # So the XML stays true.
        words += through_libvirt(settings)
    many = len(unpolled) > _MOST_NAMES
    words += ["--all", "--where-off"] if many else words_for(unpolled)
    domains = "1 domain is" if len(unpolled) == 1 else f"{len(unpolled)} domains are"
    complain(f"{domains} not polled; to turn polling on: {shlex.join(words)}")
