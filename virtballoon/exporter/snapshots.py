"""Reads hosts on demand for a process that keeps running, and shares the readings."""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from virtballoon.engine.fleet import DEFAULT_JOBS, on_hosts
from virtballoon.engine.session import DEFAULT_TIMEOUT
from virtballoon.errors import ConnectError
from virtballoon.hypervisor.connection import Target
from virtballoon.hypervisor.uri import default_uri, is_remote
from virtballoon.log import get_logger, log_host
from virtballoon.model.report import HostReport, HostStatus
from virtballoon.model.source import Source
from virtballoon.operations.reading import unread
from virtballoon.operations.rereading import HostReader

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


@dataclass(slots=True)
class _Reading:
    """A reading that has ended, or is under way, for which it has this number of seconds."""

    seconds: float
    begun_at: float = field(default_factory=time.time)
    begun: float = field(default_factory=time.monotonic)
    reports: dict[str, HostReport] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

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


@functools.cache
def _machine_name() -> str:
    """This machine's name, as libvirt on it says it (``virGetHostname``)."""
    name = socket.gethostname()
    if name.startswith("localhost") or "." in name:
        return name
    try:
        full = socket.getaddrinfo(name, None, flags=socket.AI_CANONNAME)[0][3]
    except OSError:
        return name
    return name if not full or full.startswith("localhost") else full


def by_label(
    hosts: Mapping[str, HostReport], own_names: dict[str, str] | None = None
) -> dict[str, HostReport]:
    """The hosts by what their series are labelled with. A local one goes by its own name, since
    its URI is the same on every machine; another one by the caller's name.

    :param own_names: the own names of earlier readings, by the caller's, to which these are added
    """
    own_names = {} if own_names is None else own_names
    labelled: dict[str, HostReport] = {}
    for name, report in hosts.items():
        label = name
        if not is_remote(report.uri):
            if report.hostname:
                own_names[name] = report.hostname
            label = own_names.get(name) or _machine_name()
        # As the system's libvirtd and a user's own.
        while label in labelled:
            label = f"{label} ({name})"
        labelled[label] = report
    return labelled


class SharedReader:
    """Reads all hosts on each request, but no more often than necessary: requests during a reading,
    or shortly after it, get the same snapshot.

    :param hosts: the hosts by name
    :param via: the source of the figures. QOM taints each running guest.
    :param timeout: seconds for a snapshot, and so for each host, at most
    :param max_age: the age up to which a snapshot is returned again, in seconds
    :param own_names: whether a local host goes by its own name in a snapshot, remembered while it
        is down
    :param on_read: called in another thread after each reading with the hosts and their reports, by
        name
    """

    def __init__(
        self,
        hosts: Mapping[str, Target],
        domains: Iterable[str] | None = None,
        *,
        inactive: bool = False,
        via: Source = Source.LIBVIRT,
        timeout: float = DEFAULT_TIMEOUT,
        jobs: int = DEFAULT_JOBS,
        max_age: float = 0.0,
        own_names: bool = False,
        on_read: Callable[[Mapping[str, Target], Mapping[str, HostReport]], object] | None = None,
    ) -> None:
        words = None if domains is None else tuple(domains)
        self._readers = {
            name: HostReader(target, words, inactive=inactive, via=via)
            for name, target in hosts.items()
        }
        self._timeout = timeout
        self._jobs = jobs
        self._max_age = max_age
        self._on_read = on_read
        self._own_names: dict[str, str] | None = None
        if own_names:
            self._own_names = {}
            # It may wait for DNS, which would delay a scrape.
            _machine_name()
        self._lock = threading.Lock()
        self._last: _Reading | None = None

    def read(self, timeout: float | None = None) -> Snapshot:
        """A snapshot: the last one if it is young enough, the one being made, or a new one.

        It contains all failures. A host that was not read in time is unreachable; ``timeout`` can
        only shorten that time.
        """
        seconds = self._timeout if timeout is None else min(timeout, self._timeout)
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            with self._lock:
                reading = self._last
                if reading is None or not self._is_good(reading, left):
                    reading = self._last = _Reading(left)
                    threading.Thread(
                        target=self._run, args=(reading,), name="virtballoon-snapshot", daemon=True
                    ).start()
            reading.done.wait(max(0.0, deadline - time.monotonic()) + _SLACK_SECONDS)
            left = deadline - time.monotonic()
            # One begun for another request may end without what there is time to wait for.
            if left <= _SLACK_SECONDS or reading.suits(left):
                return self._snapshot(reading)

    def close(self) -> None:
        """Close the connections, in the background."""
        for reader in self._readers.values():
            reader.close()

    def _is_good(self, reading: _Reading, seconds: float) -> bool:
        if not reading.done.is_set():
            # Each host is done by then; if one is not, it does not delay others.
            return reading.age_seconds < reading.seconds + _SLACK_SECONDS
        return reading.age_seconds <= self._max_age and reading.suits(seconds)

    def _run(self, reading: _Reading) -> None:
        def visit(name: str) -> tuple[str, HostReport]:
            left = reading.seconds - reading.age_seconds
            if left > 0:
                return name, self._readers[name].read(left, wait=True)
            message = "not read, because other hosts took all the time"
            return name, log_host(self._unread(name, message, "raise --jobs", elapsed_seconds=0))

        try:
            on_hosts(
                [*self._readers],
                visit,
                jobs=self._jobs,
                on_result=lambda visited: reading.reports.update([visited]),
            )
        except Exception:
            # Nothing waits for this thread; hosts that are missing are reported as unread.
            _log.exception("reading the hosts failed")
        finally:
            reading.done.set()
        if self._on_read is not None:
            targets = {name: self._readers[name].target for name in reading.reports}
            self._on_read(targets, reading.reports)

    def _snapshot(self, reading: _Reading) -> Snapshot:
        reports = dict(reading.reports)
        seconds = reading.age_seconds
        for name in self._readers.keys() - reports.keys():
            message = f"not read within {seconds:.1f} s"
            reports[name] = self._unread(name, message, elapsed_seconds=seconds)
        hosts = {name: reports[name] for name in self._readers}
        return Snapshot(
            hosts=hosts if self._own_names is None else by_label(hosts, self._own_names),
            begun_at=reading.begun_at,
            age_seconds=seconds,
        )

    def _unread(
        self, name: str, message: str, hint: str | None = None, *, elapsed_seconds: float
    ) -> HostReport:
        target = self._readers[name].target
        uri = target if isinstance(target, str) else default_uri()
        error = ConnectError(message, host=uri, hint=hint)
        return unread(error, uri, elapsed_seconds=elapsed_seconds)
