"""Reads figures that are no older than wanted, and has guests give new ones where they are.

A domain that is not polled, or not often enough, is polled each second until it was updated. Then
its interval is restored, whatever happens in between; see :mod:`virtballoon.system.cleanup`.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
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
from virtballoon.hypervisor.connection import Target
from virtballoon.hypervisor.device import balloon_device, read_configs
from virtballoon.hypervisor.domain import Control, Domain
from virtballoon.log import log_pleas
from virtballoon.model.outcome import DomainWait
from virtballoon.model.report import DomainReport, HostReport, Refresh, Unheard
from virtballoon.model.source import Source
from virtballoon.model.verdict import GRACE_SECONDS, UNPOLLED_SECONDS, Verdict
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

    :param target: a read-write connection, which stays open; or a URI, or None for libvirt's
        default. On a read-only one, domains whose interval would have to be set have an error.
    :param domains: names, UUIDs and shell patterns; None for all
    :param max_age: the greatest age, in seconds; 0 for new figures of every domain
    :param inactive: whether "all" and patterns include domains that do not run
    :param via: source of the figures, and how the interval is set. Through libvirt, the interval
        that libvirt knows is restored; through QOM, QEMU's own, and running guests are tainted.
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
    temporary = _Temporaries(session, via)

    def wait(reports: Iterable[DomainReport], seconds: float, *, even_unpolled: bool) -> None:
        watched = [Watched.since_report(session.domains[row.uuid], row) for row in reports]
        for found in updates(
            session,
            watched,
            seconds=seconds,
            via=via,
            timeout=timeout,
            on_waiting=on_waiting,
            cancelled=cancelled,
            even_unpolled=even_unpolled,
        ):
            updated = [each.uuid for each in found if each.waited.answered]
            known = [each for each in found if each.waited.answered or not even_unpolled]
            waits.update((each.uuid, each) for each in known)
            temporary.restore(updated, cleanup.UNDO_SECONDS)

    def old() -> list[DomainReport]:
        rest = (rows[uuid] for uuid in rows if uuid in session.domains and uuid not in waits)
        return [row for row in rest if _may_be_newer(row, max_age)]

    try:
        with session, session.errors_kept(), temporary.restored():
            session.connect()
            for row in read_domains(session, chosen_domains(session, inactive=inactive), via=via):
                rows[row.uuid] = row
            first = unlogged_report(session, rows.values())
            rows = {row.uuid: row for row in first.domains}
            # A last update is in whole seconds.
            wait(filter(_may_be_polled, old()), UNPOLLED_SECONDS + 1, even_unpolled=True)
            slow = [row for row in old() if _needs_polling(row, timeout)]
            temporary.set(slow, timeout, cancelled=cancelled)
            wait((r for r in old() if not temporary.has_failed(r)), timeout, even_unpolled=False)
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


def _may_be_polled(row: DomainReport) -> bool:
    """Whether polling is off by libvirt, and a QEMU that polls all the same would show it soon."""
    is_off = row.interval.in_force == 0 and row.interval.qemu is None
    return is_off and _is_recent(row, UNPOLLED_SECONDS)


def _needs_polling(row: DomainReport, seconds: float) -> bool:
    """Whether a domain will not be updated within this time as it is polled now."""
    interval = row.interval.in_force
    if not interval or row.last_update is None:
        # A domain that is polled and was never updated is not helped by being polled more often.
        return interval == 0
    if row.age_seconds is None:
        # Its last update lies in the future: nothing says when the next is due.
        return True
    to_go = interval - row.age_seconds
    # One that is long overdue may be polled by libvirt's XML alone.
    return to_go > seconds or to_go < -(interval + GRACE_SECONDS)


def _report(
    row: DomainReport, wait: DomainWait | None, temporary: _Temporaries, max_age: float
) -> DomainReport:
    """A domain's report with the result of refreshing it."""
    changed = temporary.domains.get(row.uuid)
    refresh = Refresh(fresh=False, reason=Unheard.FAILED)
    if wait is not None:
        answered = wait.waited.answered or False
        refresh = Refresh(fresh=answered, seconds=wait.waited.seconds, reason=wait.waited.reason)
        row = (wait.report or row).rejudged(interval=row.interval)
    elif not row.verdict.has_figures:
        refresh = Refresh(fresh=None, reason=Unheard(row.verdict.value))
    elif _is_recent(row, max_age):
        refresh = Refresh(fresh=True)
    elif not row.verdict.can_update and row.verdict is not Verdict.FAILED:
        refresh = Refresh(fresh=False, reason=Unheard(row.verdict.value))
    elif changed is not None and isinstance(changed.error, Busy):
        refresh = Refresh(fresh=False, reason=Unheard.BUSY)
    if changed is not None:
        refresh = replace(
            refresh,
            asked=changed.was_set,
            restored=None if changed.is_changed is None else not changed.is_changed,
            error=temporary.not_restored(changed) if changed.is_changed else changed.error,
        )
    return replace(row, refresh=refresh)


