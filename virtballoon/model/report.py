"""Results of reading: the reports of domains and hosts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from virtballoon.errors import Busy, NotSupported, VirtballoonError
from virtballoon.model.balloon import Balloon
from virtballoon.model.clock import ClockOffset, Look, offset_by_lateness, offset_by_movement
from virtballoon.model.memory import Anomaly, Figures, Usage, anomalies, reclaimable
from virtballoon.model.source import Source, may_have_qom
from virtballoon.model.statistics import MemoryStats
from virtballoon.model.value import Value
from virtballoon.model.verdict import (
    CLOCK_SKEW_SECONDS,
    STOPPED_STATES,
    UNPOLLED_SECONDS,
    State,
    Verdict,
    is_in_future,
    judge,
)

if TYPE_CHECKING:
    from virtballoon.model.hostmemory import HostMemory
    from virtballoon.model.pressure import Pressure
    from virtballoon.model.rates import Rates, Sample


class Interval(Value):
    """A domain's polling interval in seconds, 0 for off.

    :ivar live: the live XML's; None for a domain that does not run
    :ivar config: the inactive XML's; None for a transient domain
    :ivar saved: that of the XML in the saved image from which the domain would start
        (``virsh managedsave``); None without an image
    :ivar qemu: QEMU's own; None unless read through QOM
    """

    live: int | None = None
    config: int | None = None
    saved: int | None = None
    qemu: int | None = None

    @property
    def in_force(self) -> int | None:
        """The interval in force: QEMU's where it is known, else the live XML's; for a domain that
        does not run, the one that it would start with."""
        known = (self.qemu, self.live, self.saved, self.config)
        return next((seconds for seconds in known if seconds is not None), None)


class Unheard(StrEnum):
    """Why a guest has not answered."""

    NO_ANSWER = "no-answer"
    BUSY = "busy"
    FAILED = "failed"
    RESTARTED = "restarted"
    VANISHED = "vanished"
    POLLING_OFF = "polling-off"
    SUSPENDED = "suspended"
    INCOMING = "incoming"
    SHUTOFF = "shutoff"
    NO_DEVICE = "no-device"
    NOT_SET = "not-set"


class Refresh(Value):
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


def title_of(labels: Mapping[str, str]) -> str | None:
    """What people call a domain with these labels."""
    return labels.get("title") or labels.get("name")


class DomainReport(Value):
    """One domain with its figures, their age and source, and how reliable they are.

    :ivar name: the domain's name, foreign text: sanitise it before showing it
    :ivar id: libvirt's number of the running domain, or None
    :ivar machine: QEMU's machine type by the XML, such as ``pc-i440fx-7.2``, or None
    :ivar balloon: its balloon device, or None if it has none
    :ivar read_at: the time of reading, epoch seconds by this machine's clock
    :ivar clock_offset: the host's clock minus this machine's in seconds, as far as it is known
    :ivar is_incoming: whether the domain is being migrated to this host
    :ivar has_hugepages: whether the guest's memory is in huge pages of the host
    :ivar is_pinned: whether it is locked, or in use by a device of the host
    :ivar free_page_reporting: whether the balloon device offers it, so that the guest gives back
        pages that it does not use: ``on`` or ``off``; None without a balloon
    :ivar labels: what its XML says about it for people, such as its title: by name, at most 200
        characters of foreign text each
    :ivar excluded: whether the caller's configuration excludes it from what is done to all domains
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
    source: Source
    read_at: float
    figures: Figures
    error: VirtballoonError | None = None
    machine: str | None = None
    clock_offset: float = 0.0
    is_incoming: bool = False
    has_hugepages: bool = False
    is_pinned: bool = False
    free_page_reporting: str | None = None
    labels: Mapping[str, str] = MappingProxyType({})
    excluded: bool = False
    rates: Rates | None = None
    refresh: Refresh | None = None

    def __hash__(self) -> int:
        return hash((self.uuid, self.read_at))

    @property
    def title(self) -> str | None:
        """What people call it: its title, else the name that its platform shows, or None."""
        return title_of(self.labels)

    @property
    def stats(self) -> MemoryStats:
        """The guest's own figures."""
        return self.figures.stats

    @cached_property
    def usage(self) -> Usage:
        """The guest's used memory."""
        return Usage.of(self.figures)

    @property
    def reclaimable_bytes(self) -> int | None:
        """What a larger balloon could give back to the host; None for what is not known, and where
        the host cannot have it back."""
        if self.verdict is not Verdict.FRESH or self.has_hugepages or self.is_pinned:
            return None
        return reclaimable(self.figures, self.usage)

    @property
    def last_update(self) -> int | None:
        """When the guest gave the figures, epoch seconds by the host's clock; None for never."""
        return self.figures.last_update or None

    @property
    def _age(self) -> float | None:
        update = self.figures.last_update
        return self.read_at + self.clock_offset - update if update else None

    @property
    def age_seconds(self) -> float | None:
        """The time of reading minus the last update; by the host's clock where its offset is known
        (:attr:`HostReport.clock`), else by this machine's. None for never, and where the last
        update would lie in the future."""
        age = self._age
        return None if age is None or is_in_future(age) else age

    @cached_property
    def verdict(self) -> Verdict:
        """How reliable the figures are."""
        return judge(
            state=self.state,
            has_balloon=self.balloon is not None,
            interval=self.interval.in_force,
            last_update=self.figures.last_update,
            age_seconds=self.age_seconds,
            is_empty=self.stats.is_empty,
            is_incoming=self.is_incoming,
            is_busy=isinstance(self.error, Busy),
            has_failed=self.error is not None,
        )

    @cached_property
    def anomalies(self) -> tuple[Anomaly, ...]:
        """What cannot be right about the figures and their time."""
        found = anomalies(self.figures)
        if self.has_hugepages and self.figures.rss_bytes is not None:
            found = (*found, Anomaly.RSS_WITHOUT_HUGEPAGES)
        age = self._age
        if age is not None and is_in_future(age):
            found = (*found, Anomaly.UPDATE_IN_FUTURE)
        return found

    def explained(self, host: str) -> Self:
        """The same with an error if it has failed without one, on the host with this URI."""
        if self.verdict is not Verdict.FAILED or self.error is not None:
            return self
        error = VirtballoonError("its polling interval is unknown", host=host, domain=self.name)
        if self.interval.in_force is not None:
            error = NotSupported(
                "libvirt gives no statistics of this domain's balloon",
                host=host,
                domain=self.name,
                hint="read them from QEMU: --via qom" if may_have_qom(host) else None,
            )
        return replace(self, error=error)

    @property
    def has_failed(self) -> bool:
        """Whether it could not be read."""
        return not self.verdict.was_read

    @property
    def is_complete(self) -> bool:
        """Whether it could be read, and its figures are as new as was wanted."""
        return self.verdict.was_read and (self.refresh is None or self.refresh.is_well)

    @property
    def is_well(self) -> bool:
        """Whether there is nothing to be done."""
        return (self.verdict.is_well or self.excluded) and self.is_complete

    @property
    def sample(self) -> Sample:
        """What a later reading can be compared with."""
        # Not before it is needed: a list does without.
        from virtballoon.model.rates import Sample

        update = self.figures.last_update
        return Sample(uuid=self.uuid, id=self.id, last_update=update, stats=self.stats)

    def since(self, earlier: Sample | None) -> Self:
        """The same with what the guest did since an earlier reading of it, if there was one."""
        from virtballoon.model.rates import NoRate, Rates

        if earlier is None:
            return replace(self, rates=Rates(reason=NoRate.NO_FIGURES))
        return replace(self, rates=Rates.between(earlier, self.sample))

    @property
    def pressure(self) -> Pressure:
        """Whether the guest is short of memory, by its figures and :attr:`rates`; nothing is known
        of one whose figures are not fresh."""
        from virtballoon.model.pressure import Pressure

        is_fresh = self.verdict is Verdict.FRESH
        return Pressure.of(self.usage, self.rates) if is_fresh else Pressure()

    @property
    def look(self) -> Look:
        """The last update, for estimating the offset of the host's clock."""
        is_polled = self.state is not State.SHUTOFF and self.state not in STOPPED_STATES
        interval = self.interval.in_force if is_polled else 0
        return Look(interval or 0, self.last_update or 0, self.read_at)

    def is_recent(self, max_age: float) -> bool:
        """Whether its figures are no older than this, in seconds."""
        return self.age_seconds is not None and self.age_seconds <= max_age

    def may_be_newer(self, max_age: float) -> bool:
        """Whether its figures are older than this, in seconds, and the guest can give new ones."""
        is_known = self.verdict.can_update and self.figures.last_update is not None
        return is_known and not self.is_recent(max_age)

    @property
    def needs_polling(self) -> bool:
        """Whether setting an interval would bring this domain's figures to life."""
        is_running = self.verdict in {Verdict.POLLING_OFF, Verdict.SUSPENDED}
        return is_running and self.interval.in_force == 0 and not self.excluded

    @property
    def may_be_polled(self) -> bool:
        """Whether polling is off by libvirt, and a QEMU that polls it all the same would show that
        soon."""
        is_off = self.verdict is Verdict.POLLING_OFF and self.interval.qemu is None
        return is_off and self.is_recent(UNPOLLED_SECONDS)


