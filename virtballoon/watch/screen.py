"""A terminal: its keys, its size, a full screen, and restoring it.

The escape sequences are those that every current terminal and multiplexer knows (ECMA-48 and
xterm's), so no terminal database is needed. Neither curses nor urwid: both block for as long as the
terminal takes no output, after Ctrl-S, for example, when they leave the screen; of names, curses
drops joiners, which urwid 2.1 takes for a column each.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import termios
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any, Final, Self, TypeAlias

from virtballoon.system.cleanup import Cleanup, write_in_time

#: A line to draw: pieces with their escape sequences, each with the column where it begins.
Pieces: TypeAlias = Sequence[tuple[int, str]]

#: What :meth:`Terminal.events` returns when the terminal is gone.
GONE: Final = "gone"

# The alternate screen, no cursor, and no wrapping after the last column: a character that is wider
# than expected must not push what follows to the next line.
_ENTER: Final = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
_LEAVE: Final = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"

# Escape is a key, or the beginning of one: then the rest follows at once.
_ESCAPE_SECONDS: Final = 0.05

#: The size of a terminal that does not know its own.
_USUAL: Final = os.terminal_size((80, 24))

_CONTROLS: Final[Mapping[str, str]] = {
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\x08": "backspace",
    "\x02": "pgup",
    "\x06": "pgdn",
    "\x0c": "ctrl-l",
    "\x15": "ctrl-u",
    " ": "space",
}
_FINALS: Final = dict(zip("ABCDHF", ("up", "down", "right", "left", "home", "end"), strict=True))
_NUMBERS: Final = dict(zip("145678", ("home", "end", "pgup", "pgdn", "home", "end"), strict=True))
# Escape and what was typed after it is two keys. A key pressed with Alt, which has no function
# here, looks the same.
_KEY: Final = re.compile(r"\x1b[\[O](?P<numbers>[ -?]*)(?P<final>[@-~]?)|\x1b|.", re.DOTALL)

# The beginning of a key, or of a character in UTF-8, of which the rest may follow.
_UNFINISHED: Final = re.compile(rb"(\x1b([\[O][ -?]*)?|[\xc0-\xff][\x80-\xbf]{0,2})\Z")


def keys_of(data: bytes) -> list[str]:
    """What a terminal sends as keys: characters, and names of other keys."""
    names = map(_name, _KEY.finditer(data.decode("utf-8", "ignore")))
    return [name for name in names if name]


def _name(found: re.Match[str]) -> str:
    """The key; "" if it is unknown."""
    if found[0] == "\x1b":
        return "esc"
    if found["final"] is None:
        key = _CONTROLS.get(found[0], found[0])
        return key if len(key) > 1 or key.isprintable() else ""
    if found["final"] == "~":
        return _NUMBERS.get(found["numbers"].partition(";")[0], "")
    return _FINALS.get(found["final"], "")


class Terminal:
    """A full screen on a terminal, which is restored when the block is left, and when a signal
    ends or stops the process. Keys come from one file descriptor, and another one is drawn on."""

    def __init__(self, keyboard: int, screen: int, *, encoding: str = "utf-8") -> None:
        self._keyboard = keyboard
        self._screen = screen
        self._encoding = encoding
        self._drawn: list[Pieces] = []
        self._before: list[Any] | None = None
        self._cleanup = Cleanup(lambda _: self.leave())
        self._handlers: dict[int, Any] = {}
        self._woken, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def __enter__(self) -> Self:
        handlers = {
            signal.SIGWINCH: self._resized,
            signal.SIGCONT: self._continued,
            signal.SIGTSTP: self._stopped,
            signal.SIGQUIT: self._stopped,
        }
        for number, handler in handlers.items():
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, handler)
        self._cleanup.__enter__()
        try:
            self.enter()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self.leave()
        self._cleanup.__exit__()

    @property
    def size(self) -> os.terminal_size:
        """The size of the window, in characters."""
        try:
            size = os.get_terminal_size(self._screen)
        except OSError:
            return _USUAL
        return size if size.columns and size.lines else _USUAL

    def wake(self) -> None:
        """Make :meth:`events` return; from any thread."""
        # A full pipe has the same effect.
        with contextlib.suppress(BlockingIOError):
            os.write(self._waker, b".")

    def events(self, seconds: float) -> list[str]:
        """Wait for keys, for :meth:`wake` or for a new size of the window, at most this long, and
        return the keys."""
        ready, _, _ = select.select([self._keyboard, self._woken], [], [], max(0.0, seconds))
        if self._woken in ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._woken, 4096)
        return self._typed() if self._keyboard in ready else []

    def _typed(self) -> list[str]:
        data = b""
        while not data or (_UNFINISHED.search(data) and self._has_more()):
            try:
                more = os.read(self._keyboard, 4096)
            except OSError:
                more = b""
            if not more:
                return [*keys_of(data), GONE]
            data += more
        return keys_of(data)

    def _has_more(self) -> bool:
        return bool(select.select([self._keyboard], [], [], _ESCAPE_SECONDS)[0])

    def draw(self, lines: Sequence[Pieces]) -> None:
        """Show these lines; writes only those that have changed."""
        out: list[str] = []
        for row, line in enumerate(lines):
            if row < len(self._drawn) and self._drawn[row] == line:
                continue
            out.append(f"\x1b[{row + 1};1H\x1b[2K")
            out += [f"\x1b[{row + 1};{column + 1}H{text}" for column, text in line]
        if len(lines) < len(self._drawn):
            out.append(f"\x1b[{len(lines) + 1};1H\x1b[J")
        self._drawn = list(lines)
        self._write("".join(out))

    def redraw(self) -> None:
        """Make the next :meth:`draw` write every line."""
        self._drawn = []
        self._write("\x1b[2J")

    def enter(self) -> None:
        """Set the terminal up, again if another program has used it."""
        if self._before is None:
            self._before = termios.tcgetattr(self._keyboard)
        mode = [*self._before[:6], list(self._before[6])]
        # Keys at once and without echo; Ctrl-C and Ctrl-Z remain signals.
        mode[3] &= ~(termios.ICANON | termios.ECHO)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        termios.tcsetattr(self._keyboard, termios.TCSADRAIN, mode)
        self._drawn = []
        self._write(_ENTER)

    def leave(self) -> bool:
        """Restore the terminal, and return whether that was necessary. It may be gone; and if it
        takes no output, as after Ctrl-S, it is waited for only briefly."""
        if self._before is None:
            return False
        before, self._before = self._before, None
        with contextlib.suppress(OSError):
            write_in_time(self._screen, _LEAVE.encode())
        with contextlib.suppress(termios.error):
            # Not TCSADRAIN, which waits for the output: without end after Ctrl-S.
            termios.tcsetattr(self._keyboard, termios.TCSANOW, before)
            # Pending input was not meant for the shell.
            termios.tcflush(self._keyboard, termios.TCIFLUSH)
        return True

    def _write(self, text: str) -> None:
        # A question mark is as wide as what it replaces, mostly.
        data = text.encode(self._encoding, "replace")
        while data:
            data = data[os.write(self._screen, data) :]

    def _resized(self, _number: int, _frame: FrameType | None) -> None:
        # A window that shrinks and grows again has lost its content.
        self._drawn = []
        self.wake()

    def _continued(self, _number: int, _frame: FrameType | None) -> None:
        # A shell has used the terminal.
        self.enter()
        self.wake()

    def _stopped(self, number: int, _frame: FrameType | None) -> None:
        self.leave()
        signal.signal(number, signal.SIG_DFL)
        # Returns only when the process continues.
        os.kill(os.getpid(), number)
        signal.signal(number, self._stopped)
