"""``virtballoon qom-path``: the QOM path of a domain's balloon."""

from __future__ import annotations

from functools import partial

import click

from virtballoon.cli import finish, options
from virtballoon.cli.context import NOTHING, OK, PARTLY, Settings, warn
from virtballoon.hypervisor.uri import default_uri


@click.command(
    "qom-path", cls=options.Command, short_help="Print the QOM path of a domain's balloon."
)
@options.via
@options.formats
@options.log
@options.domain
def command(settings: Settings, *, domain: str) -> int:
    """Print the QOM path of the domain's balloon, alone on a line.

    DOMAIN is a name, a UUID or a shell pattern that matches one domain. The path is derived from
    the live XML. A balloon that libvirt does not know, from <qemu:commandline>, is found only with
    --via qom.
    """
    from virtballoon.operations.reading import find_qom_path

    visit = partial(find_qom_path, domain=domain, via=settings.via, timeout=settings.timeout)
    hosts = finish.visit_hosts(settings, visit)
    found = [host for host in hosts if host.domains]
    has_failed = finish.warn_of_errors(settings, hosts, ())
    if len(found) > 1:
        warn(f"domains of {len(found)} hosts match {domain!r}")
    elif not found and not has_failed:
        warn(f"no domain matches {domain!r}")
        finish.warn_of_session(settings, default_uri())
    if len(found) != 1:
        return NOTHING
    (path,) = found[0].domains
    finish.print_hosts(
        settings,
        found,
        lambda: ["uri", *path.field_names],
        lambda: click.echo(path.qom_path, file=settings.stream),
    )
    return PARTLY if has_failed else OK
