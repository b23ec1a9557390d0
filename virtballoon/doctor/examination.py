"""Explains missing or stale statistics: asks the questions that tell causes apart, and watches the
domains that may still be updated. A domain that hangs delays none of that."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from virtballoon.doctor.causes import Cause, Sign, other_problems, possible_causes
from virtballoon.doctor.probes import (
    ONE_CPU,
    PROBES,
    PROCESSOR_TIME,
    Answer,
    Probe,
    ProcessorTime,
    ask,
    evidence_of,
    signs_of,
    update_text,
)
from virtballoon.doctor.results import (
    CommandPrefixes,
    Diagnosis,
    Evidence,
    HostDiagnosis,
    PossibleCause,
    PrefixesByHost,
    texts,
)
from virtballoon.engine.session import DEFAULT_TIMEOUT, HostSession
from virtballoon.engine.tasks import run_per_domain
from virtballoon.errors import ConnectionLost, DomainNotFound
from virtballoon.hypervisor.connection import Target
from virtballoon.hypervisor.domain import AnyDomain, Domain
from virtballoon.hypervisor.uri import is_remote
from virtballoon.log import log_host
from virtballoon.model.clock import ClockOffset, offset_by_lateness, offset_by_movement
from virtballoon.model.report import DomainReport
from virtballoon.model.source import Source, may_have_qom
from virtballoon.model.verdict import CLOCK_SKEW_SECONDS, UNPOLLED_SECONDS, Verdict
from virtballoon.operations.reading import (
    chosen_domains,
    host_memory,
    host_report,
    meeting,
    read_domains,
)
from virtballoon.operations.waiting import Watched, updates

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
    updated are watched: for one second, and for their interval where the time allows it. So are
    those with little memory left, to see whether they are short of it. A domain with polling off
    that was updated in the last seconds is watched, too, since its QEMU may poll it.

    :param prefixes: how the commands of the remedies begin
    """
    session = HostSession(target, domains, via=via, timeout=timeout, reads_memory=True)
    examination = HostExamination(session, via=via)
    with session, session.errors_kept():
        session.connect()
        examination.examine(chosen_domains(session, inactive=inactive))
    # Where the host was lost, what is known until then is reported.
    diagnoses = examination.diagnoses(prefixes)
    host = session.result(
        HostDiagnosis,
        domains=tuple(sorted(diagnoses, key=lambda report: (report.name, report.uuid))),
        complete=all(report.is_complete for report in diagnoses),
        clock=examination.clock,
        memory=host_memory(session, examination.read),
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
    domain = Domain.of(domain)
    # Nothing has to be looked for.
    session = HostSession(domain.connection, (), via=via, timeout=timeout)
    examination = HostExamination(session, via=via)
    with session:
        session.connect()
        examination.examine({domain.uuid: domain})
    for diagnosis in examination.diagnoses(prefixes):
        return diagnosis
    raise DomainNotFound("it no longer exists", host=session.uri, domain=domain.name)


class DomainExamination:
    """One domain that is examined: its first and its newest report, and what is known besides."""

    def __init__(self, report: DomainReport, *, uri: str) -> None:
        self.uri = uri
        self.first = self.report = report
        self.signs = signs_of(report)
        self.evidence = evidence_of(report)
        self.begun = time.monotonic()
        self._qemu_version: tuple[int, int] | None = None
        self._processor: ProcessorTime | None = None
        self._clock: ClockOffset | None = None

    def watched(self, domain: Domain, until: float) -> Watched | None:
        """How it is watched, at most until then, by ``time.monotonic()``; None for not."""
        report, longest = self.report, 0.0
        if report.may_be_polled:
            longest = UNPOLLED_SECONDS
        elif self._may_be_short:
            # Until its next update.
            longest = max(0.0, (report.interval.in_force or 0) - (report.age_seconds or 0))
        elif not report.verdict.lacks_update:
            return None
        elif Cause.NOT_DUE in possible_causes(report.verdict, self.signs):
            longest = report.interval.in_force or 0
        for seconds in (longest + _LATE_SECONDS, _LOOK_SECONDS):
            if self.begun + seconds <= until:
                return Watched.of(domain, report, since=self.begun, seconds=seconds)
        return None

    @property
    def _may_be_short(self) -> bool:
        """Whether it takes a second update to know if it is short of memory."""
        return self.first.verdict is Verdict.FRESH and bool(self.signs.get(Sign.LOW_MEMORY))

    def add_evidence(self, asked: str, answer: str, *, by: Source | None = None) -> None:
        """Add a question and its answer, by default of the source of the figures."""
        source = by or self.report.source
        self.evidence.append(Evidence(asked=asked, by=source, answer=answer))

    def add(self, answers: Iterable[tuple[Probe, Answer]]) -> None:
        """Add the answers to some questions."""
        for probe, answer in answers:
            if isinstance(answer.found, ProcessorTime):
                if self._processor is not None:
                    self._compare(self._processor, answer.found)
                    continue
                self._processor = answer.found
            elif answer.found is not None:
                self._qemu_version = answer.found
            self.add_evidence(probe.name, answer.text, by=probe.source)
            self.signs |= answer.signs

    def _compare(self, before: ProcessorTime, now: ProcessorTime) -> None:
        """Add the processor time that its QEMU has used while it was watched."""
        elapsed, used = now.at - before.at, now.seconds - before.seconds
        cpus = f"{now.cpus} CPU{'s' * (now.cpus != 1)}"
        asked = f"processor time of its QEMU over {elapsed:.1f} s"
        self.add_evidence(asked, f"{used:.2f} s; the guest has {cpus}", by=Source.LIBVIRT)
        low, high = ONE_CPU
        self.signs[Sign.SPINNING] = low * elapsed <= used <= high * elapsed

    def add_watch(self, report: DomainReport) -> None:
        """Add what was read of it last. Its last update is a later one than before, or an earlier
        one where the host's clock was set back, or none where a reset cleared it; or there was no
        new one."""
        text, asked = "no answer in time", "statistics, watched"
        last_update, interval = report.figures.last_update, self.report.interval.in_force
        if last_update is not None:
            elapsed = time.monotonic() - self.begun
            asked += f" for {elapsed:.1f} s"
            if last_update != (self.report.last_update or 0):
                self.report = report
                text = update_text(report)
                if self._may_be_short:
                    self._add_pressure(report)
                elif last_update:
                    self.signs[Sign.UPDATED] = True
                else:
                    for sign in _UNTIL_RESET:
                        self.signs.pop(sign, None)
            else:
                text = "no new update"
                if interval and elapsed >= interval + _LATE_SECONDS:
                    self.signs[Sign.OVERDUE] = True
        self.add_evidence(asked, text)

    def _add_pressure(self, report: DomainReport) -> None:
        pressure = report.since(self.first.sample).pressure
        self.add_evidence("memory, between two updates", pressure.text)
        if pressure.is_short is not None:
            self.signs[Sign.SHORT_OF_MEMORY] = pressure.is_short

    def add_clock(self, clock: ClockOffset) -> None:
        """Add the offset of the host's clock, which is more than that of two equal clocks."""
        self._clock = clock
        is_behind = clock.seconds < 0
        is_fresh = replace(self.report, clock_offset=clock.seconds).verdict is Verdict.FRESH
        self.signs[Sign.CLOCK_BEHIND] = is_behind and is_fresh
        answer = f"{abs(clock.seconds):.0f} s {'behind' if is_behind else 'ahead'}"
        self.add_evidence("the host's clock, by last updates", answer)

    def diagnosis(self, prefixes: CommandPrefixes) -> Diagnosis:
        """What follows from all that is known."""
        report, signs = self.report, self.signs
        causes = possible_causes(report.verdict, signs)
        others = other_problems(report.verdict, signs, causes)
        words, has_qom = texts(report, prefixes, self._qemu_version), may_have_qom(self.uri)
        fill_in = partial(PossibleCause.of, words=words, has_qom=has_qom)
        diagnosis = Diagnosis(
            **{name: getattr(report, name) for name in DomainReport.field_names},
            possible_causes=tuple(fill_in(cause, is_certain=len(causes) == 1) for cause in causes),
            findings=tuple(fill_in(cause, is_certain=True) for cause in others),
            evidence=tuple(self.evidence),
            seen=tuple(sign for sign in Sign if signs.get(sign) is True),
            absent=tuple(sign for sign in Sign if signs.get(sign) is False),
        )
        if self._clock is None or diagnosis.cause not in {Cause.CLOCK_BEHIND, Cause.CLOCK_AHEAD}:
            return diagnosis
        return replace(diagnosis, clock_offset=self._clock.seconds)


class HostExamination:
    """Examines domains of one host."""

    def __init__(self, session: HostSession, *, via: Source) -> None:
        self._session = session
        self._via = via
        self._examined: dict[str, DomainExamination] = {}
        self.read: tuple[DomainReport, ...] = ()
        self.clock: ClockOffset | None = None

    def examine(self, domains: dict[str, Domain]) -> None:
        """Read these domains, ask the questions, and watch those that may be updated."""
        deadline = self._session.deadline
        begun, end = time.monotonic(), deadline.at
        deadline.at = begun + (end - begun) * _READING_SHARE
        for report in read_domains(self._session, domains, via=self._via):
            self._examined[report.uuid] = DomainExamination(report, uri=self._session.uri)
        read = host_report(self._session, (each.first for each in self._examined.values()))
        self.read = read.domains
        meant = meeting(self._session, read).domains
        self._examined = {row.uuid: self._examined[row.uuid] for row in meant}
        # Half of what is left is for watching.
        deadline.at = (time.monotonic() + end) / 2
        for waits in (False, True):
            self._ask([probe for probe in PROBES if probe.waits is waits], self._examined)
        deadline.at = end
        self._watch()
        self._add_clock()

    def diagnoses(self, prefixes: PrefixesByHost) -> list[Diagnosis]:
        """A diagnosis for each domain that was read."""
        beginnings = prefixes(self._session.uri)
        return [examined.diagnosis(beginnings) for examined in self._examined.values()]

    def _ask(self, probes: Sequence[Probe], uuids: Iterable[str]) -> None:
        session = self._session
        allowed = [probe for probe in probes if probe.source in {Source.LIBVIRT, self._via}]
        tasks: dict[Domain, Callable[[], object]] = {}
        for uuid in uuids:
            domain, report = session.domains.get(uuid), self._examined[uuid].report
            if domain is not None and any(p.applies(report, domain) for p in allowed):
                tasks[domain] = partial(ask, domain, report, allowed)
        for domain, value, error, _ in run_per_domain(session.scheduler, tasks, session.deadline):
            examined = self._examined[domain.uuid]
            if isinstance(error, ConnectionLost):
                raise error
            if error is not None:
                examined.add_evidence("further questions", error.message, by=self._via)
            elif isinstance(value, list):
                examined.add(value)

    def _add_clock(self) -> None:
        before = {uuid: examined.first.look for uuid, examined in self._examined.items()}
        after = {uuid: examined.report.look for uuid, examined in self._examined.items()}
        is_far = is_remote(self._session.uri)
        clock = offset_by_movement(before, after)
        self.clock = clock or offset_by_lateness(before.values(), is_remote=is_far)
        if self.clock is not None and abs(self.clock.seconds) > CLOCK_SKEW_SECONDS:
            for examined in self._examined.values():
                examined.add_clock(self.clock)

    def _watch(self) -> None:
        session = self._session
        watched = [
            one
            for uuid, domain in session.domains.items()
            if (examined := self._examined.get(uuid))
            and (one := examined.watched(domain, session.deadline.at))
        ]
        for found in updates(session, watched, via=self._via):
            for wait in found:
                if wait.report is not None:
                    self._examined[wait.uuid].add_watch(wait.report)
        self._ask([PROCESSOR_TIME], [one.domain.uuid for one in watched])
