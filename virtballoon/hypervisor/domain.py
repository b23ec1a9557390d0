"""A libvirt domain: its state, XML, figures and interval, one call per method."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
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

#: The longest polling interval that libvirt accepts, in seconds: its API has a C int.
MAX_INTERVAL: Final = 2**31 - 1

#: A healthy QEMU answers within some milliseconds.
_HUNG_SECONDS: Final = 1.0

#: By libvirt's number.
_STATES: Final = tuple(State)

#: The reasons for a state, by libvirt's numbers (``virDomainRunningReason`` and others).
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
    """One domain's part of the result of the bulk call.

    :ivar figures: its memory figures; None if the driver does not support the bulk call
    :ivar asked: whether libvirt asked QEMU for the figures, and did not find its monitor held
    :ivar died: whether QEMU ended during the call
    :ivar read_at: when they were read, epoch seconds
    """

    state: State
    figures: Figures | None
    asked: bool
    died: bool
    read_at: float


def statistics_of(answer: Mapping[str, Any]) -> DomainStatistics:
    prefix = "balloon."
    figures = {k[len(prefix) :]: v for k, v in answer.items() if k.startswith(prefix)}
    read = Figures.from_libvirt(figures) if figures else None
    # If QEMU has ended, the RSS is 0 and there are no figures of the guest.
    has_ended = figures.get("rss") == 0
    died = has_ended and read is not None and read.last_update is None and read.stats.is_empty
    return DomainStatistics(
        state=state_of(answer.get("state.state")),
        figures=read,
        # Without the domain's lock, libvirt only returns current and maximum
        # (qemu_driver.c, qemuDomainGetStatsBalloon).
        asked=bool(figures.keys() - {"current", "maximum"}),
        died=died,
        read_at=time.time(),
    )


def state_of(number: object) -> State:
    if not isinstance(number, int) or not 0 <= number < len(_STATES):
        return State.NOSTATE
    return _STATES[number]


class Control(Value):
    """What holds a domain. libvirt returns it immediately and on a read-only connection.

    :ivar free: whether nothing holds it
    :ivar seconds: how long a call has waited for QEMU; 0 for a job, since libvirt reports at most
        when the job began, not when it took the domain
    :ivar waiting: whether a call waits for QEMU, and so blocks one of the daemon's workers
    :ivar incoming: whether the domain is being migrated to this host
    """

    free: bool
    seconds: float
    waiting: bool
    incoming: bool = False

    @property
    def is_job(self) -> bool:
        """Whether a job holds the domain, not a call that waits for QEMU."""
        return not self.free and not self.seconds

    @property
    def hangs(self) -> bool:
        """Whether QEMU takes longer to answer than a healthy one."""
        return self.waiting and self.seconds >= _HUNG_SECONDS


class Domain:
    """One domain. Its methods raise :class:`DomainNotFound` if it is gone, :class:`DomainXMLError`
    if its XML is invalid, and :class:`ConnectionLost`.

    :ivar name: its name when it was listed
    :ivar active: whether it was running when it was listed
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
        """A domain of the caller, whose connection is never closed here."""
        if isinstance(domain, Domain):
            return domain
        from virtballoon.hypervisor.connection import Connection

        connection = Connection(domain.connect())
        with call("isPersistent", connection=connection, domain=domain.name()):
            persistent = bool(domain.isPersistent())
        return cls(domain, connection, persistent=persistent)

    @property
    def raw(self) -> Any:
        """The ``libvirt.virDomain``."""
        if self._raw is None:
            raise ConnectionLost(
                "the connection was closed", host=self.connection.uri, domain=self.name
            )
        return self._raw

    def release(self) -> None:
        """Drop the reference to libvirt's object, which keeps the connection open."""
        self._raw = None

    def _call(self, text: str, invalid: type[VirtballoonError] = LibvirtFailure) -> call:
        def kind() -> type[VirtballoonError]:
            # libvirt has one code for a domain that is not running and for a refusal by QEMU.
            if invalid is NotRunning and self._is_active():
                return LibvirtFailure
            return invalid

        return call(text, connection=self.connection, domain=self.name, invalid=kind)

    def _is_active(self) -> bool:
        with suppress(VirtballoonError), self._call("isActive"):
            return bool(self.raw.isActive())
        return False

    def xml(self, *, inactive: bool = False) -> domainxml.DomainXML:
        """The domain's XML: the live one of a running domain, unless ``inactive``.

        It does not ask QEMU, but newer libvirt waits while the domain is held; see :class:`Link`.
        """
        flags = libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0
        with self._call(f"XMLDesc({'INACTIVE' if inactive else ''})"):
            # A running domain's labels are those of the live XML.
            return domainxml.parse(self.raw.XMLDesc(flags), with_labels=not inactive)

    def saved_xml(self) -> domainxml.DomainXML | None:
        """The XML in the saved image from which the domain would start (``virsh managedsave``);
        None without an image. Never waits for the guest."""
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
        """The domain's state and the reason for it. Never waits for the guest."""
        with self._call("state"):
            number, reason = self.raw.state()
        state = state_of(number)
        reasons = _REASONS.get(state, ())
        return state, reasons[reason] if 0 <= reason < len(reasons) else "unknown"

    def processor_time(self) -> tuple[float, int]:
        """The processor time that QEMU has used so far, in seconds, emulation included, and the
        guest's number of CPUs. Never waits for the guest."""
        with self._call("info"):
            cpus, nanoseconds = self.raw.info()[3:5]
        return nanoseconds / 1e9, int(cpus)

    def hints(self) -> domainxml.DomainHints:
        """Facts in the live XML other than the balloon; waits like :meth:`xml`."""
        with self._call("XMLDesc()"):
            return domainxml.hints(self.raw.XMLDesc(0))

    def _is_incoming(self) -> bool:
        """Whether it is being migrated to this host.

        The state is not sufficient: the source of a migration is paused for the same reason, also
        after some migrations that failed. But only on the destination does libvirt refuse the
        statistics of the job, before it waits for anything (qemuDomainGetJobStatsInternal; code 84
        with libvirt 9.0).
        """
        if self.reason() != (State.PAUSED, "migration"):
            return False
        try:
            with self._call("jobInfo", NotSupported):
                self.raw.jobInfo()
        except NotSupported:
            # A domain that is not running has the same code.
            return self.reason() == (State.PAUSED, "migration")
        return False

    def control(self) -> Control:
        """What holds it, except a job outside the monitor. Never waits for the guest."""
        with self._call("controlInfo", NotRunning):
            state, _details, milliseconds = self.raw.controlInfo(0)
        waiting = state == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED
        return Control(
            free=state == libvirt.VIR_DOMAIN_CONTROL_OK,
            seconds=milliseconds / 1000 if waiting else 0.0,
            waiting=waiting,
        )

    def hold(self) -> Control:
        """What holds it, including an incoming migration. Does not wait for the guest, unless a
        job takes the domain during the call."""
        control = self.control()
        if control.free and self._is_incoming():
            return Control(free=False, seconds=0.0, waiting=False, incoming=True)
        return control

    def figures(self) -> Figures:
        """Memory figures by the call for a single domain, for drivers that do not support the bulk
        call. Waits for QEMU without limit."""
        with self._call("memoryStats", NotRunning):
            stats = self.raw.memoryStats()
        with self._call("info"):
            maximum_kib, current_kib = self.raw.info()[1:3]
        sizes = {"maximum": maximum_kib}
        if figure(stats.get("actual")) is None:
            sizes["current"] = current_kib
        return Figures.from_libvirt(stats | sizes)

    def set_period(self, seconds: int, *, config: bool = False) -> None:
        """Set the polling interval through libvirt: that of the running domain, which waits for
        QEMU without limit, or that of its configuration.

        :raise InvalidInterval: if libvirt does not accept the number
        :raise ReadOnly: on a read-only connection
        :raise NotRunning: if it is not running
        :raise TransientDomain: if it has no persistent configuration
        :raise LibvirtFailure: for example if libvirt does not find the balloon in QEMU
        """
        if not 0 <= seconds <= MAX_INTERVAL:
            raise InvalidInterval(
                f"libvirt accepts 0 to {MAX_INTERVAL} seconds, not {seconds}",
                host=self.connection.uri,
                domain=self.name,
            )
        flag = libvirt.VIR_DOMAIN_AFFECT_CONFIG if config else libvirt.VIR_DOMAIN_AFFECT_LIVE
        text = f"setMemoryStatsPeriod({seconds}, {'CONFIG' if config else 'LIVE'})"
        with self._call(text, TransientDomain if config else NotRunning):
            self.raw.setMemoryStatsPeriod(seconds, flag)

    def monitor(self) -> Monitor:
        """QEMU's monitor, through libvirt's passthrough.

        Using it taints the guest (``custom-monitor``) until it stops, needs a read-write
        connection, and waits for QEMU without limit.
        """
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


#: A domain: a :class:`Domain` or libvirt's object.
AnyDomain: TypeAlias = Domain | libvirt.virDomain
