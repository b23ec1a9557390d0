"""Hosts that are read again and again, in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from virtballoon.engine.session import DEFAULT_TIMEOUT, Visit, leave
from virtballoon.hypervisor.connection import Connection, Target
from virtballoon.log import log_host
from virtballoon.model.report import DomainReport, HostReport, HostStatus
from virtballoon.model.source import Source
from virtballoon.model.verdict import Verdict
from virtballoon.operations.fleet import DEFAULT_JOBS
from virtballoon.operations.reading import read_visited, unread

if TYPE_CHECKING:
    from types import TracebackType

_THREAD: Final = "virtballoon-following"

#: Seconds from the beginning of one reading of a host to that of the next.
DEFAULT_EVERY: Final = 2.0

#: So often it is said what has been read so far of a host that takes its time.
_SLOW_SECONDS: Final = 0.5

#: A host that is not reached is tried again later each time, up to so many times ``every``: it may
#: count who knocks.
_LATEST: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A reading of a host, or as much of one as there is.

    :ivar index: the number of its target
    :ivar report: the host; where it is not complete, with the domains that were read so far, and
        as if all were well
    :ivar is_complete: whether the host has been left
    """

    index: int
    report: HostReport
    is_complete: bool


class Following:
    """Reads several hosts as :func:`read_hosts` does, again and again, until it is left.

    Each host is read by itself: its next reading begins ``every`` seconds after its last one
    began, and not before that one has ended. So a host that is silent, or has a guest that hangs,
    holds up no other, and is not asked again while it has not answered; of one that takes its
    time, the domains that answer are known before. A connection stays open
    until something goes wrong on it, so that nobody logs in every two seconds, and a host that was
    not reached is tried again after longer and longer. One whose connecting did not return is not
    connected to again before it does.

    :param targets: connections, URIs, or None for libvirt's default
    :param domains: names, UUIDs and shell patterns; None for all
    :param inactive: whether "all" and patterns mean the domains that do not run, too
    :param via: where the figures come from. QOM marks each running guest as tainted.
    :param timeout: seconds for each reading of a host
    :param jobs: how many hosts are read at a time
    :param every: seconds from the beginning of one reading of a host to that of the next
    :param notify: called, in a thread of its own, when there is something to take
    """

    def __init__(
        self,
        targets: Sequence[Target],
        domains: Iterable[str] | None = None,
        *,
        inactive: bool = False,
        via: Source = Source.LIBVIRT,
        timeout: float = DEFAULT_TIMEOUT,
        jobs: int = DEFAULT_JOBS,
        every: float = DEFAULT_EVERY,
        notify: Callable[[], object] | None = None,
    ) -> None:
        self._targets = tuple(targets)
        self._words = None if domains is None else tuple(domains)
        self._inactive = inactive
        self.via = via
        self._timeout = timeout
        self.every = every
        self._notify = notify
        self._jobs = threading.BoundedSemaphore(jobs)
        self._changed = threading.Condition()
        self._open: dict[int, Connection] = {}
        self._still_out: dict[int, Visit] = {}
        self._earlier: dict[int, HostReport] = {}
        self._readings: list[Reading] = []
        self._failure: BaseException | None = None
        self._is_paused = False
        self._has_ended = False

    def __enter__(self) -> Self:
        for index, target in enumerate(self._targets):
            # Nobody waits for one that hangs, not even when the process ends.
            arguments = (index, target)
            threading.Thread(target=self._follow, args=arguments, name=_THREAD, daemon=True).start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
            for connection in self._open.values():
                leave(connection)
            self._open.clear()

    @property
    def is_paused(self) -> bool:
        """Whether no new reading begins; one that has begun goes on."""
        return self._is_paused

    @is_paused.setter
    def is_paused(self, value: bool) -> None:
        with self._changed:
            if value != self._is_paused:
                self._is_paused = value
                self._changed.notify_all()

    def take(self) -> list[Reading]:
        """The readings since the last call. Never waits.

        :raise BaseException: whatever went wrong in a reading that is no error of ours
        """
        with self._changed:
            if self._failure is not None:
                raise self._failure
            readings, self._readings = self._readings, []
        return readings

    def _follow(self, index: int, target: Target) -> None:
        try:
            due = 0.0
            later = 1
            while self._may_begin(due):
                with self._jobs:
                    begun = time.monotonic()
                    report = self._read(index, target)
                self._add(index, report)
                is_away = report.status is HostStatus.UNREACHABLE
                later = min(2 * later, _LATEST) if is_away else 1
                due = begun + later * self.every
        except BaseException as error:
            # Raised again where the reports are taken.
            with self._changed:
                self._failure = error
            self._tell()

    def _may_begin(self, due: float) -> bool:
        """Wait until the next reading is due; False when there is to be none."""
        with self._changed:
            while not self._has_ended:
                wait = due - time.monotonic()
                if not self._is_paused and wait <= 0:
                    return True
                self._changed.wait(None if self._is_paused else wait)
        return False

    def _read(self, index: int, target: Target) -> HostReport:
        last = self._still_out.get(index)
        # Not waited for: others may need the job.
        if last is not None and (error := last.still_connecting(0)) is not None:
            return log_host(unread(error, last.uri, elapsed_seconds=0.0))
        self._still_out.pop(index, None)
        with self._changed:
            connection = self._open.pop(index, None)
        visit = Visit(
            target,
            self._words,
            via=self.via,
            readonly=self.via is Source.LIBVIRT,
            timeout=self._timeout,
            connection=connection,
            keep=True,
        )
        rows: list[DomainReport] = []
        is_done = threading.Event()
        arguments = (index, visit, rows, is_done)
        threading.Thread(target=self._add_so_far, args=arguments, name=_THREAD, daemon=True).start()
        try:
            report = read_visited(
                visit,
                inactive=self._inactive,
                via=self.via,
                each=rows.append,
                earlier=self._earlier.get(index),
            )
        finally:
            with self._changed:
                is_done.set()
        if report.hostname is not None:
            self._earlier[index] = report
        if visit.still_connecting(0) is not None:
            self._still_out[index] = visit
        if visit.left_open is not None:
            with self._changed:
                # Calls that are stuck on a connection are in the way of others.
                is_stuck = any(row.verdict is Verdict.BUSY for row in report.domains)
                if not (is_stuck or self._has_ended):
                    self._open[index] = visit.left_open
                else:
                    leave(visit.left_open)
        return report

    def _add_so_far(
        self, index: int, visit: Visit, rows: Sequence[DomainReport], is_done: threading.Event
    ) -> None:
        """While a reading takes its time, tell now and then which domains it has."""
        told = 0
        while not is_done.wait(_SLOW_SECONDS):
            there = tuple(sorted(rows, key=lambda row: (row.name, row.uuid)))
            if len(there) > told:
                told = len(there)
                report = HostReport(
                    uri=visit.uri,
                    hostname=visit.hostname,
                    status=HostStatus.OK,
                    error=None,
                    elapsed_seconds=visit.elapsed_seconds,
                    domains=there,
                    unmatched=visit.selection.unmatched,
                )
                earlier = self._earlier.get(index)
                report = report.at_clock(earlier.clock if earlier is not None else None)
                self._add(index, report, unless=is_done)

    def _add(
        self, index: int, report: HostReport, *, unless: threading.Event | None = None
    ) -> None:
        reading = Reading(index=index, report=report, is_complete=unless is None)
        with self._changed:
            # What there was so far must not come after all of it.
            if unless is None or not unless.is_set():
                self._readings.append(reading)
        self._tell()

    def _tell(self) -> None:
        if self._notify is not None and not self._has_ended:
            self._notify()
