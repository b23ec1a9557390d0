"""A host that takes connections and never says a word, and what that costs."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from pathlib import Path


class SilentHost:
    """It listens on a socket until it is closed, which its callers notice at once.

    :ivar uri: its URI
    """

    def __init__(self, path: Path) -> None:
        self.uri = f"qemu+unix:///session?socket={path}"
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._listener.close()


def held() -> tuple[int, int]:
    """The threads and the file descriptors of this process."""
    return threading.active_count(), len(os.listdir("/proc/self/fd"))  # noqa: PTH208
