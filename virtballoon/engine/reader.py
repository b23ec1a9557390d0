"""Reads many domains of one host: as few calls as it takes, and none that can hold up the rest.

Libvirt's bulk call walks the domains one by one and waits without limit for one whose QEMU hangs.
So the domains are read in chunks from several threads; where a chunk does not come back, libvirt's
``controlInfo``, which does not wait, says which domain it is stuck on, and the others are read
again without it. A domain that is held is tried again until it has been held for ``HOLD_SECONDS``.
Where newer libvirt makes the XML of a held domain wait, it is read after the figures.

Each guest that hangs keeps a worker of the daemon for good, in this run and in those before. So as
soon as one is seen, all are looked at, and where many hang, only so many more are asked that the
daemon can go on serving others.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from virtballoon.engine.calls import Answer, Calls
from virtballoon.engine.limits import (
    HOLD_SECONDS,
    IN_FLIGHT,
    LATE_SECONDS,
    MOST_HELD,
    job_busy,
    monitor_busy,
    timed_out,
    too_many_hung,
)
from virtballoon.errors import (
    Busy,
    ConnectionLost,
    DomainNotFound,
    LibvirtFailure,
    NotRunning,
    NotSupported,
    ReadOnly,
    VirtballoonError,
)
from virtballoon.hypervisor.connection import Connection, Control, Domain, DomainStatistics, Link
from virtballoon.hypervisor.device import (
    Configs,
    QomReading,
    read_by_qom,
    read_configs,
    read_single,
)
from virtballoon.model.memory import Figures
from virtballoon.model.report import DomainReport, Interval
from virtballoon.model.source import Source
from virtballoon.model.verdict import State

#: So many of them may be calls that a hung guest can hold up; the last one finds out which.
_MAY_BLOCK: Final = IN_FLIGHT - 1
_CHUNK: Final = 8
#: Where a round trip takes longer than this, and one for each domain longer than that, calls that
#: cannot be held up are sent many at a time: the daemon does not serve more of them at once, but
#: the next is there when it is done with one. It logs a warning of it, one for a connection.
_FAR_SECONDS: Final = 0.01
_FAR_SECONDS_IN_ALL: Final = 0.4
_FAR_IN_FLIGHT: Final = 50
_RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5)
#: Where nothing tells why a guest gives no figures, it is asked so often.
_ASKED_IN_VAIN: Final = 3


class _Ask(Enum):
    XML = auto()
    BULK = auto()
    SINGLE = auto()
    QOM = auto()
    CONTROL = auto()
    CENSUS = auto()


_BLOCKING: Final = frozenset({_Ask.BULK, _Ask.SINGLE, _Ask.QOM})


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """A call, or several one after another.

    :ivar ask: what is asked
    :ivar domains: of which domains
    :ivar careful: whether none of them is asked if one hangs already
    """

    ask: _Ask
    domains: tuple[Domain, ...]
    careful: bool = False


@dataclass(slots=True)
class _Row:
    """How far the reading of one domain has come."""

    domain: Domain
    configs: Configs | None = None
    statistics: DomainStatistics | None = None
    qom: QomReading | None = None
    error: VirtballoonError | None = None
    state: State | None = None
    held_since: float | None = None
    is_job: bool = False
    is_incoming: bool = False
    attempts: int = 0
    in_vain: int = 0
    configs_asked: bool = False
    configs_again: bool = True


class Sweep:
    """One reading of some domains of one host; iterate over it for the rows, as they come.

    :param connection: the connection, read-write if ``via`` is QOM
    :param domains: the domains
    :param via: where the figures come from
    :param deadline: when to stop, by ``time.monotonic()``
    :param link: the way to the host, where it is known

    :ivar deadline: the same, later by what the caller took over the rows
    :ivar vanished: the domains that went away while they were read; they have no row
    """

    def __init__(
        self,
        connection: Connection,
        domains: Iterable[Domain],
        *,
        via: Source,
        deadline: float,
        link: Link | None = None,
    ) -> None:
        self._connection = connection
        self._via = via
        self._started = time.monotonic()
        self._xml_waits = link is None or link.xml_waits
        self.deadline = deadline
        self._rows = {domain.uuid: _Row(domain) for domain in domains}
        away = link.round_trip_seconds if link is not None else 0.0
        self._is_far = away > _FAR_SECONDS and away * len(self._rows) > _FAR_SECONDS_IN_ALL
        self._calls: Calls[_Task] = Calls(connection.link)
        self._waiting: deque[_Task] = deque()
        self._later: list[tuple[float, _Task]] = []
        self._looked: dict[_Task, float] = {}
        self._routed_around: set[_Task] = set()
        self._held: set[str] = set()
        self._stuck: set[str] = set()
        self._is_counted = False
        self._lost: ConnectionLost | None = None
        self.vanished: list[Domain] = []

    def __iter__(self) -> Iterator[DomainReport]:
        """Yield a row for each domain that is still there. The time that the caller takes over a
        row does not count.

        :raise ConnectionLost: when the connection breaks; :meth:`give_up` has the other rows
        :raise ReadOnly: when ``via`` is QOM and the connection may not write
        """
        self._begin(self.unread)
        try:
            while self._rows and self._lost is None:
                now = time.monotonic()
                if now < self.deadline:
                    self._start_calls(now)
                    if self._is_stalled():
                        break
                # When the time is up, what has been answered still counts.
                answer = self._calls.wait(self._next_event() - now)
                if answer is None and time.monotonic() >= self.deadline:
                    break
                for report in self._take(answer) if answer is not None else ():
                    handed_over = time.monotonic()
                    yield report
                    self.deadline += time.monotonic() - handed_over
                self._look_after_late_calls()
        finally:
            self._calls.close()
        if self._lost is not None:
            raise self._lost
        yield from self.give_up()

    @property
    def unread(self) -> list[Domain]:
        """The domains that have no row yet."""
        return [row.domain for row in self._rows.values()]

    def give_up(self, error: VirtballoonError | None = None) -> Iterator[DomainReport]:
        """Yield a row for each domain that was not read.

        :param error: why, unless its row knows
        """
        for row in self._rows.values():
            row.error = row.error or error
            yield self._given_up(row)

    # Which call is made when.

    def _begin(self, everyone: Sequence[Domain]) -> None:
        size = max(_CHUNK, math.ceil(len(everyone) / IN_FLIGHT)) if self._is_far else _CHUNK
        for number, start in enumerate(range(0, len(everyone), size)):
            chunk = tuple(everyone[start : start + size])
            # Guests that an earlier run left hanging are likely to be among the first ones. Near
            # by, the call itself looks; far away, each look is a call of its own.
            is_first = number < IN_FLIGHT
            self._waiting.append(_Task(_Ask.BULK, chunk, careful=is_first and not self._is_far))
            if is_first and self._is_far:
                looked_at = [domain for domain in chunk[:_CHUNK] if domain.active]
                self._waiting.extendleft(self._split(_Ask.CENSUS, looked_at))
        if self._is_far:
            self._ask_for_configs(everyone)

    def _start_calls(self, now: float) -> None:
        # A domain that is done needs no other try.
        later = [(at, t) for at, t in self._later if t.domains[0].uuid in self._rows]
        self._waiting += [task for at, task in later if at <= now]
        self._later = [(at, task) for at, task in later if at > now]
        while task := self._next_task():
            self._waiting.remove(task)
            self._calls.submit(task, self._work(task))

    def _next_task(self) -> _Task | None:
        in_flight = self._calls.in_flight
        blocking = [task for task in in_flight if task.ask in _BLOCKING]
        answered = len(in_flight) - len(blocking)
        has_room = len(in_flight) < IN_FLIGHT
        # There is always a way for what cannot be blocked.
        may_ask = has_room or not answered or (self._is_far and answered < _FAR_IN_FLIGHT)
        hung = [task for task in blocking if self._hung(task)]
        # Where every one of them is stuck and nothing else is left to do, the last way is for the
        # guests still to be asked.
        is_busy = answered > 0 or any(task.ask not in _BLOCKING for task in self._waiting)
        is_last_way = len(hung) == len(blocking) and not is_busy
        # Far away, the others have ways of their own.
        most = IN_FLIGHT if is_last_way or self._is_far else _MAY_BLOCK
        may_block = (
            (has_room or self._is_far)
            and len(blocking) < most
            and len(self._held) + len(blocking) - len(hung) < MOST_HELD
            and not self._is_asked(_Ask.CENSUS)
        )
        return next(
            (t for t in self._waiting if (may_block if t.ask in _BLOCKING else may_ask)), None
        )

    def _is_stalled(self) -> bool:
        """Whether nothing is to be expected but calls that are blocked."""
        in_flight = self._calls.in_flight
        is_blocked = all(task.ask in _BLOCKING and self._hung(task) for task in in_flight)
        return is_blocked and not self._later

    def _count_held(self) -> None:
        """See whose monitor is held, and how long, before any other domain is read."""
        if not self._is_counted:
            self._is_counted = True
            rest = [row.domain for row in self._rows.values() if row.statistics is None]
            self._waiting.extendleft(self._split(_Ask.CENSUS, [d for d in rest if d.active]))

    def _split(self, ask: _Ask, domains: Sequence[Domain]) -> Iterator[_Task]:
        """Tasks of a size that fits the way to the host: far away each call is worth a thread."""
        size = 1 if self._is_far else _CHUNK
        for start in range(0, len(domains), size):
            yield _Task(ask, tuple(domains[start : start + size]))

    def _next_event(self) -> float:
        late = [
            self._looked.get(task, since) + LATE_SECONDS
            for task, since in self._calls.in_flight.items()
            if task.ask in _BLOCKING and not self._hung(task)
        ]
        again = [at for at, _ in self._later]
        return min([self.deadline, *again, *late])

    def _look_after_late_calls(self) -> None:
        now = time.monotonic()
        for task, since in self._calls.in_flight.items():
            if task.ask not in _BLOCKING or self._hung(task):
                continue
            if now - self._looked.get(task, since) >= LATE_SECONDS:
                self._looked[task] = now
                self._waiting.extendleft(self._split(_Ask.CONTROL, task.domains))

    def _hung(self, task: _Task) -> bool:
        """Whether a task is known to be stuck on one of its domains."""
        return any(domain.uuid in self._stuck for domain in task.domains)

    def _again(self, row: _Row, ask: _Ask) -> None:
        now = time.monotonic()
        at = now + _RETRY_SECONDS[min(row.attempts, len(_RETRY_SECONDS) - 1)]
        if row.held_since is not None:
            at = min(at, max(now, row.held_since + HOLD_SECONDS))
        row.attempts += 1
        self._later.append((at, _Task(ask, (row.domain,))))

    # What a call does. This runs in other threads and touches no row.

    def _work(self, task: _Task) -> Callable[[], object]:
        domains = task.domains
        match task.ask:
            case _Ask.XML:
                return lambda: _each(domains, read_configs)
            case _Ask.CENSUS:
                return lambda: _each(domains, Domain.control)
            case _Ask.CONTROL:
                return lambda: _each(domains, Domain.hold)
            case _Ask.BULK if task.careful:
                return lambda: _held(domains) or _bulk(self._connection, domains)
            case _Ask.BULK:
                return lambda: _bulk(self._connection, domains)
            case _Ask.SINGLE:
                return lambda: _each(domains, read_single)
            case _Ask.QOM:
                row = self._rows.get(domains[0].uuid)
                configs = row.configs if row is not None else None
                return lambda: _each(domains, lambda domain: read_by_qom(domain, configs))

    # What an answer means.

    def _take(self, answer: Answer[_Task]) -> list[DomainReport]:
        """Take in an answer, and give the rows that it completes."""
        task = answer.key
        done = []
        self._looked.pop(task, None)
        outcomes = answer.value if isinstance(answer.value, dict) else {}
        if task.careful and any(isinstance(outcome, Control) for outcome in outcomes.values()):
            self._count_held()
            self._waiting.append(_Task(task.ask, task.domains))
            return []
        for domain in task.domains:
            row = self._rows.get(domain.uuid)
            if row is None:
                continue
            outcome = answer.error or outcomes.get(domain.uuid)
            if isinstance(outcome, ReadOnly):
                raise outcome
            if isinstance(outcome, ConnectionLost):
                self._lost = outcome
                break
            if isinstance(outcome, DomainNotFound):
                del self._rows[domain.uuid]
                self.vanished.append(domain)
                continue
            self._advance(row, task, outcome)
            if self._is_done(row):
                del self._rows[domain.uuid]
                done.append(self._report(row))
        if task.ask is _Ask.CONTROL:
            self._route_around(task)
        self._ask_for_configs(task.domains if self._xml_waits else self.unread)
        return done

    def _ask_for_configs(self, domains: Iterable[Domain]) -> None:
        """Ask for XML, unless that waits for whoever holds a guest: then only of those that have
        let libvirt in just now."""
        rows = [self._rows.get(domain.uuid) for domain in domains]
        ready = [
            row
            for row in rows
            if row and not row.configs_asked and (row.statistics or not self._xml_waits)
        ]
        for row in ready:
            row.configs_asked = True
        self._waiting.extend(self._split(_Ask.XML, [row.domain for row in ready]))

    def _advance(self, row: _Row, task: _Task, outcome: object) -> None:
        match outcome:
            case Configs():
                row.configs = outcome
            case DomainStatistics():
                self._take_statistics(row, outcome)
            case Control() if task.ask is _Ask.CENSUS:
                self._note_held(row, outcome)
            case _ if task.ask is _Ask.CENSUS:
                # A driver that does not tell has no guest that hangs either.
                pass
            case Control():
                self._take_control(row, outcome)
            case QomReading():
                row.qom = outcome
            case Busy() | None:
                self._again(row, task.ask)
            case NotRunning() if task.ask is not _Ask.XML:
                row.statistics = None
                self._again(row, _Ask.BULK)
            case NotSupported() if task.ask is _Ask.BULK:
                self._again(row, _Ask.SINGLE)
            case VirtballoonError() if task.ask is _Ask.CONTROL:
                self._ask_in_vain(row, outcome)
            case LibvirtFailure() if task.ask is _Ask.QOM and row.in_vain < _ASKED_IN_VAIN:
                # Its QEMU may have gone away under the call; libvirt's state tells.
                row.in_vain += 1
                row.statistics = None
                self._again(row, _Ask.BULK)
            case VirtballoonError():
                row.error = outcome

    def _take_statistics(self, row: _Row, statistics: DomainStatistics) -> None:
        if row.statistics is not None:
            return
        row.state = statistics.state
        running = statistics.state is not State.SHUTOFF
        if running and statistics.figures is None:
            self._waiting.append(_Task(_Ask.SINGLE, (row.domain,)))
        elif running and statistics.died:
            # Its QEMU went away under the call; soon libvirt will know that, too.
            self._again(row, _Ask.BULK)
        elif running and not statistics.asked:
            self._count_held()
            self._waiting.append(_Task(_Ask.CONTROL, (row.domain,)))
        else:
            row.statistics = statistics
            row.held_since = None
            row.attempts = 0
            self._stuck.discard(row.domain.uuid)
            if isinstance(row.error, Busy):
                row.error = None

    def _take_control(self, row: _Row, control: Control) -> None:
        self._note_held(row, control)
        uuid = row.domain.uuid
        in_flight = self._calls.in_flight
        if any(task.ask in _BLOCKING and row.domain in task.domains for task in in_flight):
            # The domains of a chunk are read in turn: only the one it is stuck on is held long.
            if control.is_job or control.seconds >= LATE_SECONDS / 2:
                self._stuck.add(uuid)
                self._held.add(uuid)
                self._count_held()
                self._again(row, _Ask.CONTROL)
            elif uuid in self._stuck:
                # The chunk may be stuck on another one by now.
                self._stuck.remove(uuid)
                self._again(row, _Ask.BULK)
        elif control.free and row.statistics is None:
            # A job that libvirt does not show, as while a domain is started.
            self._note_job(row)
            self._again(row, _Ask.BULK)
        elif not control.incoming:
            self._again(row, _Ask.BULK if row.statistics is None else _Ask.QOM)

    def _ask_in_vain(self, row: _Row, error: VirtballoonError) -> None:
        """Ask again a guest without figures whose driver does not tell what holds it."""
        if row.in_vain < _ASKED_IN_VAIN:
            row.in_vain += 1
            self._again(row, _Ask.BULK)
            return
        row.error = LibvirtFailure(
            "libvirt leaves this guest's figures out and does not say why",
            host=self._connection.uri,
            domain=row.domain.name,
            code=error.code,
        )

    def _note_held(self, row: _Row, control: Control) -> None:
        if control.incoming:
            row.is_incoming = True
        elif control.is_job:
            self._note_job(row)
        elif not control.free:
            row.held_since = time.monotonic() - control.seconds
            row.is_job = False
            self._give_up_if_held_long(row)
        elif not row.is_job:
            row.held_since = None
        if control.hangs:
            self._held.add(row.domain.uuid)
            self._count_held()
        else:
            self._held.discard(row.domain.uuid)

    def _note_job(self, row: _Row) -> None:
        # Libvirt does not say since when.
        if row.held_since is None or not row.is_job:
            row.held_since = time.monotonic()
            row.is_job = True
        self._give_up_if_held_long(row)

    def _give_up_if_held_long(self, row: _Row) -> None:
        seconds = time.monotonic() - (row.held_since or math.inf)
        if seconds >= HOLD_SECONDS:
            row.error = (job_busy if row.is_job else monitor_busy)(row.domain, seconds)

    def _route_around(self, looked_at: _Task) -> None:
        """Ask the guests of a stuck chunk again, without those that it is stuck on."""
        for task in self._calls.in_flight:
            if task.ask is not _Ask.BULK or not self._hung(task):
                continue
            if not set(looked_at.domains) & set(task.domains):
                continue
            rows = [self._rows.get(domain.uuid) for domain in task.domains]
            pending = [row for row in rows if row is not None and row.statistics is None]
            rest = tuple(row.domain for row in pending if row.domain.uuid not in self._stuck)
            if task not in self._routed_around:
                self._routed_around.add(task)
                for start in range(0, len(rest), _CHUNK):
                    self._waiting.append(_Task(_Ask.BULK, rest[start : start + _CHUNK]))

    def _is_done(self, row: _Row) -> bool:
        if row.configs is None and row.error is None:
            return False
        if row.configs is None and isinstance(row.error, Busy) and not self._xml_waits:
            # What its XML says can be had all the same.
            return False
        if row.is_incoming:
            return row.configs is not None or self._xml_waits
        if row.statistics is None:
            return row.error is not None
        if row.error is not None:
            return True
        configs = row.configs
        running = row.statistics.state is not State.SHUTOFF
        if running and configs is not None and configs.live is None and row.configs_again:
            # It was started between the two calls.
            row.configs = None
            row.configs_again = False
            self._again(row, _Ask.XML)
            return False
        if running and self._via is Source.QOM and row.qom is None:
            if not self._is_asked(_Ask.QOM, row):
                self._waiting.append(_Task(_Ask.QOM, (row.domain,)))
            return False
        return True

    def _is_asked(self, ask: _Ask, row: _Row | None = None) -> bool:
        tasks = [*self._calls.in_flight, *self._waiting, *(task for _, task in self._later)]
        return any(t.ask is ask and (row is None or row.domain in t.domains) for t in tasks)

    # What becomes of it.

    def _given_up(self, row: _Row) -> DomainReport:
        now = time.monotonic()
        if row.error is not None or row.is_incoming:
            pass
        elif row.held_since is not None:
            held = job_busy if row.is_job else monitor_busy
            row.error = held(row.domain, now - row.held_since)
        elif row.statistics is None and now < self.deadline:
            row.error = too_many_hung(row.domain)
        else:
            row.error = timed_out(row.domain, now - self._started)
        return self._report(row)

    def _report(self, row: _Row) -> DomainReport:
        configs = row.configs or Configs(name=row.domain.name, id=None, live=None, config=None)
        if row.statistics is not None:
            state = row.statistics.state
        elif row.state is not None:
            state = row.state
        else:
            state = State.NOSTATE if configs.id is not None or row.domain.active else State.SHUTOFF
        figures = (row.statistics.figures if row.statistics else None) or Figures()
        balloon, interval = configs.balloon, None
        read_at = row.statistics.read_at if row.statistics else 0.0
        if row.qom is not None:
            balloon, interval = row.qom.balloon, row.qom.interval
            read_at = row.qom.read_at or read_at
            figures = row.qom.merged(figures)
        live = configs.live if state is not State.SHUTOFF else None
        known = configs.interval
        return DomainReport.of(
            name=configs.name,
            uuid=row.domain.uuid,
            id=configs.id if live is not None else None,
            state=state,
            machine=configs.machine,
            balloon=balloon,
            interval=Interval(
                live=known.live if live is not None else None,
                config=known.config,
                saved=known.saved,
                qemu=interval,
            ),
            source=self._via,
            figures=figures,
            host=self._connection.uri,
            now=read_at or time.time(),
            is_incoming=row.is_incoming,
            has_hugepages=configs.has_hugepages,
            unplugged_bytes=configs.unplugged_bytes,
            error=row.error,
        )


def _each(domains: Iterable[Domain], read: Callable[[Domain], object]) -> dict[str, object]:
    outcomes: dict[str, object] = {}
    for domain in domains:
        try:
            outcomes[domain.uuid] = read(domain)
        except VirtballoonError as error:
            outcomes[domain.uuid] = error
    return outcomes


def _held(domains: Iterable[Domain]) -> dict[str, object]:
    """How the monitors of these domains are held, if one of them hangs."""
    controls = _each([domain for domain in domains if domain.active], Domain.control)
    return controls if any(isinstance(c, Control) and c.hangs for c in controls.values()) else {}


def _bulk(connection: Connection, domains: Iterable[Domain]) -> dict[str, object]:
    outcomes: dict[str, object] = dict(connection.statistics(domains))
    # Libvirt passes over a domain that is gone; whether it is, its state tells without waiting.
    missing = [domain for domain in domains if domain.uuid not in outcomes]
    for uuid, outcome in _each(missing, Domain.state).items():
        outcomes[uuid] = outcome if isinstance(outcome, VirtballoonError) else None
    return outcomes
