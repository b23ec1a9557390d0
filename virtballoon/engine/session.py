"""One connection to one host under one deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias, TypeVar

from virtballoon.engine.calls import BackgroundCall, gather
from virtballoon.engine.limits import HOLD_SECONDS, Deadline, Limits
from virtballoon.engine.scheduler import Scheduler
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
from virtballoon.hypervisor.connection import Connection, Target, end_children
from virtballoon.hypervisor.domain import Domain
from virtballoon.model.selection import Selection, select
from virtballoon.model.source import Source

if TYPE_CHECKING:
    from types import TracebackType

    from virtballoon.model.hostmemory import HostFigures
    from virtballoon.model.report import HostResult

#: The time that a host gets, in seconds, from connecting to the last domain.
DEFAULT_TIMEOUT: Final = 10.0

#: A daemon that goes away this often in one session may do so because of what is asked.
_MOST_RECONNECTS: Final = 3
_RECONNECT_SECONDS: Final = 0.2

_CLOSING: Final = "virtballoon-closing"

_HANGS: Final = "the host, its libvirtd or the network hangs"

T = TypeVar("T")
H = TypeVar("H", bound="HostResult[Any]")


def wait_for_closing(seconds: float) -> None:
    """Before the process ends: wait until connections have been closed, which libvirtd would
    otherwise log as broken."""
    deadline = Deadline.after(seconds)
    for thread in threading.enumerate():
        if thread.name == _CLOSING:
            thread.join(max(0.0, deadline.seconds_left))


def _close_in_background(connection: Connection) -> None:
    # It waits for the daemon.
    threading.Thread(target=connection.close, name=_CLOSING, daemon=True).start()


#: What a session begins with: with the host's own name and all its domains.
_Arrival: TypeAlias = tuple[Scheduler, str, list[Domain]]


class KeptConnection:
    """Keeps a host's connection, and what is known of its held domains, from one session to the
    next. One session uses it at a time.

    A connection on which something failed, or on which calls are blocked, is not kept. While
    connecting has not returned, which may never be, no other attempt is made.
    """

    def __init__(self) -> None:
        self.limits = Limits()
        self.connection: Connection | None = None
        self.arriving: BackgroundCall[_Arrival] | None = None
        #: The last call for the host's memory. While it hangs, no other is made.
        self.memory_call: BackgroundCall[HostFigures | None] | None = None
        self.ssh_thread: int | None = None
        self.is_closed = False
        self._lock = threading.Lock()

    def silence(self, host: str) -> ConnectError | None:
        """The error of a host where connecting has not returned, between two sessions."""
        if self.arriving is None or self.arriving.has_ended:
            return None
        seconds = time.monotonic() - self.arriving.since
        return ConnectError(f"no answer for {seconds:.0f} s", host=host, hint=_HANGS)

    def take_over(self) -> None:
        """Have what connecting gave after its session had ended."""
        if self.arriving is not None and self.arriving.has_ended:
            with suppress(Exception):
                self.connection = self.arriving.result()[0].connection
            self.arriving = None

    def keep(self, connection: Connection, *, usable: bool) -> None:
        """Take a connection back from a session."""
        with self._lock:
            if usable and not self.is_closed and self.connection is None:
                self.connection = connection
            else:
                _close_in_background(connection)

    def close(self) -> None:
        """Close the connection, now or as soon as it is there; no other is kept."""
        with self._lock:
            self.is_closed = True
            connection, self.connection = self.connection, None
        if connection is not None:
            _close_in_background(connection)


class HostSession:
    """One connection to a host, for a limited time.

    :meth:`connect` finds the domains; leaving the ``with`` block closes the connection.

    :param words: names, UUIDs and patterns of the domains; None for all
    :param via: QOM if the monitor passthrough will be used
    :param writes: whether something is set; without that, and without QOM, a connection is opened
        read-only
    :param timeout: seconds for the whole session
    :param kept: the connection of former sessions with the same host, kept for later ones
    :param reads_memory: whether the host's memory is read, at the same time as its domains
    :ivar domains: every domain of the host, by UUID, on the connection as it is now
    :ivar selection: the domains that the caller means
    :ivar memory: the host's memory, after the ``with`` block; None where the host did not say
    :ivar error: why it ended early
    """

    def __init__(
        self,
        target: Target,
        words: Iterable[str] | None,
        *,
        via: Source = Source.LIBVIRT,
        writes: bool = False,
        timeout: float,
        kept: KeptConnection | None = None,
        reads_memory: bool = False,
    ) -> None:
        if target is None:
            target = transport.configured_default()
        self._target = target
        self._words = None if words is None else tuple(words)
        self._via = via
        self._readonly = via is Source.LIBVIRT and not writes
        self._timeout = timeout
        self._started = time.monotonic()
        self._is_kept = kept is not None
        self._kept = kept or KeptConnection()
        self._reads_memory = reads_memory
        self._connects = 0
        self._scheduler: Scheduler | None = None
        self.deadline = Deadline(self._started + timeout)
        self.uri = target if isinstance(target, str) else transport.default_uri()
        self.hostname: str | None = None
        self.domains: dict[str, Domain] = {}
        self.selection: Selection[Domain] = Selection()
        self.memory: HostFigures | None = None
        self.error: VirtballoonError | None = None

    @property
    def scheduler(self) -> Scheduler:
        """Makes calls on the connection as it is now, once connected."""
        assert self._scheduler is not None, "not connected"
        return self._scheduler

    @property
    def elapsed_seconds(self) -> float:
        """How long the session has taken so far."""
        return time.monotonic() - self._started

    def result(self, kind: Callable[..., H], *, complete: bool, **fields: object) -> H:
        """The result of the session; complete if every domain was read or set."""
        from virtballoon.model.report import HostStatus

        status = HostStatus.OK if complete and self.error is None else HostStatus.PARTIAL
        return kind(
            uri=self.uri,
            hostname=self.hostname,
            status=status if self.hostname is not None else HostStatus.UNREACHABLE,
            error=self.error,
            elapsed_seconds=self.elapsed_seconds,
            unmatched=self.selection.unmatched,
            **fields,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        if error is None and self._reads_memory:
            self._take_memory()
        self._leave(usable=error is None and self.error is None and self._is_kept)
        if not self._is_kept:
            self._kept.close()

    @contextmanager
    def errors_kept(self) -> Iterator[None]:
        """End the block at an error of this package, which :attr:`error` is then."""
        try:
            yield
        except VirtballoonError as error:
            self.error = error

    def connect(self) -> None:
        """Wait for the connection, and find the domains.

        :raise HostError: when the host cannot be reached in time
        :raise NotSupported: ``via`` is QOM and the host's driver is not QEMU's
        """
        try:
            self._arrive_in_time()
        except ConnectionLost as lost:
            self.reconnect(lost)
        self.selection = select(list(self.domains.values()), self._words)

    def within(self, call: Callable[[], T]) -> T:
        """Make a call that may never return, and wait for it until the deadline."""
        return self._await(BackgroundCall(call))

    def reconnect(self, lost: ConnectionLost) -> None:
        """Connect again after the connection broke, as soon as that is possible; the domains of the
        connection before cannot be used any more.

        :raise ConnectionLost: ``lost``, if only the caller can renew the connection, or the host
            was not reached again by the deadline
        """
        self._leave(usable=False)
        while self._owns_connection and self._connects <= _MOST_RECONNECTS:
            try:
                self._arrive_in_time()
            except (AuthError, HostKeyError):
                break
            except (HostError, LibvirtFailure):
                # One that has just started may not be able to answer yet.
                pause = min(_RECONNECT_SECONDS, self.deadline.seconds_left)
                if pause <= 0:
                    break
                time.sleep(pause)
            else:
                return
        raise lost

    def _leave(self, *, usable: bool) -> None:
        scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None and self._owns_connection:
            # Blocked calls are in the way of others.
            self._kept.keep(scheduler.connection, usable=usable and not scheduler.is_blocked)

    @property
    def _owns_connection(self) -> bool:
        return isinstance(self._target, str | None)

    def _await(self, call: BackgroundCall[T]) -> T:
        if not call.wait(self.deadline.seconds_left):
            if self._kept.ssh_thread is not None:
                end_children(self._kept.ssh_thread)
            message = f"no answer within {round(self._timeout, 1):g} s"
            error = ConnectError(message, host=self.uri, hint=_HANGS)
            raise (call.since < self._started and self._kept.silence(self.uri)) or error
        return call.result()

    def _arrive_in_time(self) -> None:
        self._kept.take_over()
        arriving = self._kept.arriving or BackgroundCall(self._arrive, alone=self._may_start_ssh)
        self._kept.arriving = arriving
        try:
            self._scheduler, self.hostname, domains = self._await(arriving)
        finally:
            if arriving.has_ended:
                self._kept.arriving = None
        self.uri = self._scheduler.connection.uri
        self.domains = {domain.uuid: domain for domain in domains}
        last = self._kept.memory_call
        if self._reads_memory and (last is None or last.has_ended):
            self._kept.memory_call = self.scheduler.begin(self.scheduler.connection.memory)

    def _take_memory(self) -> None:
        """A host that does not give its memory, or not in time, is read without it."""
        call = self._kept.memory_call
        if self._scheduler is None or call is None:
            return
        if self._scheduler.wait_for(call, min(self.deadline.at, call.since + HOLD_SECONDS)):
            with suppress(VirtballoonError):
                self.memory = call.result()

    @property
    def _may_start_ssh(self) -> bool:
        return isinstance(self._target, str) and transport.may_start_ssh(self._target)

    # In another thread, for which nothing waits longer than a session.

    def _arrive(self) -> _Arrival:
        self._connects += 1
        connection, self._kept.connection = self._kept.connection, None
        connection = connection or self._open()
        try:
            if self._via is Source.QOM:
                connection.require_monitor()
            everyone, transient, hostname, link = gather(
                connection.list_all,
                partial(connection.list_all, transient=True),
                connection.hostname,
                connection.link,
            )
            domains = connection.domains_of(everyone, transient)
        except BaseException:
            connection.close()
            raise
        if self._kept.is_closed:
            # The session is over.
            connection.close()
        return Scheduler(connection, link, self._kept.limits), hostname, domains

    def _open(self) -> Connection:
        if not isinstance(self._target, str | None):
            return Connection.of(self._target)
        if self._may_start_ssh:
            self._kept.ssh_thread = threading.get_native_id()
        try:
            return Connection.open(self._target, readonly=self._readonly)
        finally:
            self._kept.ssh_thread = None
