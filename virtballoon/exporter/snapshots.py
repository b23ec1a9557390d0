"""Reads hosts on demand for a process that keeps running, and shares the readings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from virtballoon.engine.fleet import DEFAULT_JOBS, on_hosts
from virtballoon.engine.session import DEFAULT_TIMEOUT
from virtballoon.errors import ConnectError
from virtballoon.hypervisor.uri import default_uri
from virtballoon.log import get_logger, log_host
from virtballoon.model.report import HostReport, HostStatus
from virtballoon.model.source import Source
from virtballoon.operations.reading import unread
from virtballoon.operations.rereading import HostReader

if TYPE_CHECKING:
    from virtballoon.hypervisor.connection import Target

_log: Final = get_logger(__name__)

#: What has been read by its deadline still has to be put together.
_SLACK_SECONDS: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One reading of all hosts.

    :ivar hosts: the reports, by the caller's names of the hosts
    :ivar begun_at: when it began, epoch seconds
    :ivar age_seconds: how long ago that was when it was returned
    """

    hosts: Mapping[str, HostReport]
    begun_at: float
    age_seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Pending:
    """A snapshot that is being made, or has been."""

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

    def suits(self, seconds: float) -> bool:
        """Whether it is as good as one with this time. One with less time is not, unless nothing is
        missing in it."""
        return self.seconds >= seconds - _SLACK_SECONDS or (
            self.done.is_set()
            and all(report.status is HostStatus.OK for report in self.reports.values())
        )

    def snapshot(self) -> Snapshot:
        seconds = self.age_seconds
        reports = dict(self.reports)
        hosts = {
            name: reports.get(name)
            or _unread(target, f"not read within {seconds:.1f} s", elapsed_seconds=seconds)
            for name, target in self.targets.items()
        }
        return Snapshot(
            hosts=MappingProxyType(hosts), begun_at=self.begun_at, age_seconds=self.age_seconds
        )


class SharedReader:
    """Reads all hosts on each request, but no more often than necessary: requests during a reading,
    or shortly after it, get the same snapshot.

    :param hosts: the hosts by name, or a function that returns them, called for each snapshot
    :param domains: names, UUIDs and patterns; None for every domain
    :param inactive: whether to include inactive domains
    :param via: the source of the figures. QOM taints each running guest.
    :param timeout: seconds for a snapshot, and so for each host, at most
    :param jobs: the number of hosts read at a time
    :param max_age: the age up to which a snapshot is returned again, in seconds
    :param on_read: called in another thread after each reading with the hosts and their reports, by
        name
    """

    def __init__(
        self,
        hosts: Mapping[str, Target] | Callable[[], Mapping[str, Target]],
        domains: Iterable[str] | None = None,
        *,
        inactive: bool = False,
        via: Source = Source.LIBVIRT,
        timeout: float = DEFAULT_TIMEOUT,
        jobs: int = DEFAULT_JOBS,
        max_age: float = 0.0,
        on_read: Callable[[Mapping[str, Target], Mapping[str, HostReport]], object] | None = None,
    ) -> None:
        self._hosts = hosts if callable(hosts) else lambda: hosts
        self._words = None if domains is None else tuple(domains)
        self._inactive = inactive
        self._via = via
        self._timeout = timeout
        self._jobs = jobs
        self._max_age = max_age
        self._on_read = on_read
        self._lock = threading.Lock()
        self._current: _Pending | None = None
        self._readers: dict[str, HostReader] = {}

    def read(self, timeout: float | None = None) -> Snapshot:
        """A snapshot: the last one if it is young enough, the one being made, or a new one.

        It contains all failures; a host that was not read in time is unreachable.

        :param timeout: the caller's time, in seconds, if that is less
        :raise VirtballoonError: what the function that returns the hosts raises
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
            # One begun for another request may end without what there is time to wait for.
            if left <= _SLACK_SECONDS or current.suits(left):
                return current.snapshot()

    def close(self) -> None:
        """Close the connections, in the background."""
        with self._lock:
            readers, self._readers = self._readers, {}
        for reader in readers.values():
            reader.close()

    def _is_good(self, current: _Pending, seconds: float) -> bool:
        if not current.done.is_set():
            # Each host is done by the deadline; if one is not, it does not delay others.
            return time.monotonic() < current.deadline + _SLACK_SECONDS
        return current.age_seconds <= self._max_age and current.suits(seconds)

    def _begin(self, seconds: float) -> _Pending:
        targets = dict(self._hosts())
        for name, reader in tuple(self._readers.items()):
            if name not in targets or targets[name] != reader.target:
                self._readers.pop(name).close()
        for name in targets.keys() - self._readers.keys():
            self._readers[name] = HostReader(
                targets[name], self._words, inactive=self._inactive, via=self._via
            )
        self._current = pending = _Pending(
            targets=targets, seconds=seconds, begun_at=time.time(), begun=time.monotonic()
        )
        arguments = (pending, dict(self._readers))
        threading.Thread(
            target=self._run, args=arguments, name="virtballoon-snapshot", daemon=True
        ).start()
        return pending

    def _run(self, pending: _Pending, readers: Mapping[str, HostReader]) -> None:
        try:
            on_hosts(
                [*pending.targets],
                lambda name: (name, _read(pending, readers[name])),
                jobs=self._jobs,
                on_result=lambda named: pending.reports.update([named]),
            )
        except Exception:
            # Nothing waits for this thread; hosts that are missing are reported as unread.
            _log.exception("reading the hosts failed")
        finally:
            pending.done.set()
        if self._on_read is not None:
            self._on_read(pending.targets, pending.reports)


def _read(pending: _Pending, reader: HostReader) -> HostReport:
    begun = time.monotonic()
    if (seconds := pending.deadline - begun) > 0:
        return reader.read(seconds, wait=True)
    message = "not read, because other hosts took all the time"
    return log_host(
        _unread(reader.target, message, "raise --jobs", elapsed_seconds=time.monotonic() - begun)
    )


def _unread(
    target: Target, message: str, hint: str | None = None, *, elapsed_seconds: float
) -> HostReport:
    uri = target if isinstance(target, str) else default_uri()
    error = ConnectError(message, host=uri, hint=hint)
    return unread(error, uri, elapsed_seconds=elapsed_seconds)
