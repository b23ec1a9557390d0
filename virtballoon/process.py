"""The process of the command, and how a signal ends it.

Not by an exception: that would come out of whatever just runs, which may be the import of a
module written in C.
"""

from __future__ import annotations

import contextlib
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType
    from typing import Final

_INTERRUPTED: Final = 130

_SIGNALS: Final = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "hung up",
}

#: Files that must not outlast the process: named before they are made, taken out afterwards.
unfinished: Final[set[str]] = set()

#: Terminals, by file descriptor, whose last line must not outlast it either.
unfinished_lines: Final[set[int]] = set()


def end_on_signals() -> None:
    """From now on, Ctrl-C, SIGTERM and SIGHUP end the process at once, with a line on stderr."""
    for number in _SIGNALS:
        # What the caller has ignored, as nohup does, stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def _end(number: int, _frame: FrameType | None) -> None:
    for path in unfinished:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - pathlib is not imported so early
    line = f"virtballoon: {_SIGNALS[signal.Signals(number)]}\n"
    with contextlib.suppress(OSError):
        for terminal in unfinished_lines:
            os.write(terminal, b"\r\x1b[2K")
        # A terminal has just shown "^C".
        below = os.isatty(2) and not unfinished_lines
        os.write(2, (f"\n{line}" if below else line).encode())
    if number == signal.SIGINT:
        os._exit(_INTERRUPTED)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
