"""``virtballoon doctor``: why guests give nothing, or nothing new."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from virtballoon.cli.list_domains import finish_reading
from virtballoon.cli.options import (
    Settings,
    domain_argument,
    print_records,
    progress,
    through_libvirt,
    with_settings,
    words_to_reach,
)

if TYPE_CHECKING:
    from virtballoon.doctor.examination import Reach

#: What CSV has beside the columns of a reading.
COLUMNS = (
    *("cause", "possible_causes", "evidence", "remedy", "to_tell_apart", "unasked", "findings"),
    *("signs.seen", "signs.absent"),
)


@click.command("doctor", short_help="Say why guests give nothing, or nothing new.")
@click.option("--all", "inactive", is_flag=True, help="Take in domains that do not run, too.")
@domain_argument()
@with_settings
def command(settings: Settings, *, domains: tuple[str, ...], inactive: bool) -> int:
    """Say of each running domain why its figures are missing or old: the cause, the evidence and
    the command or advice that mends it.

    DOMAIN is a name, a UUID or a shell pattern; a domain that is named is looked at even if it
    does not run. No guest is marked, unless --via qom is given; the diagnosis says what only that
    could tell.
    """
    from virtballoon.cli import quiet
    from virtballoon.operations.fleet import diagnose_hosts

    started = time.time()
    with progress(settings) as each:
        hosts = diagnose_hosts(
            settings.targets,
            domains or None,
            inactive=inactive,
            via=settings.via,
            timeout=settings.timeout,
            jobs=settings.jobs,
            way=lambda uri: reach(settings, uri),
            each=each,
        )
    shown = quiet.shown(settings, hosts)
    if settings.format == "table":
        from virtballoon.render.diagnosis import diagnosis_blocks

        rows = [(host, row) for host in shown for row in host.domains]
        diagnosis_blocks(rows, with_host=len(hosts) > 1, stream=settings.stream)
    else:
        from virtballoon.render.columns import RECORD

        print_records(settings, shown, (*RECORD, *COLUMNS), generated_at=started)
    return finish_reading(settings, hosts, domains)


def reach(settings: Settings, uri: str) -> Reach:
    """How a command line reaches a host, by its name in the configuration if it has one."""
    from virtballoon.doctor.examination import Reach

    words = tuple(words_to_reach(settings, uri))
    return Reach(
        virtballoon=words,
        # So the XML stays true.
        set_interval=(*words, "set-interval", *through_libvirt(settings)),
        virsh=("virsh", *(("-c", uri) if settings.targets != (None,) else ())),
    )
