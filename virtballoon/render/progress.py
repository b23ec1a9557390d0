"""The line on a terminal that says which hosts are awaited, and which of their guests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Self, TextIO, TypeAlias

from virtballoon.model.report import HostResult
from virtballoon.render import text
from virtballoon.system.cleanup import Cleanup, write_in_time

#: What to call with the result of each host.
Done: TypeAlias = Callable[[HostResult[object]], None]

_WIPE: Final = "\r\x1b[2K"


class Progress:
    """One line, redrawn as hosts end, and wiped at the end whatever happens.

    :param labels: what to call each host, by its URI
    """

    def __init__(self, labels: Mapping[str, str], *, stream: TextIO) -> None:
        self._labels = dict(labels)
        self._guests: dict[str, str] = {}
        self._drawing = threading.Lock()
        self._is_over = False
        self._cleanup = Cleanup(self._wipe)
        self._total = len(labels)
        self._ended = 0
        self._stream = stream

    def __enter__(self) -> Self:
        self._cleanup.__enter__()
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        with self._drawing:
            self._write("")
            self._is_over = True
            self._cleanup.__exit__()

    def done(self, result: HostResult[object]) -> None:
        """Take a host off the list."""
        self._ended += 1
        self._labels.pop(result.uri, None)
        self._guests.pop(result.uri, None)
        self._draw()

    def note(self, uri: str, guests: Sequence[str]) -> None:
        """Say which guests of a host are awaited. May be called in any thread."""
        self._guests = self._guests | {uri: ", ".join(guests)}
        self._draw()

    def _wipe(self, _seconds: float) -> bool:
        self._is_over = True
        write_in_time(self._stream.fileno(), _WIPE.encode())
        return True

    def _draw(self) -> None:
        guests = self._guests
        if self._total == 1:
            awaited = ", ".join(guests.values())
            words = f"waiting for {awaited} to answer" if awaited else ""
        else:
            labels = self._labels.items()
            named = [f"{label} ({guests[u]})" if guests.get(u) else label for u, label in labels]
            words = f"{self._ended} of {self._total} hosts done"
            words += f", waiting for {', '.join(named)}" if named else ""
        with self._drawing:
            # Other threads may still report hosts.
            if not self._is_over:
                self._write(words)

    def _write(self, words: str) -> None:
        if text.is_dumb():
            # The terminal cannot take a line back.
            return
        # In the last column, some terminals begin a new line.
        room = max((text.terminal_width(self._stream) or 80) - 1, 1)
        self._stream.write(_WIPE + text.cut(text.printable(words), room))
        self._stream.flush()
