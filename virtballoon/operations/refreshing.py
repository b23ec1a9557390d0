"""Reads figures that are no older than wanted, and has guests give new ones where they are.

A guest that is not polled is asked by turning polling on, and off again when it has answered. One
whose next answer is further away than one would wait is asked by turning polling off and on. Each
interval is put back, whatever happens in between; see :mod:`virtballoon.system.cleanup`.
"""

from __future__ import annotations

import math
import shlex
import threading
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Final

from virtballoon.engine.limits import Deadline
from virtballoon.engine.scheduler import Scheduler
from virtballoon.engine.session import DEFAULT_TIMEOUT, HostSession
from virtballoon.engine.tasks import NoAnswer, hold_of, run_per_domain
from virtballoon.errors import (
    AccessDenied,
    Busy,
    ConnectionLost,
    DomainNotFound,
    NotRunning,
    NotSupported,
    ReadOnly,
    VirtballoonError,
)
from virtballoon.hypervisor.connection import Control, Domain, Target
from virtballoon.hypervisor.device import read_configs
from virtballoon.log import log_pleas
from virtballoon.model.outcome import DomainWait, Waited
from virtballoon.model.report import DomainReport, HostReport, Refresh, Unheard
from virtballoon.model.source import Source
from virtballoon.model.verdict import GRACE_SECONDS, UNPOLLED_SECONDS, Verdict
from virtballoon.operations.reading import (
    chosen_domains,
    host_report,
    read_domains,
    unlogged_report,
)
from virtballoon.operations.waiting import Awaited, Onlooker, answers
from virtballoon.system import cleanup

#: What an interval of 0 becomes for a while. Short, so that whoever sees it meanwhile, another run
#: of the same kind, say, has only to wait.
_LENT: Final = 1

#: An answer in the same second as the one before cannot be told from it, and a guest that is polled
#: seldom gives no other soon; so it is asked once more, in another second.
_AGAIN_SECONDS: Final = 1.2

#: Between two looks at guests that may be polled behind libvirt's back there is a second, or so
#: many times what the look took.
_LOOK_SECONDS: Final = 1.0
_LOOK_TIMES: Final = 8


def read_fresh(
    target: Target = None,
    domains: Iterable[str] | None = None,
    *,
    max_age: float,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    note: Onlooker | None = None,
) -> HostReport:
    """Read a host's domains as :func:`read_host` does, with figures that are no older than wanted.

    Whatever is that new already is only read, and so is a guest that will answer by itself while
    it is waited for. One that is not polled by libvirt's word, and yet has answered in the last
    seconds, is watched for some seconds first, since its QEMU may poll it. Another one is asked by
    changing its live interval for a while, never its configuration. ``refresh`` of each domain's
    report says what came of it; its interval and its verdict are as they are when all has been put
    back.

    :param target: a read-write connection, which stays open; or a URI, or None for libvirt's
        default. With a read-only one, guests that would have to be asked have an error.
    :param domains: names, UUIDs and shell patterns; None for all
    :param max_age: the greatest age, in seconds; 0 asks every guest
    :param inactive: whether "all" and patterns mean the domains that do not run, too
    :param via: where the figures come from, and which way a guest is asked. Through libvirt its
        XML stays true, and the interval that is put back is the one that libvirt knows; QOM puts
        back QEMU's own, and marks each running guest as tainted.
    :param timeout: seconds for reading, from connecting on, and as long once more for waiting
    :param note: called, in this thread, with the host's URI and the names of those still awaited
    """
    session = HostSession(target, domains, via=via, readonly=False, timeout=timeout)
    return read_session_fresh(
        session, max_age=max_age, inactive=inactive, via=via, timeout=timeout, note=note
    )


