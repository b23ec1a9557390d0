"""A terminal to type in and to look at: a window of tmux, with a shell in it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from .kernel import LabUnavailable
from .waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

#: Far more than a program takes to react.
_PATIENCE: Final = 60.0

_PROMPT: Final = re.compile(r"^[#$] *$", re.MULTILINE)


class Window:
    """A window with a shell, until it is left.

    :param columns: how wide it is
    :param lines: how high it is
    :param environment: what the shell and its programs know beside the tester's own

    :ivar folder: a directory that is gone afterwards
    """

    def __init__(self, columns: int = 80, lines: int = 24, **environment: str) -> None:
        if shutil.which("tmux") is None:
            raise LabUnavailable("tmux is not installed")
        self._temporary = tempfile.TemporaryDirectory(prefix="tmux-", dir="/tmp")
        self.folder = Path(self._temporary.name)
        kept = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "COLUMNS", "LINES"}}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self._environment = {**kept, "PATH": path, "LC_ALL": "C.UTF-8", **environment}
        size = ("-x", str(columns), "-y", str(lines))
        self._tmux("-u", "-f", os.devnull, "new-session", "-d", *size, "/bin/sh")

    def __enter__(self) -> Self:
        try:
            self.wait_for(lambda: self.has_prompt, "a prompt")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End whatever runs in it."""
        self._tmux("kill-server")
        self._temporary.cleanup()

    def _tmux(self, *words: str) -> str:
        result = subprocess.run(
            ["tmux", "-S", f"{self.folder}/socket", *words],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=True,
        )
        return result.stdout

    def type(self, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self._tmux("send-keys", *keys)

    def run(self, line: str) -> None:
        """Type a line, and Enter."""
        self._tmux("send-keys", "-l", line)
        self.type("Enter")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to what the shell has just started."""
        shell = self._tmux("display-message", "-p", "#{pane_pid}").strip()
        children = Path(f"/proc/{shell}/task/{shell}/children").read_text()
        os.kill(int(children.split()[-1]), number)

    def resize(self, columns: int, lines: int) -> None:
        """Give the window another size."""
        self._tmux("resize-window", "-x", str(columns), "-y", str(lines))

    @property
    def text(self) -> str:
        """What is shown."""
        return self._tmux("capture-pane", "-p")

    @property
    def lines(self) -> list[str]:
        """The same by line, without blanks at the end of each."""
        return [line.rstrip() for line in self.text.split("\n")]

    @property
    def has_prompt(self) -> bool:
        """Whether the shell waits for a line."""
        return _PROMPT.search(self.text) is not None

    @property
    def coloured(self) -> str:
        """The same with colours, as escape sequences, and with blanks at the end of lines."""
        return self._tmux("capture-pane", "-peN")

    @property
    def is_usual(self) -> bool:
        """Whether the shell's own screen is shown, with a cursor, and lines wrap."""
        flags = "#{alternate_on} #{cursor_flag} #{wrap_flag}"
        return self._tmux("display-message", "-p", flags).split() == ["0", "1", "1"]

    def wait_for(self, what: Callable[[], object] | str, why: str = "") -> None:
        """Wait until a text is shown, or something is so."""
        condition = (lambda: what in self.text) if isinstance(what, str) else what
        try:
            wait_until(lambda: bool(condition()), _PATIENCE, why or repr(what))
        except AssertionError as error:
            raise AssertionError(f"{error}; there is:\n{self.text}") from None
