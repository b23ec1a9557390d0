"""Causes of missing or stale statistics, and the signs that point to each. Pure.

A sign was seen, was found absent, or is not known. A row of a cause fits a domain with its verdict
unless a known sign speaks against it. Every cause with a fitting row is possible; the likeliest is
the one whose row names the most signs that were seen, then the one that stands first here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Self

from virtballoon.model.statistics import STATISTIC_BY_NAME
from virtballoon.model.verdict import NO_STATISTICS_ADVICE, Verdict


class Sign(StrEnum):
    """Something that an answer shows."""

    meaning: str
    _value_: str

    def __new__(cls, value: str, meaning: str) -> Self:
        self = str.__new__(cls, value)
        self._value_ = value
        self.meaning = meaning
        return self

    UPDATED = "updated", "a new update came while it was watched"
    OVERDUE = "overdue", "no update came while it was watched for longer than its interval"
    AGENT_CONNECTED = "agent-connected", "a guest agent has opened its channel"
    AGENT_DISCONNECTED = "agent-disconnected", "it has a guest agent's channel, which is not open"
    SPINNING = "spinning", "it used all of one CPU, and no more, while it was watched"
    LONG_RUN = "long-run", "its QEMU has used more than 5 minutes of processor time"
    BALLOONED = "ballooned", "the balloon holds memory, so a driver has inflated it"
    LOW_MEMORY = "low-memory", "its last figures show less than 5 % of its memory available"
    IOMMU = "iommu", "its balloon has <driver iommu='on'/>"
    LATE_ALIKE = "late-alike", "all polled domains of its host are late by about the same time"
    XML_POLLS = "xml-polls", "the live XML has an interval above 0"
    STOPPED = "stopped", "its CPUs are stopped"
    IN_TRANSIT = "in-transit", "a migration, save, dump, snapshot or start has stopped its CPUs"
    ASLEEP = "asleep", "the guest has suspended itself"
    IO_ERROR = "io-error", "QEMU has stopped it because of a disk error"
    WATCHDOG = "watchdog", "its watchdog has stopped it"
    CRASHED = "crashed", "the guest has reported a crash to its panic device"
    BEHIND_LIBVIRT = "behind-libvirt", "it has a balloon that libvirt did not define"
    MONITOR = "monitor", "a call waits for QEMU's monitor"
    JOB = "job", "a job holds the domain"
    LIMIT = "limit", "it was not asked, to avoid using up libvirtd's workers"
    FUTURE = "future", "the last update is in the future"
    NOT_GIVEN = "not-given", "libvirt gives no time of a last update"
    OLD_LIBVIRT = "old-libvirt", "the host's libvirt is too old to give one"
    QEMU_INTERVAL = "qemu-interval", "QEMU's own interval is known"
    RESET_CLEARS = "reset-clears", "this QEMU clears the figures at a reset"
    DRIFT = "drift", "QEMU's interval differs from the live XML's"
    CONFIG_DRIFT = "config-drift", "the persistent XML's interval differs from the live XML's"
    CONFIG_BALLOON = "config-balloon", "the persistent XML has a balloon"
    UNPOLLED = "unpolled", "the interval is 0"
    OLD_QEMU = "old-qemu", "this QEMU lacks statistics that newer ones have"


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


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseInfo:
    """What is known of a cause. In braces is what differs between domains: ``virtballoon``,
    ``set_interval`` and ``virsh`` are these commands up to the host's URI, ``name`` and ``domain``
    the domain as virtballoon and virsh take it; ``interval`` is the interval in force,
    ``wanted`` the one to set and ``watch`` a timeout that is long enough to watch the domain, in
    seconds; ``lacks`` is what is too old and what it lacks.

    :ivar meaning: what it is
    :ivar remedy: the command or the advice that fixes it; None where there is nothing to fix
    :ivar check: how to check that it is this cause; None where nothing else is possible
    :ivar is_well: whether it is not a fault
    :ivar rows: by what it is possible as the reason for the verdict
    :ivar also: by what it is a problem of its own, whatever the reason for the verdict
    """

    meaning: str
    remedy: str | None = None
    check: str | None = None
    is_well: bool = False
    rows: tuple[Row, ...] = ()
    also: tuple[Row, ...] = ()


_CONSOLE: Final = "its display or console ({virsh} console {domain})"
_BOOT: Final = f"wait until it has booted; if it does not, see where it stops on {_CONSOLE}"
_RESTART: Final = "then shut the domain down and start it (a reboot is not enough)"
_STOPPERS: Final = (Sign.IN_TRANSIT, Sign.ASLEEP, Sign.IO_ERROR, Sign.WATCHDOG, Sign.CRASHED)


class Cause(StrEnum):
    """Why a domain's figures are as they are, or another problem. The likelier stand first."""

    info: CauseInfo
    _value_: str

    def __new__(cls, value: str, info: CauseInfo) -> Self:
        self = str.__new__(cls, value)
        self._value_ = value
        self.info = info
        return self

    WELL = (
        "well",
        CauseInfo(
            meaning="its figures are fresh",
            is_well=True,
            rows=(Row(Verdict.FRESH, lacks=(Sign.UPDATED,)),),
        ),
    )
    JUST_ANSWERED = (
        "just-answered",
        CauseInfo(
            meaning="it answered while it was watched: it has just booted, was reset or resumed, "
            "or its interval or its driver was changed",
            is_well=True,
            rows=(Row(Verdict.FRESH, has=(Sign.UPDATED,)),),
        ),
    )
    CLOCK_BEHIND = (
        "clock-behind",
        CauseInfo(
            meaning="its host's clock is behind this machine's, so its figures seem older than "
            "they are",
            remedy="set the clocks of this machine and of the host, for example by NTP",
            check="compare `date` on both; every polled domain of the host is late by the same "
            "time",
            rows=(
                # A new update is new by any clock.
                Row(Verdict.STALE, seen=(Sign.UPDATED,)),
                Row(Verdict.STALE, lacks=(Sign.OVERDUE,), seen=(Sign.LATE_ALIKE,)),
            ),
        ),
    )
    IOMMU_ON = (
        "iommu-on",
        CauseInfo(
            meaning="its balloon has <driver iommu='on'/>, which Linux' balloon driver does not "
            "support",
            remedy="remove iommu='on' from the <driver> of its <memballoon> ({virsh} edit "
            f"{{domain}}), {_RESTART}",
            check="the guest's dmesg shows that virtio_balloon failed to probe",
            rows=(Row(Verdict.UNANSWERED, seen=(Sign.IOMMU,)),),
        ),
    )
    DRIVER_UNLOADED = (
        "driver-unloaded",
        CauseInfo(
            meaning="its balloon driver was unloaded or, on Windows, its balloon service stopped",
            remedy="in the guest: modprobe virtio_balloon; on Windows, start the service "
            "BalloonService, and enable the VirtIO Balloon Driver in the device manager",
            check="the guest works, and its lsmod does not show virtio_balloon",
            rows=(Row(Verdict.STALE, lacks=(Sign.UPDATED,)),),
        ),
    )
    GUEST_HUNG = (
        "guest-hung",
        CauseInfo(
            meaning="the guest hangs or has crashed",
            remedy=f"see what it shows on {_CONSOLE}; if it does not react: "
            "{virsh} reset {domain}",
            check=f"it does not react at {_CONSOLE}",
            rows=(
                Row(Verdict.STALE, lacks=(Sign.UPDATED,)),
                # A kernel that has crashed uses all of a CPU.
                Row(Verdict.STALE, lacks=(Sign.UPDATED,), seen=(Sign.SPINNING,)),
                Row(Verdict.STALE, lacks=(Sign.UPDATED,), seen=(Sign.LOW_MEMORY,)),
            ),
        ),
    )
    JUST_RESET = (
        "just-reset",
        CauseInfo(
            meaning="it was reset since its last update, and is booting or stuck",
            remedy=_BOOT,
            check=f"{_CONSOLE} shows it boot, or where it is stuck",
            # QEMU before 10.0 keeps a guest's figures over a reset.
            rows=(
                Row(
                    Verdict.STALE,
                    lacks=(Sign.UPDATED, Sign.AGENT_CONNECTED, Sign.RESET_CLEARS),
                ),
                Row(
                    Verdict.STALE,
                    lacks=(Sign.UPDATED, Sign.RESET_CLEARS),
                    seen=(Sign.SPINNING, Sign.AGENT_DISCONNECTED),
                ),
            ),
        ),
    )
    NO_DRIVER = (
        "no-driver",
        CauseInfo(
            meaning="the guest has no balloon driver",
            remedy="in the guest: modprobe virtio_balloon; on Windows, install the balloon driver "
            "and its service from virtio-win",
            check="the guest works, and its lsmod does not show virtio_balloon",
            rows=(Row(Verdict.UNANSWERED),),
        ),
    )
    NO_STATISTICS = (
        "no-statistics",
        CauseInfo(
            meaning="its balloon driver gives no statistics",
            remedy=NO_STATISTICS_ADVICE,
            check="the guest is not Linux",
            rows=(
                Row(Verdict.UNANSWERED),
                Row(Verdict.UNANSWERED, seen=(Sign.BALLOONED,)),
                Row(Verdict.EMPTY),
            ),
        ),
    )
    BOOTING = (
        "booting",
        CauseInfo(
            meaning="it was started or reset, and is booting or stuck",
            remedy=_BOOT,
            check=f"{_CONSOLE} shows it boot, or where it is stuck",
            rows=(
                Row(Verdict.UNANSWERED, lacks=(Sign.AGENT_CONNECTED,)),
                Row(
                    Verdict.UNANSWERED,
                    lacks=(Sign.AGENT_CONNECTED, Sign.LONG_RUN),
                    seen=(Sign.SPINNING,),
                ),
            ),
        ),
    )
    NOT_DUE = (
        "not-due",
        CauseInfo(
            meaning="its interval was changed or it was resumed, and QEMU asks it next within "
            "{interval} s",
            remedy="wait {interval} s, and change the interval less often than that",
            check="{virtballoon} doctor --timeout {watch} {name} watches it for that time",
            rows=(Row(Verdict.STALE, lacks=(Sign.OVERDUE, Sign.UPDATED)),),
        ),
    )
    POLLING_OFF = (
        "polling-off",
        CauseInfo(
            meaning="its interval is 0, so it is not polled",
            remedy="{set_interval} {wanted} {name}",
            rows=(Row(Verdict.POLLING_OFF, lacks=(Sign.XML_POLLS, Sign.UPDATED)),),
            also=(Row(Verdict.SUSPENDED, seen=(Sign.UNPOLLED,)),),
        ),
    )
    INTERVAL_DIFFERS = (
        "interval-differs",
        CauseInfo(
            meaning="QEMU's interval differs from the one in libvirt's XML",
            remedy="{set_interval} {wanted} {name}",
            check="{virtballoon} list --via qom {name} shows QEMU's own interval (this taints the "
            "guest)",
            rows=(
                Row(Verdict.STALE, lacks=(Sign.UPDATED, Sign.QEMU_INTERVAL)),
                Row(Verdict.UNANSWERED, lacks=(Sign.QEMU_INTERVAL,)),
                # QEMU polls although the XML says that it does not, and the reverse.
                Row(Verdict.POLLING_OFF, seen=(Sign.UPDATED,)),
                Row(Verdict.POLLING_OFF, seen=(Sign.XML_POLLS,)),
            ),
            also=(Row(None, seen=(Sign.DRIFT,)),),
        ),
    )
    PAUSED = (
        "paused",
        CauseInfo(
            meaning="it is suspended",
            remedy="{virsh} resume {domain}",
            is_well=True,
            rows=(Row(Verdict.SUSPENDED, has=(Sign.STOPPED,), lacks=_STOPPERS),),
        ),
    )
    IN_TRANSIT = (
        "in-transit",
        CauseInfo(
            meaning="a migration, save, dump, snapshot or start has stopped its CPUs for a while",
            remedy="wait for it: {virsh} domjobinfo {domain}",
            is_well=True,
            rows=(Row(Verdict.SUSPENDED, has=(Sign.IN_TRANSIT,)), Row(Verdict.INCOMING)),
        ),
    )
    ASLEEP = (
        "asleep",
        CauseInfo(
            meaning="the guest has suspended itself",
            remedy="{virsh} dompmwakeup {domain}",
            is_well=True,
            rows=(Row(Verdict.SUSPENDED, has=(Sign.ASLEEP,)),),
        ),
    )
    IO_ERROR = (
        "io-error",
        CauseInfo(
            meaning="QEMU has stopped it because its disk failed or is full",
            remedy="repair the disk ({virsh} domblkerror {domain} names it), then: "
            "{virsh} resume {domain}",
            rows=(Row(Verdict.SUSPENDED, has=(Sign.IO_ERROR,)),),
        ),
    )
    WATCHDOG = (
        "watchdog",
        CauseInfo(
            meaning="its watchdog has stopped it, because the guest did not feed it",
            remedy="see what it shows on its console, then: {virsh} reset {domain} && {virsh} "
            "resume {domain}",
            rows=(Row(Verdict.SUSPENDED, has=(Sign.WATCHDOG,)),),
        ),
    )
    CRASHED = (
        "crashed",
        CauseInfo(
            meaning="the guest's kernel has crashed, and has reported it to the panic device",
            remedy="keep a dump if you need one ({virsh} dump {domain} FILE), then: "
            "{virsh} destroy {domain} && {virsh} start {domain}",
            rows=(Row(Verdict.SUSPENDED, has=(Sign.CRASHED,)),),
        ),
    )
    RESTART_PENDING = (
        "restart-pending",
        CauseInfo(
            meaning="its persistent XML has a balloon, which it gets at its next start",
            remedy="shut it down and start it: {virsh} shutdown {domain}, then "
            "{virsh} start {domain}",
            rows=(
                Row(Verdict.NO_DEVICE, lacks=(Sign.BEHIND_LIBVIRT,), seen=(Sign.CONFIG_BALLOON,)),
            ),
            also=(Row(Verdict.NO_DEVICE, seen=(Sign.CONFIG_BALLOON,)),),
        ),
    )
    NO_DEVICE = (
        "no-device",
        CauseInfo(
            meaning="it has no balloon device",
            remedy="replace its <memballoon> by <memballoon model='virtio'/> ({virsh} edit "
            f"{{domain}}), {_RESTART}",
            check="{virtballoon} qom-path --via qom {name} finds no balloon (this taints the "
            "guest)",
            is_well=True,
            rows=(Row(Verdict.NO_DEVICE, lacks=(Sign.BEHIND_LIBVIRT, Sign.CONFIG_BALLOON)),),
        ),
    )
    UNKNOWN_TO_LIBVIRT = (
        "unknown-to-libvirt",
        CauseInfo(
            meaning="it has a balloon that libvirt did not define, as from <qemu:commandline>",
            remedy="read and set it by --via qom, which taints the guest: {virtballoon} "
            "set-interval --via qom {wanted} {name}; or replace it by <memballoon "
            f"model='virtio'/> ({{virsh}} edit {{domain}}), {_RESTART}",
            check="{virtballoon} qom-path --via qom {name} finds it (this taints the guest)",
            rows=(Row(Verdict.NO_DEVICE, has=(Sign.BEHIND_LIBVIRT,)),),
            also=(Row(None, seen=(Sign.BEHIND_LIBVIRT,)),),
        ),
    )
    SHUTOFF = (
        "shutoff",
        CauseInfo(meaning="it is not running", is_well=True, rows=(Row(Verdict.SHUTOFF),)),
    )
    QEMU_HUNG = (
        "qemu-hung",
        CauseInfo(
            meaning="its QEMU does not answer on its monitor",
            remedy="see on the host what its QEMU waits for (in ps, T is a stopped process, D one "
            "that waits for storage or a network file system) and fix that; the last resort is "
            "{virsh} destroy {domain}",
            rows=(Row(Verdict.BUSY, has=(Sign.MONITOR,)),),
        ),
    )
    JOB_RUNNING = (
        "job-running",
        CauseInfo(
            meaning="a job holds it, such as a migration, a backup or another call to libvirt",
            remedy="wait for it: {virsh} domjobinfo {domain}",
            rows=(Row(Verdict.BUSY, has=(Sign.JOB,)),),
        ),
    )
    NOT_ASKED = (
        "not-asked",
        CauseInfo(
            meaning="it was not asked, because too many other domains of its host hang",
            remedy="fix those first",
            rows=(Row(Verdict.BUSY, has=(Sign.LIMIT,), lacks=(Sign.MONITOR, Sign.JOB)),),
        ),
    )
    WAS_BUSY = (
        "was-busy",
        CauseInfo(
            meaning="it could not be read in time, and its monitor is free now",
            remedy="{virtballoon} doctor --timeout 30 {name}",
            rows=(Row(Verdict.BUSY, lacks=(Sign.MONITOR, Sign.JOB, Sign.LIMIT)),),
        ),
    )
    CLOCK_AHEAD = (
        "clock-ahead",
        CauseInfo(
            meaning="its last update is in the future: its host's clock is ahead of this machine's",
            remedy="set the clocks of this machine and of the host, for example by NTP",
            rows=(Row(Verdict.STALE, seen=(Sign.FUTURE,)),),
        ),
    )
    NOT_PASSED_ON = (
        "not-passed-on",
        CauseInfo(
            meaning="libvirt gives no statistics of this balloon, as of one on virtio-mmio",
            remedy="ask QEMU, which taints the guest: {virtballoon} stats --via qom {name}",
            rows=(Row(Verdict.FAILED, has=(Sign.NOT_GIVEN,), lacks=(Sign.OLD_LIBVIRT,)),),
        ),
    )
    TOO_OLD = (
        "too-old",
        CauseInfo(
            meaning="software is too old: {lacks}",
            remedy="update it; a new QEMU is in use after the domain was shut down and started",
            is_well=True,
            rows=(Row(Verdict.FAILED, has=(Sign.NOT_GIVEN, Sign.OLD_LIBVIRT)),),
            also=(Row(None, seen=(Sign.OLD_QEMU,)),),
        ),
    )
    UNREADABLE = (
        "unreadable",
        CauseInfo(
            meaning="reading it failed",
            remedy="see the error",
            rows=(Row(Verdict.FAILED, lacks=(Sign.NOT_GIVEN,)),),
        ),
    )
    CONFIG_DIFFERS = (
        "config-differs",
        CauseInfo(
            meaning="its persistent XML has another interval, which applies from its next start",
            remedy="{set_interval} --live --config {wanted} {name}",
            also=(Row(None, seen=(Sign.CONFIG_DRIFT,)),),
        ),
    )