def read_session_fresh(
    session: HostSession,
    *,
    max_age: float,
    inactive: bool,
    via: Source,
    timeout: float,
    note: Onlooker | None = None,
    debts: set[cleanup.Cleanup] | None = None,
    abandoned: threading.Event | None = None,
) -> HostReport:
    """Read a host's domains as :func:`read_fresh` does, in a session.

    :param debts: where what is owed to this host is kept, beside :data:`cleanup.pending`
    :param abandoned: set when nobody wants to know any more, so that no guest is asked
    """
    first: HostReport | None = None
    rows: dict[str, DomainReport] = {}
    heard: dict[str, DomainWait] = {}
    loans = _Loans(session, via)
    try:
        with session, session.errors_kept():
            session.connect()
            meant = chosen_domains(session, inactive=inactive)
            first = unlogged_report(session, list(read_domains(session, meant, via=via)))
            rows = {row.uuid: row for row in first.domains}
            old = [row for row in rows.values() if _may_be_newer(row, max_age)]
            doubtful = [row for row in old if _may_be_polled(row)]
            for answer in _unasked_answers(
                session, doubtful, via=via, timeout=timeout, note=note, abandoned=abandoned
            ):
                heard[answer.uuid] = answer
            old = [row for row in old if row.uuid not in heard]
            now = time.monotonic()
            loans.open([row for row in old if _has_to_be_asked(row, timeout)])
            if debts is not None:
                debts.add(loans.cleanup)
            if cleanup.ending.locked() or (abandoned is not None and abandoned.is_set()):
                loans.settle(0)
            try:
                loans.ask(now + timeout)
                again_at = now + _AGAIN_SECONDS
                awaited = [
                    Awaited(
                        domain=session.domains[row.uuid],
                        id=row.id,
                        last_update=row.figures.last_update or 0,
                        since=now,
                    )
                    for row in old
                    if row.uuid in session.domains and not loans.has_failed(row.uuid)
                ]
                for found in answers(
                    session, awaited, seconds=timeout, via=via, timeout=timeout, note=note
                ):
                    heard.update((answer.uuid, answer) for answer in found)
                    answered = [answer.uuid for answer in found if answer.waited.answered]
                    loans.give_back(answered, cleanup.UNDO_SECONDS)
                    if time.monotonic() >= again_at:
                        again_at = math.inf
                        loans.ask_again(heard, now + timeout)
            finally:
                loans.settle(cleanup.UNDO_SECONDS)
        reports = [_report(row, heard.get(row.uuid), loans, max_age) for row in rows.values()]
    except BaseException:
        # There is no report that could say so.
        log_pleas(loans.pleas())
        raise
    finally:
        loans.close()
    return host_report(session, reports, earlier=first)


def _is_new(row: DomainReport, max_age: float) -> bool:
    return row.age_seconds is not None and row.age_seconds <= max_age


def _may_be_newer(row: DomainReport, max_age: float) -> bool:
    can_update = row.verdict.can_update or row.verdict is Verdict.FAILED
    if not can_update or row.figures.last_update is None:
        return False
    return not _is_new(row, max_age)


def _has_to_be_asked(row: DomainReport, seconds: float) -> bool:
    """Whether a guest will not answer by itself within this time."""
    interval = row.interval.in_force
    if not interval:
        return interval == 0
    if row.last_update is None:
        # It has never answered: what is missing is not a question.
        return False
    if row.age_seconds is None:
        # Its last update lies in the future: nothing says when the next is due.
        return True
    to_go = interval - row.age_seconds
    # One that is long overdue may be polled by libvirt's word alone, and else is none the worse.
    return to_go > seconds or to_go < -(interval + GRACE_SECONDS)


def _may_be_polled(row: DomainReport) -> bool:
    """Whether libvirt says that nobody polls a guest, and a QEMU that does would soon show it."""
    age, interval = row.age_seconds, row.interval
    unsure = interval.in_force == 0 and interval.qemu is None
    return unsure and age is not None and age <= UNPOLLED_SECONDS


def _unasked_answers(
    session: HostSession,
    rows: Iterable[DomainReport],
    *,
    via: Source,
    timeout: float,
    note: Onlooker | None,
    abandoned: threading.Event | None,
) -> Iterator[DomainWait]:
    """The answers that these give by themselves. Their QEMU polls them by an interval that libvirt
    does not know, and that lending them another would lose."""
    left = {row.uuid: row for row in rows}
    began = now = time.monotonic()
    # A last update is in whole seconds.
    until = began + max(
        (UNPOLLED_SECONDS + 1 - (r.age_seconds or 0) for r in left.values()), default=0
    )
    pause = _LOOK_SECONDS
    while left and now < until:
        if cleanup.ending.locked() or (abandoned is not None and abandoned.is_set()):
            return
        if note is not None:
            note(session.uri, sorted(row.name for row in left.values()))
        time.sleep(min(pause, until - now))
        reading = time.monotonic()
        session.deadline.at = reading + timeout
        meant = {uuid: session.domains[uuid] for uuid in left if uuid in session.domains}
        for row in read_domains(session, meant, via=via):
            if row.last_update not in {None, left[row.uuid].last_update}:
                del left[row.uuid]
                waited = Waited(answered=True, seconds=time.monotonic() - began)
                yield DomainWait(name=row.name, uuid=row.uuid, waited=waited, report=row)
        now = time.monotonic()
        pause = max(_LOOK_SECONDS, (now - reading) * _LOOK_TIMES)


