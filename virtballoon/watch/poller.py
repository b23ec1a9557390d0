"""Reads hosts again and again, in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Self

from virtballoon.engine.fleet import DEFAULT_JOBS
from virtballoon.engine.session import DEFAULT_TIMEOUT
from virtballoon.hypervisor.connection import Target
from virtballoon.model.report import HostReport, HostStatus
from virtballoon.model.source import Source
from virtballoon.model.value import Value
from virtballoon.operations.rereading import HostReader

_THREAD: Final = "virtballoon-poller"

#: Seconds from the beginning of one reading of a host to that of the next.
DEFAULT_PERIOD: Final = 2.0

#: After this time, a reading reports what it has so far.
_PROGRESS_SECONDS: Final = 0.5

#: The time between attempts to reach a host grows up to this many periods: the host may block
#: clients that connect too often.
_LONGEST_PAUSE: Final = 8


class Reading(Value):
    """A reading of the target with this number. If it has not ended, its report has the domains
    that have been read, and no error."""

    index: int
    report: HostReport
    is_complete: bool


class HostPoller:
    """Reads several hosts as :func:`read_hosts` does, repeatedly, until the block is left.

    Each host is read independently: its next reading begins one period after the last one began,
    and not before that has ended. So a silent host or a hung guest does not delay the others, and a
    host is not asked again while it does not answer; of a reading that takes long, the domains read
    so far are available. Connections are kept; a host that is not reached is tried again after
    growing pauses. ``notify`` is called in another thread when there is a reading to take.
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
        """The readings since the last call, and what there is of those that take long. Never
        waits.

        :raise BaseException: any exception in a reading that is not a :class:`VirtballoonError`
        """
        with self._changed:
            if self._failure is not None:
                raise self._failure
            readings, self._readings = self._readings, []
        for index, host in enumerate(self._hosts):
            report = host.so_far()
            if report and report.domains and report.elapsed_seconds >= _PROGRESS_SECONDS:
                readings.append(Reading(index=index, report=report, is_complete=False))
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
        report = host.read(self._timeout)
        with self._changed:
            self._readings.append(Reading(index=index, report=report, is_complete=True))
        self._call_notify()
        return report

    def _call_notify(self) -> None:
        if self._notify is not None and not self._has_ended:
            self._notify()
