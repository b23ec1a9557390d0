"""``virtballoon doctor``: why statistics are missing or stale."""

from __future__ import annotations

from functools import partial

import click

from virtballoon.cli import finish, options
from virtballoon.cli.context import Settings
from virtballoon.render.diagnosis import print_diagnoses
from virtballoon.render.documents import domain_columns


@click.command("doctor", cls=options.Command, short_help="Explain missing or stale statistics.")
@options.domains
@options.data
def command(settings: Settings, *, domains: tuple[str, ...], inactive: bool) -> int:
    """Explain missing or stale statistics of each running domain: the most likely cause, its
    remedy, and other possible causes with how to check them. -v adds the evidence.

    DOMAIN is a name, a UUID or a shell pattern; a domain that is named is examined even if it is
    not running. No guest is tainted, unless --via qom is given.
    """
    from virtballoon.doctor.examination import diagnose_host

    visit = partial(
        diagnose_host,
        domains=settings.words(domains),
        inactive=inactive,
        via=settings.via,
        timeout=settings.timeout,
        prefixes=partial(finish.command_prefixes, settings),
    )
    hosts = finish.visit_hosts(settings, visit)
    selected = finish.shown(settings, hosts)

    def table() -> None:
        print_diagnoses(
            [(host, diagnosis) for host in selected for diagnosis in host.domains],
            with_host=len(hosts) > 1,
            with_evidence=settings.is_verbose,
            stream=settings.stream,
        )

    finish.print_hosts(settings, selected, lambda: ["uri", *domain_columns(diagnosis=True)], table)
    return finish.finish_reading(settings, hosts, domains)