def _report(
    row: DomainReport, wait: DomainWait | None, loans: _Loans, max_age: float
) -> DomainReport:
    """A row with what came of making it fresh, as it is when all has been put back."""
    loan = loans.get(row.uuid)
    asked, restored, error = False, None, None
    if loan is not None:
        asked, error = loan.was_asked, loans.plea(loan) if loan.is_owed else loan.asking_error
        restored = None if not loan.was_changed else not loan.is_owed
    newest = wait.report if wait is not None and wait.report is not None else row
    if restored:
        newest = replace(newest, interval=row.interval)
        if row.verdict is Verdict.POLLING_OFF and newest.verdict.can_update:
            newest = replace(newest, verdict=row.verdict)
    fresh: bool | None
    if wait is not None:
        # Whether it answered is known by no clock of ours.
        fresh, seconds, reason = (
            wait.waited.answered or False,
            wait.waited.seconds,
            wait.waited.reason,
        )
    elif not row.verdict.has_figures:
        fresh, seconds, reason = None, None, Unheard(row.verdict.value)
    elif _is_new(row, max_age):
        fresh, seconds, reason = True, None, None
    else:
        fresh, seconds, reason = False, None, Unheard.FAILED
        if isinstance(error, Busy):
            reason = Unheard.BUSY
        elif not row.verdict.can_update:
            reason = Unheard(row.verdict.value)
    return replace(
        newest,
        refresh=Refresh(
            fresh=fresh, asked=asked, seconds=seconds, reason=reason, restored=restored, error=error
        ),
    )


class _Loan:
    """A guest whose interval is another one for a while.

    Its two calls are never made at the same time, and there is no asking after giving back. What
    they wait for are guests, so they are made in threads that nobody has to wait for.

    :ivar was_asked: whether the guest was asked
    :ivar was_changed: whether its interval was touched, or may have been
    :ivar is_owed: whether its interval may be another than it was
    :ivar asking_error: why it was not asked
    :ivar returning_error: why its interval was not put back
    """

    def __init__(self, row: DomainReport, via: Source) -> None:
        self.name, self.uuid = row.name, row.uuid
        self.before = row.interval.in_force or 0
        self._lent = 0 if self.before else _LENT
        self._id = row.id
        self._qom_path = row.balloon.qom_path if row.balloon and via is Source.QOM else None
        self._lock = threading.Lock()
        self._closed = False
        self.was_asked = False
        self.was_changed = False
        self.is_owed = False
        self.asking_error: VirtballoonError | None = None
        self.returning_error: VirtballoonError | None = None

    def close(self) -> bool:
        """Ask no more; and whether there is something to be put back, or may be soon."""
        self._closed = True
        return self.is_owed or self._lock.locked()

    def ask(self, domain: Domain) -> Control | bool:
        """Have QEMU ask the guest at once; how its monitor is held if that stands in the way."""
        with self._lock:
            if self._closed:
                return True
            if hold := hold_of(domain):
                return hold
            self.was_changed = self.is_owed = True
            try:
                self._set(domain, self._lent)
            except (AccessDenied, DomainNotFound, NotRunning, NotSupported, ReadOnly):
                # Whoever was refused, or has found nobody, has changed nothing.
                self.was_changed = self.is_owed = False
                raise
            if self.before:
                self._set(domain, self.before)
                self.is_owed = False
            self.was_asked = True
            return True

    def give_back(self, domain: Domain) -> Control | bool:
        """Put the interval back, unless somebody else has set it meanwhile."""
        with self._lock:
            self._closed = True
            # What was set has gone with a guest that has.
            with suppress(DomainNotFound, NotRunning):
                if self.is_owed:
                    if hold := hold_of(domain):
                        return hold
                    if self._is_as_lent(domain):
                        self._set(domain, self.before)
            self.is_owed = False
            return True

    def _is_as_lent(self, domain: Domain) -> bool:
        configs = read_configs(domain)
        if configs.id != self._id or configs.live is None:
            return False
        if self._qom_path is not None:
            return domain.monitor().polling_interval(self._qom_path) == self._lent
        return configs.live.period == self._lent

    def _set(self, domain: Domain, seconds: int) -> None:
        if self._qom_path is not None:
            domain.monitor().set_polling_interval(self._qom_path, seconds)
        else:
            domain.set_period(seconds, live=True, config=False)


