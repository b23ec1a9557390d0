"""Why a guest gives nothing, or nothing new: the signs of each cause, as a table. Pure.

A sign was seen, was found absent, or is not known. A row of the table fits unless a sign speaks
against it; where one row fits, its cause is the cause, and where several do, all of them are
possible. So a sign that is not known never decides anything, and no cause rests on a sign that
has another meaning, too: that meaning is another row. ``virtballoon-doctor(1)`` has this table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from virtballoon.model.statistics import STATISTIC_BY_NAME
from virtballoon.model.verdict import Verdict


class Cause(StrEnum):
    """Why a guest's figures are as they are, or what else there is to be mended."""

    WELL = "well"
    JUST_ANSWERED = "just-answered"
    DRIVER_UNLOADED = "driver-unloaded"
    JUST_RESET = "just-reset"
    GUEST_HUNG = "guest-hung"
    NOT_DUE = "not-due"
    INTERVAL_DIFFERS = "interval-differs"
    POLLING_OFF = "polling-off"
    BOOTING = "booting"
    NO_DRIVER = "no-driver"
    NO_STATISTICS = "no-statistics"
    PAUSED = "paused"
    IN_TRANSIT = "in-transit"
    ASLEEP = "asleep"
    IO_ERROR = "io-error"
    WATCHDOG = "watchdog"
    CRASHED = "crashed"
    NO_DEVICE = "no-device"
    UNKNOWN_TO_LIBVIRT = "unknown-to-libvirt"
    SHUTOFF = "shutoff"
    QEMU_HUNG = "qemu-hung"
    JOB_RUNNING = "job-running"
    NOT_ASKED = "not-asked"
    WAS_BUSY = "was-busy"
    CLOCK_AHEAD = "clock-ahead"
    NOT_PASSED_ON = "not-passed-on"
    TOO_OLD = "too-old"
    UNREADABLE = "unreadable"
    CONFIG_DIFFERS = "config-differs"
    RESTART_PENDING = "restart-pending"
    CONTRADICTORY = "contradictory"

    @property
    def is_well(self) -> bool:
        """Whether there is nothing that anyone would call a fault."""
        return self in _WELL


_WELL: Final = frozenset(
    {
        *(Cause.WELL, Cause.JUST_ANSWERED, Cause.SHUTOFF, Cause.NO_DEVICE),
        *(Cause.PAUSED, Cause.IN_TRANSIT, Cause.ASLEEP, Cause.TOO_OLD),
    }
)


class Sign(StrEnum):
    """Something that an answer shows."""

    AWAITED = "awaited"
    OVERDUE = "overdue"
    AGENT_CONNECTED = "agent-connected"
    XML_POLLS = "xml-polls"
    STOPPED = "stopped"
    IN_TRANSIT = "in-transit"
    ASLEEP = "asleep"
    IO_ERROR = "io-error"
    WATCHDOG = "watchdog"
    CRASHED = "crashed"
    BEHIND_LIBVIRT = "behind-libvirt"
    OCCUPIED = "occupied"
    JOB = "job"
    BARRED = "barred"
    AHEAD = "ahead"
    NOT_GIVEN = "not-given"
    OLD_LIBVIRT = "old-libvirt"
    QEMU_INTERVAL = "qemu-interval"
    DRIVER_OK = "driver-ok"
    STATISTICS = "statistics"
    BUFFER_HELD = "buffer-held"
    RESET_CLEARS = "reset-clears"
    DRIFT = "drift"
    CONFIG_DRIFT = "config-drift"
    CONFIG_BALLOON = "config-balloon"
    UNPOLLED = "unpolled"
    OLD_QEMU = "old-qemu"


