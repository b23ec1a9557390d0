"""Blocking calls in threads, none of which can delay the caller.

A libvirt call that waits for a hung QEMU cannot be cancelled: not by a time limit, not by closing
the connection, not by a signal. So every call is made in a daemon thread, for which nothing waits,
neither for its result nor when the process ends.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Final, Generic, TypeVar

from virtballoon.errors import VirtballoonError
from virtballoon.model.value import Value

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_THREAD: Final = "virtballoon-call"

# A signal that comes while the main thread is about to wait is noticed when that wakes.
_LONGEST_NAP_SECONDS: Final = 0.5

# A call without an answer after this time may delay those behind it; then the client is woken, fast
# at first.
_LATE_SECONDS: Final = 0.3
_WAKE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 1.0


class BackgroundCall(Generic[T]):
    """A call in a thread of its own.

    :ivar since: when it began, by ``time.monotonic()``
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self.since = time.monotonic()
        self._call = call
        self._ended = threading.Event()
        self._value: T | None = None
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name=_THREAD, daemon=True).start()

    def _run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            # Raised again where the result is read.
            self._error = error
        finally:
            self._ended.set()

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
        """What it returned, when it has ended.

        :raise BaseException: what the call raised
        """
        self.wait()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]


def gather(*calls: Callable[[], object]) -> tuple[Any, ...]:
    """Make these calls at the same time, and wait for all of them without limit.

    :raise BaseException: what the first that failed raised
    """
    running = [BackgroundCall(call) for call in calls]
    return tuple(call.result() for call in running)


class Answer(Value, Generic[K]):
    """The outcome of a call.

    :ivar key: the caller's name for it
    :ivar value: what it returned
    :ivar error: the error of ours that it raised instead
    """

    key: K
    value: object
    error: VirtballoonError | None


class Calls(Generic[K]):
    """Runs calls in daemon threads and gives their answers as they come.

    Belongs to one thread, which submits and waits.

    Of several calls on one connection, libvirt's client lets one thread talk to the daemon for
    all, and a call that is passed to it just as it goes to sleep stays unsent until something
    wakes it: another answer, or another call. If the first waits for a hung QEMU there is no
    other answer, so that a call from here has to wake it (seen with libvirt 9.0; its
    virnetclient.c ends a main loop that may not have begun to run).

    :param wake: some cheap call on the same connection

    :ivar in_flight: the calls that have no answer yet, with when they began
        (``time.monotonic()``)
    """

    def __init__(self, wake: Callable[[], object] | None = None) -> None:
        self._wake = wake
        self._tasks: queue.SimpleQueue[tuple[K, Callable[[], object]] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[K, object, BaseException | None]] = (
            queue.SimpleQueue()
        )
        self._threads = 0
        self.in_flight: dict[K, float] = {}

    def submit(self, key: K, call: Callable[[], object]) -> None:
        """Start a call at once."""
        self.in_flight[key] = time.monotonic()
        if len(self.in_flight) > self._threads:
            self._threads += 1
            threading.Thread(target=self._work, name=_THREAD, daemon=True).start()
        self._tasks.put((key, call))

    def wait(self, seconds: float) -> Answer[K] | None:
        """The next answer, or None when none came in this time.

        :raise BaseException: what a call raised that is no error of ours
        """
        now = time.monotonic()
        deadline = now + seconds
        pause = _WAKE_SECONDS
        wake_at = math.inf
        # Even for a single one: other calls that were left on the connection may be stuck.
        if self._wake is not None and self.in_flight:
            wake_at = max(now + pause, min(self.in_flight.values()) + _LATE_SECONDS)
        while True:
            nap = min(deadline - now, wake_at - now, _LONGEST_NAP_SECONDS)
            try:
                key, value, error = self._answers.get(timeout=max(0.0, nap))
                break
            except queue.Empty:
                now = time.monotonic()
            if now >= deadline:
                return None
            if now >= wake_at:
                threading.Thread(target=self._do_wake, name=_THREAD, daemon=True).start()
                wake_at = now + pause
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        del self.in_flight[key]
        if error is not None and not isinstance(error, VirtballoonError):
            raise error
        return Answer(key=key, value=value, error=error)

    def close(self) -> None:
        """Let the threads end: the idle ones now, a stuck one with its call or the process."""
        for _ in range(self._threads):
            self._tasks.put(None)

    def _do_wake(self) -> None:
        # Its result does not matter.
        with contextlib.suppress(VirtballoonError):
            if self._wake is not None:
                self._wake()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            key, call = task
            try:
                self._answers.put((key, call(), None))
            except BaseException as error:
                # Raised again where the answer is read.
                self._answers.put((key, None, error))
