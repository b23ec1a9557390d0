"""``virtballoon stats``: every statistic of some domains."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from virtballoon.cli.list_domains import finish_reading
from virtballoon.cli.options import (
    Settings,
    complain,
    domain_argument,
    positive,
    print_records,
    progress,
    units_option,
    with_settings,
)

if TYPE_CHECKING:
    from virtballoon.report import HostReport


@click.command("stats", short_help="Show every statistic of some domains.")
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
    settings: Settings, *, domains: tuple[str, ...], units: str, rates: float | None
) -> int:
    """Show every statistic of the domains, running or not.

    DOMAIN is a name, a UUID or a shell pattern. Statistics have QEMU's names; sizes are in bytes,
    the rest are counts since the guest booted. A figure that the guest does not give is a dash.
    """
    from virtballoon.cli import quiet
    from virtballoon.fleet import read_hosts, read_rates

    read = read_hosts if rates is None else partial(read_rates, seconds=rates)
    started = time.time()
    with progress(settings) as each:
        hosts = read(
            settings.targets,
            domains,
            inactive=True,
            via=settings.via,
            timeout=settings.timeout,
            jobs=settings.jobs,
            each=each,
        )
    shown = quiet.shown(settings, hosts)
    if settings.format == "table":
        from virtballoon.render.table import stats_blocks

        rows = [(host, row) for host in shown for row in host.domains]
        stats_blocks(rows, exact=units == "bytes", with_host=len(hosts) > 1, stream=settings.stream)
    else:
        from virtballoon.render.columns import RATES, RECORD

        others = sorted({f"stats.{k}" for h in hosts for r in h.domains for k in r.stats.other})
        at = RECORD.index("used_bytes")
        columns = (*RECORD[:at], *others, *RECORD[at:], *(RATES if rates is not None else ()))
        print_records(settings, shown, columns, generated_at=started)
    status = finish_reading(settings, hosts, domains)
    if settings.format == "table" and not settings.is_quiet:
        _say_what_only_qemu_has(hosts)
    return status


def _say_what_only_qemu_has(hosts: Sequence[HostReport]) -> None:
    from virtballoon.source import Source
    from virtballoon.statistics import STATISTIC_BY_NAME

    rows = [row for host in hosts for row in host.domains if not row.stats.is_empty]
    if any(row.source is Source.LIBVIRT for row in rows):
        *names, last = (s.name for s in STATISTIC_BY_NAME.values() if s.libvirt is None)
        complain(
            f"only QEMU has {', '.join(names)} and {last}: --via qom, which marks guests as tainted"
        )