#: What each sign means.
SIGNS: Final[Mapping[Sign, str]] = {
    Sign.AWAITED: "the first look found it stale, unanswered or not polled, and a later one saw "
    "another answer",
    Sign.OVERDUE: "it was watched for longer than the interval, and no answer came",
    Sign.AGENT_CONNECTED: "a guest agent holds its channel open, so the guest has booted",
    Sign.XML_POLLS: "the live XML has an interval above 0",
    Sign.STOPPED: "its CPUs stand still",
    Sign.IN_TRANSIT: "a migration, save, dump or snapshot holds its CPUs, or it is being started",
    Sign.ASLEEP: "the guest has suspended itself",
    Sign.IO_ERROR: "QEMU has stopped it since its disk failed",
    Sign.WATCHDOG: "its watchdog has stopped it",
    Sign.CRASHED: "the guest has told that it crashed, by a panic device",
    Sign.BEHIND_LIBVIRT: "it has a balloon that is not libvirt's, as from <qemu:commandline>",
    Sign.OCCUPIED: "a call waits for QEMU's monitor",
    Sign.JOB: "a job holds the domain",
    Sign.BARRED: "it was not asked, so as to leave the daemon to others",
    Sign.AHEAD: "the last update lies in the future",
    Sign.NOT_GIVEN: "libvirt gives no time of a last update",
    Sign.OLD_LIBVIRT: "the host's libvirt is too old to give one",
    Sign.QEMU_INTERVAL: "QEMU has told the interval that it really has",
    Sign.DRIVER_OK: "a driver in the guest has set the balloon up (DRIVER_OK)",
    Sign.STATISTICS: "that driver has accepted the statistics queue (F_STATS_VQ)",
    Sign.BUFFER_HELD: "QEMU holds the guest's statistics buffer: it has not asked since the last "
    "answer",
    Sign.RESET_CLEARS: "this QEMU forgets the figures at a reset, so they are from after the last",
    Sign.DRIFT: "QEMU's interval is not the live XML's",
    Sign.CONFIG_DRIFT: "the persistent XML's interval is not the live XML's",
    Sign.CONFIG_BALLOON: "the persistent XML has a balloon",
    Sign.UNPOLLED: "the interval is 0",
    Sign.OLD_QEMU: "this QEMU lacks something that newer ones have",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table.

    :ivar cause: the cause
    :ivar verdict: the verdict that it belongs to; None for what is found beside any verdict
    :ivar has: signs that speak for it: it does not fit where one is known to be absent
    :ivar lacks: signs that speak against it: it does not fit where one was seen
    :ivar seen: signs without which nobody would think of it: it fits only where all were seen
    """

    cause: Cause
    verdict: Verdict | None
    has: tuple[Sign, ...] = ()
    lacks: tuple[Sign, ...] = ()
    seen: tuple[Sign, ...] = ()

    @property
    def signs(self) -> tuple[Sign, ...]:
        """All that it is judged by."""
        return (*self.seen, *self.has, *self.lacks)

    def fits(self, signs: Mapping[Sign, bool]) -> bool:
        """Whether nothing that is known speaks against it."""
        return (
            all(signs.get(sign) for sign in self.seen)
            and all(signs.get(sign) is not False for sign in self.has)
            and not any(signs.get(sign) for sign in self.lacks)
        )


#: What stops a guest other than somebody's wish.
STOPPERS: Final = (Sign.IN_TRANSIT, Sign.ASLEEP, Sign.IO_ERROR, Sign.WATCHDOG, Sign.CRASHED)
_HELD: Final = (Sign.OCCUPIED, Sign.JOB, Sign.BARRED)

#: Why the figures are as they are. Of a verdict's rows one fits, or several, the likelier first.
TABLE: Final = (
    Row(Cause.WELL, Verdict.FRESH, lacks=(Sign.AWAITED,)),
    Row(Cause.JUST_ANSWERED, Verdict.FRESH, has=(Sign.AWAITED,)),
    Row(Cause.DRIVER_UNLOADED, Verdict.STALE, lacks=(Sign.DRIVER_OK,)),
    Row(
        Cause.GUEST_HUNG,
        Verdict.STALE,
        has=(Sign.DRIVER_OK, Sign.STATISTICS),
        lacks=(Sign.BUFFER_HELD,),
    ),
    # QEMU keeps a guest's figures over a reset up to 9.x.
    Row(
        Cause.JUST_RESET,
        Verdict.STALE,
        lacks=(Sign.DRIVER_OK, Sign.AGENT_CONNECTED, Sign.RESET_CLEARS),
    ),
    Row(
        Cause.NOT_DUE,
        Verdict.STALE,
        has=(Sign.DRIVER_OK, Sign.STATISTICS, Sign.BUFFER_HELD),
        lacks=(Sign.OVERDUE,),
    ),
    Row(Cause.NO_STATISTICS, Verdict.STALE, lacks=(Sign.STATISTICS,), seen=(Sign.DRIVER_OK,)),
    # A QEMU that polls more slowly than the XML says makes its guest look stale.
    Row(Cause.INTERVAL_DIFFERS, Verdict.STALE, lacks=(Sign.QEMU_INTERVAL,)),
    Row(Cause.BOOTING, Verdict.UNANSWERED, lacks=(Sign.DRIVER_OK, Sign.AGENT_CONNECTED)),
    Row(Cause.NO_DRIVER, Verdict.UNANSWERED, lacks=(Sign.DRIVER_OK,)),
    Row(Cause.NO_STATISTICS, Verdict.UNANSWERED, has=(Sign.DRIVER_OK,), lacks=(Sign.STATISTICS,)),
    Row(
        Cause.GUEST_HUNG,
        Verdict.UNANSWERED,
        lacks=(Sign.BUFFER_HELD,),
        seen=(Sign.DRIVER_OK, Sign.STATISTICS),
    ),
    Row(
        Cause.JUST_ANSWERED,
        Verdict.UNANSWERED,
        seen=(Sign.DRIVER_OK, Sign.STATISTICS, Sign.BUFFER_HELD),
    ),
    Row(Cause.POLLING_OFF, Verdict.POLLING_OFF, lacks=(Sign.XML_POLLS, Sign.AWAITED)),
    # A QEMU whose interval was set behind libvirt's back polls, whatever the XML says.
    Row(Cause.INTERVAL_DIFFERS, Verdict.POLLING_OFF, lacks=(Sign.XML_POLLS, Sign.QEMU_INTERVAL)),
    Row(Cause.INTERVAL_DIFFERS, Verdict.POLLING_OFF, has=(Sign.XML_POLLS,)),
    Row(Cause.NO_STATISTICS, Verdict.EMPTY),
    Row(Cause.PAUSED, Verdict.SUSPENDED, has=(Sign.STOPPED,), lacks=STOPPERS),
    Row(Cause.IN_TRANSIT, Verdict.SUSPENDED, has=(Sign.IN_TRANSIT,)),
    Row(Cause.ASLEEP, Verdict.SUSPENDED, has=(Sign.ASLEEP,)),
    Row(Cause.IO_ERROR, Verdict.SUSPENDED, has=(Sign.IO_ERROR,)),
    Row(Cause.WATCHDOG, Verdict.SUSPENDED, has=(Sign.WATCHDOG,)),
    Row(Cause.CRASHED, Verdict.SUSPENDED, has=(Sign.CRASHED,)),
    Row(Cause.NO_DEVICE, Verdict.NO_DEVICE, lacks=(Sign.BEHIND_LIBVIRT, Sign.CONFIG_BALLOON)),
    Row(
        Cause.RESTART_PENDING,
        Verdict.NO_DEVICE,
        lacks=(Sign.BEHIND_LIBVIRT,),
        seen=(Sign.CONFIG_BALLOON,),
    ),
    Row(Cause.UNKNOWN_TO_LIBVIRT, Verdict.NO_DEVICE, has=(Sign.BEHIND_LIBVIRT,)),
    Row(Cause.SHUTOFF, Verdict.SHUTOFF),
    Row(Cause.QEMU_HUNG, Verdict.BUSY, has=(Sign.OCCUPIED,)),
    Row(Cause.JOB_RUNNING, Verdict.BUSY, has=(Sign.JOB,)),
    Row(Cause.NOT_ASKED, Verdict.BUSY, has=(Sign.BARRED,), lacks=(Sign.OCCUPIED, Sign.JOB)),
    Row(Cause.WAS_BUSY, Verdict.BUSY, lacks=_HELD),
    Row(Cause.CLOCK_AHEAD, Verdict.FAILED, has=(Sign.AHEAD,)),
    Row(Cause.NOT_PASSED_ON, Verdict.FAILED, has=(Sign.NOT_GIVEN,), lacks=(Sign.OLD_LIBVIRT,)),
    Row(Cause.TOO_OLD, Verdict.FAILED, has=(Sign.NOT_GIVEN, Sign.OLD_LIBVIRT)),
    Row(Cause.UNREADABLE, Verdict.FAILED, lacks=(Sign.AHEAD, Sign.NOT_GIVEN)),
)

#: What else there may be to be mended, whatever the verdict; any number of these fit.
BESIDE: Final = (
    Row(Cause.INTERVAL_DIFFERS, None, seen=(Sign.DRIFT,)),
    Row(Cause.CONFIG_DIFFERS, None, seen=(Sign.CONFIG_DRIFT,)),
    Row(Cause.POLLING_OFF, Verdict.SUSPENDED, seen=(Sign.UNPOLLED,)),
    Row(Cause.UNKNOWN_TO_LIBVIRT, None, seen=(Sign.BEHIND_LIBVIRT,)),
    Row(Cause.RESTART_PENDING, Verdict.NO_DEVICE, seen=(Sign.CONFIG_BALLOON,)),
    Row(Cause.TOO_OLD, None, seen=(Sign.OLD_QEMU,)),
)


@dataclass(frozen=True, slots=True)
class Wording:
    """What is said of a cause. In braces stands what differs from guest to guest: ``virtballoon``,
    ``set_interval`` and ``virsh`` are these commands up to the host's URI, ``name`` and ``domain``
    the domain as virtballoon and virsh take it; ``interval`` is the interval in force
    and ``wanted`` the one to set, in seconds; ``lacks`` is what is too old and what it lacks.

    :ivar meaning: what is the matter
    :ivar remedy: the command or the advice that mends it; None where there is nothing to mend
    :ivar tell: by what it is told from others
    """

    meaning: str
    remedy: str | None = None
    tell: str = ""


_CONSOLE: Final = "its display or console ({virsh} console {domain})"
_STUCK: Final = f"wait until it has booted; if it does not, see where on {_CONSOLE}"

WORDINGS: Final[Mapping[Cause, Wording]] = {
    Cause.WELL: Wording("its figures are fresh"),
    Cause.JUST_ANSWERED: Wording(
        "it has answered only now: it has just booted or been reset or resumed, or its interval "
        "or its driver has just been changed"
    ),
    Cause.DRIVER_UNLOADED: Wording(
        "it has answered before, and its balloon driver is no longer loaded",
        "load it in the guest: modprobe virtio_balloon; on Windows, enable the VirtIO Balloon "
        "Driver in the device manager",
        "the guest works, and its lsmod shows no virtio_balloon",
    ),
    Cause.GUEST_HUNG: Wording(
        "its driver is there and does not answer: the guest hangs or has crashed",
        f"see what it says on {_CONSOLE}; if nothing goes on there: {{virsh}} reset {{domain}}",
        f"it does not react at {_CONSOLE}",
    ),
    Cause.JUST_RESET: Wording(
        "it was reset since its last answer, and is booting or stuck there",
        _STUCK,
        f"{_CONSOLE} shows it boot, or be stuck there",
    ),
    Cause.NOT_DUE: Wording(
        "the guest has answered all that it was asked, and QEMU has not asked again since its "
        "interval was changed or it was resumed: the next answer is due within {interval} s",
        "wait for {interval} s, and change the interval less often than that",
        "it answers within {interval} s",
    ),
    Cause.INTERVAL_DIFFERS: Wording(
        "QEMU has another interval than libvirt's XML says",
        "{set_interval} {wanted} {name}",
        "{virtballoon} list --via qom {name} shows QEMU's own interval",
    ),
    Cause.POLLING_OFF: Wording(
        "its interval is 0, so nobody asks it",
        "{set_interval} {wanted} {name}",
        "its last update stays the same",
    ),
    Cause.BOOTING: Wording(
        "it was started or reset, has not answered since, and is still booting or stuck there",
        _STUCK,
        f"{_CONSOLE} shows it boot, or be stuck there",
    ),
    Cause.NO_DRIVER: Wording(
        "it has booted, and has no balloon driver",
        "load it in the guest: modprobe virtio_balloon; on Windows, install the balloon driver "
        "and its service from virtio-win",
        "the guest works, and its lsmod shows no virtio_balloon",
    ),
    Cause.NO_STATISTICS: Wording(
        "its balloon driver gives no statistics",
        "on Windows, install the balloon service of virtio-win (blnsvr.exe -i); the drivers of "
        "other systems than Linux and Windows may have no statistics at all",
        "the guest has another system than Linux",
    ),
    Cause.PAUSED: Wording("somebody has suspended it", "{virsh} resume {domain}"),
    Cause.IN_TRANSIT: Wording(
        "a migration, save, dump, snapshot or start holds its CPUs for its time",
        "wait for it: {virsh} domjobinfo {domain}",
    ),
    Cause.ASLEEP: Wording("the guest has suspended itself", "{virsh} dompmwakeup {domain}"),
    Cause.IO_ERROR: Wording(
        "QEMU has stopped it since its disk failed or is full",
        "mend the disk ({virsh} domblkerror {domain} names it), then: {virsh} resume {domain}",
    ),
    Cause.WATCHDOG: Wording(
        "its watchdog has stopped it, since the guest no longer fed it",
        "see what it says in its console, then: {virsh} reset {domain} && {virsh} resume {domain}",
    ),
    Cause.CRASHED: Wording(
        "the guest's kernel has crashed, and said so to its panic device",
        "keep a dump if you want one ({virsh} dump {domain} FILE), then: {virsh} destroy {domain} "
        "&& {virsh} start {domain}",
    ),
    Cause.NO_DEVICE: Wording(
        "it has no balloon device",
        "{virsh} edit {domain}, and give its <devices> a <memballoon model='virtio'/> in place of "
        "any other; it has the balloon once it was shut down and started anew, for which a reboot "
        "from within is not enough",
        "{virtballoon} qom-path --via qom {name} finds none",
    ),
    Cause.UNKNOWN_TO_LIBVIRT: Wording(
        "it has a balloon that libvirt does not know, as from <qemu:commandline>",
        "read and set it with --via qom, which marks the guest as tainted: {virtballoon} "
        "set-interval --via qom {wanted} {name}; or give its XML a <memballoon model='virtio'/> "
        "in place of it, and shut it down and start it anew",
        "{virtballoon} qom-path --via qom {name} finds it",
    ),
    Cause.SHUTOFF: Wording("it does not run"),
    Cause.QEMU_HUNG: Wording(
        "its QEMU does not answer its monitor",
        "see on the host what its QEMU waits for (ps shows T for one that is stopped, D for one "
        "that waits for storage or a network file system), and mend that; the last resort is "
        "{virsh} destroy {domain}",
    ),
    Cause.JOB_RUNNING: Wording(
        "a job holds it, such as a migration, a backup or another call to libvirt",
        "wait for it: {virsh} domjobinfo {domain}",
    ),
    Cause.NOT_ASKED: Wording(
        "too many other guests of its host hang for it to be asked", "mend those first"
    ),
    Cause.WAS_BUSY: Wording(
        "the time was up before it could be read, and nobody holds its monitor now",
        "{virtballoon} doctor --timeout 30 {name}",
    ),
    Cause.CLOCK_AHEAD: Wording(
        "its last update lies in the future",
        "set the clocks of this machine and of the host right",
    ),
    Cause.NOT_PASSED_ON: Wording(
        "libvirt gives no statistics of this balloon, as of one on virtio-mmio",
        "ask QEMU itself, which marks the guest as tainted: {virtballoon} stats --via qom {name}",
    ),
    Cause.TOO_OLD: Wording(
        "something is old: {lacks}",
        "update it; QEMU is a new one once the guest was shut down and started anew",
    ),
    Cause.UNREADABLE: Wording("reading it failed", "see the error"),
    Cause.CONFIG_DIFFERS: Wording(
        "its persistent XML has another interval than the live one, and rules from the next start "
        "on",
        "{set_interval} --live --config {wanted} {name}",
    ),
    Cause.RESTART_PENDING: Wording(
        "its persistent XML has a balloon, which it gets with its next start",
        "shut it down and start it anew: {virsh} shutdown {domain}, then {virsh} start {domain}",
    ),
    Cause.CONTRADICTORY: Wording(
        "the answers contradict each other, as when it changes while it is asked",
        "{virtballoon} doctor {name}",
    ),
}

#: What only QEMU can answer: the question for each of these signs.
QEMU_QUESTIONS: Final[Mapping[Sign, str]] = {
    Sign.DRIVER_OK: "x-query-virtio-status",
    Sign.STATISTICS: "x-query-virtio-status",
    Sign.BUFFER_HELD: "x-query-virtio-queue-status",
    Sign.QEMU_INTERVAL: "qom-get guest-stats-polling-interval",
    Sign.RESET_CLEARS: "query-version",
    Sign.BEHIND_LIBVIRT: "qom-list",
}
#: What the answer would tell.
WOULD_TELL: Final[Mapping[str, str]] = {
    "x-query-virtio-status": "whether a driver has set the balloon up, and with statistics",
    "x-query-virtio-queue-status": "whether QEMU waits for the guest's answer or has it",
    "qom-get guest-stats-polling-interval": "whether QEMU has the interval that the XML says",
    "query-version": "whether the figures can be from before a reset",
    "qom-list": "whether there is a balloon that libvirt does not know",
}

#: From this QEMU on a reset clears the figures, and up to that one it does not; in between it
#: depends (hw/virtio/virtio-balloon.c).
CLEARS_FROM: Final = (10, 0)
KEEPS_UP_TO: Final = (9, 0)

#: From this QEMU on it tells how far a guest has set up a device.
_TELLS_STATUS_FROM: Final = (7, 2)
#: libvirt tells of a last update from 2.1 on (libvirt-domain.h).
LIBVIRT_TELLS_LAST_UPDATE: Final = (2, 1)


def fitting(verdict: Verdict, signs: Mapping[Sign, bool]) -> tuple[Row, ...]:
    """The rows that fit, the likelier first; none where the signs contradict each other."""
    return tuple(row for row in TABLE if row.verdict is verdict and row.fits(signs))


def beside(verdict: Verdict, signs: Mapping[Sign, bool], main: Iterable[Cause]) -> tuple[Row, ...]:
    """What else there is to be mended.

    :param main: the causes that are named already
    """
    named = set(main)
    return tuple(
        row
        for row in BESIDE
        if row.verdict in {None, verdict} and row.cause not in named and row.fits(signs)
    )


def unasked(rows: Iterable[Row], signs: Mapping[Sign, bool]) -> tuple[str, ...]:
    """The questions that only QEMU could answer and that would tell these rows apart."""
    rows = tuple(rows)
    unknown = [sign for row in rows for sign in row.signs if sign not in signs]
    asked = (QEMU_QUESTIONS[sign] for sign in unknown if sign in QEMU_QUESTIONS)
    return tuple(dict.fromkeys(asked)) if len(rows) > 1 else ()


def lacking(version: tuple[int, int]) -> tuple[str, ...]:
    """What a QEMU of this version lacks."""
    lacks = []
    if version < _TELLS_STATUS_FROM:
        lacks.append("x-query-virtio-status, which tells a missing driver from a guest that hangs")
    newer = [s.name for s in STATISTIC_BY_NAME.values() if _numbers(s.qemu_since) > version]
    if newer:
        *others, last = newer
        lacks.append(f"{', '.join(others)} and {last}" if others else last)
    return tuple(lacks)


def _numbers(version: str) -> tuple[int, int]:
    major, minor = version.split(".")
    return int(major), int(minor)
