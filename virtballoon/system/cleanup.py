"""What is undone when the process ends, and how a signal ends it.

Not by an exception: that would be raised in whatever code is running, which may be the import of a
module written in C.
"""

from __future__ import annotations

import _thread
import contextlib
import os
import signal
import time

from virtballoon.system.journal import WARNING, priority

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import FrameType
    from typing import Final, Self


_INTERRUPTED: Final = 130

_SIGNALS: Final = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "hung up",
}

#: The time for what has to be restored at the end, in seconds; a second signal cuts it short.
UNDO_SECONDS: float = 5.0

# A terminal that is stopped, or whose connection is gone, never accepts the last output.
_WRITE_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.02

#: Whether the process is about to end.
ending: Final = _thread.allocate_lock()


class Cleanup:
    """Something to undo when the process ends, unless the ``with`` block has ended before.

    :param undo: called with the time it has, in seconds; may be called more than once. Without
        ``remaining`` it is called where a signal arrives, must return at once and take no lock, and
        says whether it has wiped the line of a terminal; else it is called in any thread, and at
        the end of the block, too.
    :param remaining: a line for each thing that is not undone, with what to do about it. It must
        not take a lock.
    """

    __slots__ = ("remaining", "undo")

    def __init__(
        self,
        undo: Callable[[float], object],
        *,
        remaining: Callable[[], Iterable[str]] | None = None,
    ) -> None:
        self.undo = undo
        self.remaining = remaining

    def __enter__(self) -> Self:
        pending.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        if self.remaining is not None:
            self.undo(UNDO_SECONDS)
        if self in pending:
            pending.remove(self)


#: What to undo when the process ends. Code that adds a slow one checks ``ending`` afterwards, and
#: changes nothing if that is set.
pending: Final[list[Cleanup]] = []


def end_on_signals() -> None:
    """From now on, Ctrl-C, SIGTERM and SIGHUP end the process at once, with a line on stderr."""
    for number in _SIGNALS:
        # What the caller ignores, as nohup does, stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)


def undo_all(seconds: float) -> list[str]:
    """Undo all that is pending and may take long, at the same time, and return what remains.

    A signal can interrupt any code, also the start of a thread by :mod:`threading`; so nothing here
    takes a lock. A cleanup may take one, and is not done in time if the interrupted code holds it.
    """
    cleanups = [cleanup for cleanup in tuple(pending) if cleanup.remaining is not None]
    deadline = time.monotonic() + seconds
    running = [_thread.allocate_lock() for _ in cleanups]
    for lock, cleanup in zip(running, cleanups, strict=True):
        lock.acquire()
        _thread.start_new_thread(_undo, (cleanup, seconds, lock))
    for lock in running:
        lock.acquire(timeout=max(0.0, deadline - time.monotonic()))
    return _remaining(cleanups)


def _undo(cleanup: Cleanup, seconds: float, running: _thread.LockType) -> None:
    # An error shows in what remains.
    with contextlib.suppress(Exception):
        cleanup.undo(seconds)
    running.release()


def _remaining(cleanups: Iterable[Cleanup]) -> list[str]:
    return [line for each in cleanups if each.remaining is not None for line in each.remaining()]


def undo_pending() -> list[str]:
    """Undo what is pending before the process ends, and return what remains; the second time,
    return only what remains."""
    if ending.acquire(blocking=False):
        return undo_all(UNDO_SECONDS)
    return _remaining(tuple(pending))


def write_in_time(file: int, data: bytes) -> None:
    """Write, but wait for the reader only briefly: the rest is lost then.

    Asking whether the file can be written to is not enough: that does not say how much.

    :raise OSError: if nothing can be written, the terminal being gone, for example
    """
    deadline = time.monotonic() + _WRITE_SECONDS
    while data := data[_write_at_once(file, data) :]:
        if time.monotonic() >= deadline:
            return
        time.sleep(_PAUSE_SECONDS)


def _write_at_once(file: int, data: bytes) -> int:
    blocks = os.get_blocking(file)
    # Other processes, such as a shell, write to the same terminal: not for longer than necessary.
    os.set_blocking(file, False)
    try:
        return os.write(file, data)
    except BlockingIOError:
        return 0
    finally:
        os.set_blocking(file, blocks)


def _end(number: int, _frame: FrameType | None) -> None:
    is_wiped = False
    for cleanup in tuple(pending):
        if cleanup.remaining is None:
            with contextlib.suppress(OSError):
                is_wiped = bool(cleanup.undo(0)) or is_wiped
    line = f"virtballoon: {_SIGNALS[signal.Signals(number)]}\n"
    with contextlib.suppress(OSError):
        # A terminal has just shown "^C".
        below = os.isatty(2) and not is_wiped
        write_in_time(2, (f"\n{line}" if below else line).encode())
    for line in undo_pending():
        with contextlib.suppress(OSError):
            message = f"{priority(WARNING)}virtballoon: {line}\n"
            write_in_time(2, message.encode(errors="backslashreplace"))
    if number == signal.SIGINT:
        os._exit(_INTERRUPTED)
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
