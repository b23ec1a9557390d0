"""Runs programs, also on a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def finished(words: Sequence[str | Path], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, with nothing to read on stdin, and return what it has printed."""
    options = {"stdin": subprocess.DEVNULL, "timeout": 300, "check": False} | options
    return subprocess.run(words, capture_output=True, text=True, **options)  # noqa: PLW1510


def terminal(columns: int) -> tuple[int, int]:
    """A terminal of this width: the ends of the user and of the program."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    return ours, theirs


@contextmanager
def on_a_terminal(
    words: Sequence[str | Path],
    columns: int,
    *,
    env: dict[str, str],
    stdin: bool = True,
    stdout: bool = True,
    stderr: bool = True,
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run a program on a terminal, with other streams than these elsewhere; the user's end of it to
    read from."""
    ours, theirs = terminal(columns)
    with subprocess.Popen(
        words,
        env=env,
        stdin=theirs if stdin else subprocess.DEVNULL,
        stdout=theirs if stdout else subprocess.PIPE,
        stderr=theirs if stderr else subprocess.DEVNULL,
        text=True,
    ) as process:
        os.close(theirs)
        try:
            yield process, ours
        finally:
            os.close(ours)


def read_until(terminal: int, sign: str | None = None) -> str:
    """What appears until a sign does, or until the end, or until nothing more does."""
    seen = b""
    # Linux's word for a terminal that nobody writes to any more.
    with suppress(OSError):
        while sign is None or sign.encode() not in seen:
            if not select.select([terminal], [], [], 60)[0]:
                break
            seen += os.read(terminal, 65536)
    return seen.decode()
