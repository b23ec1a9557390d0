"""Result types for setting, waiting and probing."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Never

from virtballoon.errors import VirtballoonError
from virtballoon.model.report import DomainReport, HostResult, Interval, Unheard
from virtballoon.model.value import Value

if TYPE_CHECKING:
    from virtballoon.model.hostmemory import HostMemory


class Waited(Value):
    """Whether a guest has given new figures.

    :ivar answered: whether it has; None where there was nothing to wait for
    :ivar seconds: how long it was waited for; None if it was not
    :ivar reason: why it has not answered; None if it has
    """

    answered: bool | None
    seconds: float | None = None
    reason: Unheard | None = None


class DomainWait(Value):
    """One domain that was waited for.

    :ivar report: what was read of it last; None if the domain no longer exists
    """

    name: str
    uuid: str
    waited: Waited
    report: DomainReport | None


class HostWait(HostResult[DomainWait]):
    """The domains of one host that were waited for."""


class Outcome(StrEnum):
    """The result of setting one domain's interval."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"
    SKIPPED = "skipped"
    FAILED = "failed"


class IntervalChange(Value):
    """What setting the interval did, or would do, to one domain.

    :ivar changed: whether any interval differs from what it was; True with a failed outcome
        means half done
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
    def has_failed(self) -> bool:
        """Whether it could not be set."""
        return self.outcome is Outcome.FAILED

    @property
    def is_well(self) -> bool:
        """Whether nothing failed, and the guest has answered where that was waited for."""
        return not self.has_failed and (self.waited is None or self.waited.answered is not False)

    @property
    def caveat(self) -> str | None:
        """Why the domain will not start with the interval that was set; None where it will."""
        saved, config = self.after.saved, self.after.config
        if self.outcome not in {Outcome.CHANGED, Outcome.UNCHANGED} or saved in {None, config}:
            return None
        return (
            f"it starts from its saved image, which has the interval {saved}: start it and set the "
            "interval then, or discard the image and the guest's state in it with "
            "virsh managedsave-remove"
        )


class HostChanges(HostResult[IntervalChange]):
    """The result of setting the interval for the domains of one host."""


class QomPath(Value):
    """The QOM path of a domain's balloon."""

    name: str
    uuid: str
    qom_path: str


class HostQomPath(HostResult[QomPath]):
    """The domain of one host whose QOM path was asked for; none if it does not have it."""


class HostProbe(HostResult[Never]):
    """Whether a host answers, how many of its domains run and have a persistent configuration, and
    its memory with theirs; None if it was not reached, and a memory that it does not tell."""

    running: int | None
    defined: int | None
    memory: HostMemory | None = None
