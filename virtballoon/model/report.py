"""What is known of a domain and of a host: the typed objects that a caller gets who reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Self

from virtballoon.errors import Busy, VirtballoonError
from virtballoon.model.balloon import Balloon
from virtballoon.model.memory import Figures, MemoryStats, Usage, notes_on
from virtballoon.model.note import Note
from virtballoon.model.source import Source
from virtballoon.model.verdict import State, Verdict, is_in_future, judge

if TYPE_CHECKING:
    from virtballoon.model.rates import Rates, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """A domain's polling interval in seconds, 0 for off, by everyone who has a say.

    :ivar live: the live XML's; None for a domain that does not run
    :ivar config: the inactive XML's; None for a transient domain
    :ivar qemu: what QEMU itself has; None unless asked through QOM
    """

    live: int | None = None
    config: int | None = None
    qemu: int | None = None

    @property
    def in_force(self) -> int | None:
        """The interval that rules now: QEMU's where known, else the live XML's, else, for a domain
        that does not run, the one that it would start with."""
        for value in (self.qemu, self.live, self.config):
            if value is not None:
                return value
        return None


class Unheard(StrEnum):
    """Why a guest has not answered."""

    NO_ANSWER = "no-answer"
    BUSY = "busy"
    FAILED = "failed"
    RESTARTED = "restarted"
    VANISHED = "vanished"
    POLLING_OFF = "polling-off"
    SUSPENDED = "suspended"
    SHUTOFF = "shutoff"
    NO_DEVICE = "no-device"
    NOT_SET = "not-set"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """Whether a guest's figures are as new as was wanted, and what was done for that.

    :ivar fresh: whether they are; None where a guest has none, since it does not run or has no
        balloon
    :ivar asked: whether the guest was asked, by changing its polling interval for a while
    :ivar seconds: how long its answer was waited for; None if it was not
    :ivar reason: why they are not; None if they are
    :ivar restored: whether its interval is again what it was; None where it was not changed.
        Through libvirt that is the interval that libvirt knows: another one that only QEMU had is
        lost.
    :ivar error: what went wrong with asking or restoring, or None
    """

    fresh: bool | None
    asked: bool = False
    seconds: float | None = None
    reason: Unheard | None = None
    restored: bool | None = None
    error: VirtballoonError | None = None

    @property
    def is_well(self) -> bool:
        """Whether nothing is missing, and nothing was left changed."""
        return self.fresh is not False and self.restored is not False


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainReport:
    """One domain with its figures, their age and source, and what they are worth.

    :ivar name: the domain's name, as somebody chose it: sanitise it before showing it
    :ivar uuid: its UUID, in the canonical form
    :ivar id: libvirt's number of the running domain, or None
    :ivar state: its state
    :ivar machine: QEMU's machine type by the XML, such as ``pc-i440fx-7.2``, or None
    :ivar balloon: its balloon device, or None if it has none
    :ivar interval: the polling interval
    :ivar verdict: what the figures are worth
    :ivar source: where they come from
    :ivar last_update: when the guest gave them, epoch seconds by the host's clock, or None for
        never
    :ivar age_seconds: the time of reading, by this machine's clock, minus ``last_update``
    :ivar figures: the guest's figures and the host's beside them
    :ivar usage: what of the guest's memory is used
    :ivar notes: what cannot be so about the figures and their time
    :ivar error: what went wrong, or None
    :ivar rates: what the guest did since an earlier reading; None unless that was asked for
    :ivar refresh: whether the figures are as new as was wanted; None unless that was asked for
    """

    name: str
    uuid: str
    id: int | None
    state: State
    balloon: Balloon | None
    interval: Interval
    verdict: Verdict
    source: Source
    last_update: int | None
    age_seconds: float | None
    figures: Figures
    usage: Usage
    notes: tuple[Note, ...] = ()
    error: VirtballoonError | None = None
    machine: str | None = None
    rates: Rates | None = None
    refresh: Refresh | None = None

    @property
    def is_complete(self) -> bool:
        """Whether it could be read, and its figures are as new as was wanted."""
        is_fresh = self.refresh is None or self.refresh.is_well
        return self.verdict not in {Verdict.BUSY, Verdict.FAILED} and is_fresh

    @property
    def stats(self) -> MemoryStats:
        """The guest's own figures."""
        return self.figures.stats

    @property
    def sample(self) -> Sample:
        """What a later reading can be compared with."""
        # Not before it is needed: a list does without.
        from virtballoon.model.rates import Sample

        update = self.figures.last_update
        return Sample(uuid=self.uuid, id=self.id, last_update=update, stats=self.stats)

    def since(self, earlier: Sample | None) -> Self:
        """The same with what the guest did since an earlier reading.

        :param earlier: that reading of the same domain; None if there was none
        """
        from virtballoon.model.rates import NoRate, Rates

        if earlier is None:
            return replace(self, rates=Rates(reason=NoRate.NO_FIGURES))
        return replace(self, rates=Rates.between(earlier, self.sample))

    @classmethod
    def of(
        cls,
        *,
        name: str,
        uuid: str,
        id: int | None,  # noqa: A002 - the JSON's word
        state: State,
        balloon: Balloon | None,
        interval: Interval,
        source: Source,
        figures: Figures,
        host: str,
        now: float,
        machine: str | None = None,
        error: VirtballoonError | None = None,
    ) -> Self:
        """Put together what was read, and judge it.

        :param host: the host's URI, for errors
        :param now: the time of reading, epoch seconds
        """
        age = now - figures.last_update if figures.last_update else None
        verdict = judge(
            state=state,
            has_balloon=balloon is not None,
            interval=interval.in_force,
            last_update=figures.last_update,
            age_seconds=age,
            is_empty=figures.stats.is_empty,
            is_busy=isinstance(error, Busy),
            has_failed=error is not None,
        )
        if verdict is Verdict.FAILED and error is None:
            error = _unexplained(interval, figures, age, host=host, domain=name)
        is_early = age is not None and is_in_future(age)
        return cls(
            name=name,
            uuid=uuid,
            id=id,
            state=state,
            machine=machine,
            balloon=balloon,
            interval=interval,
            verdict=verdict,
            source=source,
            last_update=figures.last_update or None,
            age_seconds=age,
            figures=figures,
            usage=Usage.of(figures.stats, maximum_bytes=figures.maximum_bytes),
            notes=(*notes_on(figures), *[Note.UPDATE_IN_FUTURE] * is_early),
            error=error,
        )

    @property
    def is_well(self) -> bool:
        """Whether there is nothing to be done."""
        return self.verdict.is_well and self.is_complete

    @property
    def needs_polling(self) -> bool:
        """Whether setting an interval would bring this domain's figures to life."""
        unpolled = self.verdict in {Verdict.POLLING_OFF, Verdict.SUSPENDED}
        return unpolled and self.interval.in_force == 0


