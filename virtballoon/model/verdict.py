"""How far a domain's figures can be trusted. Pure: decides from what was read, touches nothing."""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple, Self

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


class Traits(NamedTuple):
    """All that is known of a verdict, which has it as its own attributes.

    :ivar meaning: what it says of a domain, as a clause
    :ivar advice: what to do about it; None where nothing is to be done
    :ivar style: how a terminal shows it
    :ivar is_well: whether nothing is to be done
    :ivar was_read: whether the domain could be read
    :ivar has_figures: whether the domain can have figures
    :ivar can_update: whether the guest can give new ones
    :ivar lacks_update: whether it is polled, and has not answered in time
    :ivar may_be_unpolled: whether its interval may be 0, so that it needs one
    """

    meaning: str
    advice: str | None = None
    style: str = "yellow"
    is_well: bool = False
    was_read: bool = True
    has_figures: bool = True
    can_update: bool = True
    lacks_update: bool = False
    may_be_unpolled: bool = False


class Verdict(StrEnum):
    """How reliable a domain's figures are. Its members are the one table of verdicts."""

    FRESH = "fresh", Traits("its figures are up to date", style="green", is_well=True)
    STALE = (
        "stale",
        Traits(
            "its figures are no longer updated",
            "see whether the guest hangs or its balloon driver was unloaded",
            lacks_update=True,
        ),
    )
    POLLING_OFF = (
        "polling-off",
        Traits("polling is off", "set an interval", may_be_unpolled=True),
    )
    UNANSWERED = (
        "unanswered",
        Traits(
            "it has not given any figures yet",
            "wait if it is booting; else it has no balloon driver, or one without statistics "
            "(FreeBSD, OpenBSD, OpenWrt)",
            lacks_update=True,
        ),
    )
    EMPTY = (
        "empty",
        Traits("its driver gives no statistics", NO_STATISTICS_ADVICE),
    )
    SUSPENDED = (
        "suspended",
        Traits(
            "it is suspended", style="cyan", is_well=True, can_update=False, may_be_unpolled=True
        ),
    )
    INCOMING = (
        "incoming",
        Traits(
            "it is being migrated to this host; the source host has its figures",
            style="cyan",
            is_well=True,
            can_update=False,
        ),
    )
    NO_DEVICE = (
        "no-device",
        Traits("it has no balloon", style="dim", is_well=True, has_figures=False, can_update=False),
    )
    SHUTOFF = (
        "shutoff",
        Traits("it is not running", style="dim", is_well=True, has_figures=False, can_update=False),
    )
    BUSY = (
        "busy",
        Traits(
            "QEMU's monitor or a job holds it",
            "see whether QEMU hangs",
            style="red",
            was_read=False,
            can_update=False,
        ),
    )
    FAILED = (
        "failed",
        Traits("it could not be read", style="bold red", was_read=False, can_update=False),
    )

    meaning: str
    advice: str | None
    style: str
    is_well: bool
    was_read: bool
    has_figures: bool
    can_update: bool
    lacks_update: bool
    may_be_unpolled: bool

    def __new__(cls, value: str, traits: Traits) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        vars(member).update(traits._asdict())
        return member

    @property
    def explanation(self) -> str:
        """Its meaning, and the advice if there is any."""
        return f"{self.meaning}: {self.advice}" if self.advice else self.meaning


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

    :param state: the domain's state
    :param has_balloon: whether it has a balloon device
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
    return _by_age(interval, age_seconds, is_empty=is_empty)


def _by_age(interval: int, age_seconds: float | None, *, is_empty: bool) -> Verdict:
    if is_empty:
        return Verdict.EMPTY
    # The age of an update that lies in the future is unknown, so it does not count as fresh.
    if age_seconds is None or is_in_future(age_seconds):
        return Verdict.STALE
    return Verdict.FRESH if age_seconds <= fresh_seconds(interval) else Verdict.STALE


def is_in_future(age_seconds: float) -> bool:
    """Whether an update of this age cannot have been yet."""
    return age_seconds < -CLOCK_SKEW_SECONDS
