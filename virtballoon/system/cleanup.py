"""The process of the command, and how a signal ends it.

Not by an exception: that would come out of whatever just runs, which may be the import of a
module written in C.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Final, Protocol

    class Debt(Protocol):
        """Something that was changed for a while and is to be put back."""

        def settle(self, seconds: float) -> None:
            """Put it back, in this time. May be called in any thread, and more than once."""

        def pleas(self) -> list[str]:
            """What is not put back: a line each, with what to do about it."""


_INTERRUPTED: Final = 130

_SIGNALS: Final = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "hung up",
}

#: Files that must not outlast the process: named before they are made, taken out afterwards.
unfinished: Final[set[str]] = set()

#: What must not stay as it is when the process ends. Whoever adds to it looks at ``ending``
#: afterwards, and owes nothing new if that is set.
owed: Final[set[Debt]] = set()

#: Whether the process is about to end.
ending: Final = _thread.allocate_lock()

#: So long the process lives on to settle what is owed, unless it is told to end once more.
SETTLE_SECONDS: Final = 5.0

#: So long a terminal may take what is said at the end: one that is stopped, or whose other side is
#: away, never does.
_SAYING_SECONDS: Final = 1.0
_NAP_SECONDS: Final = 0.02

#: Terminals, by file descriptor, whose last line must not outlast it either.
unfinished_lines: Final[set[int]] = set()

#: What gives a terminal back that was taken as a whole: called wherever the process is just then.
unfinished_screens: Final[list[Callable[[], object]]] = []


def end_on_signals() -> None:
    """From now on, Ctrl-C, SIGTERM and SIGHUP end the process at once, with a line on stderr."""
    for number in _SIGNALS:
        # What the caller has ignored, as nohup does, stays so.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def settle(debts: list[Debt], seconds: float) -> list[str]:
    """Settle all these at the same time, and tell what could not be.

    A signal may have interrupted anything, a thread being started with :mod:`threading`, say; so
    nothing is used here that takes a lock. A debt may take one; where that is held by what was
    interrupted, the debt is not settled in time, and that is told.
    """
    deadline = time.monotonic() + seconds
    running = [_thread.allocate_lock() for _ in debts]
    for lock, debt in zip(running, debts, strict=True):
        lock.acquire()
        _thread.start_new_thread(_settle, (debt, seconds, lock))
    for lock in running:
        lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
    return [plea for debt in debts for plea in debt.pleas()]


def _settle(debt: Debt, seconds: float, running: _thread.LockType) -> None:
    # What goes wrong is told by what is still owed.
    with contextlib.suppress(Exception):
        debt.settle(seconds)
    running.release()


def settle_at_the_end() -> list[str]:
    """Settle all that is owed before the process ends, and tell what could not be; the second time,
    only tell."""
    if ending.acquire(blocking=False):
        return settle(list(owed), SETTLE_SECONDS)
    return [plea for debt in list(owed) for plea in debt.pleas()]


def say_in_time(file: int, data: bytes) -> None:
    """Write, but wait for no reader longer than a moment: the rest is lost then.

    Looking whether it can be written to would not do: that says nothing of how much.

    :raise OSError: when it is gone, say
    """
    deadline = time.monotonic() + _SAYING_SECONDS
    while data := data[_write_at_once(file, data) :]:
        if time.monotonic() >= deadline:
            return
        time.sleep(_NAP_SECONDS)


def _write_at_once(file: int, data: bytes) -> int:
    blocks = os.get_blocking(file)
    # Others, a shell for one, write to the same terminal: not longer than need be.
    os.set_blocking(file, False)
    try:
        return os.write(file, data)
    except BlockingIOError:
        return 0
    finally:
        os.set_blocking(file, blocks)


def _end(number: int, _frame: FrameType | None) -> None:
    for path in unfinished:
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108 - pathlib is not imported so early
    for give_back in unfinished_screens:
        give_back()
    line = f"virtballoon: {_SIGNALS[signal.Signals(number)]}\n"
    with contextlib.suppress(OSError):
        for terminal in unfinished_lines:
            say_in_time(terminal, b"\r\x1b[2K")
        # A terminal has just shown "^C".
        below = os.isatty(2) and not (unfinished_lines or unfinished_screens)
        say_in_time(2, (f"\n{line}" if below else line).encode())
    # Nobody is to draw on them any more.
    unfinished_lines.clear()
    for plea in settle_at_the_end():
        with contextlib.suppress(OSError):
            say_in_time(2, f"virtballoon: {plea}\n".encode(errors="backslashreplace"))
    if number == signal.SIGINT:
        os._exit(_INTERRUPTED)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