def _unexplained(
    interval: Interval, figures: Figures, age: float | None, *, host: str, domain: str
) -> VirtballoonError:
    if interval.in_force is None:
        return VirtballoonError("its polling interval is unknown", host=host, domain=domain)
    if figures.last_update is None:
        return VirtballoonError(
            "libvirt gives no statistics of this balloon",
            host=host,
            domain=domain,
            hint="QEMU may have them: --via qom",
        )
    return VirtballoonError(
        f"the last update lies {-(age or 0):.0f} s in the future, so its age is unknown",
        host=host,
        domain=domain,
        hint="set the clocks of this machine and of the host right",
    )


class HostStatus(StrEnum):
    """How much of a host could be read."""

    OK = "ok"
    PARTIAL = "partial"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostResult:
    """What a visit to one host came to.

    :ivar uri: the host's libvirt URI, as the caller gave it, else as libvirt tells it
    :ivar hostname: the host's own name, or None if it was not reached
    :ivar status: how much of it was reached
    :ivar error: why no more of it was
    :ivar elapsed_seconds: how long it took, connecting included
    :ivar unmatched: what was asked for and matched no domain
    """

    uri: str
    hostname: str | None
    status: HostStatus
    error: VirtballoonError | None
    elapsed_seconds: float
    unmatched: tuple[str, ...] = ()


def unmatched_everywhere(hosts: Sequence[HostResult]) -> list[str]:
    """The words that match no domain of any host that answered."""
    answered = [host for host in hosts if host.hostname is not None]
    return [
        word
        for word in (answered[0].unmatched if answered else ())
        if all(word in host.unmatched for host in answered)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostReport(HostResult):
    """One host and its domains.

    :ivar domains: the domains, sorted by name
    """

    domains: tuple[DomainReport, ...] = ()

    def since(self, earlier: HostReport) -> Self:
        """The same with what each guest did since an earlier reading of the same host."""
        samples = {row.uuid: row.sample for row in earlier.domains}
        return replace(self, domains=tuple(r.since(samples.get(r.uuid)) for r in self.domains))
