"""Hosts that are read again and again, for whoever comes, by a process that stays."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from virtballoon.engine.session import DEFAULT_TIMEOUT, Visit
from virtballoon.errors import ConnectError
from virtballoon.hypervisor.uri import default_uri
from virtballoon.log import log_host
from virtballoon.model.outcome import HostChanges
from virtballoon.model.report import HostReport, HostStatus
from virtballoon.model.source import Source
from virtballoon.model.verdict import Verdict
from virtballoon.operations.fleet import DEFAULT_JOBS, as_they_end
from virtballoon.operations.reading import read_visited, unread
from virtballoon.operations.setting import check_interval, set_intervals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from virtballoon.hypervisor.connection import Target

_log: Final = logging.getLogger(__name__)

#: What has come in by its deadline still has to be put together.
_SLACK_SECONDS: Final = 0.25

#: How long a host is left alone that could not be written to.
_REST_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One reading of all hosts.

    :ivar hosts: the reports, by what the caller calls the hosts
    :ivar begun_at: when it began, epoch seconds
    :ivar age_seconds: how long ago that was when it was handed out
    """

    hosts: Mapping[str, HostReport]
    begun_at: float
    age_seconds: float = 0.0

    @classmethod
    def of(cls, reports: Iterable[HostReport], *, begun_at: float) -> Round:
        """A round that was read in some other way; hosts are called by their URIs.

        :raise ValueError: when two have the same
        """
        hosts: dict[str, HostReport] = {}
        for report in reports:
            if report.uri in hosts:
                raise ValueError(f"two reports of the host {report.uri}")
            hosts[report.uri] = report
        age = max(0.0, time.time() - begun_at)
        return cls(hosts=MappingProxyType(hosts), begun_at=begun_at, age_seconds=age)


@dataclass(slots=True, kw_only=True)
class _Running:
    """A round that is being made, or has been."""

    targets: Mapping[str, Target]
    seconds: float
    begun_at: float
    begun: float
    reports: dict[str, HostReport] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    @property
    def deadline(self) -> float:
        return self.begun + self.seconds

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self.begun

    def serves(self, seconds: float) -> bool:
        """Whether it is as good as one that is given this time. One that was cut short for
        somebody in a hurry is not, unless it missed nothing."""
        return self.seconds >= seconds - _SLACK_SECONDS or (
            self.done.is_set()
            and all(report.status is HostStatus.OK for report in self.reports.values())
        )

    def handed_out(self) -> Round:
        seconds = self.age_seconds
        reports = dict(self.reports)
        hosts = {
            name: reports.get(name)
            or _unread(target, f"not read within {seconds:.1f} s", elapsed_seconds=seconds)
            for name, target in self.targets.items()
        }
        return Round(
            hosts=MappingProxyType(hosts), begun_at=self.begun_at, age_seconds=self.age_seconds
        )


