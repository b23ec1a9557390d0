"""``virtballoon stats``: every statistic of some domains."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from virtballoon.cli.list_domains import finish_reading
from virtballoon.cli.optional import seconds_or_auto, spelt_out
from virtballoon.cli.options import (
    PARTLY,
    Settings,
    complain,
    domain_argument,
    positive,
    print_records,
    progress_line,
    units_option,
    with_settings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from virtballoon.model.report import HostReport

#: What --fresh means alone.
_FRESH_SECONDS = 5.0


class _Command(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # A domain has to be there; what else is a number may be the age.
        return super().parse_args(ctx, spelt_out(self, ctx, args, "--fresh", _has_domains))


def _has_domains(arguments: Mapping[str, Any]) -> bool:
    domains = arguments.get("domains")
    # Newer click has a sentinel of its own where there are none.
    return isinstance(domains, tuple) and len(domains) > 0


@click.command("stats", cls=_Command, short_help="Show every statistic of some domains.")
@click.option(
    "--fresh",
    metavar="[SECONDS]",
    callback=seconds_or_auto,
    help="Figures no older than that: guests whose figures are older are asked, by changing their "
    "live polling interval and putting it back. Needs write access.  [default: 5]",
)
@click.option(
    "--rates",
    type=float,
    callback=positive,
    metavar="SECONDS",
    help="Read twice, SECONDS apart, and show what each counter gained per second.",
)
@units_option
@domain_argument(required=True)
@with_settings
def command(
    settings: Settings,
    *,
    domains: tuple[str, ...],
    units: str,
    fresh: float | str | None,
    rates: float | None,
) -> int:
    """Show every statistic of the domains, running or not.

    DOMAIN is a name, a UUID or a shell pattern. Statistics have QEMU's names; sizes are in bytes,
    the rest are counts since the guest booted. A figure that the guest does not give is a dash.
    """
    from virtballoon.cli import quiet
    from virtballoon.operations.fleet import read_hosts, read_rates

    read = read_hosts if rates is None else partial(read_rates, seconds=rates)
    started = time.time()
    with progress_line(settings, guests=fresh is not None) as line:
        hosts = read(
            settings.targets,
            domains,
            inactive=True,
            via=settings.via,
            timeout=settings.timeout,
            jobs=settings.jobs,
            max_age=_FRESH_SECONDS if isinstance(fresh, str) else fresh,
            on_result=line.done if line is not None else None,
            on_waiting=line.note if line is not None else None,
        )
    shown = quiet.shown(settings, hosts)
    if settings.format == "table":
        from virtballoon.render.table import stats_blocks

        rows = [(host, row) for host in shown for row in host.domains]
        stats_blocks(rows, exact=units == "bytes", with_host=len(hosts) > 1, stream=settings.stream)
    else:
        from virtballoon.render.documents import domain_columns

        def columns() -> list[str]:
            known = domain_columns(refresh=fresh is not None, rates=rates is not None)
            others = sorted({f"stats.{k}" for h in hosts for r in h.domains for k in r.stats.other})
            at = known.index("used_bytes")
            return [*known[:at], *others, *known[at:]]

        print_records(settings, shown, columns, generated_at=started)
    status = finish_reading(settings, hosts, domains)
    if settings.format == "table" and not settings.is_quiet:
        _say_what_only_qemu_has(hosts)
    if all(row.refresh is None or row.refresh.is_well for host in hosts for row in host.domains):
        return status
    if settings.log is None:
        _complain_of_age(hosts)
    return status or PARTLY


def _say_what_only_qemu_has(hosts: Sequence[HostReport]) -> None:
    from virtballoon.model.source import Source, may_have_qom
    from virtballoon.model.statistics import STATISTIC_BY_NAME

    qemu = [host for host in hosts if may_have_qom(host.uri)]
    rows = [row for host in qemu for row in host.domains if not row.stats.is_empty]
    if any(row.source is Source.LIBVIRT for row in rows):
        *names, last = (s.name for s in STATISTIC_BY_NAME.values() if s.libvirt is None)
        complain(
            f"only QEMU has {', '.join(names)} and {last}: --via qom, which marks guests as tainted"
        )


def _complain_of_age(hosts: Sequence[HostReport]) -> None:
    from virtballoon.render import text

    for host in hosts:
        for row in host.domains:
            # What could not be read at all has been said.
            was_read = row.error is None or (row.refresh and row.refresh.error)
            if row.refresh is None or row.refresh.is_well or not was_read:
                continue
            why = str(row.refresh.error or text.refreshed(row.refresh))
            complain(f"domain {row.name!r} on {host.uri}: {why}")
