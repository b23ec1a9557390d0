"""The advice by a store for whoever asks again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from virtballoon.errors import VirtballoonError
from virtballoon.sizing.rule import DEFAULT_SECONDS, Advice, advise, first_day
from virtballoon.sizing.store import Store

#: Advice is about days: an hour changes little.
_KEPT_SECONDS: Final = 3600.0


class Advisor:
    """Advice with the default window and profile. The store is read at most once an hour.

    :param path: the store, which another process writes
    :param on_error: called with why it cannot be read, once until it can be
    """

    def __init__(self, path: Path, *, on_error: Callable[[str], object]) -> None:
        self._path = path
        self._on_error = on_error
        self._lock = threading.Lock()
        self._read_at: float | None = None
        self._has_failed = False
        self._advice: Mapping[str, Advice] = {}

    def __call__(self) -> Mapping[str, Advice]:
        """The advice for each domain of the store, by UUID; none while it cannot be read."""
        with self._lock:
            if self._read_at is None or time.monotonic() - self._read_at > _KEPT_SECONDS:
                self._advice = self._read()
                self._read_at = time.monotonic()
            return self._advice

    def _read(self) -> Mapping[str, Advice]:
        now = time.time()
        try:
            with Store(self._path) as store:
                histories = store.histories(first_day(now, DEFAULT_SECONDS))
        except VirtballoonError as error:
            if not self._has_failed:
                self._on_error(str(error))
            self._has_failed = True
            return {}
        self._has_failed = False
        return {history.uuid: advise(history, now=now) for history in histories}
