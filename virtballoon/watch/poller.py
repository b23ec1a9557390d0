"""Reads hosts again and again, in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Self

from virtballoon.engine.fleet import DEFAULT_JOBS
from virtballoon.engine.session import DEFAULT_TIMEOUT
from virtballoon.hypervisor.connection import Target
from virtballoon.model.report import HostReport, HostStatus
from virtballoon.model.source import Source
from virtballoon.operations.rereading import HostReader

_THREAD: Final = "virtballoon-poller"

#: Seconds from the beginning of one reading of a host to that of the next.
DEFAULT_PERIOD: Final = 2.0

#: How often a reading that takes long reports what it has so far.
_PROGRESS_SECONDS: Final = 0.5

#: The time between attempts to reach a host grows up to this many periods: the host may block
#: clients that connect too often.
_LONGEST_PAUSE: Final = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A reading of a host, or what there is of one.

    :ivar index: the number of its target
    :ivar report: the host; if not complete, with the domains read so far and no error
    :ivar is_complete: whether the reading has ended
    """

    index: int
    report: HostReport
    is_complete: bool


class HostPoller:
    """Reads several hosts as :func:`read_hosts` does, repeatedly, until the block is left.

    Each host is read independently: its next reading begins one period after the last one began,
    and not before that has ended. So a silent host or a hung guest does not delay the others, and a
    host is not asked again while it does not answer; of a reading that takes long, the domains read
    so far are available. Connections are kept; a host that is not reached is tried again after
    growing pauses.

    :param targets: connections, URIs, or None for libvirt's default
    :param domains: names, UUIDs and shell patterns; None for all
    :param inactive: whether "all" and patterns include inactive domains
    :param via: the source of the figures. QOM taints each running guest.
    :param timeout: seconds for each reading of a host
    :param jobs: the number of hosts read at a time
    :param period: seconds from the beginning of one reading of a host to that of the next
    :param notify: called in another thread when there is a reading to take
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
        period: float = DEFAULT_PERIOD,
        notify: Callable[[], object] | None = None,
    ) -> None:
        words = None if domains is None else tuple(domains)
        self._hosts = [HostReader(each, words, inactive=inactive, via=via) for each in targets]
        self._timeout = timeout
        self._period = period
        self._notify = notify
        self._jobs = threading.BoundedSemaphore(jobs)
        self._changed = threading.Condition()
        self._readings: list[Reading] = []
        self._failure: BaseException | None = None
        self._is_paused = False
        self._has_ended = False

    def __enter__(self) -> Self:
        for index, host in enumerate(self._hosts):
            # Daemon threads: one that hangs does not delay the end of the process.
            arguments = (index, host)
            threading.Thread(target=self._poll, args=arguments, name=_THREAD, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        for host in self._hosts:
            host.close()

    @property
    def is_paused(self) -> bool:
        """Whether no new reading begins; one that has begun continues."""
        return self._is_paused

    @is_paused.setter
    def is_paused(self, value: bool) -> None:
        with self._changed:
            if value != self._is_paused:
                self._is_paused = value
                self._changed.notify_all()

    def drain(self) -> list[Reading]:
        """The readings since the last call. Never waits.

        :raise BaseException: any exception in a reading that is not a :class:`VirtballoonError`
        """
        with self._changed:
            if self._failure is not None:
                raise self._failure
            readings, self._readings = self._readings, []
        return readings

    def _poll(self, index: int, host: HostReader) -> None:
        try:
            due = 0.0
            periods = 1
            while self._may_begin(due):
                with self._jobs:
                    begun = time.monotonic()
                    report = self._read(index, host)
                is_away = report.status is HostStatus.UNREACHABLE
                periods = min(2 * periods, _LONGEST_PAUSE) if is_away else 1
                due = begun + periods * self._period
        except BaseException as error:
            # Raised again where the readings are taken.
            with self._changed:
                self._failure = error
            self._call_notify()

    def _may_begin(self, due: float) -> bool:
        """Wait until the next reading is due; False if there is to be none."""
        with self._changed:
            while not self._has_ended:
                wait = due - time.monotonic()
                if not self._is_paused and wait <= 0:
                    return True
                self._changed.wait(None if self._is_paused else wait)
        return False

    def _read(self, index: int, host: HostReader) -> HostReport:
        is_done = threading.Event()

        def follow(so_far: Callable[[], HostReport]) -> None:
            arguments = (index, so_far, is_done)
            threading.Thread(target=self._follow, args=arguments, name=_THREAD, daemon=True).start()

        try:
            report = host.read(self._timeout, on_progress=follow)
        finally:
            with self._changed:
                is_done.set()
        self._add(index, report)
        return report

    def _follow(
        self, index: int, so_far: Callable[[], HostReport], is_done: threading.Event
    ) -> None:
        """While a reading takes its time, add what it has so far."""
        count = 0
        while not is_done.wait(_PROGRESS_SECONDS):
            report = so_far()
            if len(report.domains) > count:
                count = len(report.domains)
                self._add(index, report, unless=is_done)

    def _add(
        self, index: int, report: HostReport, *, unless: threading.Event | None = None
    ) -> None:
        reading = Reading(index=index, report=report, is_complete=unless is None)
        with self._changed:
            # What there was so far must not follow the complete reading.
            if unless is None or not unless.is_set():
                self._readings.append(reading)
        self._call_notify()

    def _call_notify(self) -> None:
        if self._notify is not None and not self._has_ended:
            self._notify()
