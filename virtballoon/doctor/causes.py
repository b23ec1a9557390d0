"""Causes of missing or stale statistics, and the signs that point to each. Pure.

A sign was seen, was found absent, or is not known. A row of a cause fits a domain with its verdict
unless a known sign speaks against it. Every cause with a fitting row is possible; the likeliest is
the one whose row names the most signs that were seen, then the one that stands first here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple, Self

from virtballoon.model.statistics import STATISTIC_BY_NAME
from virtballoon.model.verdict import NO_STATISTICS_ADVICE, Verdict


class Sign(StrEnum):
    """Something that an answer shows."""

    UPDATED = "updated"  # a new update came while it was watched
    OVERDUE = "overdue"  # no update came while it was watched for longer than its interval
    AGENT_CONNECTED = "agent-connected"  # a guest agent has opened its channel
    AGENT_DISCONNECTED = "agent-disconnected"  # it has a guest agent's channel, which is not open
    SPINNING = "spinning"  # it used all of one CPU, and no more, while it was watched
    LONG_RUN = "long-run"  # its QEMU has used more than 5 minutes of processor time
    BALLOONED = "ballooned"  # the balloon holds memory, so a driver has inflated it
    LOW_MEMORY = "low-memory"  # its last figures show less than 5 % of its memory available
    SHORT_OF_MEMORY = "short-of-memory"  # little is available, and it suffered while it was watched
    IOMMU = "iommu"  # its balloon has <driver iommu='on'/>
    CLOCK_BEHIND = "clock-behind"  # by the last updates of its host, the host's clock is behind
    XML_POLLS = "xml-polls"  # the live XML has an interval above 0
    STOPPED = "stopped"  # its CPUs are stopped
    IN_TRANSIT = "in-transit"  # a migration, save, dump, snapshot or start has stopped its CPUs
    ASLEEP = "asleep"  # the guest has suspended itself
    IO_ERROR = "io-error"  # QEMU has stopped it because of a disk error
    WATCHDOG = "watchdog"  # its watchdog has stopped it
    CRASHED = "crashed"  # the guest has reported a crash to its panic device
    BEHIND_LIBVIRT = "behind-libvirt"  # it has a balloon that libvirt did not define
    MONITOR = "monitor"  # a call waits for QEMU's monitor
    JOB = "job"  # a job holds the domain
    LIMIT = "limit"  # a limit of virtballoon was reached: on time, or on calls that may block
    FUTURE = "future"  # the last update is in the future
    NOT_GIVEN = "not-given"  # libvirt gives no time of a last update
    QEMU_INTERVAL = "qemu-interval"  # QEMU's own interval is known
    RESET_CLEARS = "reset-clears"  # this QEMU clears the figures at a reset
    DRIFT = "drift"  # QEMU's interval differs from the live XML's
    CONFIG_DRIFT = "config-drift"  # the persistent XML's interval differs from the live XML's
    CONFIG_BALLOON = "config-balloon"  # the persistent XML has a balloon
    UNPOLLED = "unpolled"  # the interval is 0
    OLD_QEMU = "old-qemu"  # this QEMU lacks statistics that newer ones have


@dataclass(frozen=True, slots=True)
class Row:
    """A verdict and signs by which a cause is possible.

    :ivar verdict: the verdict; None for any
    :ivar has: does not fit where one of these is known to be absent
    :ivar lacks: does not fit where one of these was seen
    :ivar seen: fits only where all of these were seen
    """

    verdict: Verdict | None
    has: tuple[Sign, ...] = ()
    lacks: tuple[Sign, ...] = ()
    seen: tuple[Sign, ...] = ()

    def fits(self, verdict: Verdict, signs: Mapping[Sign, bool]) -> bool:
        """Whether nothing that is known speaks against it."""
        return (
            self.verdict in {None, verdict}
            and all(signs.get(sign) for sign in self.seen)
            and all(signs.get(sign) is not False for sign in self.has)
            and not any(signs.get(sign) for sign in self.lacks)
        )


class CauseInfo(NamedTuple):
    """What is known of a cause. :func:`virtballoon.doctor.results.texts` has what is in braces.

    :ivar meaning: what it is
    :ivar remedy: the command or the advice that fixes it; None where there is nothing to fix
    :ivar check: how to check that it is this cause; None where nothing else is possible
    :ivar is_well: whether it is not a fault
    :ivar rows: by what it is possible as the reason for the verdict
    :ivar also: by what it is a problem of its own, whatever the reason for the verdict
    """

    value: str
    meaning: str
    remedy: str | None = None
    check: str | None = None
    is_well: bool = False
    rows: tuple[Row, ...] = ()
    also: tuple[Row, ...] = ()


_V, _S = Verdict, Sign
_CONSOLE: Final = "its display or console ({virsh} console {domain})"
_BOOT: Final = f"wait until it has booted; if it does not, see where it stops on {_CONSOLE}"
_RESTART: Final = "then shut the domain down and start it (a reboot is not enough)"
_STOPPERS: Final = (Sign.IN_TRANSIT, Sign.ASLEEP, Sign.IO_ERROR, Sign.WATCHDOG, Sign.CRASHED)


class Cause(StrEnum):
    """Why a domain's figures are as they are, or another problem. The likelier stand first."""

    info: CauseInfo
    _value_: str

    def __new__(cls, *info: Any) -> Self:
        # A tuple as value is passed as its items.
        self = str.__new__(cls, info[0])
        self._value_ = info[0]
        self.info = CauseInfo(*info)
        return self

    WELL = CauseInfo(
        "well",
        "its figures are fresh",
        is_well=True,
        rows=(Row(_V.FRESH, lacks=(_S.UPDATED,)),),
    )
    JUST_ANSWERED = CauseInfo(
        "just-answered",
        "it answered while it was watched: it has just booted, was reset or resumed, or its "
        "interval or its driver was changed",
        is_well=True,
        rows=(Row(_V.FRESH, has=(_S.UPDATED,)),),
    )
    CLOCK_BEHIND = CauseInfo(
        "clock-behind",
        "its host's clock is behind this machine's, so its figures seem older than they are",
        "set the clocks of this machine and of the host, for example by NTP",
        check="compare `date` on both; every polled domain of the host is late by the same time",
        rows=(
            # A new update is new by any clock.
            Row(_V.STALE, lacks=(_S.FUTURE,), seen=(_S.UPDATED,)),
            Row(_V.STALE, lacks=(_S.OVERDUE,), seen=(_S.CLOCK_BEHIND,)),
        ),
    )
    IOMMU_ON = CauseInfo(
        "iommu-on",
        "its balloon has <driver iommu='on'/>, which Linux' balloon driver does not support",
        "remove iommu='on' from the <driver> of its <memballoon> ({virsh} edit "
        f"{{domain}}), {_RESTART}",
        check="the guest's dmesg shows that virtio_balloon failed to probe",
        rows=(Row(_V.UNANSWERED, seen=(_S.IOMMU,)),),
    )
    DRIVER_UNLOADED = CauseInfo(
        "driver-unloaded",
        "its balloon driver was unloaded or, on Windows, its balloon service stopped",
        "in the guest: modprobe virtio_balloon; on Windows, start the service BalloonService, and "
        "enable the VirtIO Balloon Driver in the device manager",
        check="the guest works, and its lsmod does not show virtio_balloon",
        rows=(Row(_V.STALE, lacks=(_S.UPDATED,)),),
    )
    GUEST_HUNG = CauseInfo(
        "guest-hung",
        "the guest hangs or has crashed",
        f"see what it shows on {_CONSOLE}; if it does not react: {{virsh}} reset {{domain}}",
        check=f"it does not react at {_CONSOLE}",
        rows=(
            Row(_V.STALE, lacks=(_S.UPDATED,)),
            # A kernel that has crashed uses all of a CPU.
            Row(_V.STALE, lacks=(_S.UPDATED,), seen=(_S.SPINNING,)),
            Row(_V.STALE, lacks=(_S.UPDATED,), seen=(_S.LOW_MEMORY,)),
        ),
    )
    JUST_RESET = CauseInfo(
        "just-reset",
        "it was reset since its last update, and is booting or stuck",
        _BOOT,
        check=f"{_CONSOLE} shows it boot, or where it is stuck",
        # QEMU before 10.0 keeps a guest's figures over a reset.
        rows=(
            Row(_V.STALE, lacks=(_S.UPDATED, _S.AGENT_CONNECTED, _S.RESET_CLEARS)),
            Row(
                _V.STALE,
                lacks=(_S.UPDATED, _S.RESET_CLEARS),
                seen=(_S.SPINNING, _S.AGENT_DISCONNECTED),
            ),
        ),
    )
    NO_DRIVER = CauseInfo(
        "no-driver",
        "the guest has no balloon driver",
        "in the guest: modprobe virtio_balloon; on Windows, install the balloon driver and its "
        "service from virtio-win",
        check="the guest works, and its lsmod does not show virtio_balloon",
        rows=(Row(_V.UNANSWERED),),
    )
    NO_STATISTICS = CauseInfo(
        "no-statistics",
        "its balloon driver gives no statistics",
        NO_STATISTICS_ADVICE,
        check="the guest is not Linux",
        rows=(Row(_V.UNANSWERED), Row(_V.UNANSWERED, seen=(_S.BALLOONED,)), Row(_V.EMPTY)),
    )
    BOOTING = CauseInfo(
        "booting",
        "it was started or reset, and is booting or stuck",
        _BOOT,
        check=f"{_CONSOLE} shows it boot, or where it is stuck",
        rows=(
            Row(_V.UNANSWERED, lacks=(_S.AGENT_CONNECTED,)),
            Row(_V.UNANSWERED, lacks=(_S.AGENT_CONNECTED, _S.LONG_RUN), seen=(_S.SPINNING,)),
        ),
    )
    NOT_DUE = CauseInfo(
        "not-due",
        "its interval was changed or it was resumed, and QEMU asks it next within {interval} s",
        "wait {interval} s, and change the interval less often than that",
        check="{virtballoon} doctor --timeout {watch} {name} watches it for that time",
        rows=(Row(_V.STALE, lacks=(_S.OVERDUE, _S.UPDATED)),),
    )
    POLLING_OFF = CauseInfo(
        "polling-off",
        "its interval is 0, so it is not polled",
        "{set_interval} {wanted} {name}",
        rows=(Row(_V.POLLING_OFF, lacks=(_S.XML_POLLS, _S.UPDATED)),),
        also=(Row(_V.SUSPENDED, seen=(_S.UNPOLLED,)),),
    )
    INTERVAL_DIFFERS = CauseInfo(
        "interval-differs",
        "QEMU's interval differs from the one in libvirt's XML",
        "{set_interval} {wanted} {name}",
        check="{virtballoon} list --via qom {name} shows QEMU's own interval (this taints the "
        "guest)",
        rows=(
            Row(_V.STALE, lacks=(_S.UPDATED, _S.QEMU_INTERVAL)),
            Row(_V.UNANSWERED, lacks=(_S.QEMU_INTERVAL,)),
            # QEMU polls although the XML says that it does not, and the reverse.
            Row(_V.POLLING_OFF, seen=(_S.UPDATED,)),
            Row(_V.POLLING_OFF, seen=(_S.XML_POLLS,)),
        ),
        also=(Row(None, seen=(_S.DRIFT,)),),
    )
    PAUSED = CauseInfo(
        "paused",
        "it is suspended",
        "{virsh} resume {domain}",
        is_well=True,
        rows=(Row(_V.SUSPENDED, has=(_S.STOPPED,), lacks=_STOPPERS),),
    )
    IN_TRANSIT = CauseInfo(
        "in-transit",
        "a migration, save, dump, snapshot or start has stopped its CPUs for a while",
        "wait for it: {virsh} domjobinfo {domain}",
        is_well=True,
        rows=(Row(_V.SUSPENDED, has=(_S.IN_TRANSIT,)), Row(_V.INCOMING)),
    )
    ASLEEP = CauseInfo(
        "asleep",
        "the guest has suspended itself",
        "{virsh} dompmwakeup {domain}",
        is_well=True,
        rows=(Row(_V.SUSPENDED, has=(_S.ASLEEP,)),),
    )
    IO_ERROR = CauseInfo(
        "io-error",
        "QEMU has stopped it because its disk failed or is full",
        "repair the disk ({virsh} domblkerror {domain} names it), then: {virsh} resume {domain}",
        rows=(Row(_V.SUSPENDED, has=(_S.IO_ERROR,)),),
    )
    WATCHDOG = CauseInfo(
        "watchdog",
        "its watchdog has stopped it, because the guest did not feed it",
        "see what it shows on its console, then: {virsh} reset {domain} && {virsh} resume {domain}",
        rows=(Row(_V.SUSPENDED, has=(_S.WATCHDOG,)),),
    )
    CRASHED = CauseInfo(
        "crashed",
        "the guest's kernel has crashed, and has reported it to the panic device",
        "keep a dump if you need one ({virsh} dump {domain} FILE), then: {virsh} destroy {domain} "
        "&& {virsh} start {domain}",
        rows=(Row(_V.SUSPENDED, has=(_S.CRASHED,)),),
    )
    RESTART_PENDING = CauseInfo(
        "restart-pending",
        "its persistent XML has a balloon, which it gets at its next start",
        "shut it down and start it: {virsh} shutdown {domain}, then {virsh} start {domain}",
        rows=(Row(_V.NO_DEVICE, lacks=(_S.BEHIND_LIBVIRT,), seen=(_S.CONFIG_BALLOON,)),),
        also=(Row(_V.NO_DEVICE, seen=(_S.CONFIG_BALLOON,)),),
    )
    NO_DEVICE = CauseInfo(
        "no-device",
        "it has no balloon device",
        "replace its <memballoon> by <memballoon model='virtio'/> ({virsh} edit "
        f"{{domain}}), {_RESTART}",
        check="{virtballoon} qom-path --via qom {name} finds no balloon (this taints the guest)",
        is_well=True,
        rows=(Row(_V.NO_DEVICE, lacks=(_S.BEHIND_LIBVIRT, _S.CONFIG_BALLOON)),),
    )
    UNKNOWN_TO_LIBVIRT = CauseInfo(
        "unknown-to-libvirt",
        "it has a balloon that libvirt did not define, as from <qemu:commandline>",
        "read and set it by --via qom, which taints the guest: {virtballoon} "
        "set-interval --via qom {wanted} {name}; or replace it by <memballoon "
        f"model='virtio'/> ({{virsh}} edit {{domain}}), {_RESTART}",
        check="{virtballoon} qom-path --via qom {name} finds it (this taints the guest)",
        rows=(Row(_V.NO_DEVICE, has=(_S.BEHIND_LIBVIRT,)),),
        also=(Row(None, seen=(_S.BEHIND_LIBVIRT,)),),
    )
    SHUTOFF = CauseInfo("shutoff", "it is not running", is_well=True, rows=(Row(_V.SHUTOFF),))
    QEMU_HUNG = CauseInfo(
        "qemu-hung",
        "its QEMU does not answer on its monitor",
        "see on the host what its QEMU waits for (in ps, T is a stopped process, D one that waits "
        "for storage or a network file system) and fix that; do not restart libvirtd before that, "
        "which can end the domain; the last resort is {virsh} destroy {domain}",
        rows=(Row(_V.BUSY, has=(_S.MONITOR,)),),
    )
    JOB_RUNNING = CauseInfo(
        "job-running",
        "a job holds it, such as a migration, a backup or another call to libvirt",
        "wait for it: {virsh} domjobinfo {domain}",
        rows=(Row(_V.BUSY, has=(_S.JOB,)),),
    )
    NOT_READ = CauseInfo(
        "not-read",
        "the time was up before it was read, or too many other domains of its host hang",
        "fix the domains that hang; if there are none: {virtballoon} doctor --timeout 30 {name}",
        rows=(Row(_V.BUSY, has=(_S.LIMIT,)),),
    )
    CLOCK_AHEAD = CauseInfo(
        "clock-ahead",
        "its last update is in the future: its host's clock is ahead of this machine's",
        "set the clocks of this machine and of the host, for example by NTP",
        rows=(Row(_V.STALE, seen=(_S.FUTURE,)),),
    )
    NOT_PASSED_ON = CauseInfo(
        "not-passed-on",
        "libvirt gives no statistics of this balloon, as of one on virtio-mmio",
        "ask QEMU, which taints the guest: {virtballoon} stats --via qom {name}",
        rows=(Row(_V.FAILED, has=(_S.NOT_GIVEN,)),),
    )
    TOO_OLD = CauseInfo(
        "too-old",
        "its QEMU is too old: {lacks}",
        "update it; a new QEMU is in use after the domain was shut down and started",
        is_well=True,
        also=(Row(None, seen=(_S.OLD_QEMU,)),),
    )
    UNREADABLE = CauseInfo(
        "unreadable",
        "reading it failed",
        "see the error",
        rows=(Row(_V.FAILED, lacks=(_S.NOT_GIVEN,)),),
    )
    SHORT_OF_MEMORY = CauseInfo(
        "short-of-memory",
        "it is short of memory: little is available, and it swaps or reads its programs from disk "
        "again and again, or kills processes",
        "give it more memory, up to its maximum at once: {virsh} setmem {domain} SIZE --live; or "
        "stop programs in the guest",
        also=(Row(_V.FRESH, seen=(_S.SHORT_OF_MEMORY,)),),
    )
    LOW_MEMORY = CauseInfo(
        "low-memory",
        "less than 5 % of its memory is available; whether it suffers is not known",
        "watch it for longer: {virtballoon} doctor --timeout {watch} {name}",
        # Neither seen nor known to be absent.
        also=(
            Row(
                _V.FRESH,
                has=(_S.SHORT_OF_MEMORY,),
                lacks=(_S.SHORT_OF_MEMORY,),
                seen=(_S.LOW_MEMORY,),
            ),
        ),
    )
    CONFIG_DIFFERS = CauseInfo(
        "config-differs",
        "its persistent XML has another interval, which applies from its next start",
        "{set_interval} --live --config {wanted} {name}",
        also=(Row(None, seen=(_S.CONFIG_DRIFT,)),),
    )


