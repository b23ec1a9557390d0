"""A libvirt connection and the domains behind it. The only module that imports libvirt.

Every error of libvirt's leaves here as one of :mod:`virtballoon.errors`. Every call is logged on
the logger ``virtballoon.hypervisor.connection`` at DEBUG, with the time that it took.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias
from weakref import WeakSet

import libvirt

from virtballoon.errors import (
    MONITOR_HELD,
    AccessDenied,
    Busy,
    ConnectError,
    ConnectionLost,
    DomainNotFound,
    InvalidInterval,
    LibvirtFailure,
    NotRunning,
    NotSupported,
    ReadOnly,
    TransientDomain,
    VirtballoonError,
)
from virtballoon.hypervisor import domainxml
from virtballoon.hypervisor import uri as transport
from virtballoon.model.memory import Figures
from virtballoon.model.statistics import figure
from virtballoon.model.verdict import State

if TYPE_CHECKING:
    from virtballoon.hypervisor.qmp import Monitor

_log: Final = logging.getLogger(__name__)

#: The longest polling interval that libvirt takes, in seconds: its API has a C int.
MAX_INTERVAL: Final = 2**31 - 1

#: The daemon's version from which on a domain's XML may wait for whoever holds the domain.
_XML_MAY_WAIT: Final = (9, 1)

#: QEMU's version from which on it has ``qom-list-get``, as virConnectGetVersion gives it.
_HAS_LIST_GET: Final = 10_001_000

#: A QEMU that is well answers within some milliseconds.
_HUNG_SECONDS: Final = 1.0

_EACCES: Final = frozenset({errno.EPERM, errno.EACCES})
#: What virsh announces that it can be asked for. Without any, libvirt does not read auth.conf; with
#: VIR_CRED_USERNAME, which virsh leaves out, SASL would want a second name (remote_driver.c).
_CREDENTIALS: Final = (
    libvirt.VIR_CRED_AUTHNAME,
    libvirt.VIR_CRED_ECHOPROMPT,
    libvirt.VIR_CRED_REALM,
    libvirt.VIR_CRED_PASSPHRASE,
    libvirt.VIR_CRED_NOECHOPROMPT,
    libvirt.VIR_CRED_EXTERNAL,
)
_AUTH: Final = frozenset(
    {
        libvirt.VIR_ERR_AUTH_FAILED,
        libvirt.VIR_ERR_AUTH_CANCELLED,
        libvirt.VIR_ERR_AUTH_UNAVAILABLE,
        libvirt.VIR_ERR_ACCESS_DENIED,
    }
)
_IN_USE: Final[Mapping[int, type[VirtballoonError]]] = {
    libvirt.VIR_ERR_INVALID_CONN: ConnectionLost,
    libvirt.VIR_ERR_NO_DOMAIN: DomainNotFound,
    libvirt.VIR_ERR_OPERATION_DENIED: ReadOnly,
    libvirt.VIR_ERR_ACCESS_DENIED: AccessDenied,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: Busy,
    libvirt.VIR_ERR_NO_SUPPORT: NotSupported,
    libvirt.VIR_ERR_OPERATION_UNSUPPORTED: NotSupported,
    libvirt.VIR_ERR_CONFIG_UNSUPPORTED: NotSupported,
    libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED: NotSupported,
}
_HINTS: Final[Mapping[type[VirtballoonError], str]] = {
    ReadOnly: "open the connection for writing",
    Busy: MONITOR_HELD,
    AccessDenied: "ask for the right to it in the host's polkit rules",
}

#: libvirt's ``virDomainState`` by number.
_STATES: Final[Mapping[int, State]] = {
    libvirt.VIR_DOMAIN_NOSTATE: State.NOSTATE,
    libvirt.VIR_DOMAIN_RUNNING: State.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: State.BLOCKED,
    libvirt.VIR_DOMAIN_PAUSED: State.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: State.SHUTDOWN,
    libvirt.VIR_DOMAIN_SHUTOFF: State.SHUTOFF,
    libvirt.VIR_DOMAIN_CRASHED: State.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: State.PMSUSPENDED,
}

#: Why a domain is in its state, by state and number, as ``virDomainRunningReason`` and its like
#: have it.
_REASONS: Final[Mapping[State, tuple[str, ...]]] = {
    State.RUNNING: (
        *("unknown", "booted", "migrated", "restored", "from snapshot", "unpaused"),
        *("migration canceled", "save canceled", "wakeup", "crashed", "post-copy"),
        "post-copy failed",
    ),
    State.PAUSED: (
        *("unknown", "user", "migration", "save", "dump", "ioerror", "watchdog", "from snapshot"),
        *("shutting down", "snapshot", "crashed", "starting up", "post-copy"),
        *("post-copy failed", "api error"),
    ),
    State.CRASHED: ("unknown", "panicked"),
    State.SHUTOFF: (
        *("unknown", "shutdown", "destroyed", "crashed", "migrated", "saved", "failed"),
        *("from snapshot", "daemon"),
    ),
}


@contextmanager
def _call(
    text: str,
    *,
    connection: Connection,
    domain: str | None = None,
    invalid: type[VirtballoonError] = LibvirtFailure,
) -> Iterator[None]:
    """Log one call and turn what it raises into an error of ours.

    :param invalid: what "operation invalid" means for this call. libvirt has one number for every
        state that does not fit, and its text is translated.
    """
    started = time.monotonic()
    outcome = ""
    try:
        yield
    except libvirt.libvirtError as error:
        code = error.get_error_code()
        outcome = f" failed with code {code}"
        message = error.get_error_message() or str(error)
        if _is_dead(connection.raw):
            raise ConnectionLost(
                f"the connection broke: {message}", host=connection.uri, domain=domain, code=code
            ) from error
        kind = (
            invalid
            if code == libvirt.VIR_ERR_OPERATION_INVALID
            else _IN_USE.get(code, LibvirtFailure)
        )
        raise kind(
            message, host=connection.uri, domain=domain, code=code, hint=_HINTS.get(kind)
        ) from error
    except UnicodeDecodeError as error:
        # The binding takes all text for UTF-8, also what the daemon says in the words of a locale.
        outcome = " failed"
        raise LibvirtFailure(
            f"libvirt's answer is no UTF-8: {error.object!r:.200}",
            host=connection.uri,
            domain=domain,
        ) from error
    finally:
        where = f" of {domain!r}" if domain is not None else ""
        elapsed = (time.monotonic() - started) * 1000
        _log.debug("%s: %s%s, %.1f ms%s", connection.uri, text, where, elapsed, outcome)


def _as(kind: type[VirtballoonError], error: VirtballoonError) -> VirtballoonError:
    return kind(
        error.message, host=error.host, domain=error.domain, code=error.code, hint=error.hint
    )


def _is_dead(raw: Any) -> bool:
    try:
        return not raw.isAlive()
    except libvirt.libvirtError:
        # A driver that cannot tell is no dead connection.
        return False


class Connection:
    """A connection to one host, of our own or of the caller's.

    :ivar uri: the host's URI, as asked for, else as libvirt tells it
    """

    def __init__(self, raw: Any, *, uri: str | None = None, owned: bool = False) -> None:
        self._raw = raw
        self._owned = owned
        self._domains: WeakSet[Domain] = WeakSet()
        self._parsed: dict[tuple[int, int], domainxml.DomainXML] = {}
        self._parsed_before = self._parsed
        # A name for errors until libvirt has told the real one.
        self.uri = uri or transport.default_uri()
        if uri is None:
            with _call("getURI", connection=self):
                self.uri = raw.getURI()

    @classmethod
    def open(cls, uri: str | None = None, *, readonly: bool = True) -> Self:
        """Open a connection.

        There is no time limit: libvirt has none for connecting. :func:`end_children` ends an ssh
        that would wait for ever. Nothing is asked on the terminal: names and passwords come from
        libvirt's auth.conf (or ``?authfile=``, or ``LIBVIRT_AUTH_FILE``), and ssh asks nothing
        unless the URI has ``no_tty=0``.

        ``qemu:///embed`` runs the hypervisor driver inside this process and needs libvirt's event
        loop, which is started for it, in a thread, for as long as the process lives. A program
        with an event loop of its own registers that first, opens the connection itself and passes
        it. Both this driver and ``test://`` with a file take custom resolvers from lxml, see
        :func:`virtballoon.hypervisor.domainxml.leave_files_to_libvirt`.

        :param uri: libvirt's URI; None for libvirt's own default (``LIBVIRT_DEFAULT_URI`` and
            its configuration)
        :param readonly: whether only reading is wanted
        :raise HostUnreachable: when there is no way to the host
        :raise HostKeyError: when ssh does not know the host's key, or knows another
        :raise AuthError: when the host refuses the user
        :raise NoDaemon: when no libvirtd listens there
        :raise ConnectError: when there is no connection for any other reason
        """
        started = time.monotonic()
        # Without a configured default, libvirt itself looks for a driver.
        named = uri or transport.configured_default()
        asked: list[int] = []

        def refuse(wanted: list[list[Any]], _data: object) -> int:
            asked.extend(credential[0] for credential in wanted)
            return -1

        if named is not None and (_is_embedded(named) or _is_file(named)):
            domainxml.leave_files_to_libvirt()
            if _is_embedded(named):
                _run_event_loop()
        try:
            raw = libvirt.openAuth(
                None if named is None else transport.without_prompts(named),
                [list(_CREDENTIALS), refuse, None],
                libvirt.VIR_CONNECT_RO if readonly else 0,
            )
        except libvirt.libvirtError as error:
            host = named or transport.default_uri()
            raise _no_connection(error, host, asked=bool(asked)) from error
        except ValueError as error:
            # A NUL, or text that is not valid UTF-8: it does not even reach libvirt.
            raise ConnectError(f"invalid URI: {error}", host=uri) from error
        finally:
            elapsed = (time.monotonic() - started) * 1000
            mode = "read-only" if readonly else "read-write"
            _log.debug("%s: openAuth(%s), %.1f ms", named or "default", mode, elapsed)
        return cls(raw, uri=uri, owned=True)

    @classmethod
    def of(cls, connection: Connection | libvirt.virConnect) -> Connection:
        """The caller's connection, which is never closed here."""
        return connection if isinstance(connection, Connection) else cls(connection)

    @property
    def raw(self) -> Any:
        """The ``libvirt.virConnect``.

        :raise ConnectionLost: when it was closed
        """
        if self._raw is None:
            raise ConnectionLost("the connection was closed", host=self.uri)
        return self._raw

    def close(self) -> None:
        """Close what :meth:`open` opened; a connection of the caller's stays open.

        libvirt's own close would free what calls that are still out are using. So it is let go of,
        with its domains, and closed when the last call returns; this waits for the daemon where
        none is out.
        """
        if self._owned:
            self._owned = False
            for domain in list(self._domains):
                domain.let_go()
            self._raw = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hostname(self) -> str:
        """The host's own name."""
        with _call("getHostname", connection=self):
            return str(self.raw.getHostname())

    def link(self) -> Link:
        """Ask the daemon something that costs it nothing, and so learn how far away it is."""
        started = time.monotonic()
        version = self.version()
        return Link(time.monotonic() - started, xml_waits=version >= _XML_MAY_WAIT)

    def version(self) -> tuple[int, int]:
        """The version of the host's libvirt."""
        with _call("getLibVersion", connection=self):
            number = int(self.raw.getLibVersion())
        return number // 1_000_000, number // 1000 % 1000

    @cached_property
    def _has_list_get(self) -> bool:
        # The QEMU that is installed; that of a running domain may be older.
        with suppress(VirtballoonError), _call("getVersion", connection=self):
            return bool(self.raw.getVersion() >= _HAS_LIST_GET)
        return False

    def require_monitor(self) -> None:
        """Refuse a hypervisor that has no QEMU monitor.

        :raise NotSupported: when the driver is not QEMU's
        """
        with _call("getType", connection=self):
            driver = str(self.raw.getType())
        if driver != "QEMU":
            raise NotSupported(
                f"libvirt's {driver} driver has no QEMU, and so neither a monitor nor QOM paths",
                host=self.uri,
            )

    def domains(self) -> list[Domain]:
        """Every domain of the host, running or not. Never waits for a guest."""
        return self.domains_of(self.list_all(), self.list_all(transient=True))

    def list_all(self, *, transient: bool = False) -> list[Any]:
        """The ``libvirt.virDomain`` of every domain, or of every transient one."""
        flags = libvirt.VIR_CONNECT_LIST_DOMAINS_TRANSIENT if transient else 0
        with _call(f"listAllDomains({'TRANSIENT' if transient else ''})", connection=self):
            return list(self.raw.listAllDomains(flags))

    def domains_of(self, everyone: Iterable[Any], transient: Iterable[Any]) -> list[Domain]:
        """The domains, by what :meth:`list_all` gave of all and of the transient ones."""
        # What was not read since the domains were listed last is forgotten.
        self._parsed_before, self._parsed = self._parsed, {}
        uuids = {raw.UUIDString() for raw in transient}
        domains = [Domain(raw, self, persistent=raw.UUIDString() not in uuids) for raw in everyone]
        if self._owned:
            self._domains.update(domains)
        return domains

    def parsed(self, xml: str) -> domainxml.DomainXML:
        """A domain's XML, parsed again only if it is another than when the connection was used
        last.

        :raise DomainXMLError: when it is not a domain's XML
        """
        key = hash(xml), len(xml)
        found = self._parsed.get(key) or self._parsed_before.get(key) or domainxml.parse(xml)
        self._parsed[key] = found
        return found

    def statistics(self, domains: Iterable[Domain]) -> dict[str, DomainStatistics]:
        """State and memory figures of these domains, by UUID, in one call.

        A domain that vanished is missing. A guest whose monitor is held already is not waited for
        and comes without figures (``VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT``); one whose QEMU
        hangs and is not held yet blocks the call for as long as it hangs.
        """
        raws = [domain.raw for domain in domains]
        what = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BALLOON
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        with _call(f"domainListGetStats({len(raws)} domains)", connection=self):
            answers = self.raw.domainListGetStats(raws, what, flags) if raws else []
        return {raw.UUIDString(): _statistics(answer) for raw, answer in answers}


