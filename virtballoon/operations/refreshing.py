"""Reads figures that are no older than wanted, and has guests give new ones where they are.

A domain that is not polled, or not often enough, is polled each second until it was updated. Then
its interval is restored, whatever happens in between; see :mod:`virtballoon.system.cleanup`.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Final

from virtballoon.engine.limits import Deadline
from virtballoon.engine.scheduler import Scheduler
from virtballoon.engine.session import DEFAULT_TIMEOUT, HostSession
from virtballoon.engine.tasks import hold_of, run_per_domain
from virtballoon.errors import Busy, ConnectionLost, DomainNotFound, NotRunning, VirtballoonError
from virtballoon.hypervisor.connection import Target
from virtballoon.hypervisor.device import balloon_device, read_configs
from virtballoon.hypervisor.domain import Control, Domain
from virtballoon.log import log_pleas
from virtballoon.model.outcome import DomainWait
from virtballoon.model.report import DomainReport, HostReport, Refresh, Unheard
from virtballoon.model.source import Source
from virtballoon.model.verdict import UNPOLLED_SECONDS, Verdict
from virtballoon.operations.reading import (
    chosen_domains,
    host_report,
    read_domains,
    unlogged_report,
)
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

    A domain whose figures are recent enough is only read, and one that is polled often enough is
    waited for. Any other is polled each second, by its live interval, until it was updated.
    ``refresh`` in its report has the result. A domain with interval 0 that was updated a few
    seconds ago is watched first: QEMU may poll it by an interval that libvirt does not know.

    The arguments are those of :func:`read_host`. The connection is read-write: on a read-only one,
    domains whose interval would have to be set have an error. Through libvirt, the interval that
    libvirt knows is restored; through QOM, QEMU's own.

    :param max_age: the greatest age, in seconds; 0 for new figures of every domain
    :param timeout: seconds for reading, from connecting on, and as long once more for waiting
    :param on_waiting: called, in this thread, with the host's URI and the names of the domains that
        are still waited for
    :param cancelled: ends the wait, and restores the intervals, when another thread sets it
    """
    cancelled = cancelled or threading.Event()
    session = HostSession(target, domains, via=via, readonly=False, timeout=timeout)
    first: HostReport | None = None
    rows: dict[str, DomainReport] = {}
    waits: dict[str, DomainWait] = {}
    temporary = _Temporary(session, via)

    def old() -> list[DomainReport]:
        there = [row for uuid, row in rows.items() if uuid in session.domains]
        answered = {uuid for uuid, wait in waits.items() if wait.waited.answered}
        return [row for row in there if _may_be_newer(row, max_age) and row.uuid not in answered]

    def wait(reports: Iterable[DomainReport], seconds: float) -> None:
        now, there = time.monotonic(), session.domains
        watched = [Watched.of(there[r.uuid], r, since=now, seconds=seconds) for r in reports]
        for found in updates(
            session, watched, via=via, timeout=timeout, on_waiting=on_waiting, cancelled=cancelled
        ):
            waits.update((each.uuid, each) for each in found)
            temporary.restore(each.uuid for each in found if each.waited.answered)

    try:
        with (
            session,
            session.errors_kept(),
            cleanup.Cleanup(temporary.restore_all, remaining=temporary.remaining),
        ):
            session.connect()
            for row in read_domains(session, chosen_domains(session, inactive=inactive), via=via):
                rows[row.uuid] = row
            first = unlogged_report(session, rows.values())
            rows = {row.uuid: row for row in first.domains}
            # A last update is in whole seconds.
            wait((row for row in old() if row.may_be_polled), UNPOLLED_SECONDS + 1)
            temporary.set((r for r in old() if _needs_polling(r, timeout)), timeout, cancelled)
            wait((row for row in old() if row.uuid not in temporary.errors), timeout)
    except BaseException:
        # There is no report that could say so.
        log_pleas(temporary.remaining())
        raise
    reports = [_report(row, waits.get(row.uuid), temporary, max_age) for row in rows.values()]
    return host_report(session, reports, earlier=first)


def _is_recent(row: DomainReport, max_age: float) -> bool:
    return row.age_seconds is not None and row.age_seconds <= max_age


def _may_be_newer(row: DomainReport, max_age: float) -> bool:
    is_known = row.verdict.can_update and row.figures.last_update is not None
    return is_known and not _is_recent(row, max_age)


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
    """A domain's report with the result of refreshing it."""
    error = temporary.errors.get(row.uuid)
    if error is not None:
        reason = Unheard.BUSY if isinstance(error, Busy) else Unheard.FAILED
        refresh = Refresh(fresh=False, reason=reason)
    elif wait is not None:
        got = wait.waited
        refresh = Refresh(fresh=got.answered or False, seconds=got.seconds, reason=got.reason)
        row = (wait.report or row).rejudged(interval=row.interval)
    elif _is_recent(row, max_age):
        refresh = Refresh(fresh=True)
    else:
        verdict = Verdict.FAILED if row.verdict.can_update else row.verdict
        is_fresh = False if verdict.has_figures else None
        refresh = Refresh(fresh=is_fresh, reason=Unheard(verdict.value))
    if change := temporary.changes.get(row.uuid):
        error = temporary.not_restored(change) if change.is_open else error
        refresh = replace(refresh, asked=change.was_set, restored=change.restored, error=error)
    return replace(row, refresh=refresh)


