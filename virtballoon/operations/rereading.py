"""Reads one host again and again, on as few connections as possible."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Final

from virtballoon.engine.session import HostSession, KeptConnection
from virtballoon.errors import ConnectError
from virtballoon.hypervisor.connection import Target
from virtballoon.log import log_host
from virtballoon.model.report import DomainReport, HostReport
from virtballoon.model.source import Source
from virtballoon.operations.reading import meeting, read_session, unread


class HostReader:
    """Reads a host as :func:`read_host` does, repeatedly.

    The connection is kept until something goes wrong on it. While an attempt to connect hangs, no
    other is made, so a silent host holds the threads and sockets of one.
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
        self._kept = KeptConnection()
        self._reading = threading.Lock()
        self._earlier: HostReport | None = None
        # The reading that is under way, and the domains that it has read.
        self._begun: tuple[HostSession, list[DomainReport]] | None = None

    def read(self, timeout: float, *, wait: bool = False) -> HostReport:
        """Read the host once.

        :param wait: whether to wait for an earlier attempt to connect that hangs
        """
        session = HostSession(
            self.target,
            self._words,
            via=self._via,
            timeout=timeout,
            kept=self._kept,
            reads_memory=True,
        )
        error = None if wait else self._kept.silence(session.uri)
        if error is None and not self._reading.acquire(timeout=timeout):
            error = ConnectError("an earlier reading has not ended", host=session.uri)
        if error is not None:
            return log_host(unread(error, session.uri, elapsed_seconds=session.elapsed_seconds))
        domains: list[DomainReport] = []
        self._begun = session, domains
        try:
            report = read_session(
                session,
                inactive=self._inactive,
                via=self._via,
                each=domains.append,
                earlier=self._earlier,
            )
            if report.hostname is not None:
                self._earlier = report
            return report
        finally:
            self._begun = None
            self._reading.release()

    def close(self) -> None:
        """Close the connection, in the background."""
        self._kept.close()

    def so_far(self) -> HostReport | None:
        """What the reading that is under way has read; None if there is none. In any thread."""
        if (begun := self._begun) is None:
            return None
        session, domains = begun
        there = tuple(sorted(domains, key=lambda domain: (domain.name, domain.uuid)))
        report = session.result(HostReport, domains=there, complete=True)
        report = report.at_clock(self._earlier.clock if self._earlier is not None else None)
        return meeting(session, report)
