"""``virtballoon doctor``: explain missing or stale statistics."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

import click

from virtballoon.cli.list_domains import finish_reading
from virtballoon.cli.options import (
    PROGRAM,
    Settings,
    domain_argument,
    print_records,
    progress,
    through_libvirt,
    with_settings,
    words_to_reach,
)

if TYPE_CHECKING:
    from virtballoon.doctor.results import CommandPrefixes


@click.command("doctor", short_help="Explain missing or stale statistics.")
@click.option("--all", "inactive", is_flag=True, help="Include domains that are not running.")
@domain_argument()
@with_settings
def command(settings: Settings, *, domains: tuple[str, ...], inactive: bool) -> int:
    """Explain missing or stale statistics of each running domain: the most likely cause, its
    remedy, and other possible causes with how to check them. -v adds the evidence.

    DOMAIN is a name, a UUID or a shell pattern; a domain that is named is examined even if it is
    not running. No guest is tainted, unless --via qom is given.
    """
    from virtballoon.cli import quiet
    from virtballoon.doctor.examination import diagnose_hosts

    started = time.time()
    with progress(settings) as on_result:
        hosts = diagnose_hosts(
            settings.targets,
            domains or None,
            inactive=inactive,
            via=settings.via,
            timeout=settings.timeout,
            jobs=settings.jobs,
            prefixes=lambda uri: prefixes(settings, uri),
            on_result=on_result,
        )
    shown = quiet.shown(settings, hosts)
    if settings.format == "table":
        from virtballoon.render.diagnosis import print_diagnoses

        print_diagnoses(
            [(host, diagnosis) for host in shown for diagnosis in host.domains],
            with_host=len(hosts) > 1,
            with_evidence=settings.is_verbose,
            stream=settings.stream,
        )
    else:
        from virtballoon.doctor.results import Diagnosis
        from virtballoon.render.documents import domain_columns

        columns = partial(domain_columns, kind=Diagnosis)
        print_records(settings, shown, columns, generated_at=started)
    return finish_reading(settings, hosts, domains)


def prefixes(settings: Settings, uri: str) -> CommandPrefixes:
    """How commands begin that reach a host, by its name in the configuration if it has one."""
    from virtballoon.doctor.results import CommandPrefixes
    from virtballoon.hypervisor.uri import default_uri

    is_default = settings.targets == (None,) or (
        uri == default_uri() and not settings.configuration.hosts
    )
    virtballoon = tuple(words_to_reach(settings, uri))
    if is_default and settings.config_file is None:
        virtballoon = (PROGRAM,)
    needs_uri = not is_default or os.environ.get("VIRSH_DEFAULT_CONNECT_URI", uri) != uri
    return CommandPrefixes(
        virtballoon=virtballoon,
        # The setting must go through libvirt, so that its XML stays true.
        set_interval=(*virtballoon, "set-interval", *through_libvirt(settings)),
        virsh=("virsh", *(("-c", uri) if needs_uri else ())),
    )