#: From this QEMU on a reset clears the figures, before that one it does not; in between it depends
#: (hw/virtio/virtio-balloon.c).
CLEARS_FROM: Final = (10, 0)
KEEPS_UP_TO: Final = (9, 0)

#: libvirt gives a last update from 2.1 on (libvirt-domain.h).
LIBVIRT_GIVES_LAST_UPDATE: Final = (2, 1)


def possible_causes(verdict: Verdict, signs: Mapping[Sign, bool]) -> tuple[Cause, ...]:
    """The causes with a row that fits, the likeliest first; none where the domain changed while it
    was examined."""
    fitting = [
        (row, cause) for cause in Cause for row in cause.info.rows if row.fits(verdict, signs)
    ]
    fitting.sort(key=lambda pair: -len(pair[0].seen))
    return tuple(dict.fromkeys(cause for _, cause in fitting))


def other_problems(
    verdict: Verdict, signs: Mapping[Sign, bool], named: Iterable[Cause]
) -> tuple[Cause, ...]:
    """The problems that are no reason for the verdict.

    :param named: the causes that are named already
    """
    named = set(named)
    return tuple(
        cause
        for cause in Cause
        if cause not in named and any(row.fits(verdict, signs) for row in cause.info.also)
    )


def lacking(version: tuple[int, int]) -> tuple[str, ...]:
    """The statistics that a QEMU of this version lacks."""
    return tuple(s.name for s in STATISTIC_BY_NAME.values() if _numbers(s.qemu_since) > version)


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)
