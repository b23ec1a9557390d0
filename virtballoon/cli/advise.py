"""``virtballoon advise``: what memory domains need, by their recorded history."""

from __future__ import annotations

import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import click

from virtballoon.cli import finish, options
from virtballoon.cli.context import NOTHING, OK, PARTLY, Settings, warn
from virtballoon.errors import VirtballoonError
from virtballoon.render.formats import FORMATS, Data

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from virtballoon.model.selection import Where
    from virtballoon.sizing.day import History

_DAY_SECONDS = 24 * 3600
_HTML = "html"


def _complete_domain(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    try:
        names = {history.name for history in _histories(ctx.params.get("store"), date.max)}
    except VirtballoonError:
        names = set()
    return options.offered(sorted(names), incomplete)


def _complete_key(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from virtballoon.render.advice import advice_columns

    return options.offered([f"{key}=" for key in advice_columns()], incomplete)


@click.command(
    "advise", cls=options.Command, short_help="Show which domains have too much or too little."
)
@click.option(
    "--since",
    type=options.Seconds(30 * 3600),
    metavar="TIME",
    default=14 * _DAY_SECONDS,
    help="Length of the window, at least 30h  [14d]",
)
@click.option(
    "--profile",
    type=click.Choice(("max", "p99", "p95")),
    default="max",
    help="Need by what is used at most, or for 99% or 95% of the time  [max]",
)
@click.option("--prometheus", metavar="URL", help="Take the history from what a Prometheus has.")
@click.option(
    "--compat",
    type=click.Choice(("libvirt-exporter",)),
    metavar="libvirt-exporter",
    help="With --prometheus: by the metric names of other exporters.",
)
@click.option(
    "--group-by", metavar="NAME", help="Totals by this key, such as project, not by hosts."
)
@click.option("--commands", "as_commands", is_flag=True, help="Print virsh commands; run none.")
@options.store
@options.excluding(_complete_domain)
@options.conditions(_complete_key, "conditions")
@options.formatted(*FORMATS, _HTML)
@options.output
@options.quiet
@options.run
@click.argument("domains", nargs=-1, metavar="[DOMAIN…]", shell_complete=_complete_domain)
def command(
    settings: Settings,
    *,
    domains: tuple[str, ...],
    since: float,
    profile: str,
    prometheus: str | None,
    compat: str | None,
    group_by: str | None,
    store: str | None,
    conditions: tuple[str, ...],
    as_commands: bool,
) -> int:
    """Show which domains have more memory than they need, or less, by what record has stored.

    DOMAIN is a name, a UUID or a shell pattern; a single name shows all evidence. No host is
    connected to. -c and -H choose the domains that were seen there last.
    """
    from virtballoon.model.selection import select
    from virtballoon.render import advice as render
    from virtballoon.render.conditions import where
    from virtballoon.render.documents import document
    from virtballoon.sizing.rule import Sizing, advise

    if as_commands and settings.format != "table":
        raise click.UsageError("--commands prints commands; omit --format")
    try:
        wheres: list[Where] = [where(text, known=render.column) for text in conditions]
        by = None if group_by is None else render.column(group_by)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    histories = _recorded(settings, since, store=store, prometheus=prometheus, compat=compat)
    if settings.chosen is not None:
        histories = [of for of in histories if of.uris and of.uris[0] in settings.chosen]
    selected = select(histories, settings.words(domains))
    for word in selected.unmatched:
        warn(f"no recorded domain matches {word!r}")
    found = [
        advise(each.domain, now=settings.started, since=since, profile=profile)
        for each in selected.domains
    ]
    rows = [row for row in found if all(where.test(row) for where in wheres)]
    if not rows:
        if not selected.unmatched:
            warn("no recorded domain meets the conditions" if found else "no domain is recorded")
        return NOTHING
    shown = rows
    if not settings.shows_all:
        shown = [row for row in rows if row.verdict in {Sizing.OVER, Sizing.UNDER}]

    def table() -> None:
        stream = settings.stream
        if as_commands:
            render.commands(shown, stream=stream)
        elif len(domains) == 1 and selected.domains[0].exact:
            render.evidence(rows[0], stream=stream)
        elif shown:
            render.advice_table(shown, by=by, with_header=settings.has_header, stream=stream)

    data = Data(
        lambda: (
            document(map(render.host_record, render.by_host(shown)), generated_at=settings.started)
            | render.group_records(shown, by)
        ),
        lambda: ({"uri": row.uri} | render.record(row) for row in shown),
        render.advice_columns,
        table,
    )
    if settings.format == _HTML:
        from virtballoon.render.advice_html import page

        settings.stream.write(page(shown, generated_at=settings.started))
        settings.stream.flush()
    else:
        finish.print_data(settings, data)
    return PARTLY if selected.unmatched else OK


def _recorded(
    settings: Settings,
    since: float,
    *,
    store: str | None,
    prometheus: str | None,
    compat: str | None,
) -> list[History]:
    from virtballoon.sizing.rule import first_day

    if prometheus is None:
        if compat is not None:
            raise click.UsageError("--compat requires --prometheus")
        return _histories(store, first_day(settings.started, since))
    if store is not None:
        raise click.UsageError("--prometheus takes the place of --store")
    return _from_prometheus(settings, prometheus, since, others=compat is not None)


def _histories(store: str | None, since: date) -> list[History]:
    from virtballoon.sizing.store import Store, default_path

    with Store(Path(store) if store is not None else default_path()) as opened:
        return opened.histories(since)


def _from_prometheus(settings: Settings, url: str, since: float, *, others: bool) -> list[History]:
    from virtballoon.sizing.prometheus import histories

    is_shown = sys.stderr.isatty() and not settings.is_quiet and not settings.is_logged

    def on_day(number: int, of_all: int) -> None:
        if is_shown:
            # The next line, of an error, say, begins where this one does.
            end = "\x1b[K" if number == of_all else ""
            click.echo(f"{number} of {of_all} days read\r{end}", err=True, nl=False)

    return histories(
        url,
        now=settings.started,
        since=since,
        timeout=settings.timeout,
        others=others,
        on_day=on_day,
    )
