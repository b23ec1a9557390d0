"""``virtballoon qom-path``: where QEMU has a domain's balloon."""

from __future__ import annotations

import time

import click

from virtballoon.cli.options import (
    NOTHING,
    OK,
    PARTLY,
    Settings,
    complain,
    complain_of_all,
    complain_of_session,
    domain_argument,
    print_data,
    progress,
    with_settings,
)
from virtballoon.hypervisor.uri import default_uri


@click.command("qom-path", short_help="Print the QOM path of a domain's balloon.")
@domain_argument(nargs=1, required=True)
@with_settings
def command(settings: Settings, *, domain: str) -> int:
    """Print the QOM path of the domain's balloon, alone on a line.

    DOMAIN is a name, a UUID or a shell pattern that matches one domain. The path follows from the
    live XML. A balloon that libvirt does not know, from <qemu:commandline>, is found with
    --via qom only.
    """
    from virtballoon.errors import DomainNotFound, VirtballoonError
    from virtballoon.model.report import HostStatus
    from virtballoon.operations.fleet import find_qom_paths
    from virtballoon.operations.reading import QomPath
    from virtballoon.render import documents
    from virtballoon.render.formats import TABLE, Data

    started = time.time()
    with progress(settings) as each:
        answers = find_qom_paths(
            settings.targets,
            domain,
            via=settings.via,
            timeout=settings.timeout,
            jobs=settings.jobs,
            on_result=each,
        )
    found = [answer for answer in answers if isinstance(answer, QomPath)]
    failed = [
        answer
        for answer in answers
        if isinstance(answer, VirtballoonError) and not isinstance(answer, DomainNotFound)
    ]
    complain_of_all(settings, (), failed)
    if len(found) > 1:
        complain(f"domains of {len(found)} hosts match {domain!r}")
    elif not found and not failed:
        complain(f"no domain matches {domain!r}")
        complain_of_session(settings, default_uri())
    if len(found) != 1:
        return NOTHING
    (path,) = found
    if settings.format == TABLE:
        click.echo(path.qom_path, file=settings.stream)
    else:
        record = {"name": path.name, "uuid": path.uuid, "qom_path": path.qom_path}
        host = {
            "uri": path.uri,
            "hostname": path.hostname,
            "status": HostStatus.OK.value,
            "error": None,
            "elapsed_seconds": round(time.time() - started, 3),
            "domains": [record],
        }
        row = {"uri": path.uri} | record
        data = Data(
            lambda: documents.document([host], generated_at=started), lambda: [row], lambda: [*row]
        )
        print_data(settings, data)
    return PARTLY if failed else OK
