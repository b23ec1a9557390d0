"""A host that takes connections and never says a word."""

from __future__ import annotations

import socket
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
