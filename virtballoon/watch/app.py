"""The live view at work: reads hosts, draws, and takes keys."""

from __future__ import annotations

import sys
import time
from typing import Final, TextIO

from virtballoon.render import text
from virtballoon.watch import drawing
from virtballoon.watch.poller import HostPoller
from virtballoon.watch.screen import GONE, Terminal
from virtballoon.watch.view import View

#: The width of a frame that does not go to a terminal.
_USUAL_WIDTH: Final = 80

#: Ages are drawn again this often.
_TICK_SECONDS: Final = 1.0


def print_frame(view: View, stream: TextIO) -> None:
    """Print one frame, to a terminal or not."""
    frame = drawing.Frame(view, time.time(), text.terminal_width(stream) or _USUAL_WIDTH)
    coloured = text.is_coloured(stream)
    encoding = stream.encoding or "utf-8"
    for row in drawing.whole(frame):
        line = "".join(text.styled(part, style, coloured=coloured) for part, style in row).rstrip()
        # As on a terminal: a question mark is as wide as what it replaces.
        stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")


def run(view: View, poller: HostPoller, terminal: Terminal) -> None:
    """Show the view on the terminal until it is left."""
    sys.stdout.flush()
    with terminal, poller:
        while not view.is_done:
            now = time.time()
            for new in poller.drain():
                view.update(new.index, new.report, now, is_complete=new.is_complete)
            if view.redraw:
                view.redraw = False
                terminal.redraw()
            width, height = terminal.size
            rows = drawing.fitted(drawing.Frame(view, now, width), height)
            terminal.draw([drawing.painted(row) for row in rows])
            for key in terminal.events(_TICK_SECONDS - now % _TICK_SECONDS):
                if key == GONE:
                    view.is_done = True
                view.press(key)
            poller.is_paused = view.is_paused
