"""Reads one host again and again, on as few connections as possible."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from virtballoon.engine.session import Visit, leave
from virtballoon.hypervisor.connection import Connection, Target
from virtballoon.log import log_host
from virtballoon.model.report import DomainReport, HostReport, HostStatus
from virtballoon.model.source import Source
from virtballoon.model.verdict import Verdict
from virtballoon.operations.reading import read_visited, unread


class HostReader:
    """Reads a host as :func:`read_host` does, repeatedly.

    The connection is kept until something goes wrong on it. While an attempt to connect hangs, no
    other is made, so a silent host holds the threads and sockets of one. From the second reading
    on, figures are judged by the host's clock.

    :param target: a connection, a URI, or None for libvirt's default
    :param domains: names, UUIDs and shell patterns; None for all
    :param inactive: whether "all" and patterns include inactive domains
    :param via: the source of the figures. QOM taints each running guest.
    """

    def __init__(
        self,
        target: Target,
        domains: Iterable[str] | None = None,
        *,
        inactive: bool = False,
        via: Source = Source.LIBVIRT,
    ) -> None:
        self.target: Final = target
        self._words = None if domains is None else tuple(domains)
        self._inactive = inactive
        self._via = via
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._last: Visit | None = None
        self._earlier: HostReport | None = None
        self._is_closed = False

    def read(
        self,
        timeout: float,
        *,
        wait: bool = False,
        on_progress: Callable[[Callable[[], HostReport]], object] | None = None,
    ) -> HostReport:
        """Read the host once.

        :param timeout: seconds for all of it
        :param wait: whether to wait for an earlier attempt to connect that hangs
        :param on_progress: called at the beginning with a function that returns what has been read
            so far
        """
        begun = time.monotonic()
        last = self._last
        if last is not None and (error := last.still_connecting(timeout if wait else 0)):
            seconds = time.monotonic() - begun
            return log_host(unread(error, last.uri, elapsed_seconds=seconds))
        with self._lock:
            connection, self._connection = self._connection, None
        visit = self._last = Visit(
            self.target,
            self._words,
            via=self._via,
            readonly=self._via is Source.LIBVIRT,
            timeout=max(0.0, timeout - (time.monotonic() - begun)),
            connection=connection,
            keep=True,
        )
        domains: list[DomainReport] = []
        if on_progress is not None:
            on_progress(lambda: self._so_far(visit, domains))
        report = read_visited(
            visit,
            inactive=self._inactive,
            via=self._via,
            each=domains.append,
            earlier=self._earlier,
        )
        if report.hostname is not None:
            self._earlier = report
        # Calls that are blocked on a connection would delay others.
        is_blocked = any(domain.verdict is Verdict.BUSY for domain in report.domains)
        if visit.left_open is not None:
            self._keep(visit.left_open, keep=not is_blocked)
        return report

    def _keep(self, connection: Connection, *, keep: bool) -> None:
        with self._lock:
            if keep and not self._is_closed and self._connection is None:
                self._connection = connection
                return
        leave(connection)

    def close(self) -> None:
        """Close the connection, in the background."""
        with self._lock:
            self._is_closed = True
            connection, self._connection = self._connection, None
        if connection is not None:
            leave(connection)

    def _so_far(self, visit: Visit, domains: list[DomainReport]) -> HostReport:
        report = HostReport(
            uri=visit.uri,
            hostname=visit.hostname,
            status=HostStatus.OK,
            error=None,
            elapsed_seconds=visit.elapsed_seconds,
            domains=tuple(sorted(domains, key=lambda domain: (domain.name, domain.uuid))),
            unmatched=visit.selection.unmatched,
        )
        return report.at_clock(self._earlier.clock if self._earlier is not None else None)
