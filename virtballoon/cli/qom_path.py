"""``virtballoon qom-path``: where QEMU has a domain's balloon."""

from __future__ import annotations

import time

import click

from virtballoon.cli.options import OK, Settings, domain_argument, with_settings


@click.command("qom-path", short_help="Print the QOM path of a domain's balloon.")
@domain_argument(nargs=1, required=True)
@with_settings
def command(settings: Settings, *, domain: str) -> int:
    """Print the QOM path of the domain's balloon, alone on a line.

    It follows from the live XML. A balloon that libvirt does not know, from <qemu:commandline>,
    is found with --via qom only.
    """
    from virtballoon.errors import DomainNotFound, VirtballoonError
    from virtballoon.reading import find_qom_path
    from virtballoon.render import documents

    started = time.time()
    missing: VirtballoonError | None = None
    for target in settings.targets:
        try:
            found = find_qom_path(target, domain, via=settings.via, timeout=settings.timeout)
        except DomainNotFound as error:
            missing = error
            continue
        record = {"name": found.name, "uuid": found.uuid, "qom_path": found.qom_path}
        if settings.format == "table":
            text = f"{found.qom_path}\n"
        elif settings.format == "json":
            host = {"uri": found.uri, "hostname": found.hostname, "domains": [record]}
            text = documents.to_json(documents.document([host], generated_at=started))
        elif settings.format == "jsonl":
            text = documents.to_jsonl([{"uri": found.uri} | record])
        else:
            text = documents.to_csv([{"uri": found.uri} | record], ["uri", *record])
        click.echo(text, nl=False)
        return OK
    assert missing is not None
    raise missing
