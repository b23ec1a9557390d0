"""``virtballoon set-interval``: turns polling on and off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import click

from virtballoon.cli import finish, options
from virtballoon.cli.context import NOTHING, OK, PARTLY, Settings, warn
from virtballoon.model.outcome import HostChanges, Outcome
from virtballoon.model.selection import is_pattern
from virtballoon.model.source import Source
from virtballoon.model.verdict import fresh_seconds
from virtballoon.render import text
from virtballoon.render.documents import change_columns
from virtballoon.render.table import changes_table


class _FirstArgument(options.Interval):
    def fail(self, message: str, *where: Any, **more: Any) -> NoReturn:
        super().fail(f"{message} SECONDS comes before DOMAIN.", *where, **more)


@click.command(
    "set-interval", cls=options.Command, short_help="Set the polling interval of domains."
)
@click.option(
    "--all", "every", is_flag=True, help="All running domains; with --config, persistent ones."
)
@options.restrictions
@click.option("--live", is_flag=True, help="Set it in the running domain.")
@click.option("--config", is_flag=True, help="Set it in the persistent configuration.")
@click.option("--where-off", is_flag=True, help="Only domains whose polling is off.")
@click.option("--dry-run", is_flag=True, help="Only print what would be set.")
@click.option("--wait", is_flag=True, help="Wait until each guest has answered.")
@click.option(
    "--wait-timeout",
    type=options.Seconds(0),
    metavar="SECONDS",
    help="Time to wait; implies --wait  [2 x interval + 5s]",
)
@options.via
@options.data
@click.argument("seconds", metavar="SECONDS", type=_FirstArgument(0))
@options.several
def command(
    settings: Settings,
    *,
    seconds: int,
    domains: tuple[str, ...],
    every: bool,
    live: bool,
    config: bool,
    where_off: bool,
    dry_run: bool,
    wait: bool,
    wait_timeout: float | None,
) -> int:
    """Set the interval at which QEMU asks the guest for its memory figures; 0 turns polling off.

    DOMAIN is a name, a UUID or a shell pattern. Without --live and --config, the interval is set
    live where the domain is running, else in its configuration. A live setting lasts until the
    domain is shut down; --live --config sets both.

    The interval is set through libvirt, which keeps the XML correct. With --via qom it is set in
    QEMU alone, and the guest is tainted, even with --dry-run.
    """
    from virtballoon.operations.fleet import set_intervals_on_hosts
    from virtballoon.operations.setting import IntervalRequest

    if every == bool(domains):
        raise click.UsageError("name the domains, or give --all")
    is_waiting = wait or wait_timeout is not None
    if dry_run and is_waiting:
        raise click.UsageError("--wait cannot be combined with --dry-run")
    if is_waiting and wait_timeout is None:
        wait_timeout = fresh_seconds(seconds)
    with finish.progress(settings, domains=is_waiting) as (on_result, on_waiting):
        hosts = set_intervals_on_hosts(
            settings.targets,
            IntervalRequest(
                seconds,
                live=live,
                config=config,
                where_off=where_off,
                via=settings.via,
                dry_run=dry_run,
            ),
            settings.words(domains, keep=False),
            wait=wait_timeout,
            timeout=settings.timeout,
            jobs=settings.jobs,
            on_result=on_result,
            on_waiting=on_waiting,
        )
    selected = finish.shown(settings, hosts)

    def table() -> None:
        if any(host.domains for host in selected):
            changes_table(
                selected,
                with_qemu=settings.via is Source.QOM,
                with_wait=is_waiting,
                with_header=settings.has_header,
                with_host=len(hosts) > 1,
                stream=settings.stream,
            )

    columns = ["uri", *change_columns(waited=is_waiting)]
    finish.print_hosts(settings, selected, lambda: columns, table)
    return _status(settings, hosts, domains)


def _status(settings: Settings, hosts: Sequence[HostChanges], words: Sequence[str]) -> int:
    result = "; nothing was changed"
    if settings.configuration.excluded and any(map(is_pattern, words)):
        result += "; domains that the configuration excludes must be named exactly"
    wrong, unmatched = finish.warn_of_failures(settings, hosts, result=result)
    if unmatched or finish.is_none_met(settings, hosts):
        return NOTHING
    is_partly = False
    for host in hosts:
        for change in host.domains:
            done = change.outcome in {Outcome.CHANGED, Outcome.UNCHANGED}
            is_partly = is_partly or change.changed or done
            where = f"domain {change.name!r} on {host.uri}"
            if change.caveat is not None:
                warn(f"{where}: {change.caveat}")
            if change.waited is not None and change.waited.answered is False:
                wrong = True
                if not settings.is_logged:
                    warn(f"{where}: set, and not answered: {text.waiting(change.waited)}")
    if not wrong:
        return OK
    return PARTLY if is_partly else NOTHING
