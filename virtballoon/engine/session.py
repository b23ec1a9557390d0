"""Reaches a host and finds the domains that a caller means, in bounded time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Self, TypeVar

from virtballoon.engine.calls import Begun, together
from virtballoon.errors import (
    AuthError,
    ConnectError,
    ConnectionLost,
    HostError,
    HostKeyError,
    LibvirtFailure,
    VirtballoonError,
)
from virtballoon.hypervisor import uri as transport
from virtballoon.hypervisor.connection import Connection, Domain, Link, Target, end_children
from virtballoon.model.selection import Selection, select
from virtballoon.model.source import Source

if TYPE_CHECKING:
    from types import TracebackType

    from virtballoon.model.report import HostStatus

#: The time that a host gets, in seconds, from connecting to the last domain.
DEFAULT_TIMEOUT: Final = 10.0

#: A daemon that goes away so often in one visit may do so because of what is asked.
_MOST_RECONNECTS: Final = 3
_RECONNECT_SECONDS: Final = 0.2

_LEAVING: Final = "virtballoon-leaving"

_HANGS: Final = "the host, its libvirtd or the way there hangs"

T = TypeVar("T")


def wait_for_leaving(seconds: float) -> None:
    """Before the process ends: wait until connections have been closed, which libvirtd would else
    take, and log, for broken ones."""
    deadline = time.monotonic() + seconds
    for thread in threading.enumerate():
        if thread.name == _LEAVING:
            thread.join(max(0.0, deadline - time.monotonic()))


def leave(connection: Connection) -> None:
    """Close a connection in the background: that waits for the daemon, which nobody has to."""
    threading.Thread(target=connection.close, name=_LEAVING, daemon=True).start()


class Visit:
    """One visit to a host: connect where need be, find the domains that are meant, leave.

    Connecting begins at once, so that a caller may do something else meanwhile.

    Entering it never raises one of our errors, and neither does the body of its ``with``: the
    visit ends and keeps the error. Without a connection there are no domains, so that a body that
    goes through them has nothing to do.

    :param target: a connection, which stays open; or a URI, or None for libvirt's default
    :param words: what the caller means: names, UUIDs and patterns; None for every domain
    :param via: QOM if the monitor passthrough will be used
    :param readonly: how to open a connection
    :param timeout: seconds for the whole visit
    :param connection: one that a former visit to the same host has left open, to be used again
    :param keep: whether to leave the connection open where nothing went wrong

    :ivar left_open: the connection that was left open, which is the caller's then
    :ivar uri: the host's URI, as the caller gave it, else as libvirt tells it
    :ivar hostname: the host's own name; None if it was not reached
    :ivar link: the way there, once it was reached
    :ivar domains: every domain of the host, by UUID, on the connection as it is now
    :ivar selection: the domains that the caller means
    :ivar deadline: when to leave, by ``time.monotonic()``
    :ivar error: why the visit ended early
    """

    def __init__(
        self,
        target: Target,
        words: Iterable[str] | None,
        *,
        via: Source = Source.LIBVIRT,
        readonly: bool,
        timeout: float,
        connection: Connection | None = None,
        keep: bool = False,
    ) -> None:
        if target is None:
            target = transport.configured_default()
        self._target = target
        self._words = None if words is None else tuple(words)
        self._via = via
        self._readonly = readonly
        self._timeout = timeout
        self._started = time.monotonic()
        self._keep = keep
        self._former = connection
        self._connection: Connection | None = None
        self._arrivals = 0
        self._connecting: int | None = None
        self._is_over = False
        self.deadline = self._started + timeout
        self.uri = target if isinstance(target, str) else transport.default_uri()
        self.hostname: str | None = None
        self.link: Link | None = None
        self.domains: dict[str, Domain] = {}
        self.selection: Selection[Domain] = Selection()
        self.error: VirtballoonError | None = None
        self.left_open: Connection | None = None
        self._arriving = Begun(self._arrive)

    @property
    def connection(self) -> Connection:
        """The connection, where there are domains."""
        assert self._connection is not None
        return self._connection

    @property
    def elapsed_seconds(self) -> float:
        """How long the visit has taken so far."""
        return time.monotonic() - self._started

    def still_connecting(self, seconds: float) -> ConnectError | None:
        """Why the host is not to be visited again: connecting has not returned, which that of a
        visit that is over may never do. None once it has, in vain or not.

        :param seconds: how long to wait for it
        """
        if self._arriving.ended.wait(seconds):
            return None
        message = f"no answer for {self.elapsed_seconds:.0f} s"
        return ConnectError(message, host=self.uri, hint=_HANGS)

    def status(self, *, complete: bool) -> HostStatus:
        """How much of the host was reached.

        :param complete: whether every domain was
        """
        from virtballoon.model.report import HostStatus

        if self.hostname is None:
            return HostStatus.UNREACHABLE
        return HostStatus.OK if complete and self.error is None else HostStatus.PARTIAL

    def __enter__(self) -> Self:
        try:
            try:
                domains = self._look_around(self._arriving)
            except ConnectionLost as lost:
                domains = self.reconnect(lost)
            self.selection = select(domains, self._words)
        except VirtballoonError as error:
            self.error = error
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> bool:
        self._is_over = True
        if isinstance(error, VirtballoonError):
            self.error = error
        if self._connection is not None and self._owns_connection:
            if self._keep and self.error is None and error is None:
                self.left_open = self._connection.handed_on()
            else:
                leave(self._connection)
        return isinstance(error, VirtballoonError)

    def within(self, call: Callable[[], T]) -> T:
        """Make a call that may take for ever, and wait for it until the deadline.

        :raise ConnectError: when there is no answer by then
        """
        return self._await(Begun(call))

    def _await(self, begun: Begun[T]) -> T:
        answer = begun.within(self.deadline - time.monotonic())
        if answer is None:
            if self._connecting is not None:
                end_children(self._connecting)
            raise ConnectError(
                f"no answer within {round(self._timeout, 1):g} s",
                host=self.uri,
                hint=_HANGS,
            )
        return answer[0]

    def reconnect(self, lost: ConnectionLost) -> list[Domain]:
        """Connect again after the connection broke, as soon as the host lets us in; the domains
        of the connection before are of no more use, and these take their place.

        :raise ConnectionLost: ``lost``, when it was the caller's connection, which only the
            caller can renew, or when the host was not reached again by the deadline
        """
        while self._owns_connection and self._arrivals <= _MOST_RECONNECTS:
            try:
                return self._look_around(Begun(self._arrive))
            except (AuthError, HostKeyError):
                break
            except (HostError, LibvirtFailure):
                # One that has just started may not be able to tell yet.
                pause = min(_RECONNECT_SECONDS, self.deadline - time.monotonic())
                if pause <= 0:
                    break
                time.sleep(pause)
        raise lost

    @property
    def _owns_connection(self) -> bool:
        return isinstance(self._target, str | None)

    def _look_around(self, arriving: Begun[tuple[list[Domain], str, Link]]) -> list[Domain]:
        self._arriving = arriving
        domains, self.hostname, self.link = self._await(arriving)
        self.domains = {domain.uuid: domain for domain in domains}
        return domains

    def _arrive(self) -> tuple[list[Domain], str, Link]:
        former, self._former = self._former, None
        self._connection = connection = former or self._connect()
        if self._is_over:
            # Nobody has waited so long, and so nobody leaves.
            connection.close()
        self._arrivals += 1
        self.uri = connection.uri
        if self._via is Source.QOM:
            connection.require_monitor()
        domains, hostname, link = together(connection.domains, connection.hostname, connection.link)
        return domains, hostname, link

    def _connect(self) -> Connection:
        if isinstance(self._target, str | None):
            if self._target is not None and transport.may_start_ssh(self._target):
                self._connecting = threading.get_native_id()
            try:
                return Connection.open(self._target, readonly=self._readonly)
            finally:
                self._connecting = None
        return Connection.of(self._target)