@dataclass(frozen=True, slots=True)
class Link:
    """The way to a host's daemon.

    :ivar round_trip_seconds: the time from a question to its answer
    :ivar xml_waits: whether the XML of a guest whose monitor is held comes only when the guest is
        let go. With libvirt 9.0 it comes at once, with 11.3 it does not; what is not known to be
        without harm is taken for harmful.
    """

    round_trip_seconds: float
    xml_waits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainStatistics:
    """One domain's part of the bulk call.

    :ivar state: the domain's state
    :ivar figures: its memory figures; None where the driver does not take part in the bulk call
    :ivar asked: whether libvirt was let in and asked QEMU for the figures
    :ivar died: whether QEMU went away while it was asked
    :ivar read_at: when they were read, epoch seconds
    """

    state: State
    figures: Figures | None
    asked: bool
    died: bool
    read_at: float


def _statistics(answer: Mapping[str, Any]) -> DomainStatistics:
    prefix = "balloon."
    figures = {k.removeprefix(prefix): v for k, v in answer.items() if k.startswith(prefix)}
    read = Figures.from_libvirt(figures) if figures else None
    return DomainStatistics(
        state=_state(answer.get("state.state")),
        figures=read,
        # Without the guest's lock libvirt gives what it knows itself: current and maximum
        # (qemu_driver.c, qemuDomainGetStatsBalloon).
        asked=bool(figures.keys() - {"current", "maximum"}),
        # A QEMU that is gone leaves an RSS of 0 and nothing of the guest's.
        died=figures.get("rss") == 0 and read is not None and read.is_nothing,
        read_at=time.time(),
    )


