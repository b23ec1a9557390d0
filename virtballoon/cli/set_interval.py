"""``virtballoon set-interval``: turns polling on and off."""

from __future__ import annotations

import re
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from virtballoon.cli.optional import seconds_or_auto, spelt_out
from virtballoon.cli.options import (
    NOTHING,
    OK,
    PARTLY,
    Settings,
    complain,
    complain_of_all,
    complain_of_session,
    domain_argument,
    print_records,
    progress_line,
    with_settings,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from virtballoon.model.outcome import HostChanges

_NUMBER = re.compile(r"[+-]?[0-9]+", re.ASCII)


class _Command(click.Command):
    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # Click takes "-5" for an option, and would say that there is none of this name.
        ahead = args[: args.index("--")] if "--" in args else args
        for previous, word in zip(["", *ahead], ahead, strict=False):
            if re.match(r"-[\d.]", word) and not previous.startswith("-"):
                raise click.UsageError(f"an interval cannot be below 0: {word}", ctx)
        # The interval has to be there; what else is a number may be the time to wait.
        return super().parse_args(ctx, spelt_out(self, ctx, args, "--wait", _has_interval))


def _has_interval(arguments: Mapping[str, Any]) -> bool:
    return _NUMBER.fullmatch(str(arguments.get("seconds"))) is not None


def interval_of(_ctx: click.Context, _param: click.Parameter, value: str) -> int:
    """A number of seconds, as digits, whether QEMU takes it or not."""
    # Not int(): it takes "1_0" and digits of every script.
    if not _NUMBER.fullmatch(value):
        raise click.BadParameter(f"an interval is a whole number of seconds, not {value!r}.")
    if len(value) > 20:  # noqa: PLR2004 - no interval has so many digits; int() has a limit, too
        raise click.BadParameter(f"an interval of {len(value)} digits is more than QEMU takes.")
    return int(value)


@click.command("set-interval", cls=_Command, short_help="Set the polling interval of domains.")
@click.option(
    "--all",
    "every",
    is_flag=True,
    help="Every running domain; with --config every persistent one.",
)
@click.option("--live", is_flag=True, help="Set it in the running guest.")
@click.option("--config", is_flag=True, help="Write it to the persistent configuration.")
@click.option("--where-off", is_flag=True, help="Leave every interval alone that is not 0.")
@click.option("--dry-run", is_flag=True, help="Only say what would be.")
@click.option(
    "--wait",
    metavar="[SECONDS]",
    callback=seconds_or_auto,
    help="Wait until each guest has answered since, for so long at most, beyond --timeout.  "
    "[default: twice the interval and 5 s]",
)
@click.argument("seconds", metavar="SECONDS", callback=interval_of)
@domain_argument()
@with_settings
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
    wait: float | str | None,
) -> int:
    """Set the interval in which QEMU asks the guest for its memory figures; 0 turns it off.

    DOMAIN is a name, a UUID or a shell pattern; --all stands for them all. Without --live and
    --config: in the guest where it runs, in the configuration where it does not. A live setting
    does not outlast the guest's next start; --live --config sets both.

    The interval is set through libvirt, so that its XML stays true. With --via qom it goes to
    QEMU behind libvirt's back, and marks the guest as tainted, even with --dry-run.
    """
    from virtballoon.cli import quiet
    from virtballoon.errors import InvalidInterval
    from virtballoon.model.verdict import fresh_seconds
    from virtballoon.operations.fleet import set_intervals_on_hosts
    from virtballoon.operations.setting import IntervalRequest

    if every == bool(domains):
        raise click.UsageError("name the domains, or give --all")
    if dry_run and wait is not None:
        raise click.UsageError("--wait has nothing to wait for with --dry-run")
    started = time.time()
    try:
        with progress_line(settings, guests=wait is not None) as line:
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
                None if every else domains,
                wait=fresh_seconds(seconds) if isinstance(wait, str) else wait,
                timeout=settings.timeout,
                jobs=settings.jobs,
                on_result=line.done if line is not None else None,
                on_waiting=line.note if line is not None else None,
            )
    except InvalidInterval as error:
        raise click.UsageError(str(error)) from error
    shown = quiet.shown(settings, hosts)
    if settings.format != "table":
        from virtballoon.render.documents import change_columns

        columns = partial(change_columns, waited=wait is not None)
        print_records(settings, shown, columns, generated_at=started)
    elif any(host.domains for host in shown):
        from virtballoon.model.source import Source
        from virtballoon.render.table import changes_table

        changes_table(
            shown,
            with_qemu=settings.via is Source.QOM,
            with_wait=wait is not None,
            with_host=len(hosts) > 1,
            stream=settings.stream,
        )
    return _status(settings, hosts)


def _status(settings: Settings, hosts: Sequence[HostChanges]) -> int:
    from virtballoon.model.outcome import Outcome
    from virtballoon.model.report import unmatched_everywhere

    unmatched = unmatched_everywhere(hosts)
    for word in unmatched:
        complain(f"no domain matches {word!r}; nothing was changed")
    if hosts[0].error is None and not hosts[0].domains:
        complain_of_session(settings, hosts[0].uri)
    changes = [change for host in hosts for change in host.domains]
    failed = [change for change in changes if change.outcome is Outcome.FAILED]
    wrong = complain_of_all(settings, hosts, [change.error for change in failed])
    if unmatched:
        return NOTHING
    for host in hosts:
        for change in host.domains:
            if change.caveat is not None:
                complain(f"domain {change.name!r} on {host.uri}: {change.caveat}")
    waited = [change.waited.answered for change in changes if change.waited is not None]
    if False in waited:
        if settings.log is None:
            _complain_of_silence(hosts)
    elif not wrong:
        return OK
    done = {Outcome.CHANGED, Outcome.UNCHANGED}
    partly = any(change.changed or change.outcome in done for change in changes)
    return PARTLY if partly else NOTHING


def _complain_of_silence(hosts: Sequence[HostChanges]) -> None:
    from virtballoon.render import text

    for host in hosts:
        for change in host.domains:
            if change.waited is not None and change.waited.answered is False:
                why = text.waiting(change.waited)
                complain(f"domain {change.name!r} on {host.uri}: set, and not answered: {why}")
