"""How far a domain's figures can be trusted. Pure: decides from what was read, touches nothing."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, Self

#: An update may be as late as two intervals and this many seconds before it counts as stale.
GRACE_SECONDS: Final = 5
#: Of a guest that is not polled by libvirt's word, and whose last update is no older than this, the
#: next is waited for: one that comes by itself shows that QEMU polls it all the same. Of one that
#: QEMU polls less often than that, nothing shows it soon.
UNPOLLED_SECONDS: Final = 5.0

#: A clock that is up to this far ahead is taken for equal; last-update has whole seconds.
CLOCK_SKEW_SECONDS: Final = 5

#: What to do about a driver without statistics.
NO_STATISTICS_ADVICE: Final = (
    "on Windows, install the balloon service of virtio-win (blnsvr.exe -i); the drivers of "
    "FreeBSD, OpenBSD and OpenWrt have no statistics, so measure inside the guest"
)


def fresh_seconds(interval: int) -> float:
    """How old the figures of a domain that is polled at this interval may be without being stale,
    in seconds; and so how long its next update may take."""
    return 2.0 * interval + GRACE_SECONDS


class Verdict(StrEnum):
    """How reliable a domain's figures are.

    :ivar meaning: what it says of a domain, as a clause
    :ivar style: how a terminal shows it
    :ivar advice: what to do about it; None where nothing is to be done
    """

    meaning: str
    style: str
    advice: str | None

    FRESH = "fresh", "its figures are up to date", "green"
    STALE = (
        "stale",
        "its figures are no longer updated",
        "yellow",
        "see whether the guest hangs or its balloon driver was unloaded",
    )
    POLLING_OFF = "polling-off", "polling is off", "yellow", "set an interval"
    UNANSWERED = (
        "unanswered",
        "it has not given any figures yet",
        "yellow",
        "wait if it is booting; else it has no balloon driver, or one without statistics "
        "(FreeBSD, OpenBSD, OpenWrt)",
    )
    EMPTY = "empty", "its driver gives no statistics", "yellow", NO_STATISTICS_ADVICE
    SUSPENDED = "suspended", "it is suspended", "cyan"
    INCOMING = (
        "incoming",
        "it is being migrated to this host; the source host has its figures",
        "cyan",
    )
    NO_DEVICE = "no-device", "it has no balloon", "dim"
    SHUTOFF = "shutoff", "it is not running", "dim"
    BUSY = "busy", "QEMU's monitor or a job holds it", "red", "see whether QEMU hangs"
    FAILED = "failed", "it could not be read", "bold red"

    def __new__(cls, value: str, meaning: str, style: str, advice: str | None = None) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning, member.style, member.advice = meaning, style, advice
        return member

    @property
    def explanation(self) -> str:
        """Its meaning, and the advice if there is any."""
        return f"{self.meaning}: {self.advice}" if self.advice else self.meaning

    @property
    def was_read(self) -> bool:
        """Whether the domain could be read."""
        return self not in {Verdict.BUSY, Verdict.FAILED}

    @property
    def has_figures(self) -> bool:
        """Whether the domain can have figures."""
        return self not in {Verdict.NO_DEVICE, Verdict.SHUTOFF}

    @property
    def lacks_update(self) -> bool:
        """Whether it is polled, and has not answered in time."""
        return self in {Verdict.STALE, Verdict.UNANSWERED}

    @property
    def can_update(self) -> bool:
        """Whether the guest can give new figures."""
        return self.lacks_update or self in {Verdict.FRESH, Verdict.POLLING_OFF, Verdict.EMPTY}

    @property
    def is_well(self) -> bool:
        """Whether nothing is to be done."""
        return self is Verdict.FRESH or (self.was_read and not self.can_update)


class State(StrEnum):
    """A domain's state, under the names and in the order of libvirt's ``virDomainState``."""

    NOSTATE = "nostate"
    RUNNING = "running"
    BLOCKED = "blocked"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"
    SHUTOFF = "shutoff"
    CRASHED = "crashed"
    PMSUSPENDED = "pmsuspended"


#: The domain exists in QEMU and its CPUs stand still. QEMU asks the guest by its virtual clock,
#: which stands with them.
STOPPED_STATES: Final = frozenset({State.PAUSED, State.CRASHED, State.PMSUSPENDED})


def judge(
    *,
    state: State,
    has_balloon: bool,
    interval: int | None,
    last_update: int | None,
    age_seconds: float | None,
    is_empty: bool,
    is_incoming: bool = False,
    is_busy: bool = False,
    has_failed: bool = False,
) -> Verdict:
    """The verdict on one domain.

    :param interval: the polling interval in seconds that is in force, 0 for off, None if unknown
    :param last_update: when the guest last answered, epoch seconds; 0 for never; None where it
        could not be read
    :param age_seconds: now minus last-update; None where that is unknown
    :param is_empty: whether every figure is unset
    :param is_incoming: whether it is being migrated to this host
    :param is_busy: whether QEMU's monitor or a job holds it
    :param has_failed: whether reading failed in some other way
    """
    if is_busy:
        return Verdict.BUSY
    if has_failed:
        return Verdict.FAILED
    if is_incoming:
        return Verdict.INCOMING
    if state is State.SHUTOFF:
        return Verdict.SHUTOFF
    if not has_balloon:
        return Verdict.NO_DEVICE
    if state in STOPPED_STATES:
        return Verdict.SUSPENDED
    if interval == 0:
        return Verdict.POLLING_OFF
    if interval is None or last_update is None:
        return Verdict.FAILED
    if last_update <= 0:
        return Verdict.UNANSWERED
    if is_empty:
        return Verdict.EMPTY
    # The age of an update that lies in the future is unknown, so it does not count as fresh.
    if age_seconds is None or is_in_future(age_seconds):
        return Verdict.STALE
    return Verdict.FRESH if age_seconds <= fresh_seconds(interval) else Verdict.STALE


def is_in_future(age_seconds: float) -> bool:
    """Whether an update of this age cannot have been yet."""
    return age_seconds < -CLOCK_SKEW_SECONDS
