"""The live view at work: reads hosts, runs the doctor, draws, and takes keys."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TextIO

from virtballoon.doctor.results import HostDiagnosis
from virtballoon.engine.calls import BackgroundCall
from virtballoon.model.report import HostReport, unmatched_everywhere
from virtballoon.model.source import Source
from virtballoon.render.text import is_coloured, terminal_width
from virtballoon.watch import drawing
from virtballoon.watch.poller import HostPoller
from virtballoon.watch.screen import GONE, Terminal
from virtballoon.watch.view import View

#: Ages are drawn again this often.
_TICK_SECONDS: Final = 1.0

#: Diagnoses a domain: from the number of its host and its UUID.
Diagnose = Callable[[int, str], HostDiagnosis]


def print_frame(view: View, stream: TextIO, *, source: Source) -> None:
    """Print one frame, to a terminal or not."""
    frame = drawing.Frame(
        view=view,
        now=time.time(),
        width=terminal_width(stream) or drawing.USUAL_WIDTH,
        glyphs=drawing.Glyphs.of(getattr(stream, "encoding", None) or "utf-8"),
        every=None,
        source=source,
    )
    painter = drawing.Painter() if is_coloured(stream) else None
    for row in drawing.whole(frame):
        line = drawing.plain(row)
        stream.write(f"{painter.painted(line) if painter else line.plain}\n")


class DoctorWorker:
    """Runs the doctor in the background, on one domain after another."""

    def __init__(self, diagnose: Diagnose) -> None:
        self._diagnose = diagnose
        self._running: BackgroundCall[HostDiagnosis] | None = None

    def advance(self, view: View, now: float) -> None:
        """Begin with the next domain, or take its diagnosis if there is one."""
        if not view.to_diagnose:
            return
        key = view.to_diagnose[0]
        if self._running is None:
            self._running = BackgroundCall(partial(self._diagnose, *key))
        if self._running.has_ended:
            host = self._running.result()
            self._running = None
            view.to_diagnose.remove(key)
            message = str(host.error) if host.error is not None else "no such domain any more"
            view.diagnoses[key] = (host.domains[0] if host.domains else message, now)


def run(
    view: View,
    poller: Callable[[Callable[[], object]], HostPoller],
    diagnose: Diagnose,
    *,
    every: float,
    source: Source,
) -> Sequence[HostReport]:
    """Show the view on the terminal until it is left.

    :param poller: makes the poller, from what to call when there is a reading
    :param every: the poller's period
    :param source: the source of the figures
    :return: the last report of each host that has one
    """
    encoding = sys.stdout.encoding or "utf-8"
    glyphs = drawing.Glyphs.of(encoding)
    painter = drawing.Painter()
    doctor = DoctorWorker(diagnose)
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        terminal = Terminal(sys.stdin.fileno(), sys.stdout.fileno(), encoding=encoding)
        hosts = poller(terminal.wake)
        stack.enter_context(terminal)
        stack.enter_context(hosts)
        while not view.is_done:
            now = time.time()
            for new in hosts.drain():
                view.update(new.index, new.report, now, is_complete=new.is_complete)
            doctor.advance(view, now)
            if view.redraw:
                view.redraw = False
                terminal.redraw()
            width, height = terminal.size
            frame = drawing.Frame(
                view=view,
                now=now,
                width=width,
                glyphs=glyphs,
                every=every,
                source=source,
                notice=_notice(view),
            )
            rows = drawing.fitted(frame, height)
            terminal.draw([[(at, painter.painted(piece)) for at, piece in row] for row in rows])
            for key in terminal.events(_TICK_SECONDS - now % _TICK_SECONDS):
                if key == GONE:
                    view.is_done = True
                view.press(key)
            hosts.is_paused = view.is_paused
    return view.reports


def _notice(view: View) -> str:
    """The words that match no domain, once every host has been read."""
    unmatched = unmatched_everywhere(view.reports) if len(view.reports) == view.hosts else ()
    return f"no domain matches {', '.join(map(repr, unmatched))}" if unmatched else ""
