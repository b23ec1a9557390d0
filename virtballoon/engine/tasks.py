"""Makes calls for each of many domains, so that a domain that hangs delays no other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from virtballoon.engine.calls import Answer, Calls
from virtballoon.engine.limits import (
    HOLD_SECONDS,
    IN_FLIGHT,
    LATE_SECONDS,
    MOST_HELD,
    incoming,
    job_busy,
    monitor_busy,
    timed_out,
    too_many_hung,
)
from virtballoon.errors import Busy, NotRunning, NotSupported
from virtballoon.hypervisor.connection import Control, Domain

_RETRY_SECONDS: Final = 0.2
_TASK: Final = "task"
_CHECK: Final = "check"

#: This many domains are checked at a time, since a check never blocks.
_CHECKS: Final = 20


def hold_of(domain: Domain) -> Control | None:
    """What holds the domain, if anything, and if its driver says so."""
    try:
        control = domain.hold()
    except (NotRunning, NotSupported):
        return None
    return None if control.free else control


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """Why a domain's task was not completed.

    :ivar error: the error to report
    :ivar in_flight: whether a call is still under way, so that it may take effect later
    """

    error: Busy
    in_flight: bool = False


def run(
    tasks: Mapping[str, Callable[[], object]],
    domains: Mapping[str, Domain],
    deadline: float,
    nudge: Callable[[], object] | None,
    *,
    most: int = IN_FLIGHT,
) -> Iterator[tuple[str, object]]:
    """Run a task for each domain, a few at a time, and yield what each returned or raised of
    ours, or a :class:`NoAnswer`.

    Before any task begins, all domains are checked for those that hang already: each uses one of
    the daemon's workers, of which some must stay free. A task that finds its domain held returns a
    :class:`Control` and is run again until the domain has been held for ``HOLD_SECONDS``. One that
    takes long is checked for being blocked, and waited for no longer than that.

    :param tasks: what to do, by UUID
    :param domains: their domains, by UUID
    :param deadline: when to stop, by ``time.monotonic()``
    :param nudge: some cheap call on the same connection
    :param most: how many tasks are under way at a time: fewer where blocked calls are under way
        already
    """
    return iter(_Run(tasks, domains, deadline, Calls(nudge, accompanied=most < IN_FLIGHT), most))


class _Run:
    def __init__(
        self,
        tasks: Mapping[str, Callable[[], object]],
        domains: Mapping[str, Domain],
        deadline: float,
        calls: Calls[tuple[str, str]],
        most: int,
    ) -> None:
        self._tasks = tasks
        self._domains = domains
        self._deadline = deadline
        self._calls = calls
        self._most = most
        self._started = started = time.monotonic()
        self._unanswered = set(tasks)
        # When to start each task that is not under way, and when to check each domain.
        self._waiting = dict.fromkeys(tasks, started)
        self._checks = {uuid: started for uuid, domain in domains.items() if domain.active}
        self._unchecked = set(self._checks)
        self._held: dict[str, tuple[Control, float]] = {}

    def __iter__(self) -> Iterator[tuple[str, object]]:
        try:
            while self._unanswered and (now := time.monotonic()) < self._deadline:
                self._start_calls(now)
                if self._is_stalled(now):
                    break
                answer = self._calls.wait(self._next_event(now) - now)
                if answer is not None and (outcome := self._take(answer)) is not None:
                    uuid = answer.key[1]
                    self._unanswered.remove(uuid)
                    self._waiting.pop(uuid, None)
                    yield uuid, outcome
        finally:
            self._calls.close()
        for uuid in self._unanswered:
            yield uuid, self._given_up(uuid)

    def _start_calls(self, now: float) -> None:
        for uuid in [uuid for uuid, at in self._checks.items() if at <= now]:
            if len(self._calls.in_flight) - len(self._in_flight) < _CHECKS:
                del self._checks[uuid]
                self._calls.submit((_CHECK, uuid), partial(hold_of, self._domains[uuid]))
        for uuid in [uuid for uuid, at in self._waiting.items() if at <= now]:
            if self._may_start(uuid):
                del self._waiting[uuid]
                self._calls.submit((_TASK, uuid), self._tasks[uuid])
                self._checks[uuid] = now + LATE_SECONDS

    def _may_start(self, uuid: str) -> bool:
        hung = {uuid for uuid, (control, _) in self._held.items() if control.hangs}
        in_flight = self._in_flight
        may_block = len(hung | in_flight) < MOST_HELD or uuid in hung
        return not self._unchecked and len(in_flight) < self._most and may_block

    @property
    def _in_flight(self) -> set[str]:
        return {uuid for kind, uuid in self._calls.in_flight if kind == _TASK}

    def _is_stalled(self, now: float) -> bool:
        """Whether nothing is to be expected but calls that are blocked."""
        is_blocked = all(
            kind == _TASK and uuid not in self._unanswered for kind, uuid in self._calls.in_flight
        )
        return is_blocked and not self._checks and all(at <= now for at in self._waiting.values())

    def _next_event(self, now: float) -> float:
        later = [at for at in (*self._checks.values(), *self._waiting.values()) if at > now]
        return min([self._deadline, *later])

    def _take(self, answer: Answer[tuple[str, str]]) -> object:
        """What an answer completes; None if that is nothing."""
        kind, uuid = answer.key
        control = answer.value if isinstance(answer.value, Control) else None
        if kind == _CHECK and uuid in self._unchecked:
            # Its task finds out for itself, and may need no monitor.
            self._unchecked.remove(uuid)
            if control is not None:
                self._held[uuid] = control, time.monotonic() - control.seconds
            return None
        if kind == _TASK:
            self._checks.pop(uuid, None)
        if kind == _TASK and control is None:
            self._held.pop(uuid, None)
            return (answer.error or answer.value) if uuid in self._unanswered else None
        if uuid not in self._unanswered:
            return None
        error = self._take_hold(uuid, control)
        return NoAnswer(error=error, in_flight=uuid in self._in_flight) if error else None

    def _take_hold(self, uuid: str, control: Control | None) -> Busy | None:
        """Note what holds a domain, and when to see again; its error if it is held too long."""
        now = time.monotonic()
        in_flight = uuid in self._in_flight
        if control is None:
            self._held.pop(uuid, None)
            if in_flight:
                self._checks[uuid] = now + LATE_SECONDS
            return None
        if control.incoming:
            return incoming(self._domains[uuid])
        _, since = self._held.get(uuid, (None, now))
        if not control.is_job:
            since = now - control.seconds
        self._held[uuid] = control, since
        if now - since >= HOLD_SECONDS:
            return self._held_error(uuid)
        again = min(now + _RETRY_SECONDS, since + HOLD_SECONDS)
        (self._checks if in_flight else self._waiting)[uuid] = again
        return None

    def _held_error(self, uuid: str) -> Busy:
        control, since = self._held[uuid]
        error = job_busy if control.is_job else monitor_busy
        return error(self._domains[uuid], time.monotonic() - since)

    def _given_up(self, uuid: str) -> NoAnswer:
        now = time.monotonic()
        in_flight = uuid in self._in_flight
        if uuid in self._held:
            error = self._held_error(uuid)
        elif in_flight or now >= self._deadline:
            error = timed_out(self._domains[uuid], now - self._started)
        else:
            error = too_many_hung(self._domains[uuid])
        return NoAnswer(error=error, in_flight=in_flight)