def _state(number: object) -> State:
    return _STATES.get(number, State.NOSTATE) if isinstance(number, int) else State.NOSTATE


@dataclass(frozen=True, slots=True)
class Control:
    """What holds a domain, which libvirt says at once and on a read-only connection.

    :ivar free: whether nothing does
    :ivar seconds: how long a call has waited for QEMU; 0 for a job, since libvirt says, if
        anything, when the job began, and not when it took the domain
    :ivar waiting: whether a call waits for QEMU, which uses one of the daemon's workers
    :ivar incoming: whether the domain is being migrated to this host
    """

    free: bool
    seconds: float
    waiting: bool
    incoming: bool = False

    @property
    def is_job(self) -> bool:
        """Whether a job holds the domain, and not a call that waits for QEMU."""
        return not self.free and not self.seconds

    @property
    def hangs(self) -> bool:
        """Whether QEMU takes longer over the call than one that is well would."""
        return self.waiting and self.seconds >= _HUNG_SECONDS


class Domain:
    """One domain.

    :ivar name: its name when it was listed
    :ivar uuid: its UUID
    :ivar active: whether it ran when it was listed
    :ivar persistent: whether it has a persistent configuration
    """

    def __init__(self, raw: Any, connection: Connection, *, persistent: bool) -> None:
        self._raw = raw
        self.connection = connection
        self.name = str(raw.name())
        self.uuid = str(raw.UUIDString())
        self.active = raw.ID() >= 0
        self.persistent = persistent

    @classmethod
    def of(cls, domain: Domain | libvirt.virDomain) -> Domain:
        """The caller's domain; its connection is the caller's, too."""
        if isinstance(domain, Domain):
            return domain
        connection = Connection(domain.connect())
        with _call("isPersistent", connection=connection, domain=domain.name()):
            persistent = bool(domain.isPersistent())
        return cls(domain, connection, persistent=persistent)

    @property
    def raw(self) -> Any:
        """The ``libvirt.virDomain``.

        :raise ConnectionLost: when the connection was closed
        """
        if self._raw is None:
            raise ConnectionLost(
                "the connection was closed", host=self.connection.uri, domain=self.name
            )
        return self._raw

    def let_go(self) -> None:
        """Be of no more use, and keep the connection open no longer."""
        self._raw = None

    @contextmanager
    def _call(self, text: str, invalid: type[VirtballoonError] = LibvirtFailure) -> Iterator[None]:
        try:
            with _call(text, connection=self.connection, domain=self.name, invalid=invalid):
                yield
        except NotRunning as error:
            # libvirt has one number for a domain that does not run and for a refusal of QEMU.
            if not self._has("isActive", otherwise=False):
                raise
            raise _as(LibvirtFailure, error) from error.__cause__

    def _has(self, question: str, *, otherwise: bool) -> bool:
        """Ask libvirt about the domain. Never waits for the guest."""
        try:
            with self._call(question):
                return bool(getattr(self.raw, question)())
        except VirtballoonError:
            return otherwise

    def xml(self, *, inactive: bool = False) -> domainxml.DomainXML:
        """The domain's XML: the live one of a domain that runs, unless ``inactive``.

        It does not ask the guest's QEMU, but newer libvirt waits for whoever holds the domain; see
        :class:`Link`.

        :raise DomainNotFound: when the domain is gone
        :raise DomainXMLError: when it cannot be read
        """
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
        with self._call(f"XMLDesc({'INACTIVE' if inactive else ''})"):
            text = self.raw.XMLDesc(flags)
        with self._naming_this():
            return self.connection.parsed(text)

    def saved_xml(self) -> domainxml.DomainXML | None:
        """The XML in the saved image from which the domain would start (``virsh managedsave``);
        None without an image. Never waits for the guest.

        :raise DomainXMLError: when it cannot be read
        """
        try:
            with self._call("hasManagedSaveImage"):
                if not self.raw.hasManagedSaveImage(0):
                    return None
        except NotSupported:
            return None
        with self._call("managedSaveGetXMLDesc"):
            text = self.raw.managedSaveGetXMLDesc(0)
        with self._naming_this():
            return domainxml.parse(text)

    @contextmanager
    def _naming_this(self) -> Iterator[None]:
        try:
            yield
        except VirtballoonError as error:
            error.host, error.domain = self.connection.uri, self.name
            raise

    def state(self) -> State:
        """The domain's state. Never waits for the guest."""
        return self.reason()[0]

    def reason(self) -> tuple[State, str]:
        """The domain's state, and why it is in it. Never waits for the guest."""
        with self._call("state"):
            number, reason = self.raw.state()
        state = _state(number)
        reasons = _REASONS.get(state, ())
        return state, reasons[reason] if 0 <= reason < len(reasons) else "unknown"

    def processor_time(self) -> tuple[float, int]:
        """The seconds of processor time that its QEMU has taken so far, emulation included, and
        how many CPUs the guest has. Never waits for the guest."""
        with self._call("info"):
            cpus, nanoseconds = self.raw.info()[3:5]
        return nanoseconds / 1e9, int(cpus)

    def hints(self) -> domainxml.DomainHints:
        """What the live XML says beside the balloon; waits as :meth:`xml` does.

        :raise DomainNotFound: when the domain is gone
        :raise DomainXMLError: when it cannot be read
        """
        with self._call("XMLDesc()"):
            text = self.raw.XMLDesc(0)
        with self._naming_this():
            return domainxml.hints(text)

    def _is_incoming(self) -> bool:
        """Whether it is being migrated to this host.

        Its state does not say: the source of a migration is paused for the same reason, and stays
        so after some that failed. But libvirt refuses the statistics of the job on the
        destination alone, before it waits for anything (qemuDomainGetJobStatsInternal, with libvirt
        9.0 code 84).
        """
        if self.reason() != (State.PAUSED, "migration"):
            return False
        try:
            with self._call("jobInfo", NotSupported):
                self.raw.jobInfo()
        except NotSupported:
            # The code is that of a domain that has stopped, too.
            return self.reason() == (State.PAUSED, "migration")
        return False

    def control(self) -> Control:
        """What holds it, a job outside the monitor excepted. Never waits for the guest."""
        with self._call("controlInfo", NotRunning):
            state, _details, milliseconds = self.raw.controlInfo(0)
        waiting = state == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED
        return Control(
            free=state == libvirt.VIR_DOMAIN_CONTROL_OK,
            seconds=milliseconds / 1000 if waiting else 0.0,
            waiting=waiting,
        )

    def hold(self) -> Control:
        """What holds it, as :meth:`control`, and an incoming migration. Does not wait for the
        guest, unless a job takes the domain just now."""
        control = self.control()
        if control.free and self._is_incoming():
            return Control(free=False, seconds=0.0, waiting=False, incoming=True)
        return control

    def figures(self) -> Figures:
        """Memory figures by the call for a single domain, for drivers that do not take part in
        the bulk call. Waits for the guest's QEMU without limit.

        :raise NotRunning: when it does not run
        """
        with self._call("memoryStats", NotRunning):
            stats = self.raw.memoryStats()
        with self._call("info"):
            maximum_kib, current_kib = self.raw.info()[1:3]
        sizes = {"maximum": maximum_kib}
        if figure(stats.get("actual")) is None:
            sizes["current"] = current_kib
        return Figures.from_libvirt(stats | sizes)

    def set_period(self, seconds: int, *, live: bool, config: bool) -> None:
        """Set the polling interval through libvirt: live first, then the configuration, so that a
        failure can leave it half done. Waits for the guest's QEMU without limit when live.

        :raise InvalidInterval: when libvirt cannot take this number
        :raise ReadOnly: on a read-only connection
        :raise NotRunning: live, and it does not run
        :raise TransientDomain: config, and it has none
        :raise LibvirtFailure: live, and libvirt does not find the balloon in QEMU, among others
        """
        if not 0 <= seconds <= MAX_INTERVAL:
            raise InvalidInterval(
                f"libvirt takes 0 to {MAX_INTERVAL} seconds, not {seconds}",
                host=self.connection.uri,
                domain=self.name,
            )
        flags = live * libvirt.VIR_DOMAIN_AFFECT_LIVE | config * libvirt.VIR_DOMAIN_AFFECT_CONFIG
        names = "|".join(["LIVE"] * live + ["CONFIG"] * config)
        try:
            with self._call(
                f"setMemoryStatsPeriod({seconds}, {names})", NotRunning if live else LibvirtFailure
            ):
                self.raw.setMemoryStatsPeriod(seconds, flags)
        except (LibvirtFailure, NotRunning) as error:
            is_invalid = error.code == libvirt.VIR_ERR_OPERATION_INVALID
            # Of the configuration alone, nothing else can be invalid.
            if not config or not is_invalid or (live and self._is_persistent()):
                raise
            raise _as(TransientDomain, error) from error.__cause__

    def _is_persistent(self) -> bool:
        return self._has("isPersistent", otherwise=self.persistent)

    def monitor(self) -> Monitor:
        """The guest's monitor, through libvirt's passthrough.

        Using it marks the guest as tainted (``custom-monitor``) until it stops, needs a read-write
        connection, and waits for the guest's QEMU without limit.
        """
        # Here, since they are of no use to anyone who only reads.
        import libvirt_qemu

        from virtballoon.hypervisor.qmp import Monitor

        def send(command: str) -> str:
            with self._call(f"qemuMonitorCommand {command}", NotRunning):
                return str(libvirt_qemu.qemuMonitorCommand(self.raw, command, 0))

        return Monitor(
            send,
            has_list_get=self.connection._has_list_get,
            host=self.connection.uri,
            domain=self.name,
        )


