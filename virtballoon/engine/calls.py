"""Blocking calls in threads, none of which can delay the caller.

A libvirt call that waits for a hung QEMU cannot be cancelled: not by a time limit, not by closing
the connection, not by a signal. So every call is made in a daemon thread.
"""

from __future__ import annotations

import contextlib
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_THREAD: Final = "virtballoon-call"

# A thread without a call ends after this time. A reading makes some twenty calls, and to start a
# thread for each would take a tenth of its processor time.
_IDLE_SECONDS: Final = 5.0

# A signal that comes while the main thread is about to wait is noticed when that wakes.
_LONGEST_NAP_SECONDS: Final = 0.5

# A call without an answer after this time may delay those behind it; then the client is woken, fast
# at first.
_LATE_SECONDS: Final = 0.3
_WAKE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 1.0

_Tasks = queue.SimpleQueue[Callable[[], object]]

#: The threads that have no call: where each waits for one.
_idle: Final[list[_Tasks]] = []
# A child process has none of its parent's threads.
os.register_at_fork(after_in_child=_idle.clear)


def _in_thread(task: Callable[[], object]) -> None:
    try:
        tasks = _idle.pop()
    except IndexError:
        tasks = queue.SimpleQueue()
        threading.Thread(target=_work, args=(tasks,), name=_THREAD, daemon=True).start()
    tasks.put(task)


def _work(tasks: _Tasks) -> None:
    while True:
        try:
            tasks.get(timeout=_IDLE_SECONDS)()
        except queue.Empty:
            # Unless it has been given a task just now.
            with contextlib.suppress(ValueError):
                _idle.remove(tasks)
                return
        else:
            _idle.append(tasks)


class BackgroundCall(Generic[T]):
    """A call in another thread.

    :param on_end: called in that thread when it has ended
    :param alone: whether that thread makes no other call, before or after
    :ivar since: when it began, by ``time.monotonic()``
    """

    def __init__(
        self,
        call: Callable[[], T],
        *,
        on_end: Callable[[], object] | None = None,
        alone: bool = False,
    ) -> None:
        self.since = time.monotonic()
        self._call = call
        self._on_end = on_end
        self._ended = threading.Event()
        self._value: T | None = None
        self._error: BaseException | None = None
        if alone:
            threading.Thread(target=self._run, name=_THREAD, daemon=True).start()
        else:
            _in_thread(self._run)

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            # Raised again where the result is read.
            self._error = error
        self._ended.set()
        if self._on_end is not None:
            self._on_end()
        # The error's traceback has this frame: they would keep each other, and the connection,
        # until the next garbage collection.
        del self

    @property
    def has_ended(self) -> bool:
        """Whether it has returned or raised."""
        return self._ended.is_set()

    def wait(self, seconds: float = math.inf) -> bool:
        """Wait until it has ended; False if it has not within this time, and goes on."""
        deadline = time.monotonic() + seconds
        while not self._ended.wait(max(0.0, min(seconds, _LONGEST_NAP_SECONDS))):
            seconds = deadline - time.monotonic()
            if seconds <= 0:
                return False
        return True

    def result(self) -> T:
        """Wait until it has ended; return its result, or raise its error, which is done once."""
        self.wait()
        if self._error is not None:
            # For the same reason, it is not kept.
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error
        return self._value  # type: ignore[return-value]


def gather(*calls: Callable[[], object]) -> tuple[Any, ...]:
    """Make these calls at the same time, and wait for all of them without limit."""
    running = [BackgroundCall(call) for call in calls]
    return tuple(call.result() for call in running)


class Calls(Generic[K]):
    """Runs calls in other threads and gives each when it has ended. Belongs to one thread.

    Of several calls on one connection, libvirt's client lets one thread talk to the daemon for
    all, and a call that is passed to it just as it goes to sleep stays unsent until something
    wakes it: another answer, or another call. If the first waits for a hung QEMU there is no
    other answer, so that a call from here has to wake it (seen with libvirt 9.0; its
    virnetclient.c ends a main loop that may not have begun to run).

    :param wake: some cheap call on the same connection
    :ivar in_flight: the calls that have not ended, by the caller's key
    """

    def __init__(self, wake: Callable[[], object] | None = None) -> None:
        self._wake = wake
        self._ended: queue.SimpleQueue[K] = queue.SimpleQueue()
        self.in_flight: dict[K, BackgroundCall[Any]] = {}

    def submit(self, key: K, call: Callable[[], T]) -> BackgroundCall[T]:
        """Start a call at once."""
        begun = BackgroundCall(call, on_end=partial(self._ended.put, key))
        self.in_flight[key] = begun
        return begun

    def wait(self, seconds: float) -> tuple[K, BackgroundCall[Any]] | None:
        """The next call that has ended, or None when none has in this time."""
        now = time.monotonic()
        deadline = now + seconds
        pause = _WAKE_SECONDS
        wake_at = math.inf
        # Even for a single one: other calls that were left on the connection may be stuck.
        if self._wake is not None and self.in_flight:
            since = min(call.since for call in self.in_flight.values())
            wake_at = max(now + pause, since + _LATE_SECONDS)
        while True:
            nap = min(deadline - now, wake_at - now, _LONGEST_NAP_SECONDS)
            try:
                key = self._ended.get(timeout=max(0.0, nap))
                return key, self.in_flight.pop(key)
            except queue.Empty:
                now = time.monotonic()
            if now >= deadline:
                return None
            if now >= wake_at and self._wake is not None:
                # Its result does not matter.
                BackgroundCall(self._wake)
                wake_at = now + pause
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
