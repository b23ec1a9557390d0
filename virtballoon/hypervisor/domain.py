"""A domain of libvirt's: its state, XML, figures and interval, one call a method."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import libvirt

from virtballoon.errors import (
    ConnectionLost,
    InvalidInterval,
    LibvirtFailure,
    NotRunning,
    NotSupported,
    TransientDomain,
    VirtballoonError,
)
from virtballoon.hypervisor import domainxml
from virtballoon.hypervisor.translation import call
from virtballoon.model.memory import Figures
from virtballoon.model.statistics import figure
from virtballoon.model.value import Value
from virtballoon.model.verdict import State

if TYPE_CHECKING:
    from virtballoon.hypervisor.connection import Connection
    from virtballoon.hypervisor.qmp import Monitor

#: The longest polling interval that libvirt takes, in seconds: its API has a C int.
MAX_INTERVAL: Final = 2**31 - 1

#: A QEMU that is well answers within some milliseconds.
_HUNG_SECONDS: Final = 1.0

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


class DomainStatistics(NamedTuple):
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


def statistics_of(answer: Mapping[str, Any]) -> DomainStatistics:
    prefix = "balloon."
    figures = {k.removeprefix(prefix): v for k, v in answer.items() if k.startswith(prefix)}
    read = Figures.from_libvirt(figures) if figures else None
    return DomainStatistics(
        state=state_of(answer.get("state.state")),
        figures=read,
        # Without the guest's lock libvirt gives what it knows itself: current and maximum
        # (qemu_driver.c, qemuDomainGetStatsBalloon).
        asked=bool(figures.keys() - {"current", "maximum"}),
        # A QEMU that is gone leaves an RSS of 0 and nothing of the guest's.
        died=figures.get("rss") == 0 and read is not None and read.is_nothing,
        read_at=time.time(),
    )


def state_of(number: object) -> State:
    return _STATES.get(number, State.NOSTATE) if isinstance(number, int) else State.NOSTATE


class Control(Value):
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
        from virtballoon.hypervisor.connection import Connection

        connection = Connection(domain.connect())
        with call("isPersistent", connection=connection, domain=domain.name()):
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

    def _call(self, text: str, invalid: type[VirtballoonError] = LibvirtFailure) -> call:
        def kind() -> type[VirtballoonError]:
            # libvirt has one number for a domain that does not run and for a refusal of QEMU.
            if invalid is NotRunning and self._has("isActive", otherwise=False):
                return LibvirtFailure
            return invalid

        return call(text, connection=self.connection, domain=self.name, invalid=kind)

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
            return domainxml.parse(self.raw.XMLDesc(flags))

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
            return domainxml.parse(self.raw.managedSaveGetXMLDesc(0))

    def state(self) -> State:
        """The domain's state. Never waits for the guest."""
        return self.reason()[0]

    def reason(self) -> tuple[State, str]:
        """The domain's state, and why it is in it. Never waits for the guest."""
        with self._call("state"):
            number, reason = self.raw.state()
        state = state_of(number)
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
            return domainxml.hints(self.raw.XMLDesc(0))

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
            raise TransientDomain(
                error.message, host=error.host, domain=error.domain, code=error.code
            ) from error.__cause__

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