#: From this QEMU on a reset clears the figures, before that one it does not; in between it depends
#: (hw/virtio/virtio-balloon.c).
CLEARS_FROM: Final = (10, 0)
KEEPS_UP_TO: Final = (9, 0)


def possible_causes(verdict: Verdict, signs: Mapping[Sign, bool]) -> tuple[Cause, ...]:
    """The causes with a row that fits, the likeliest first."""
    fitting = [
        (row, cause) for cause in Cause for row in cause.info.rows if row.fits(verdict, signs)
    ]
    fitting.sort(key=lambda pair: -len(pair[0].seen))
    return tuple(dict.fromkeys(cause for _, cause in fitting))


def other_problems(
    verdict: Verdict, signs: Mapping[Sign, bool], named: Iterable[Cause]
) -> tuple[Cause, ...]:
    """The problems that are no reason for the verdict and are not named already."""
    named = set(named)
    return tuple(
        cause
        for cause in Cause
        if cause not in named and any(row.fits(verdict, signs) for row in cause.info.also)
    )


def lacking(version: tuple[int, int]) -> tuple[str, ...]:
    """The statistics that a QEMU of this version lacks."""
    return tuple(
        statistic.name
        for statistic in STATISTIC_BY_NAME.values()
        if tuple(map(int, statistic.qemu_since.split("."))) > version
    )
