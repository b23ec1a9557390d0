"""``virtballoon hosts``: the hosts, whether each can be reached, and its memory."""

from __future__ import annotations

from functools import partial

import click

from virtballoon.cli import finish, options
from virtballoon.cli.context import NOTHING, OK, PARTLY, Settings
from virtballoon.render import documents
from virtballoon.render.formats import Data
from virtballoon.render.table import hosts_table


@click.command(
    "hosts",
    cls=options.Command,
    short_help="Show the hosts' memory, and what guests have and use.",
)
@options.data
def command(settings: Settings) -> int:
    """Show whether each host can be reached, its memory, and what its guests have of it and use.

    By default, these are the hosts of the configuration. Reading is read-only and does not taint
    guests.
    """
    from virtballoon.operations.reading import probe_host

    probes = finish.visit_hosts(settings, partial(probe_host, timeout=settings.timeout))
    # A host with two names was asked once and is shown twice.
    rows = [
        (host, probe)
        for target, probe in zip(settings.targets, probes, strict=True)
        for host in (settings.named(target) or (None,))
        if settings.shows_all or probe.error is not None
    ]
    records = [documents.probe_record(host, probe) for host, probe in rows]
    data = Data(
        lambda: documents.document(records, generated_at=settings.started),
        lambda: records,
        documents.probe_columns,
        lambda: hosts_table(rows, with_header=settings.has_header, stream=settings.stream),
    )
    if rows or not settings.is_quiet:
        finish.print_data(settings, data)
    finish.warn_of_errors(settings, probes, [])
    failed = [probe for probe in probes if probe.error is not None]
    if not failed:
        return OK
    return PARTLY if len(failed) < len(probes) else NOTHING