def via_to_advise(reports: Iterable[DomainReport], *, is_qom: bool) -> list[str]:
    """The ``--via`` of an advised ``set-interval`` for these domains, as words of a command.

    :param is_qom: whether the source is QOM if the command names none
    """
    if any(row.balloon is not None and row.balloon.model is None for row in reports):
        # libvirt does not know this balloon.
        return ["--via", "qom"]
    # Through libvirt, the XML stays right.
    return ["--via", "libvirt"] if is_qom else []


class HostStatus(StrEnum):
    """How much of a host could be read."""

    OK = "ok"
    PARTIAL = "partial"
    UNREACHABLE = "unreachable"


T_co = TypeVar("T_co", covariant=True)


class HostResult(Value, Generic[T_co]):
    """The result for one host.

    :ivar uri: the host's libvirt URI, as the caller gave it, else as libvirt gives it
    :ivar hostname: the host's own name, or None if it was not reached
    :ivar status: how much of it was reached
    :ivar error: why no more of it was
    :ivar elapsed_seconds: how long it took, connecting included
    :ivar domains: the results for its domains, sorted by name
    :ivar unmatched: what was asked for and matched no domain
    """

    uri: str
    hostname: str | None
    status: HostStatus
    error: VirtballoonError | None
    elapsed_seconds: float
    domains: tuple[T_co, ...] = ()
    unmatched: tuple[str, ...] = ()


