"""The live view at work: reads hosts, draws, and takes keys."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, TextIO

from virtballoon.model.report import HostReport, unmatched_everywhere
from virtballoon.model.source import Source
from virtballoon.render.text import is_coloured, terminal_width
from virtballoon.watch import drawing
from virtballoon.watch.poller import HostPoller
from virtballoon.watch.screen import GONE, Terminal
from virtballoon.watch.view import View

#: Ages are drawn again this often.
_TICK_SECONDS: Final = 1.0


def print_frame(view: View, stream: TextIO, *, source: Source) -> None:
    """Print one frame, to a terminal or not."""
    width = terminal_width(stream) or drawing.USUAL_WIDTH
    frame = drawing.Frame(view=view, now=time.time(), width=width, every=None, source=source)
    encoding = stream.encoding or "utf-8"
    for row in drawing.whole(frame):
        line = drawing.joined(row, coloured=is_coloured(stream))
        # As on a terminal: a question mark is as wide as what it replaces.
        stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")


def run(
    view: View,
    poller: Callable[[Callable[[], object]], HostPoller],
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
    sys.stdout.flush()
    with contextlib.ExitStack() as stack:
        encoding = sys.stdout.encoding or "utf-8"
        terminal = Terminal(sys.stdin.fileno(), sys.stdout.fileno(), encoding=encoding)
        hosts = poller(terminal.wake)
        stack.enter_context(terminal)
        stack.enter_context(hosts)
        while not view.is_done:
            now = time.time()
            for new in hosts.drain():
                view.update(new.index, new.report, now, is_complete=new.is_complete)
            if view.redraw:
                view.redraw = False
                terminal.redraw()
            width, height = terminal.size
            frame = drawing.Frame(
                view=view,
                now=now,
                width=width,
                every=every,
                source=source,
                notice=_notice(view),
            )
            rows = drawing.fitted(frame, height)
            terminal.draw([[(each.at, drawing.painted(each)) for each in row] for row in rows])
            for key in terminal.events(_TICK_SECONDS - now % _TICK_SECONDS):
                if key == GONE:
                    view.is_done = True
                view.press(key)
            hosts.is_paused = view.is_paused
    return view.reports


def _notice(view: View) -> str:
    """The words that match no domain, once every host has been read."""
    unmatched = unmatched_everywhere(view.reports) if len(view.reports) == len(view.hosts) else ()
    return f"no domain matches {', '.join(map(repr, unmatched))}" if unmatched else ""
