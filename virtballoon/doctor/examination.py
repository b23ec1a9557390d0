"""Explains missing or stale statistics: asks the questions that tell causes apart, and watches the
domains that may still be updated.

Every question is asked within the time of the session, and none where a domain that hangs could
delay it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from typing import Final

from virtballoon.doctor.causes import Cause, Sign, possible_causes
from virtballoon.doctor.probes import (
    PROBES,
    WATCHED,
    Answer,
    ProcessorTime,
    ask,
    evidence_of,
    processor_use,
    signs_of,
    update_text,
)
from virtballoon.doctor.results import (
    CommandPrefixes,
    Diagnosis,
    Evidence,
    HostDiagnosis,
    PrefixesByHost,
)
from virtballoon.engine.limits import Deadline
from virtballoon.engine.scheduler import Scheduler
from virtballoon.engine.session import DEFAULT_TIMEOUT, HostSession
from virtballoon.engine.tasks import NoAnswer, hold_of, run_per_domain
from virtballoon.errors import ConnectionLost, VirtballoonError
from virtballoon.hypervisor.connection import AnyDomain, Control, Domain, Target
from virtballoon.hypervisor.uri import is_remote
from virtballoon.log import log_host
from virtballoon.model.clock import ClockOffset, offset_by_lateness, offset_by_movement
from virtballoon.model.memory import Figures
from virtballoon.model.report import DomainReport
from virtballoon.model.source import Source
from virtballoon.model.verdict import CLOCK_SKEW_SECONDS, UNPOLLED_SECONDS, State, Verdict
from virtballoon.operations.fleet import DEFAULT_JOBS, _visit_all
from virtballoon.operations.reading import chosen_domains, read_domain, read_domains

#: The share of the time that reading may take; the rest is for questions and watching.
_READING_SHARE: Final = 0.6
#: A domain is watched for this long at least; its processor time is known to have moved by then.
_LOOK_SECONDS: Final = 1.0
#: An update that is due comes within this time after the interval.
_LATE_SECONDS: Final = 1.0

#: What is known of a guest only until it is reset.
_UNTIL_RESET: Final = (Sign.AGENT_CONNECTED, Sign.AGENT_DISCONNECTED)


def diagnose_host(
    target: Target = None,
    domains: Iterable[str] | None = None,
    *,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    prefixes: PrefixesByHost = CommandPrefixes.by_uri,
) -> HostDiagnosis:
    """Find out why the figures of a host's domains are as they are.

    The domains are read as :func:`virtballoon.read_host` does, in the first 60 % of the time.
    Then questions are asked about those that are not well, and those that are stale or were never
    updated are watched: for one second, and for their interval where the time allows it. A domain
    with polling off that was updated in the last seconds is watched, too, since its QEMU may poll
    it.

    The arguments are those of :func:`virtballoon.read_host`. QOM taints each running guest.

    :param prefixes: how the commands of the remedies begin
    """
    session = HostSession(target, domains, via=via, readonly=via is Source.LIBVIRT, timeout=timeout)
    return diagnose_session(session, inactive=inactive, via=via, prefixes=prefixes)


def diagnose_hosts(
    targets: Sequence[Target],
    domains: Iterable[str] | None = None,
    *,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    jobs: int = DEFAULT_JOBS,
    prefixes: PrefixesByHost = CommandPrefixes.by_uri,
    on_result: Callable[[HostDiagnosis], object] | None = None,
) -> tuple[HostDiagnosis, ...]:
    """Find out why the figures of several hosts' domains are as they are, as
    :func:`diagnose_host` does, many hosts at a time.

    :param jobs: the number of hosts at a time
    :param on_result: called in this thread with each host as soon as it is done
    :return: the diagnoses of each target, in their order
    """
    words = None if domains is None else tuple(domains)

    def diagnose(target: Target) -> HostDiagnosis:
        return diagnose_host(
            target, words, inactive=inactive, via=via, timeout=timeout, prefixes=prefixes
        )

    return _visit_all([partial(diagnose, target) for target in targets], jobs, on_result)


def diagnose_session(
    session: HostSession, *, inactive: bool, via: Source, prefixes: PrefixesByHost
) -> HostDiagnosis:
    """Diagnose a host's domains as :func:`diagnose_host` does, in a session."""
    reports: list[DomainReport] = []
    diagnoses: list[Diagnosis] = []
    clock: ClockOffset | None = None
    with session, session.errors_kept():
        session.connect()
        end = session.deadline.at
        now = time.monotonic()
        session.deadline.at = now + (end - now) * _READING_SHARE
        try:
            chosen = chosen_domains(session, inactive=inactive)
            reports.extend(read_domains(session, chosen, via=via))
        finally:
            session.deadline.at = end
        domains = session.domains.values()
        examination = HostExamination(session.scheduler, reports, domains, via=via, deadline=end)
        examination.examine()
        diagnoses, clock = examination.diagnoses(prefixes(session.uri)), examination.clock
    if len(diagnoses) < len(reports):
        # The host was lost; what was read is reported.
        unexamined = [DomainExamination(report, None, uri=session.uri) for report in reports]
        diagnoses = [examined.diagnosis(prefixes(session.uri)) for examined in unexamined]
    host = session.result(
        HostDiagnosis,
        domains=tuple(sorted(diagnoses, key=lambda report: (report.name, report.uuid))),
        complete=all(report.is_complete for report in diagnoses),
        clock=clock,
    )
    return log_host(host)


