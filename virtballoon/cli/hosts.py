"""``virtballoon hosts``: the hosts, and whether each answers."""

from __future__ import annotations

import time

import click

from virtballoon.cli.options import (
    NOTHING,
    OK,
    PARTLY,
    Settings,
    complain_of_all,
    print_data,
    progress,
    with_settings,
)


@click.command("hosts", short_help="Show the hosts, and whether each answers.")
@with_settings
def command(settings: Settings) -> int:
    """Show the hosts that are selected, those of the configuration by default, with their groups,
    and whether each answers.

    Each is visited once, read-only, and no guest is asked, whatever --via says.
    """
    from virtballoon.operations.fleet import probe_hosts

    started = time.time()
    with progress(settings) as each:
        probes = probe_hosts(
            settings.targets, timeout=settings.timeout, jobs=settings.jobs, on_result=each
        )
    # A host that has two names was visited once and is shown twice.
    rows = [
        (host, probe)
        for target, probe in zip(settings.targets, probes, strict=True)
        for host in (settings.named(target) or (None,))
    ]
    if settings.is_quiet and settings.output is None:
        rows = [(host, probe) for host, probe in rows if probe.error is not None]
    if settings.is_quiet and not rows:
        pass
    elif settings.format == "table":
        from virtballoon.render.table import hosts_table

        hosts_table(rows, stream=settings.stream)
    else:
        from virtballoon.render import documents
        from virtballoon.render.formats import Data

        records = [documents.probe_record(host, probe) for host, probe in rows]
        data = Data(
            lambda: documents.document(records, generated_at=started),
            lambda: records,
            documents.probe_columns,
        )
        print_data(settings, data)
    complain_of_all(settings, probes, [])
    failed = [probe for probe in probes if probe.error is not None]
    if not failed:
        return OK
    return PARTLY if len(failed) < len(probes) else NOTHING