#: A domain of ours or of the caller's.
AnyDomain: TypeAlias = Domain | libvirt.virDomain

#: What a host can be given as: a connection of ours or of the caller's, a URI, or None for
#: libvirt's default.
Target: TypeAlias = Connection | libvirt.virConnect | str | None


def keep_stderr_quiet() -> None:
    """Stop libvirt from printing its errors to stderr, for the whole process. For programs; a
    library must not decide it."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)


def end_children(thread: int, *, process: str = "self") -> None:
    """End the programs that a thread has started, and theirs: the ssh that libvirt starts to
    connect else outlives this process, waiting for a host that never answers.

    :param thread: the kernel's number of a thread that is about to open a connection and nothing
        else (``threading.get_native_id()``)
    :param process: the process that the thread belongs to
    """
    from pathlib import Path

    try:
        children = Path(f"/proc/{process}/task/{thread}/children").read_text().split()
    except OSError:
        # The thread has ended, and the opening with it.
        return
    for child in children:
        # ssh leaves its own ProxyCommand behind.
        end_children(int(child), process=child)
        with suppress(OSError):
            os.kill(int(child), signal.SIGTERM)


def _no_connection(error: libvirt.libvirtError, uri: str, *, asked: bool) -> ConnectError:
    code = error.get_error_code()
    message = error.get_error_message() or str(error)
    # For a system error libvirt keeps the errno beside the number.
    number = error.get_int1() if code == libvirt.VIR_ERR_SYSTEM_ERROR else None
    if code in _AUTH or number in _EACCES:
        return transport.refused(message, uri, code=code, number=number, asked=asked)
    # libvirt has no words for an auth.conf that it cannot read.
    is_unknown = code == libvirt.VIR_ERR_INTERNAL_ERROR
    if is_unknown and (bad := transport.bad_credentials(message, uri, code=code)):
        return bad
    return transport.explain(message, number, uri, code=code)


def _is_embedded(uri: str) -> bool:
    return re.match(r"[^/?#]*:(//[^/?#]*)?/embed([?#]|$)", uri) is not None


def _is_file(uri: str) -> bool:
    """Whether it is libvirt's test driver, which runs inside this process, with a file to read."""
    return re.match(r"test:///(?!default([?#]|$))", uri) is not None


_event_loop = threading.Lock()


def _run_event_loop() -> None:
    # Never released: one loop serves the process for its whole life.
    if not _event_loop.acquire(blocking=False):
        return
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, name="libvirt-events", daemon=True).start()