def diagnose_domain(
    domain: AnyDomain,
    *,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    prefixes: PrefixesByHost = CommandPrefixes.by_uri,
) -> Diagnosis:
    """Find out why the figures of the caller's domain are as they are. Its connection stays open.

    :raise HostError: when the connection is broken
    :raise DomainNotFound: when the domain is gone
    :raise NotSupported: ``via`` is QOM and the host's driver is not QEMU's
    :raise ReadOnly: ``via`` is QOM and the connection may not write
    """
    deadline = time.monotonic() + timeout
    domain = Domain.of(domain)
    report = read_domain(domain, via=via, timeout=timeout * _READING_SHARE)
    scheduler = Scheduler(domain.connection, None)
    examination = HostExamination(scheduler, [report], [domain], via=via, deadline=deadline)
    try:
        examination.examine()
    finally:
        scheduler.close()
    (found,) = examination.diagnoses(prefixes(domain.connection.uri))
    return found


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What one look at a watched domain gave, at some time by ``time.monotonic()``.

    :ivar read_at: the same time as epoch seconds
    """

    figures: Figures
    state: State
    read_at: float
    at: float
    processor: ProcessorTime | None


class DomainExamination:
    """One domain that is examined: its newest report, and what is known besides.

    :param domain: None where nothing can be asked
    :param uri: the host's URI
    :ivar first: the report as it was read first
    :ivar report: the newest report
    :ivar signs: what is known
    """

    def __init__(self, report: DomainReport, domain: Domain | None, *, uri: str) -> None:
        self.uri = uri
        self.first = self.report = report
        self.domain = domain
        self.signs = signs_of(report)
        self.evidence = evidence_of(report)
        self.begun = time.monotonic()
        self.qemu_version: tuple[int, int] | None = None
        self._processor: ProcessorTime | None = None
        self._newest: Snapshot | None = None
        self._clock: ClockOffset | None = None
        self._has_new_update = False

    @property
    def causes(self) -> tuple[Cause, ...]:
        """The causes that are possible so far."""
        return possible_causes(self.report.verdict, self.signs)

    @property
    def may_be_updated(self) -> bool:
        """Whether watching it may show something."""
        return self.domain is not None and (self.report.verdict in WATCHED or self._may_be_polled)

    @property
    def _may_be_polled(self) -> bool:
        """Whether its QEMU may poll it although the XML has no interval, and so often that it soon
        shows."""
        age = self.report.age_seconds
        return (
            Cause.POLLING_OFF in self.causes
            and self.report.verdict is Verdict.POLLING_OFF
            and Sign.QEMU_INTERVAL not in self.signs
            and age is not None
            and age <= UNPOLLED_SECONDS
        )

    @property
    def watch_seconds(self) -> float:
        """How long to watch it."""
        if Cause.NOT_DUE in self.causes:
            return (self.report.interval.in_force or 0) + _LATE_SECONDS
        return UNPOLLED_SECONDS + _LATE_SECONDS if self._may_be_polled else _LOOK_SECONDS

    def add(self, answers: Iterable[tuple[Evidence, Answer]]) -> None:
        """Add the answers to some questions."""
        for evidence, answer in answers:
            self.evidence.append(evidence)
            self.signs |= answer.signs
            if isinstance(answer.found, ProcessorTime):
                self._processor = answer.found
            elif answer.found is not None:
                self.qemu_version = answer.found

    def add_missing(self, outcome: object, source: Source) -> None:
        """Add that questions have no answer, and why."""
        error = outcome.error if isinstance(outcome, NoAnswer) else outcome
        text = error.message if isinstance(error, VirtballoonError) else "no answer in time"
        self.evidence.append(Evidence(asked="further questions", by=source, answer=text))

    def look(self) -> Snapshot | Control:
        """Read its figures once more, in another thread."""
        assert self.domain is not None
        if hold := hold_of(self.domain):
            return hold
        state = self.domain.state()
        balloon = self.report.balloon
        if self.report.source is Source.QOM and balloon is not None and balloon.qom_path:
            figures = self.domain.monitor().guest_stats(balloon.qom_path)
        else:
            statistics = self.domain.connection.statistics([self.domain])
            found = statistics.get(self.domain.uuid)
            # A driver that does not take part in the bulk call gives no figures there.
            figures = (found.figures if found else None) or self.domain.figures()
        processor = None
        with suppress(VirtballoonError):
            processor = ProcessorTime.of(self.domain)
        return Snapshot(figures, state, time.time(), time.monotonic(), processor)

    def add_snapshot(self, snapshot: Snapshot) -> bool:
        """Add a look at it, and return whether it has another last update: a later one; an earlier
        one, where the host's clock was set back; or none, where a reset has cleared it."""
        report, self._newest = self.report, snapshot
        if snapshot.figures.last_update in {None, report.last_update or 0}:
            return False
        self._has_new_update = True
        sizes = {f.name: getattr(report.figures, f.name) for f in fields(Figures)}
        newer = {"stats": snapshot.figures.stats, "last_update": snapshot.figures.last_update}
        self.report = DomainReport.of(
            name=report.name,
            uuid=report.uuid,
            id=report.id,
            state=snapshot.state,
            machine=report.machine,
            balloon=report.balloon,
            interval=report.interval,
            source=report.source,
            figures=Figures(**sizes | newer),
            host=self.uri,
            now=snapshot.read_at,
        )
        if snapshot.figures.last_update:
            self.signs[Sign.UPDATED] = True
        else:
            for sign in _UNTIL_RESET:
                self.signs.pop(sign, None)
        return True

    def end_watch(self) -> None:
        """Add what watching it has shown."""
        asked, source, newest = "statistics, watched", self.report.source, self._newest
        if newest is None:
            text = "no answer in time"
            self.evidence.append(Evidence(asked=asked, by=source, answer=text))
            return
        elapsed = newest.at - self.begun
        interval = self.report.interval.in_force
        is_overdue = interval != 0 and elapsed >= (interval or 0) + _LATE_SECONDS
        if is_overdue and not self._has_new_update:
            self.signs[Sign.OVERDUE] = True
        text = update_text(self.report) if self._has_new_update else "no new update"
        asked += f" for {elapsed:.1f} s"
        self.evidence.append(Evidence(asked=asked, by=source, answer=text))
        if self._processor is not None and newest.processor is not None:
            evidence, signs = processor_use(self._processor, newest.processor)
            self.evidence.append(evidence)
            self.signs |= signs

    def add_clock(self, clock: ClockOffset) -> None:
        """Add the offset of the host's clock, which is more than that of two equal clocks."""
        self._clock = clock
        is_behind = clock.seconds < 0
        is_fresh = self.report.at_offset(clock.seconds).verdict is Verdict.FRESH
        self.signs[Sign.CLOCK_BEHIND] = is_behind and is_fresh
        answer = f"{abs(clock.seconds):.0f} s {'behind' if is_behind else 'ahead'}"
        asked = "the host's clock, by last updates"
        self.evidence.append(Evidence(asked=asked, by=self.report.source, answer=answer))

    def diagnosis(self, prefixes: CommandPrefixes) -> Diagnosis:
        """What follows from all that is known."""
        diagnosis = Diagnosis.from_signs(
            self.report,
            self.signs,
            self.evidence,
            uri=self.uri,
            prefixes=prefixes,
            qemu_version=self.qemu_version,
        )
        if self._clock is None or diagnosis.cause not in {Cause.CLOCK_BEHIND, Cause.CLOCK_AHEAD}:
            return diagnosis
        return diagnosis.at_offset(self._clock.seconds)