class _Loans:
    """The guests of one host whose intervals are others for a while: what is owed to that host."""

    def __init__(self, session: HostSession, via: Source) -> None:
        self._session = session
        self._via = via
        self._loans: dict[str, _Loan] = {}
        self.cleanup = cleanup.Cleanup(self.settle, remaining=self.pleas)

    def open(self, rows: Iterable[DomainReport]) -> None:
        """Take these guests on. From here on, the end of the process puts their intervals back."""
        self._loans = {row.uuid: _Loan(row, self._via) for row in rows}
        if self._loans:
            self.cleanup.__enter__()

    def close(self) -> None:
        """Leave what could not be put back as it is."""
        if not cleanup.ending.locked():
            self.cleanup.__exit__()

    def get(self, uuid: str) -> _Loan | None:
        return self._loans.get(uuid)

    def has_failed(self, uuid: str) -> bool:
        return uuid in self._loans and self._loans[uuid].asking_error is not None

    def ask(self, deadline: float) -> None:
        """Have all of them asked."""
        self._ask(list(self._loans), deadline)

    def ask_again(self, heard: Container[str], deadline: float) -> None:
        """Ask those once more that have not been heard of and are not asked again by QEMU."""
        asked = {uuid for uuid, loan in self._loans.items() if loan.was_asked and loan.before}
        self._ask([uuid for uuid in asked if uuid not in heard], deadline)

    def _ask(self, uuids: Iterable[str], deadline: float) -> None:
        domains = {u: self._session.domains[u] for u in uuids if u in self._session.domains}
        errands = {uuid: partial(self._loans[uuid].ask, domain) for uuid, domain in domains.items()}
        for uuid, error in self._run(errands, domains, deadline):
            self._loans[uuid].asking_error = error

    def give_back(self, uuids: Iterable[str], seconds: float) -> None:
        """Put the intervals of these back."""
        lent = [uuid for uuid in uuids if uuid in self._loans]
        domains = {u: self._session.domains[u] for u in lent if u in self._session.domains}
        for uuid in lent:
            if uuid not in domains:
                # What was set has gone with the domain.
                self._loans[uuid].is_owed = False
        errands = {u: partial(self._loans[u].give_back, d) for u, d in domains.items()}
        for uuid, error in self._run(errands, domains, time.monotonic() + seconds):
            self._loans[uuid].returning_error = error

    def settle(self, seconds: float) -> None:
        """Ask no more, and put back whatever is not, over a new connection if need be."""
        deadline = time.monotonic() + seconds
        while left := [uuid for uuid, loan in self._loans.items() if loan.close()]:
            self.give_back(left, deadline - time.monotonic())
            errors = [self._loans[uuid].returning_error for uuid in left]
            lost = [error for error in errors if isinstance(error, ConnectionLost)]
            if not lost:
                return
            self._session.deadline.at = deadline
            try:
                self._session.reconnect(lost[0])
            except VirtballoonError:
                return

    def pleas(self) -> list[str]:
        """What is not put back, and the command that does."""
        return [str(self.plea(loan)) for loan in self._loans.values() if loan.is_owed]

    def plea(self, loan: _Loan) -> VirtballoonError:
        """That an interval is not put back, and the command that does."""
        # By UUID: a name may be anything.
        words = ["virtballoon", "-c", self._session.uri, "--via", self._via.value]
        words += ["set-interval", str(loan.before), "--live", loan.uuid]
        was = f"{loan.before} s" if loan.before else "off"
        return VirtballoonError(
            f"its polling interval, which was {was}, could not be put back",
            host=self._session.uri,
            domain=loan.name,
            hint=f"to do so: {shlex.join(words)}",
        )

    def _run(
        self,
        errands: Mapping[str, Callable[[], Control | bool]],
        domains: Mapping[str, Domain],
        deadline: float,
    ) -> Iterator[tuple[str, VirtballoonError | None]]:
        """Run an errand for each, and tell what went wrong."""
        if not errands:
            return
        tasks = {domain: errands[uuid] for uuid, domain in domains.items()}
        # One of its own: the process may end while the session's thread uses the session's.
        scheduler = Scheduler(self._session.connection, None)
        try:
            for domain, outcome in run_per_domain(scheduler, tasks, Deadline(deadline)):
                error = outcome.error if isinstance(outcome, NoAnswer) else outcome
                yield domain.uuid, error if isinstance(error, VirtballoonError) else None
        finally:
            scheduler.close()
