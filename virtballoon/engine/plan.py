"""Decides which call is made next, and what an answer means. Pure: makes no call, reads no clock.

A call that waits for a hung QEMU never returns, and libvirt's bulk call walks its domains one by
one. So where a call does not come back, ``controlInfo``, which never waits, says which of its
domains it is stuck on, and the others are read again without it. Each domain that hangs keeps one
of the daemon's workers, in this run and in those before: as soon as one is seen, all are looked at
before another call is made that could be blocked, and few are made where many hang.

A domain that is held is tried again until it has been held for ``HOLD_SECONDS``.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from enum import Enum, auto
from typing import Final, Generic, TypeVar

from virtballoon.engine.limits import IN_FLIGHT, LATE_SECONDS, MAY_BLOCK, Limits, busy
from virtballoon.errors import Busy, BusyReason, ConnectionLost, VirtballoonError
from virtballoon.hypervisor.domain import Control, Domain

#: This many domains are in one call, near by.
CHUNK: Final = 8
#: This many in one that cannot be blocked and takes a tenth of the time.
_XML_CHUNK: Final = 4 * CHUNK
#: Far away each domain is worth a call of its own, of those that cannot be blocked. The daemon does
#: not serve more of them at once, but has the next one when it is done with one. It logs a warning
#: of it, one for a connection.
FAR_IN_FLIGHT: Final = 50


class Step(Enum):
    """What a call does."""

    CHECK = auto()  # says what holds the domains
    SCAN = auto()  # the same, before any other domain is read
    XML = auto()  # reads their XML
    BULK = auto()  # reads figures of several domains
    SINGLE = auto()  # reads figures of one domain
    QOM = auto()  # asks QEMU
    TASK = auto()  # does what the caller wants
    HOST = auto()  # reads the host's memory


_BLOCKING: Final = frozenset({Step.BULK, Step.SINGLE, Step.QOM, Step.TASK})


class Call:
    """One call, or several one after another in one thread; a hung domain may block it."""

    def __init__(self, step: Step, domains: tuple[Domain, ...]) -> None:
        self.step = step
        self.domains = domains
        self.may_block = step in _BLOCKING


class Row:
    """How far one domain has come."""

    error: VirtballoonError | None = None
    is_incoming = False
    attempts = 0

    def __init__(self, domain: Domain) -> None:
        self.domain = domain


R = TypeVar("R", bound=Row)


class Plan(Generic[R]):
    """Calls for some domains of one host.

    :param is_far: whether a round trip is what a call costs
    :ivar rows: the domains that are not done, by UUID
    :ivar lost: the error of the connection, once it is broken: no other call makes sense then
    """

    #: Whether a domain that a scan finds hanging needs no other call.
    _scan_decides = True

    def __init__(self, rows: Iterable[R], *, limits: Limits, is_far: bool = False) -> None:
        self.rows = {row.domain.uuid: row for row in rows}
        self.limits = limits
        self.is_far = is_far
        self._began: float | None = None
        self.lost: ConnectionLost | None = None
        self._in_flight: dict[Call, float] = {}
        self._checked: dict[Call, float] = {}
        self._blocking: deque[Call] = deque()
        self._others: deque[Call] = deque()
        self._later: list[tuple[float, Call]] = []
        self._stuck: set[str] = set()
        self._is_scanned = False
        self._scans = 0

    # For a subclass to define.

    def work(self, call: Call) -> Callable[[], Mapping[str, object]]:
        """What a call does, in another thread: by UUID, what was read or raised."""
        raise NotImplementedError

    def _advance(self, row: R, call: Call, outcome: object, now: float) -> None:
        """Take in what a call other than a check said of a domain."""
        raise NotImplementedError

    def _is_done(self, row: R, now: float) -> bool:
        """Whether a domain needs no other call; may add calls."""
        raise NotImplementedError

    def _again(self, row: R) -> Step | None:
        """What to try again once the domain is free; None if nothing is open that it held up."""
        raise NotImplementedError

    def _is_held_unseen(self, _row: R) -> bool:
        """Whether a domain that is free did not answer, so that a job holds it that libvirt does
        not show, as while it is started."""
        return False

    def _to_scan(self) -> Iterable[R]:
        """The domains that a scan concerns."""
        return self.rows.values()

    def _route_around(self, domains: Sequence[Domain]) -> None:
        """Called when domains were checked: add calls for the others of a stuck chunk."""

    # Which call is made when.

    def add(self, call: Call) -> None:
        """Make a call as soon as possible."""
        (self._blocking if call.may_block else self._others).append(call)

    def add_split(self, step: Step, domains: Sequence[Domain]) -> None:
        """Make calls of a size that fits the way to the host, ahead of others if they are
        checks."""
        size = 1 if self.is_far else _XML_CHUNK if step is Step.XML else CHUNK
        calls = [Call(step, tuple(domains[i : i + size])) for i in range(0, len(domains), size)]
        self._scans += len(calls) if step is Step.SCAN else 0
        if step in {Step.CHECK, Step.SCAN}:
            self._others.extendleft(reversed(calls))
        else:
            self._others.extend(calls)

    def try_again(self, row: R, step: Step, now: float) -> None:
        """Make a call for one domain later."""
        at = self.limits.next_try(row.domain.uuid, row.attempts, now)
        row.attempts += 1
        self._later.append((at, Call(step, (row.domain,))))

    def scan(self) -> None:
        """See what holds the domains before another call is made that could be blocked."""
        if not self._is_scanned:
            self._is_scanned = True
            self.add_split(Step.SCAN, [row.domain for row in self._to_scan() if row.domain.active])

    def start(self, now: float, left_behind: int = 0) -> list[Call]:
        """The calls to begin now, where this many on the connection were left blocked before."""
        self._began = now if self._began is None else self._began
        # A domain that is done needs no other try.
        later = [(at, call) for at, call in self._later if call.domains[0].uuid in self.rows]
        for call in [call for at, call in later if at <= now]:
            self.add(call)
        self._later = [(at, call) for at, call in later if at > now]
        for call, at in list(self._late_calls()):
            if at <= now:
                self._checked[call] = now
                self.add_split(Step.CHECK, call.domains)
        begun = []
        while (next_call := self._next(left_behind)) is not None:
            self._in_flight[next_call] = now
            begun.append(next_call)
        return begun

    def _next(self, left_behind: int) -> Call | None:
        blocking = [call for call in self._in_flight if call.may_block]
        others = len(self._in_flight) - len(blocking)
        # There is always room for a call that cannot be blocked.
        room = max(1, IN_FLIGHT - len(blocking) - left_behind)
        if self._others and others < (FAR_IN_FLIGHT if self.is_far else room):
            return self._others.popleft()
        if not self._blocking or self._scans:
            return None
        is_last_way = not others and all(map(self._is_stuck_call, blocking))
        room = (IN_FLIGHT if is_last_way or self.is_far else MAY_BLOCK) - left_behind
        is_full = not self.is_far and len(self._in_flight) >= IN_FLIGHT
        if is_full or len(blocking) >= max(1, room):
            return None
        return self._next_blocking([self._stuck_on(call) for call in blocking])

    def _next_blocking(self, in_flight: Sequence[str]) -> Call | None:
        return self._blocking.popleft() if self.limits.may_block(in_flight) else None

    def _late_calls(self) -> Iterator[tuple[Call, float]]:
        """The calls that may be stuck, and when to check their domains."""
        for call, since in self._in_flight.items():
            if call.may_block and not self._is_stuck_call(call):
                yield call, self._checked.get(call, since) + LATE_SECONDS

    def next_event(self) -> float:
        """When to call :meth:`start` again if there is no answer before."""
        times = [at for at, _ in self._later]
        times += [at for _, at in self._late_calls()]
        return min(times, default=math.inf)

    @property
    def is_over(self) -> bool:
        """Whether nothing is to be expected but calls that are blocked; after :meth:`start`."""
        return not self._later and all(map(self._is_stuck_call, self._in_flight))

    def is_under_way(self, row: R) -> bool:
        """Whether a call for a domain is under way that may be blocked."""
        return any(call.may_block and row.domain in call.domains for call in self._in_flight)

    def stuck_calls(self, domains: Set[Domain]) -> list[Call]:
        """The calls that are stuck and concern one of these domains."""
        stuck = filter(self._is_stuck_call, self._in_flight)
        return [call for call in stuck if not domains.isdisjoint(call.domains)]

    def _is_stuck_call(self, call: Call) -> bool:
        if not self._stuck or not call.may_block:
            return False
        return any(domain.uuid in self._stuck for domain in call.domains)

    def _stuck_on(self, call: Call) -> str:
        stuck = (domain.uuid for domain in call.domains if domain.uuid in self._stuck)
        return next(stuck, call.domains[0].uuid)

    # What an answer means.

    def forget(self, call: Call) -> None:
        """A call has returned."""
        del self._in_flight[call]
        self._checked.pop(call, None)
        self._scans -= call.step is Step.SCAN

    def release(self, row: R) -> None:
        """Nothing holds a domain any more."""
        self._stuck.discard(row.domain.uuid)
        self.limits.release(row.domain.uuid)
        if isinstance(row.error, Busy):
            row.error = None

    def take(self, call: Call, outcomes: Mapping[str, object], now: float) -> list[R]:
        """Take in what a call said of each domain, and give the domains that it completes."""
        self.forget(call)
        done = []
        for domain in call.domains:
            row = self.rows.get(domain.uuid)
            if row is None:
                continue
            outcome = outcomes.get(domain.uuid)
            if isinstance(outcome, Control):
                self._take_control(row, call, outcome, now)
            elif call.step is not Step.SCAN:
                self._advance(row, call, outcome, now)
            if domain.uuid in self.rows and self._is_done(row, now):
                del self.rows[domain.uuid]
                done.append(row)
        if call.step is Step.CHECK:
            self._route_around(call.domains)
        return done

    def _take_control(self, row: R, call: Call, control: Control, now: float) -> None:
        if control.incoming:
            row.is_incoming = True
            return
        uuid, is_scan = row.domain.uuid, call.step is Step.SCAN
        is_under_way = self.is_under_way(row)
        if control.free and not is_scan and not is_under_way and self._is_held_unseen(row):
            self.limits.note_job(uuid, now)
        else:
            self.limits.note(uuid, control, now)
        if control.hangs:
            self.scan()
        # After a job, only an answer shows that the domain is free; a call does not wait for it.
        if not is_scan or (self._scan_decides and control.hangs):
            row.error = row.error or self.limits.expired(row.domain, now)
        if is_under_way:
            self._take_blocked(row, control, now)
        elif not is_scan and row.error is None and (step := self._again(row)) is not None:
            self.try_again(row, step, now)

    def _take_blocked(self, row: R, control: Control, now: float) -> None:
        """A domain was checked because a call for it is late."""
        uuid = row.domain.uuid
        # The domains of a chunk are read in turn: only the one that it is stuck on is held long.
        if control.is_job or control.seconds >= LATE_SECONDS / 2:
            self._stuck.add(uuid)
            self.limits.note_blocked(uuid, now)
            self.scan()
            self.try_again(row, Step.CHECK, now)
        elif uuid in self._stuck:
            self._stuck.remove(uuid)
            if self._again(row) is Step.BULK:
                # The chunk may be stuck on another one by now.
                self.try_again(row, Step.BULK, now)

    def give_up(self, now: float, error: VirtballoonError | None = None) -> Iterator[R]:
        """Give the domains that are not done, each with its error: this one if it ended early."""
        is_stalled = self.is_over
        seconds = now - (now if self._began is None else self._began)
        for row in self.rows.values():
            if not row.is_incoming:
                row.error = row.error or error or self.limits.held(row.domain, now)
            if row.error is None and not row.is_incoming:
                is_left_out = is_stalled and not self.is_under_way(row)
                message = f"no answer within {seconds:.0f} s"
                if is_left_out:
                    message = "not asked, because too many calls to this host wait for hung domains"
                row.error = busy(row.domain, BusyReason.LIMIT, message)
            yield row
