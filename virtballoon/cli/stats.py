"""``virtballoon stats``: every statistic of some domains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import click

from virtballoon.cli import finish, options
from virtballoon.cli.context import PARTLY, Settings, warn
from virtballoon.model.report import HostReport
from virtballoon.model.source import Source, may_have_qom
from virtballoon.model.statistics import STATISTIC_BY_NAME
from virtballoon.render import text
from virtballoon.render.documents import domain_columns
from virtballoon.render.table import stats_blocks

#: With --fresh, figures may be this old, in seconds.
_FRESH_SECONDS: Final = 5.0


@click.command("stats", cls=options.Command, short_help="Show every statistic of domains.")
@click.option(
    "--fresh",
    is_flag=True,
    help="Refresh figures older than 5 s, by changing the live interval temporarily; needs write "
    "access.",
)
@click.option(
    "--rates",
    type=options.Seconds(),
    metavar="SECONDS",
    help="Read twice, this far apart, and show the change per second of each counter.",
)
@options.units
@options.domains
@options.data
def command(
    settings: Settings,
    *,
    domains: tuple[str, ...],
    inactive: bool,
    units: str,
    fresh: bool,
    rates: float | None,
) -> int:
    """Show every statistic of the named domains, by default of all running ones.

    DOMAIN is a name, a UUID or a shell pattern; a named domain is shown even if it is not
    running. Statistics have QEMU's names; sizes are in bytes, the others are counts since the
    guest booted. A dash is a figure that the guest does not report.
    """
    hosts = finish.read_selected(
        settings,
        domains,
        inactive=inactive or bool(domains),
        max_age=_FRESH_SECONDS if fresh else None,
        rates=rates,
    )
    selected = finish.shown(settings, hosts)

    def columns() -> list[str]:
        known = domain_columns(refresh=fresh, rates=rates is not None)
        others = sorted({f"stats.{k}" for h in hosts for r in h.domains for k in r.stats.other})
        at = known.index("used_bytes")
        return ["uri", *known[:at], *others, *known[at:]]

    def table() -> None:
        rows = [(host, row) for host in selected for row in host.domains]
        stats_blocks(rows, exact=units == "bytes", with_host=len(hosts) > 1, stream=settings.stream)

    finish.print_hosts(settings, selected, columns, table)
    status = finish.finish_reading(settings, hosts, domains)
    if settings.format == "table" and not settings.is_quiet:
        _hint_at_qom(hosts)
    if all(row.refresh is None or row.refresh.is_well for host in hosts for row in host.domains):
        return status
    if not settings.is_logged:
        _warn_of_age(hosts)
    return status or PARTLY


def _hint_at_qom(hosts: Sequence[HostReport]) -> None:
    """Say which statistics libvirt does not have."""
    qemu = [host for host in hosts if may_have_qom(host.uri)]
    rows = [row for host in qemu for row in host.domains if not row.stats.is_empty]
    if any(row.source is Source.LIBVIRT for row in rows):
        *names, last = (s.name for s in STATISTIC_BY_NAME.values() if s.libvirt is None)
        warn(f"only QEMU has {', '.join(names)} and {last}: --via qom, which taints guests")


def _warn_of_age(hosts: Sequence[HostReport]) -> None:
    for host in hosts:
        for row in host.domains:
            # The error of an unread domain has been printed.
            was_read = row.error is None or (row.refresh and row.refresh.error)
            if row.refresh is None or row.refresh.is_well or not was_read:
                continue
            why = str(row.refresh.error or text.refreshed(row.refresh))
            warn(f"domain {row.name!r} on {host.uri}: {why}")
