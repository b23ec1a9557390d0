"""``virtballoon watch``: the live view."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from virtballoon.cli import finish, options
from virtballoon.cli.context import NOTHING, Settings, warn
from virtballoon.model.report import HostReport

if TYPE_CHECKING:
    from virtballoon.doctor.results import HostDiagnosis
    from virtballoon.engine.calls import BackgroundCall
    from virtballoon.watch.view import LineKey, View


@click.command("watch", cls=options.Command, short_help="Show memory use live in the terminal.")
@click.option(
    "-n",
    "--every",
    type=options.Seconds(0.1),
    default=2.0,
    metavar="SECONDS",
    help="Time between readings of a host  [2s]",
)
@click.option(
    "--sort",
    type=click.Choice(("need", "use", "name", "pressure")),
    metavar="ORDER",
    default="need",
    help="need (largest used share first), use (most bytes first), name or pressure  [need]",
)
@options.units
@click.option("--once", is_flag=True, help="Print one frame and exit; needs no terminal.")
@options.domains
@options.quiet
@options.log
def command(
    settings: Settings,
    *,
    domains: tuple[str, ...],
    every: float,
    inactive: bool,
    sort: str,
    units: str,
    once: bool,
) -> int:
    """Show the memory use of every running domain live in the terminal. Press ? for the keys.

    DOMAIN is a name, a UUID or a shell pattern. Reading is read-only and does not taint a guest,
    unless --via qom is given.
    """
    if not once:
        _require_terminal(settings)
    from virtballoon.watch.view import Order, View

    view = View(
        [settings.label(target) for target in settings.targets],
        source=settings.via,
        every=None if once else every,
        order=Order(sort),
        exact=units == "bytes",
        only_unwell=settings.is_quiet,
    )
    if once:
        hosts = _read_once(settings, view, domains, inactive=inactive)
    else:
        _watch(settings, view, domains, inactive=inactive, every=every)
        hosts = view.reports
    if not hosts:
        warn("nothing has been read yet")
        return NOTHING
    return finish.finish_reading(settings, hosts, domains)


def _require_terminal(settings: Settings) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("watch needs a terminal; --once prints one frame without one")
    if os.environ.get("TERM", "dumb") in {"dumb", "unknown", ""}:
        raise click.UsageError(
            "watch needs a terminal that can move its cursor, which this one cannot by its TERM; "
            "--once prints one frame"
        )
    if sys.stderr.isatty() and (settings.is_verbose or settings.is_logged):
        raise click.UsageError("-v and --log would write over the screen; redirect stderr: 2>FILE")


def _read_once(
    settings: Settings, view: View, domains: Sequence[str], *, inactive: bool
) -> Sequence[HostReport]:
    hosts = finish.read_selected(settings, domains, inactive=inactive)
    for index, host in enumerate(hosts):
        view.update(index, host, time.time())
    if view.shown or not settings.is_quiet:
        from virtballoon.watch.app import print_frame

        print_frame(view, settings.stream)
    return hosts


def _watch(
    settings: Settings, view: View, domains: Sequence[str], *, inactive: bool, every: float
) -> None:
    # All that takes a while is imported before the terminal is taken.
    from virtballoon.doctor.examination import diagnose_host
    from virtballoon.engine.calls import BackgroundCall
    from virtballoon.watch.app import run
    from virtballoon.watch.poller import HostPoller
    from virtballoon.watch.screen import Terminal

    def start_doctor(key: LineKey) -> BackgroundCall[HostDiagnosis]:
        index, uuid = key
        return BackgroundCall(
            partial(
                diagnose_host,
                settings.targets[index],
                [uuid],
                inactive=True,
                via=settings.via,
                timeout=settings.timeout,
                prefixes=partial(finish.command_prefixes, settings),
            )
        )

    terminal = Terminal(sys.stdin.fileno(), sys.stdout.fileno(), encoding=sys.stdout.encoding)
    poller = HostPoller(
        settings.targets,
        settings.words(domains),
        inactive=inactive,
        via=settings.via,
        timeout=settings.timeout,
        jobs=settings.jobs,
        period=every,
        notify=terminal.wake,
    )
    view.start_doctor = start_doctor
    run(view, poller, terminal)
