"""Blocking calls in the background, a few at a time, none of which can hold up the caller.

A libvirt call that waits for a hung guest cannot be cancelled: not by a time limit, not by closing
the connection, not by a signal. So every call is made in a thread that nobody has to wait for,
neither for its result nor when the process ends.
"""

from __future__ import annotations

import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from virtballoon.errors import VirtballoonError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

_THREAD: Final = "virtballoon-call"

# A signal that comes while the main thread is about to wait is noticed when that wakes.
_LONGEST_NAP_SECONDS: Final = 0.5

# A call that has no answer in this time may hold up those behind it; then nudges begin, fast at
# first.
_LATE_SECONDS: Final = 0.3
_NUDGE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Answer(Generic[K]):
    """What became of a call.

    :ivar key: the caller's name for it
    :ivar value: what it returned
    :ivar error: what it raised instead, of ours
    """

    key: K
    value: object
    error: VirtballoonError | None


class Calls(Generic[K]):
    """Runs calls in daemon threads and hands over their answers as they come.

    Belongs to one thread, which submits and waits.

    Of several calls on one connection, libvirt's client lets one thread talk to the daemon for
    all, and a call that is handed to it just as it goes to sleep stays unsent until something
    wakes it: another answer, or another call. Where the first waits for a hung guest there is no
    other answer, so that a call from here has to wake it (seen with libvirt 9.0; its
    virnetclient.c ends a main loop that may not have begun to run).

    :param nudge: some cheap call on the same connection
    :param accompanied: whether calls that wait for a hung guest are known to be out on it already,
        so that none of these is worth waiting for without a nudge

    :ivar in_flight: the calls that have no answer yet, with when they began
        (``time.monotonic()``)
    """

    def __init__(
        self, nudge: Callable[[], object] | None = None, *, accompanied: bool = False
    ) -> None:
        self._nudge = nudge
        self._accompanied = accompanied
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

        :raise BaseException: whatever a call raised that is no error of ours
        """
        now = time.monotonic()
        deadline = now + seconds
        pause = _NUDGE_SECONDS
        nudge_at = math.inf
        # Even for a single one: what others left behind on the connection may be stuck.
        if self._nudge is not None and self.in_flight:
            late_at = min(self.in_flight.values()) + _LATE_SECONDS
            nudge_at = now + pause if self._accompanied else max(now + pause, late_at)
        while True:
            nap = min(deadline - now, nudge_at - now, _LONGEST_NAP_SECONDS)
            try:
                key, value, error = self._answers.get(timeout=max(0.0, nap))
                break
            except queue.Empty:
                now = time.monotonic()
            if now >= deadline:
                return None
            if now >= nudge_at:
                threading.Thread(target=self._do_nudge, name=_THREAD, daemon=True).start()
                nudge_at = now + pause
                pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        del self.in_flight[key]
        if error is not None and not isinstance(error, VirtballoonError):
            raise error
        return Answer(key, value, error)

    def close(self) -> None:
        """Let the threads end: the idle ones now, a stuck one with its call or the process."""
        for _ in range(self._threads):
            self._tasks.put(None)

    def _do_nudge(self) -> None:
        # What comes of it is of no interest: whoever waits sees for itself.
        with contextlib.suppress(VirtballoonError):
            if self._nudge is not None:
                self._nudge()

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            key, call = task
            try:
                self._answers.put((key, call(), None))
            except BaseException as error:
                # Raised again where the answer is read.
                self._answers.put((key, None, error))


def together(*calls: Callable[[], object]) -> tuple[Any, ...]:
    """Make these calls at the same time, and wait for all of them without limit.

    :raise BaseException: whatever the first that fails raises
    """
    running: Calls[int] = Calls()
    results: dict[int, object] = {}
    try:
        for index, call in enumerate(calls):
            running.submit(index, call)
        while running.in_flight:
            answer = running.wait(math.inf)
            if answer is not None and answer.error is not None:
                raise answer.error
            if answer is not None:
                results[answer.key] = answer.value
    finally:
        running.close()
    return tuple(results[index] for index in range(len(calls)))


class Begun(Generic[T]):
    """A call that has been begun.

    :ivar ended: set when it has returned or raised, whoever has waited for it and how long
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self.ended = threading.Event()
        self._results: list[T] = []
        self._calls: Calls[str] = Calls()
        self._calls.submit("call", lambda: self._make(call))
        # Its thread ends with it.
        self._calls.close()

    def _make(self, call: Callable[[], T]) -> None:
        try:
            self._results.append(call())
        finally:
            self.ended.set()

    def within(self, seconds: float) -> tuple[T] | None:
        """What it returned; None when it has no answer in this time, and goes on by itself.

        :raise BaseException: whatever the call raises
        """
        answer = self._calls.wait(seconds)
        if answer is None:
            return None
        if answer.error is not None:
            raise answer.error
        return (self._results[0],)


def call_within(call: Callable[[], T], seconds: float) -> tuple[T] | None:
    """Make one call; None when it has no answer in this time, and goes on by itself.

    :raise BaseException: whatever the call raises
    """
    return Begun(call).within(seconds)
