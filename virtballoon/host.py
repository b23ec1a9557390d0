"""Reaches a host and finds the domains that a caller means, in bounded time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Self, TypeVar

from virtballoon.calls import call_within
from virtballoon.connection import Connection, Domain, Target, end_children
from virtballoon.errors import ConnectError, VirtballoonError
from virtballoon.report import HostStatus, Source
from virtballoon.selection import Selection, select

if TYPE_CHECKING:
    from types import TracebackType

#: The time that a host gets, in seconds, from connecting to the last domain.
DEFAULT_TIMEOUT: Final = 10.0

T = TypeVar("T")


class Visit:
    """One visit to a host: connect where need be, find the domains that are meant, leave.

    Entering it never raises one of our errors, and neither does the body of its ``with``: the
    visit ends and keeps the error. Without a connection there are no domains, so that a body that
    goes through them has nothing to do.

    :param target: a connection, which stays open; or a URI, or None for libvirt's default
    :param words: what the caller means: names, UUIDs and patterns; None for every domain
    :param via: QOM if the monitor passthrough will be used
    :param readonly: how to open a connection
    :param timeout: seconds for the whole visit

    :ivar uri: the host's URI, as the caller gave it, else as libvirt tells it
    :ivar hostname: the host's own name; None if it was not reached
    :ivar selection: the domains that the caller means
    :ivar deadline: when to leave, by ``time.monotonic()``
    :ivar error: why the visit ended early
    """

    def __init__(
        self,
        target: Target,
        words: Iterable[str] | None,
        *,
        via: Source,
        readonly: bool,
        timeout: float,
    ) -> None:
        if target is None:
            target = os.environ.get("LIBVIRT_DEFAULT_URI") or None
        self._target = target
        self._words = None if words is None else tuple(words)
        self._via = via
        self._readonly = readonly
        self._timeout = timeout
        self._started = time.monotonic()
        self._connection: Connection | None = None
        self._connecting: int | None = None
        self.deadline = self._started + timeout
        self.uri = target if isinstance(target, str) else "libvirt's default host"
        self.hostname: str | None = None
        self.selection: Selection[Domain] = Selection((), ())
        self.error: VirtballoonError | None = None

    @property
    def connection(self) -> Connection:
        """The connection, where there are domains."""
        assert self._connection is not None
        return self._connection

    @property
    def elapsed_seconds(self) -> float:
        """How long the visit has taken so far."""
        return time.monotonic() - self._started

    def status(self, *, complete: bool) -> HostStatus:
        """How much of the host was reached.

        :param complete: whether every domain was
        """
        if self.hostname is None:
            return HostStatus.UNREACHABLE
        return HostStatus.OK if complete and self.error is None else HostStatus.PARTIAL

    def __enter__(self) -> Self:
        try:
            self._connection = self.within(self._connect)
            self.uri = self._connection.uri
            self.selection, self.hostname = self.within(self._survey)
        except VirtballoonError as error:
            self.error = error
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool:
        if self._connection is not None and self._connection is not self._target:
            self._connection.close()
        if isinstance(error, VirtballoonError):
            self.error = error
            return True
        return False

    def within(self, call: Callable[[], T]) -> T:
        """Make a call that may take for ever, and wait for it until the deadline.

        :raise ConnectError: when there is no answer by then
        """
        answer = call_within(call, self.deadline - time.monotonic())
        if answer is None:
            if self._connection is None and self._connecting is not None:
                end_children(self._connecting)
            raise ConnectError(
                f"no answer within {self._timeout:g} s",
                host=self.uri,
                hint="the host, its libvirtd or the way there hangs",
            )
        return answer[0]

    def _connect(self) -> Connection:
        if self._target is None or isinstance(self._target, str):
            self._connecting = threading.get_native_id()
            return Connection.open(self._target, readonly=self._readonly)
        return Connection.of(self._target)

    def _survey(self) -> tuple[Selection[Domain], str]:
        if self._via is Source.QOM:
            self.connection.require_monitor()
        domains = self.connection.domains()
        return select(domains, self._words), self.connection.hostname()