class Rounds:
    """Reads all hosts each time that somebody asks, but not more often than need be: who asks
    while they are being read, or shortly after, gets the same.

    Each host is connected to anew each time. So nothing has to be watched between two rounds, a
    daemon that was started anew is found, and a guest that hangs keeps no connection from being
    used. It costs some milliseconds near by. A host whose connecting did not return is not
    connected to again before it does, so that one that is silent holds one visit's threads and
    sockets, however often it is asked for.

    :param hosts: the hosts by name, or what gives them; that is asked at each round
    :param inactive: whether domains that do not run are read, too
    :param via: where the figures come from. QOM marks each running guest as tainted.
    :param timeout: seconds for a round, and so for each host, at most
    :param jobs: how many hosts are visited at a time
    :param max_age: how old a round may be to be handed out again, in seconds
    :param ensure: a polling interval in seconds, which running domains that are not polled are
        given, through libvirt and until they stop; each once in its run, whatever comes of it.
        Where the host itself fails, libvirt being restarted, say, no domain counts as tried, and
        the host is left alone for a minute. None leaves every interval alone. It needs write
        access.
    :param ensured: called, in some thread, with what became of it on one host
    :raise InvalidInterval: when QEMU takes no such interval
    """

    def __init__(
        self,
        hosts: Mapping[str, Target] | Callable[[], Mapping[str, Target]],
        *,
        inactive: bool = False,
        via: Source = Source.LIBVIRT,
        timeout: float = DEFAULT_TIMEOUT,
        jobs: int = DEFAULT_JOBS,
        max_age: float = 0.0,
        ensure: int | None = None,
        ensured: Callable[[HostChanges], object] | None = None,
    ) -> None:
        self._hosts = hosts if callable(hosts) else lambda: hosts
        self._inactive = inactive
        self._via = via
        self._timeout = timeout
        self._jobs = jobs
        self._max_age = max_age
        self._seconds = ensure if ensure is None else check_interval(ensure)
        self._ensured = ensured
        self._lock = threading.Lock()
        self._current: _Running | None = None
        self._visits: dict[str, Visit] = {}
        self._earlier: dict[str, HostReport] = {}
        self._ensuring = threading.Lock()
        self._tried: set[tuple[str, str, int | None]] = set()
        self._resting: dict[str, float] = {}

    def read(self, timeout: float | None = None) -> Round:
        """A round: the last one if it is young enough, the one that is being made, or a new one.

        Whatever fails is in it; a host that was not read in time is unreachable.

        :param timeout: how long the caller can wait, in seconds, where that is less
        :raise VirtballoonError: whatever giving the hosts raises
        """
        seconds = self._timeout if timeout is None else min(timeout, self._timeout)
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            with self._lock:
                current = self._current
                if current is None or not self._is_good(current, left):
                    current = self._begin(left)
            current.done.wait(max(0.0, deadline - time.monotonic()) + _SLACK_SECONDS)
            left = deadline - time.monotonic()
            # What somebody else began may end without what there is time to wait for.
            if left <= _SLACK_SECONDS or current.serves(left):
                return current.handed_out()

    def _is_good(self, current: _Running, seconds: float) -> bool:
        if not current.done.is_set():
            # Every visit ends by the deadline; if one does not, it holds up nobody else.
            return time.monotonic() < current.deadline + _SLACK_SECONDS
        return current.age_seconds <= self._max_age and current.serves(seconds)

    def _begin(self, seconds: float) -> _Running:
        running = _Running(
            targets=dict(self._hosts()),
            seconds=seconds,
            begun_at=time.time(),
            begun=time.monotonic(),
        )
        self._current = running
        threading.Thread(
            target=self._run, args=(running,), name="virtballoon-round", daemon=True
        ).start()
        return running

    def _run(self, running: _Running) -> None:
        try:
            names = list(running.targets)
            visits = [partial(self._visit, running, name) for name in names]
            for index, report in as_they_end(visits, self._jobs):
                running.reports[names[index]] = report
            for gone in self._visits.keys() - running.targets.keys():
                self._visits.pop(gone, None)
                self._earlier.pop(gone, None)
        except Exception:
            # Nobody waits for this thread; what is missing is said by the report of the host.
            _log.exception("reading the hosts failed")
        finally:
            running.done.set()
        if self._seconds is not None:
            self._ensure(running, self._seconds)

    def _visit(self, running: _Running, name: str) -> HostReport:
        target = running.targets[name]
        begun = time.monotonic()
        last = self._visits.get(name)
        left = max(0.0, running.deadline - begun)
        if last is not None and (error := last.still_connecting(left)) is not None:
            report = unread(error, last.uri, elapsed_seconds=time.monotonic() - begun)
        elif (seconds := running.deadline - time.monotonic()) > 0:
            visit = Visit(
                target, None, via=self._via, readonly=self._via is Source.LIBVIRT, timeout=seconds
            )
            self._visits[name] = visit
            report = read_visited(
                visit, inactive=self._inactive, via=self._via, earlier=self._earlier.get(name)
            )
            if report.hostname is not None:
                self._earlier[name] = report
            return report
        else:
            waited = time.monotonic() - begun
            message = "not visited, since others took all the time"
            report = _unread(target, message, "raise --jobs", elapsed_seconds=waited)
        return log_host(report)

    def _ensure(self, running: _Running, seconds: int) -> None:
        # The next round may come while this one's guests are being attended to.
        if not self._ensuring.acquire(blocking=False):
            return
        try:
            for name, report in running.reports.items():
                self._ensure_on(name, running.targets[name], report, seconds)
        except Exception:
            _log.exception("setting the interval failed")
        finally:
            self._ensuring.release()

    def _ensure_on(self, name: str, target: Target, report: HostReport, seconds: int) -> None:
        if report.error is None:
            there = {row.uuid for row in report.domains}
            self._tried = {run for run in self._tried if run[0] != name or run[1] in there}
        if time.monotonic() < self._resting.get(name, 0.0):
            return
        unpolled = {
            # Each run of a domain has a number of its own.
            (name, row.uuid, row.id)
            for row in report.domains
            if row.verdict is Verdict.POLLING_OFF and row.id is not None
            # Libvirt does not know of a balloon from <qemu:commandline>.
            if row.balloon is not None and row.balloon.model is not None
        }
        wanted = unpolled - self._tried
        self._tried |= wanted
        # A name wins over a UUID, and anybody's name can be somebody's UUID.
        names = {row.name for row in report.domains}
        uuids = [uuid for _, uuid, _ in sorted(wanted, key=str) if uuid not in names]
        while uuids:
            host = set_intervals(
                target, seconds, uuids, live=True, where_off=True, timeout=self._timeout
            )
            if host.error is not None and not host.changes:
                self._tried -= {run for run in wanted if run[1] in uuids}
                self._resting[name] = time.monotonic() + _REST_SECONDS
            if self._ensured is not None:
                self._ensured(host)
            # One that has gone meanwhile keeps nobody else from being set.
            uuids = [uuid for uuid in uuids if uuid not in host.unmatched] if host.unmatched else []


def _unread(
    target: Target, message: str, hint: str | None = None, *, elapsed_seconds: float
) -> HostReport:
    uri = target if isinstance(target, str) else default_uri()
    error = ConnectError(message, host=uri, hint=hint)
    return unread(error, uri, elapsed_seconds=elapsed_seconds)
