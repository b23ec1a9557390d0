"""Reads figures that are no older than wanted, and has guests give new ones where they are. What is
changed for that is restored, whatever happens; see :mod:`virtballoon.system.cleanup`."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from virtballoon.engine.limits import Deadline
from virtballoon.engine.scheduler import Scheduler
from virtballoon.engine.session import DEFAULT_TIMEOUT, HostSession
from virtballoon.engine.tasks import TaskResult, hold_of, run_per_domain
from virtballoon.errors import Busy, ConnectionLost, DomainNotFound, NotRunning, VirtballoonError
from virtballoon.hypervisor.connection import Target
from virtballoon.hypervisor.device import balloon_device
from virtballoon.hypervisor.domain import Control, Domain
from virtballoon.log import log_host, log_unrestored
from virtballoon.model.outcome import DomainWait
from virtballoon.model.report import DomainReport, HostReport, Refresh, Unheard
from virtballoon.model.source import Source
from virtballoon.model.verdict import UNPOLLED_SECONDS
from virtballoon.operations.reading import chosen_domains, host_report, meeting, read_domains
from virtballoon.operations.waiting import WaitCallback, Watched, updates
from virtballoon.system import cleanup

#: The temporary interval. An update in the same second as the one before shows no difference; with
#: this one, the next follows soon.
_TEMPORARY: Final = 1


def read_fresh(
    target: Target = None,
    domains: Iterable[str] | None = None,
    *,
    max_age: float,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    on_waiting: WaitCallback | None = None,
    cancelled: threading.Event | None = None,
) -> HostReport:
    """Read a host's domains as :func:`read_host` does, with figures that are no older than wanted.
    Which domains meet a :class:`Where` is decided by the figures before that.

    A domain whose figures are recent enough is only read, and one that is polled often enough is
    waited for. Any other is polled each second, by its live interval, until it was updated.
    ``refresh`` in its report has the result. A domain with interval 0 that was updated a few
    seconds ago is watched first: QEMU may poll it by an interval that libvirt does not know.

    The connection is read-write: on a read-only one, a domain whose interval would have to be set
    has an error.

    :param max_age: the greatest age, in seconds; 0 for new figures of every domain
    :param timeout: seconds for reading, from connecting on, and as long once more for waiting
    :param cancelled: ends the wait, and restores the intervals, when it is set
    """
    cancelled = cancelled or threading.Event()
    session = HostSession(target, domains, via=via, writes=True, timeout=timeout, reads_memory=True)
    first: HostReport | None = None
    rows: dict[str, DomainReport] = {}
    waits: dict[str, DomainWait] = {}
    temporary = _Temporary(session, via, cancelled)

    def old() -> list[DomainReport]:
        there = [row for uuid, row in rows.items() if uuid in session.domains]
        answered = {uuid for uuid, wait in waits.items() if wait.waited.answered}
        return [row for row in there if row.may_be_newer(max_age) and row.uuid not in answered]

    def wait(reports: Iterable[DomainReport], seconds: float) -> None:
        now, there = time.monotonic(), session.domains
        watched = [Watched.of(there[r.uuid], r, since=now, seconds=seconds) for r in reports]
        for found in updates(
            session, watched, via=via, timeout=timeout, on_waiting=on_waiting, cancelled=cancelled
        ):
            waits.update((each.uuid, each) for each in found)
            updated = [each.uuid for each in found if each.waited.answered]
            temporary.restore(updated, cleanup.UNDO_SECONDS)

    try:
        with (
            session,
            session.errors_kept(),
            cleanup.Cleanup(temporary.restore_all, remaining=temporary.remaining),
        ):
            session.connect()
            for row in read_domains(session, chosen_domains(session, inactive=inactive), via=via):
                rows[row.uuid] = row
            first = host_report(session, rows.values())
            rows = {row.uuid: row for row in meeting(session, first).domains}
            # A last update is in whole seconds.
            wait((row for row in old() if row.may_be_polled), UNPOLLED_SECONDS + 1)
            temporary.set((row for row in old() if _needs_polling(row, timeout)), timeout)
            wait((row for row in old() if row.uuid not in temporary.errors), timeout)
    except BaseException:
        # There is no report that could say so.
        log_unrestored(temporary.remaining())
        raise
    reports = [_report(row, waits.get(row.uuid), temporary, max_age) for row in rows.values()]
    return log_host(host_report(session, reports, earlier=first))


def _needs_polling(row: DomainReport, seconds: float) -> bool:
    """Whether a domain will not be updated within this time as it is polled now."""
    interval = row.interval.in_force
    if not interval or row.last_update is None:
        # A domain that is polled and was never updated is not helped by being polled more often.
        return interval == 0
    # One that is overdue may be polled by libvirt's XML alone.
    return row.verdict.lacks_update or interval - (row.age_seconds or 0) > seconds


def _report(
    row: DomainReport, wait: DomainWait | None, temporary: _Temporary, max_age: float
) -> DomainReport:
    error = temporary.errors.get(row.uuid)
    was_set, is_left = row.uuid in temporary.was_set, row.uuid in temporary.is_left
    if error is not None:
        reason = Unheard.BUSY if isinstance(error, Busy) else Unheard.FAILED
        refresh = Refresh(fresh=False, reason=reason)
    elif wait is not None:
        got = wait.waited
        refresh = Refresh(fresh=got.answered or False, seconds=got.seconds, reason=got.reason)
        after = wait.report or row
        # The temporary interval has gone with the QEMU that had it.
        has_gone = got.reason in {Unheard.RESTARTED, Unheard.SHUTOFF}
        row = after if has_gone else replace(after, interval=row.interval)
    elif row.is_recent(max_age):
        refresh = Refresh(fresh=True)
    else:
        reason = Unheard.FAILED if row.verdict.can_update else Unheard(row.verdict.value)
        refresh = Refresh(fresh=False if row.verdict.has_figures else None, reason=reason)
    error = temporary.not_restored(temporary.rows[row.uuid]) if is_left else error
    restored = not is_left if was_set or is_left else None
    refresh = replace(refresh, asked=was_set, restored=restored, error=error)
    return replace(row, refresh=refresh)


class _Temporary:
    """The temporary intervals of one host's domains, which are named by their UUIDs."""

    def __init__(self, session: HostSession, via: Source, cancelled: threading.Event) -> None:
        self._session, self._via, self._cancelled = session, via, cancelled
        self._lock = threading.Lock()
        self._is_over = False
        # Those whose interval was to be set, as they were before, and why it was not set.
        self.rows: dict[str, DomainReport] = {}
        self.errors: dict[str, VirtballoonError] = {}
        # Those where it was in force, and those where it may be.
        self.was_set: set[str] = set()
        self.is_left: set[str] = set()

    def set(self, rows: Iterable[DomainReport], seconds: float) -> None:
        """Poll these each second."""
        with self._lock:
            # What restores them at the end of the process may have been done already.
            if self._is_over or self._cancelled.is_set() or cleanup.ending.locked():
                return
            self.rows = {row.uuid: row for row in rows}
            for domain, _, error, in_flight in self._run(self._set, self.rows, seconds):
                if error is not None:
                    self.errors[domain.uuid] = error
                if isinstance(error, Busy) and not in_flight:
                    # Nothing was sent.
                    self.is_left.discard(domain.uuid)

    def restore(self, uuids: Iterable[str], seconds: float) -> ConnectionLost | None:
        """Restore the intervals of these; the error if the connection was lost."""
        # With a domain that has stopped, what was set is gone.
        self.is_left.intersection_update(self._session.domains)
        lost = None
        left = self.is_left.intersection(uuids)
        for domain, _, error, _ in self._run(self._restore, left, seconds):
            if error is None or isinstance(error, DomainNotFound | NotRunning):
                self.is_left.discard(domain.uuid)
            lost = error if isinstance(error, ConnectionLost) else lost
        return lost

    def restore_all(self, seconds: float) -> None:
        """Restore all, over a new connection if need be, and set nothing from now on."""
        deadline = time.monotonic() + seconds
        self._is_over = True
        with self._lock:
            while lost := self.restore(self.is_left, deadline - time.monotonic()):
                self._session.deadline.at = deadline
                try:
                    self._session.reconnect(lost)
                except VirtballoonError:
                    return

    def remaining(self) -> list[str]:
        """What is not restored, and the commands that restore it."""
        return [str(self.not_restored(self.rows[uuid])) for uuid in tuple(self.is_left)]

    def not_restored(self, row: DomainReport) -> VirtballoonError:
        """The error of an interval that is not restored."""
        seconds, uri = row.interval.in_force or 0, self._session.uri
        before = f"{seconds} s" if seconds else "off"
        message = f"its polling interval, which was {before}, could not be restored"
        # By UUID: a name may contain anything.
        options = f"-c {shlex.quote(uri)} --via {self._via} --live {seconds} {row.uuid}"
        hint = f"to do so: virtballoon set-interval {options}"
        return VirtballoonError(message, host=uri, domain=row.name, hint=hint)

    def _run(
        self, task: Callable[[Domain], Control | bool], uuids: Iterable[str], seconds: float
    ) -> Iterator[TaskResult]:
        """Run a task for each of these domains, which gives whether the interval was in force."""
        domains = [self._session.domains[uuid] for uuid in uuids]
        if not domains:
            return
        tasks = {domain: partial(task, domain) for domain in domains}
        # One of its own: the process may end while the session's thread uses the session's.
        scheduler = Scheduler(domains[0].connection, None)
        for result in run_per_domain(scheduler, tasks, Deadline.after(seconds)):
            if result.value:
                self.was_set.add(result.domain.uuid)
            yield result

    def _set(self, domain: Domain) -> Control | bool:
        if self._is_over:
            return False
        if hold := hold_of(domain):
            return hold
        device = balloon_device(domain, self.rows[domain.uuid].balloon, self._via)
        # The process may be asked to end while it is being set.
        self.is_left.add(domain.uuid)
        device.set_interval(_TEMPORARY)
        return True

    def _restore(self, domain: Domain) -> Control | bool:
        if hold := hold_of(domain):
            return hold
        row = self.rows[domain.uuid]
        before = row.interval.in_force or 0
        device = balloon_device(domain, row.balloon, self._via)
        # What another program has set in the meantime stays.
        if domain.xml().id != row.id or not before != device.interval() == _TEMPORARY:
            return False
        device.set_interval(before)
        return True