class _Temporary:
    """A domain whose live interval is another one for a while. It is not set once it was restored.

    :ivar was_set: whether the temporary interval was set
    :ivar is_changed: whether the interval may be another than before; None if it never was
    :ivar error: why the temporary interval was not set
    """

    def __init__(self, row: DomainReport, via: Source) -> None:
        self.name, self.uuid, self._id = row.name, row.uuid, row.id
        self.before = row.interval.in_force or 0
        self._qom_path = row.balloon.qom_path if row.balloon and via is Source.QOM else None
        self._lock = threading.Lock()
        self._is_closed = self.was_set = False
        self.is_changed: bool | None = None
        self.error: VirtballoonError | None = None

    def close(self) -> bool:
        """Set nothing from now on; and whether there is something to restore, or may be soon."""
        self._is_closed = True
        return bool(self.is_changed) or self._lock.locked()

    def set(self, domain: Domain) -> Control | bool:
        """Set the temporary interval; what holds the domain if something does."""
        with self._lock:
            if self._is_closed:
                return True
            if hold := hold_of(domain):
                return hold
            self.is_changed = True
            try:
                balloon_device(domain, self._qom_path).set_interval(_TEMPORARY)
            except (AccessDenied, DomainNotFound, NotRunning, NotSupported, ReadOnly):
                # It was refused, so nothing has changed.
                self.is_changed = None
                raise
            self.was_set = True
            return True

    def restore(self, domain: Domain) -> Control | bool:
        """Restore the interval, unless another program has set it in the meantime."""
        with self._lock:
            self._is_closed = True
            if not self.is_changed:
                return True
            # With a domain that has stopped, what was set is gone.
            with suppress(DomainNotFound, NotRunning):
                if hold := hold_of(domain):
                    return hold
                balloon = balloon_device(domain, self._qom_path)
                if read_configs(domain).id == self._id and balloon.interval() == _TEMPORARY:
                    balloon.set_interval(self.before)
            self.is_changed = False
            return True


class _Temporaries:
    """The domains of one host whose live intervals are others for a while."""

    def __init__(self, session: HostSession, via: Source) -> None:
        self._session = session
        self._via = via
        self.domains: dict[str, _Temporary] = {}

    @contextmanager
    def restored(self) -> Iterator[None]:
        """Restore all at the end of the block, or at that of the process."""
        with cleanup.Cleanup(self.restore_all, remaining=self.remaining):
            try:
                yield
            finally:
                self.restore_all(cleanup.UNDO_SECONDS)

    def has_failed(self, row: DomainReport) -> bool:
        """Whether a domain could not be polled."""
        return row.uuid in self.domains and self.domains[row.uuid].error is not None

    def set(
        self, rows: Iterable[DomainReport], seconds: float, *, cancelled: threading.Event
    ) -> None:
        """Poll these each second."""
        self.domains = {row.uuid: _Temporary(row, self._via) for row in rows}
        if cancelled.is_set() or cleanup.ending.locked():
            # Whoever restores them may not know them yet.
            self.restore_all(0)
        for uuid, error in self._run(_Temporary.set, list(self.domains), seconds):
            self.domains[uuid].error = error

    def restore(self, uuids: Iterable[str], seconds: float) -> list[VirtballoonError]:
        """Restore the intervals of these, and return what went wrong."""
        known = [uuid for uuid in uuids if uuid in self.domains]
        for uuid in known:
            if uuid not in self._session.domains:
                self.domains[uuid].is_changed = False
        outcomes = self._run(_Temporary.restore, known, seconds)
        return [error for _, error in outcomes if error is not None]

    def restore_all(self, seconds: float) -> None:
        """Restore all, over a new connection if need be, and set nothing from now on."""
        deadline = time.monotonic() + seconds
        while left := [uuid for uuid, each in self.domains.items() if each.close()]:
            errors = self.restore(left, deadline - time.monotonic())
            lost = [error for error in errors if isinstance(error, ConnectionLost)]
            if not lost:
                return
            self._session.deadline.at = deadline
            try:
                self._session.reconnect(lost[0])
            except VirtballoonError:
                return

    def remaining(self) -> list[str]:
        """What is not restored, and the commands that restore it."""
        return [str(self.not_restored(each)) for each in self.domains.values() if each.is_changed]

    def not_restored(self, domain: _Temporary) -> VirtballoonError:
        """The error of an interval that is not restored."""
        # By UUID: a name may contain anything.
        words = ["virtballoon", "set-interval", "-c", self._session.uri, "--via", self._via.value]
        words += ["--live", str(domain.before), domain.uuid]
        before = f"{domain.before} s" if domain.before else "off"
        return VirtballoonError(
            f"its polling interval, which was {before}, could not be restored",
            host=self._session.uri,
            domain=domain.name,
            hint=f"to do so: {shlex.join(words)}",
        )

    def _run(
        self, task: Callable[[_Temporary, Domain], Control | bool], uuids: list[str], seconds: float
    ) -> Iterator[tuple[str, VirtballoonError | None]]:
        known = {u: self._session.domains[u] for u in uuids if u in self._session.domains}
        if not known:
            return
        tasks = {domain: partial(task, self.domains[u], domain) for u, domain in known.items()}
        # One of its own: the process may end while the session's thread uses the session's.
        scheduler = Scheduler(self._session.connection, None)
        try:
            for domain, outcome in run_per_domain(scheduler, tasks, Deadline.after(seconds)):
                error = outcome.error if isinstance(outcome, NoAnswer) else outcome
                yield domain.uuid, error if isinstance(error, VirtballoonError) else None
        finally:
            scheduler.close()
