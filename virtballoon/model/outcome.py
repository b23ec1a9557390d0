"""What came of setting, waiting and visiting: the objects that a caller gets beside reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from virtballoon.errors import VirtballoonError
from virtballoon.model.report import DomainReport, HostResult, Interval, Unheard


@dataclass(frozen=True, slots=True, kw_only=True)
class Waited:
    """Whether a guest has given new figures.

    :ivar answered: whether it has; None where there was nothing to wait for
    :ivar seconds: how long it was waited for; None if it was not
    :ivar reason: why it has not answered; None if it has
    """

    answered: bool | None
    seconds: float | None = None
    reason: Unheard | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainWait:
    """One domain that was waited for.

    :ivar waited: whether it has answered, and why not
    :ivar report: what was read of it last; None if it vanished
    """

    name: str
    uuid: str
    waited: Waited
    report: DomainReport | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWait(HostResult):
    """The domains of one host that were waited for.

    :ivar domains: the domains, sorted by name
    """

    domains: tuple[DomainWait, ...] = ()


class Outcome(StrEnum):
    """What became of setting one domain's interval."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalChange:
    """What setting the interval did, or would do, to one domain.

    :ivar outcome: what became of it
    :ivar changed: whether any interval differs from what it was; True beside a failed outcome
        means half done
    :ivar before: the intervals as they were
    :ivar after: the intervals as they are, or would be
    :ivar error: why it failed or was skipped, or None
    :ivar waited: whether the guest has answered since; None unless that was to be waited for
    """

    name: str
    uuid: str
    outcome: Outcome
    changed: bool
    before: Interval
    after: Interval
    error: VirtballoonError | None = None
    waited: Waited | None = None

    @property
    def is_well(self) -> bool:
        """Whether nothing failed, and the guest has answered where that was waited for."""
        has_answered = self.waited is None or self.waited.answered is not False
        return self.outcome is not Outcome.FAILED and has_answered


@dataclass(frozen=True, slots=True, kw_only=True)
class HostChanges(HostResult):
    """What setting the interval did to the domains of one host.

    :ivar changes: the domains, sorted by name
    """

    changes: tuple[IntervalChange, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HostProbe(HostResult):
    """Whether a host answers, and how many domains it has.

    :ivar running: how many domains run; None if it was not reached
    :ivar defined: how many have a persistent configuration, running or not; None if it was not
        reached
    """

    running: int | None
    defined: int | None