def unmatched_everywhere(hosts: Sequence[HostResult[object]]) -> list[str]:
    """The words that match no domain of any host that answered."""
    answered = [host for host in hosts if host.hostname is not None]
    return [
        word
        for word in (answered[0].unmatched if answered else ())
        if all(word in host.unmatched for host in answered)
    ]


class HostReport(HostResult[DomainReport]):
    """One host and the reports of its domains.

    :ivar clock: the host's clock minus this machine's, where that could be estimated; the ages are
        by the host's clock then
    :ivar memory: the host's memory and the sums over its running domains; None where the host does
        not give its memory
    """

    clock: ClockOffset | None = None
    memory: HostMemory | None = None

    def by_clock(self, earlier: HostReport | None = None, *, is_remote: bool) -> Self:
        """The same with ages and verdicts by the host's clock, as far as its offset can be told.

        :param earlier: the reading before it of the same host, itself with its clock; a domain
            whose last update has moved since shows what the host's clock was in between
        :param is_remote: whether the host may have a clock of its own
        """
        looks = self._looks
        if earlier is None:
            clock = offset_by_lateness(looks.values(), is_remote=is_remote)
        else:
            clock = offset_by_movement(earlier._looks, looks)
            if earlier.clock is not None:
                clock = earlier.clock if clock is None else earlier.clock.narrowed(clock)
        return self.at_clock(clock)

    @property
    def _looks(self) -> dict[str, Look]:
        read = (row for row in self.domains if row.figures.last_update is not None)
        return {row.uuid: row.look for row in read}

    def at_clock(self, clock: ClockOffset | None) -> Self:
        """The same by a clock with this offset; None where that is not known."""
        if clock is None:
            return self
        seconds = clock.seconds
        rows = (
            row if row.clock_offset == seconds else replace(row, clock_offset=seconds)
            for row in self.domains
        )
        return replace(self, domains=tuple(rows), clock=clock)

    @property
    def clock_problem(self) -> str | None:
        """What is wrong with the host's clock, as a line for people, or None."""
        seconds = self.clock.seconds if self.clock is not None else 0.0
        if abs(seconds) <= CLOCK_SKEW_SECONDS:
            return None
        direction = "ahead of" if seconds > 0 else "behind"
        return (
            f"the clock of {self.uri} seems to be {abs(seconds):.0f} s {direction} this machine's; "
            "ages are by the host's clock (set both clocks right, or all its guests stopped "
            "answering at the same time)"
        )

    def since(self, earlier: HostReport) -> Self:
        """The same with what each guest did since an earlier reading of the same host."""
        samples = {row.uuid: row.sample for row in earlier.domains}
        return replace(self, domains=tuple(r.since(samples.get(r.uuid)) for r in self.domains))
