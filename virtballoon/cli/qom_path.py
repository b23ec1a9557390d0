"""``virtballoon qom-path``: the QOM path of a domain's balloon."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from virtballoon.cli import finish, options
from virtballoon.cli.context import NOTHING, OK, PARTLY, Settings
from virtballoon.errors import DomainNotFound, VirtballoonError
from virtballoon.hypervisor.uri import default_uri
from virtballoon.model.report import HostStatus
from virtballoon.render import documents
from virtballoon.render.formats import Data

if TYPE_CHECKING:
    from virtballoon.hypervisor.connection import Target


@click.command(
    "qom-path", cls=options.Command, short_help="Print the QOM path of a domain's balloon."
)
@options.via
@options.formats
@options.log
@options.domain_argument(nargs=1, required=True)
def command(settings: Settings, *, domain: str) -> int:
    """Print the QOM path of the domain's balloon, alone on a line.

    DOMAIN is a name, a UUID or a shell pattern that matches one domain. The path is derived from
    the live XML. A balloon that libvirt does not know, from <qemu:commandline>, is found only with
    --via qom.
    """
    from virtballoon.operations.reading import QomPath, find_qom_path

    def visit(target: Target) -> QomPath | VirtballoonError:
        try:
            return find_qom_path(target, domain, via=settings.via, timeout=settings.timeout)
        except VirtballoonError as error:
            return error

    answers = finish.visit_hosts(settings, visit)
    found = [answer for answer in answers if isinstance(answer, QomPath)]
    failed = [
        answer
        for answer in answers
        if isinstance(answer, VirtballoonError) and not isinstance(answer, DomainNotFound)
    ]
    finish.warn_of_errors(settings, (), failed)
    if len(found) > 1:
        finish.warn(f"domains of {len(found)} hosts match {domain!r}")
    elif not found and not failed:
        finish.warn(f"no domain matches {domain!r}")
        finish.warn_of_session(settings, default_uri())
    if len(found) != 1:
        return NOTHING
    (path,) = found
    record = {"name": path.name, "uuid": path.uuid, "qom_path": path.qom_path}
    host = {
        "uri": path.uri,
        "hostname": path.hostname,
        "status": HostStatus.OK.value,
        "error": None,
        "elapsed_seconds": round(time.time() - settings.started, 3),
        "domains": [record],
    }
    row = {"uri": path.uri} | record
    data = Data(
        lambda: documents.document([host], generated_at=settings.started),
        lambda: [row],
        lambda: [*row],
        lambda: click.echo(path.qom_path, file=settings.stream),
    )
    finish.print_data(settings, data)
    return PARTLY if failed else OK