class HostExamination:
    """Examines the domains of one host that have been read.

    :param reports: the domains as they were read
    :param domains: the domains that exist
    :param deadline: when to end, by ``time.monotonic()``
    :ivar clock: the offset of the host's clock, once it has been estimated
    """

    def __init__(
        self,
        scheduler: Scheduler,
        reports: Iterable[DomainReport],
        domains: Iterable[Domain],
        *,
        via: Source,
        deadline: float,
    ) -> None:
        existing = {domain.uuid: domain for domain in domains}
        self._scheduler = scheduler
        self._via = via
        self._deadline = deadline
        self._begun = time.monotonic()
        self.clock: ClockOffset | None = None
        self._examined = [
            DomainExamination(r, existing.get(r.uuid), uri=scheduler.connection.uri)
            for r in reports
        ]

    def examine(self) -> None:
        """Ask the questions, and watch the domains that may be updated."""
        everyone = [examined for examined in self._examined if examined.domain is not None]
        # The other half is for watching.
        half = (self._begun + self._deadline) / 2
        for waits in (False, True):
            probes = [
                probe
                for probe in PROBES
                if probe.waits is waits and probe.source in {Source.LIBVIRT, self._via}
            ]
            tasks = {
                examined: partial(ask, domain, examined.report, probes)
                for examined in everyone
                if (domain := examined.domain)
                and any(probe.applies(examined.report, domain) for probe in probes)
            }
            for examined, outcome in self._run(tasks, half).items():
                if isinstance(outcome, list):
                    examined.add(outcome)
                else:
                    examined.add_missing(outcome, self._via)
        self._watch([examined for examined in everyone if examined.may_be_updated])
        self._add_clock()

    def diagnoses(self, prefixes: CommandPrefixes) -> list[Diagnosis]:
        """A diagnosis for each report."""
        return [examined.diagnosis(prefixes) for examined in self._examined]

    def _run(
        self, tasks: Mapping[DomainExamination, Callable[[], object]], until: float
    ) -> dict[DomainExamination, object]:
        """Run a task for each of these, until this time and no longer than the deadline."""
        examined = {each.domain: each for each in tasks if each.domain is not None}
        by_domain = {domain: tasks[each] for domain, each in examined.items()}
        end = Deadline(min(until, self._deadline))
        outcomes = {}
        for domain, outcome in run_per_domain(self._scheduler, by_domain, end):
            if isinstance(outcome, ConnectionLost):
                raise outcome
            outcomes[examined[domain]] = outcome
        return outcomes

    def _add_clock(self) -> None:
        """Estimate the offset of the host's clock, by what was read and what moved since."""
        before = {e.first.uuid: e.first.look for e in self._examined}
        after = {e.report.uuid: e.report.look for e in self._examined}
        is_far = is_remote(self._scheduler.connection.uri)
        clock = offset_by_movement(before, after)
        self.clock = clock or offset_by_lateness(before.values(), is_remote=is_far)
        if self.clock is not None and abs(self.clock.seconds) > CLOCK_SKEW_SECONDS:
            for examined in self._examined:
                examined.add_clock(self.clock)

    def _watch(self, examined: Sequence[DomainExamination]) -> None:
        """Look at these again until each was updated or was watched for long enough."""
        waiting = [each for each in examined if self._end_of(each) <= self._deadline]
        while waiting:
            now = time.monotonic()
            soonest = min(now + _LOOK_SECONDS, *(self._end_of(each) for each in waiting))
            time.sleep(max(0.0, soonest - now))
            # A domain that hangs by now must not delay the last look at the others.
            until = time.monotonic() + 2 * _LOOK_SECONDS
            for each, snapshot in self._run({e: e.look for e in waiting}, until).items():
                is_done = True
                if isinstance(snapshot, Snapshot):
                    has_new_update = each.add_snapshot(snapshot)
                    is_done = has_new_update or snapshot.at >= self._end_of(each)
                if is_done or time.monotonic() >= self._deadline:
                    waiting.remove(each)
                    each.end_watch()

    def _end_of(self, examined: DomainExamination) -> float:
        # Where the time does not suffice for what would decide, a short look must do.
        end = examined.begun + examined.watch_seconds
        return end if end < self._deadline else examined.begun + _LOOK_SECONDS