class _Change:
    """The temporary interval of one domain, which is set once at most.

    :ivar was_set: whether it was in force
    :ivar is_open: whether it may be in force
    :ivar is_closed: whether it is not to be set any more
    :ivar lock: held while it is set or restored
    """

    def __init__(self, row: DomainReport, via: Source) -> None:
        self.row = row
        self.before = row.interval.in_force or 0
        self._qom_path = row.balloon.qom_path if row.balloon and via is Source.QOM else None
        self.lock = threading.Lock()
        self.was_set = self.is_open = self.is_closed = False

    @property
    def restored(self) -> bool | None:
        """Whether the interval is as before; None if it was not changed."""
        return not self.is_open if self.was_set or self.is_open else None

    def set(self, domain: Domain) -> Control | bool:
        """Set the temporary interval; what holds the domain if something does."""
        with self.lock:
            if self.is_closed:
                return True
            if hold := hold_of(domain):
                return hold
            self.is_open = True
            balloon_device(domain, self._qom_path).set_interval(_TEMPORARY)
            self.was_set = True
            return True

    def restore(self, domain: Domain) -> Control | bool:
        """Restore the interval, unless another program has set it in the meantime."""
        with self.lock:
            self.is_closed = True
            if not self.is_open:
                return True
            if hold := hold_of(domain):
                return hold
            balloon = balloon_device(domain, self._qom_path)
            is_same = read_configs(domain).id == self.row.id
            if is_same and balloon.interval() == _TEMPORARY != self.before:
                self.was_set = True
                balloon.set_interval(self.before)
            self.is_open = False
            return True


class _Temporary:
    """The temporary intervals of one host's domains.

    :ivar changes: each domain whose interval was to be set, by UUID
    :ivar errors: why it was not set, by UUID
    """

    def __init__(self, session: HostSession, via: Source) -> None:
        self._session = session
        self._via = via
        self.changes: dict[str, _Change] = {}
        self.errors: dict[str, VirtballoonError] = {}

    def set(self, rows: Iterable[DomainReport], seconds: float, cancelled: threading.Event) -> None:
        """Poll these each second."""
        self.changes = {row.uuid: _Change(row, self._via) for row in rows}
        if cancelled.is_set() or cleanup.ending.locked():
            # What restores them at the end may not know them yet.
            self.restore_all(0)
        self.errors = dict(self._run(_Change.set, self.changes, seconds))

    def restore(
        self, uuids: Iterable[str], seconds: float = cleanup.UNDO_SECONDS
    ) -> ConnectionLost | None:
        """Restore the intervals of these; the error if the connection was lost."""
        lost = None
        for uuid, error in self._run(_Change.restore, uuids, seconds):
            if isinstance(error, DomainNotFound | NotRunning):
                # With a domain that has stopped, what was set is gone.
                self.changes[uuid].is_open = False
            elif isinstance(error, ConnectionLost):
                lost = error
        return lost

    def restore_all(self, seconds: float) -> None:
        """Restore all, over a new connection if need be, and set nothing from now on."""
        deadline = time.monotonic() + seconds
        for change in self.changes.values():
            change.is_closed = True
        while left := [u for u, each in self.changes.items() if each.is_open or each.lock.locked()]:
            lost = self.restore(left, deadline - time.monotonic())
            if lost is None:
                return
            self._session.deadline.at = deadline
            try:
                self._session.reconnect(lost)
            except VirtballoonError:
                return

    def remaining(self) -> list[str]:
        """What is not restored, and the commands that restore it."""
        return [str(self.not_restored(each)) for each in self.changes.values() if each.is_open]

    def not_restored(self, change: _Change) -> VirtballoonError:
        """The error of an interval that is not restored."""
        # By UUID: a name may contain anything.
        words = ["virtballoon", "set-interval", "-c", self._session.uri, "--via", self._via.value]
        words += ["--live", str(change.before), change.row.uuid]
        before = f"{change.before} s" if change.before else "off"
        return VirtballoonError(
            f"its polling interval, which was {before}, could not be restored",
            host=self._session.uri,
            domain=change.row.name,
            hint=f"to do so: {shlex.join(words)}",
        )

    def _run(
        self,
        task: Callable[[_Change, Domain], Control | bool],
        uuids: Iterable[str],
        seconds: float,
    ) -> Iterator[tuple[str, VirtballoonError]]:
        """Run a task for each of these domains, and yield its error if there is one."""
        domains = self._session.domains
        changes = {uuid: self.changes[uuid] for uuid in uuids if uuid in self.changes}
        for uuid in changes.keys() - domains.keys():
            yield uuid, DomainNotFound("it vanished", host=self._session.uri)
        tasks = {
            domains[u]: partial(task, c, domains[u]) for u, c in changes.items() if u in domains
        }
        if not tasks:
            return
        # One of its own: the process may end while the session's thread uses the session's.
        with closing(Scheduler(self._session.connection, None)) as scheduler:
            for result in run_per_domain(scheduler, tasks, Deadline.after(seconds)):
                if result.error is not None:
                    yield result.domain.uuid, result.error
