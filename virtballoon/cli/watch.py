"""``virtballoon watch``: the live view."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Final

import click

from virtballoon.cli.list_domains import finish_reading
from virtballoon.cli.options import (
    NOTHING,
    Settings,
    complain,
    domain_argument,
    positive,
    read_meant,
    with_settings,
)
from virtballoon.hypervisor.uri import default_uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from virtballoon.doctor.results import HostDiagnosis
    from virtballoon.engine.calls import Begun
    from virtballoon.model.report import HostReport
    from virtballoon.watch.view import View

#: A host has other things to do.
_LEAST_SECONDS: Final = 0.1
#: Ages are drawn anew so often.
_TICK_SECONDS: Final = 1.0


@click.command("watch", short_help="Watch the guests live, in the terminal.")
@click.option(
    "-n",
    "--every",
    type=float,
    default=2.0,
    show_default=True,
    callback=positive,
    metavar="SECONDS",
    help="From one reading of a host to the next.",
)
@click.option("--all", "inactive", is_flag=True, help="Show domains that do not run, too.")
@click.option(
    "--sort",
    type=click.Choice(("need", "use", "name")),
    default="need",
    show_default=True,
    help="Whom to show first: who uses the largest share of its memory, as far as that can be "
    "trusted; who uses the most bytes; or by name.",
)
@click.option(
    "--units",
    type=click.Choice(("human", "bytes", "percent")),
    default="human",
    show_default=True,
    help="Sizes: as a person reads them, exact, or as a share.",
)
@click.option("--once", is_flag=True, help="Print one frame, to a terminal or not, and end.")
@domain_argument()
@with_settings
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
    """Watch what every running domain uses of its memory, live, in the terminal. Press ? for its
    keys.

    DOMAIN is a name, a UUID or a shell pattern. Reading is read-only and marks no guest, unless
    --via qom is given.
    """
    if every < _LEAST_SECONDS:
        raise click.UsageError(f"--every is {_LEAST_SECONDS:g} s at least")
    if settings.format != "table":
        raise click.UsageError("watch is for people; list and stats have --format")
    if not once:
        _require_terminal(settings)
    from virtballoon.watch.view import Order, Units, View

    view = View(
        [_label(settings, target) for target in settings.targets],
        order=Order(sort),
        units=Units(units),
        only_unwell=settings.is_quiet and settings.output is None,
    )
    if once:
        hosts = _read_once(settings, view, domains, inactive=inactive)
    else:
        hosts = _watch(settings, view, domains, inactive=inactive, every=every)
    if not hosts:
        complain("nothing has been read yet")
        return NOTHING
    return finish_reading(settings, hosts, domains)


def _require_terminal(settings: Settings) -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("watch needs a terminal; --once prints one frame to anything")
    if os.environ.get("TERM", "dumb") in {"dumb", "unknown", ""}:
        raise click.UsageError(
            "watch needs a terminal that can move its cursor, and TERM says that this one cannot; "
            "--once prints one frame"
        )
    if settings.output is not None:
        raise click.UsageError("--output goes with --once")
    if sys.stderr.isatty() and (settings.is_verbose or settings.log == "stderr"):
        raise click.UsageError(
            "-v and --log stderr would write across the screen; send stderr elsewhere: 2>FILE"
        )


def _label(settings: Settings, target: str | None) -> str:
    named = settings.named(target)
    return named[0].name if named else target or default_uri()


def _unmatched(view: View) -> Sequence[str]:
    """The words that match no domain, once every host has been read."""
    from virtballoon.model.report import unmatched_everywhere

    return unmatched_everywhere(view.reports) if len(view.reports) == view.hosts else ()


def _read_once(
    settings: Settings, view: View, domains: Sequence[str], *, inactive: bool
) -> Sequence[HostReport]:
    hosts = read_meant(settings, domains, inactive=inactive)
    from virtballoon.render.table import console, terminal_width
    from virtballoon.watch import drawing

    now = time.time()
    for index, host in enumerate(hosts):
        view.update(index, host, now)
    frame = drawing.Frame(
        view=view,
        now=now,
        width=terminal_width(settings.stream) or drawing.USUAL_WIDTH,
        glyphs=drawing.Glyphs.of(getattr(settings.stream, "encoding", None) or "utf-8"),
        every=None,
        source=settings.via,
    )
    if view.shown or not settings.is_quiet:
        out = console(settings.stream)
        for row in drawing.whole(frame):
            out.print(drawing.plain(row), soft_wrap=True)
    return hosts


class _Clinic:
    """Asks the doctor in the background, about one guest after another."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._visit: Begun[HostDiagnosis] | None = None

    def see_to(self, view: View, now: float) -> None:
        """Begin with the next guest that is asked about, or take what the doctor said of it."""
        from virtballoon.engine.calls import Begun

        if not view.asked:
            return
        key = view.asked[0]
        if self._visit is None:
            self._visit = Begun(partial(self._diagnose, *key))
        if (answer := self._visit.within(0)) is not None:
            self._visit = None
            view.asked.remove(key)
            (host,) = answer
            said = str(host.error) if host.error is not None else "it is gone"
            view.diagnoses[key] = (host.domains[0] if host.domains else said, now)

    def _diagnose(self, index: int, uuid: str) -> HostDiagnosis:
        from virtballoon.cli.doctor import prefixes
        from virtballoon.doctor.examination import diagnose_host

        settings = self._settings
        return diagnose_host(
            settings.targets[index],
            [uuid],
            inactive=True,
            via=settings.via,
            timeout=settings.timeout,
            prefixes=lambda uri: prefixes(settings, uri),
        )


def _watch(
    settings: Settings, view: View, domains: Sequence[str], *, inactive: bool, every: float
) -> Sequence[HostReport]:
    """Show the view until it is left, and give the last report of each host."""
    # All that takes a while is imported before the terminal is taken.
    from virtballoon.watch import drawing
    from virtballoon.watch.poller import Following
    from virtballoon.watch.screen import GONE, Terminal

    encoding = sys.stdout.encoding or "utf-8"
    glyphs = drawing.Glyphs.of(encoding)
    painter = drawing.Painter()
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        terminal = Terminal(sys.stdin.fileno(), sys.stdout.fileno(), encoding=encoding)
        following = Following(
            settings.targets,
            domains or None,
            inactive=inactive,
            via=settings.via,
            timeout=settings.timeout,
            jobs=settings.jobs,
            every=every,
            notify=terminal.wake,
        )
        clinic = _Clinic(settings)
        stack.enter_context(terminal)
        stack.enter_context(following)
        while not view.is_done:
            now = time.time()
            for new in following.take():
                view.update(new.index, new.report, now, is_complete=new.is_complete)
            unmatched = ", ".join(map(repr, _unmatched(view)))
            width, height = terminal.size
            frame = drawing.Frame(
                view=view,
                now=now,
                width=width,
                glyphs=glyphs,
                every=every,
                source=settings.via,
                notice=f"no domain matches {unmatched}" if unmatched else "",
            )
            clinic.see_to(view, now)
            if view.redraw:
                view.redraw = False
                terminal.redraw()
            terminal.draw([painter.painted(row) for row in drawing.fitted(frame, height)])
            for key in terminal.events(_TICK_SECONDS - now % _TICK_SECONDS):
                if key == GONE:
                    view.is_done = True
                view.press(key)
            following.is_paused = view.is_paused
    return view.reports
