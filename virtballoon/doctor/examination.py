"""Finds out why guests give nothing, or nothing new: asks what tells causes apart, and looks twice.

What is decided is in :mod:`virtballoon.doctor.causes`; here the questions are asked, each within
the time of the visit and none where it could be held up by a guest that hangs.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from typing import Final, Self, TypeAlias

from virtballoon.doctor import causes as diagnosis
from virtballoon.doctor.causes import WORDINGS, WOULD_TELL, Cause, Row, Sign
from virtballoon.engine.reader import IN_FLIGHT, MOST_HELD, read_configs
from virtballoon.engine.session import DEFAULT_TIMEOUT, Visit
from virtballoon.engine.tasks import SENT, hold_of, run
from virtballoon.errors import ConnectionLost, VirtballoonError
from virtballoon.hypervisor.connection import AnyDomain, Connection, Control, Domain, Target
from virtballoon.log import log_host
from virtballoon.model.memory import Figures
from virtballoon.model.report import DomainReport, HostReport
from virtballoon.model.selection import words_for
from virtballoon.model.source import Source
from virtballoon.model.verdict import (
    CLOCK_SKEW_SECONDS,
    STOPPED_STATES,
    UNPOLLED_SECONDS,
    State,
    Verdict,
)
from virtballoon.operations.reading import read_domain, selected, swept

#: What of its time a visit has for reading; the rest is for questions and a second look.
_READING_SHARE: Final = 0.6
#: A second look comes so long after the first, at least; a processor's time has moved by then.
_LOOK_SECONDS: Final = 1.0
#: An answer that is due comes within this time after its interval.
_LATE_SECONDS: Final = 1.0
_WANTED_INTERVAL: Final = 10

_WATCHED: Final = frozenset({Verdict.STALE, Verdict.UNANSWERED})
#: What is known of a guest only until it is reset.
_UNTIL_RESET: Final = (Sign.DRIVER_OK, Sign.STATISTICS, Sign.BUFFER_HELD, Sign.AGENT_CONNECTED)
#: Nobody asks libvirt more about these; of QEMU, how old it is counts for a fresh one, too.
_CLEAR: Final = frozenset({Verdict.FRESH, Verdict.SHUTOFF})

_TRANSIT: Final = frozenset(
    {
        *("migration", "save", "dump", "snapshot", "shutting down", "starting up"),
        *("post-copy", "post-copy failed"),
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Something that was asked, and its answer.

    :ivar asked: what was asked
    :ivar by: who answered
    :ivar answer: what it said
    """

    asked: str
    by: Source
    answer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PossibleCause:
    """A cause that fits what is known.

    :ivar cause: the cause
    :ivar meaning: what is the matter
    :ivar remedy: the command or the advice that mends it, or None where nothing is to be mended
    :ivar tell: by what it is told from others, or None
    """

    cause: Cause
    meaning: str
    remedy: str | None
    tell: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question that was not asked, since it would have marked the guest.

    :ivar asked: the question
    :ivar by: who could answer it
    :ivar would_tell: what the answer would tell
    :ivar command: the command that asks it
    """

    asked: str
    by: Source
    would_tell: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis(DomainReport):
    """One domain, and why its figures are as they are. What :class:`DomainReport` has is by the
    last look.

    :ivar cause: the cause, or None where several fit
    :ivar possible_causes: what fits, the likelier first; one where there is a cause
    :ivar findings: what else is to be mended
    :ivar evidence: what was asked and what was answered, in this order
    :ivar remedy: the command or the advice that mends it; for each cause where several fit that
        are not mended alike; None where nothing is to be mended
    :ivar to_tell_apart: what would tell the possible causes apart, or None for one
    :ivar unasked: what QEMU could tell and was not asked, so as not to mark the guest
    :ivar seen: the signs that the answers show
    :ivar absent: the signs that they show to be absent
    """

    cause: Cause | None
    possible_causes: tuple[PossibleCause, ...]
    findings: tuple[PossibleCause, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    remedy: str | None = None
    to_tell_apart: str | None = None
    unasked: tuple[Question, ...] = ()
    seen: tuple[Sign, ...] = ()
    absent: tuple[Sign, ...] = ()

    @property
    def is_well(self) -> bool:
        """Whether there is nothing to be mended."""
        found = (*self.possible_causes, *self.findings)
        return self.verdict.is_well and all(each.cause.is_well for each in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class HostDiagnosis(HostReport):
    """One host and the diagnoses of its domains.

    :ivar domains: the domains, sorted by name
    """

    domains: tuple[Diagnosis, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """How a command line reaches a host, for remedies: words up to where the rest begins.

    :ivar virtballoon: of ``virtballoon``
    :ivar set_interval: of ``virtballoon set-interval`` through libvirt
    :ivar virsh: of ``virsh``
    """

    virtballoon: tuple[str, ...]
    set_interval: tuple[str, ...]
    virsh: tuple[str, ...]

    @classmethod
    def by_uri(cls, uri: str) -> Self:
        """By the host's URI, whatever configuration there is."""
        virtballoon = ("virtballoon", "-c", uri)
        return cls(
            virtballoon=virtballoon,
            set_interval=(*virtballoon, "set-interval"),
            virsh=("virsh", "-c", uri),
        )


#: How the host with this URI is reached.
Way: TypeAlias = Callable[[str], Reach]


def diagnose_host(
    target: Target = None,
    domains: Iterable[str] | None = None,
    *,
    inactive: bool = False,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    way: Way = Reach.by_uri,
) -> HostDiagnosis:
    """Find out why the figures of a host's domains are as they are.

    The domains are read as :func:`virtballoon.read_host` does, in the first 60 % of the time.
    Then those that are not well are asked more, and those that are stale or have never answered
    are looked at once more after a second; where that can decide and the time allows, not before
    another answer is due. One that is not polled by libvirt's word, and yet has answered in the
    last seconds, is watched for some more, since its QEMU may poll it.

    Arguments are those of :func:`virtballoon.read_host`. Through libvirt no guest is marked, and
    the diagnosis says what only QEMU could tell. QOM marks each running guest as tainted.

    :param way: how the commands of the remedies reach the host
    """
    visit = Visit(target, domains, via=via, readonly=via is Source.LIBVIRT, timeout=timeout)
    return diagnose_visited(visit, inactive=inactive, via=via, way=way)


def diagnose_visited(visit: Visit, *, inactive: bool, via: Source, way: Way) -> HostDiagnosis:
    """Diagnose a host's domains as :func:`diagnose_host` does, on a visit that has been begun."""
    rows: list[DomainReport] = []
    diagnoses: list[Diagnosis] = []
    with visit:
        leave = visit.deadline
        now = time.monotonic()
        visit.deadline = now + (leave - now) * _READING_SHARE
        try:
            connection = visit.connection if visit.error is None else None
            rows.extend(swept(visit, selected(visit, inactive=inactive), via=via))
        finally:
            visit.deadline = leave
        if connection is not None:
            there = [selected.domain for selected in visit.selection.domains]
            if visit.connection is not connection:
                # It was connected to anew, and the domains of before are of no more use.
                there = visit.within(visit.connection.domains)
            examination = _Examination(
                visit.connection, rows, there, via=via, deadline=leave, way=way
            )
            diagnoses = examination.diagnose()
    if len(diagnoses) < len(rows):
        # The host was lost meanwhile; what was read is still told.
        diagnoses = [_unexamined(row).diagnosis(via, way(visit.uri)) for row in rows]
    host = HostDiagnosis(
        uri=visit.uri,
        hostname=visit.hostname,
        status=visit.status(complete=all(row.is_complete for row in diagnoses)),
        error=visit.error,
        elapsed_seconds=visit.elapsed_seconds,
        domains=tuple(sorted(diagnoses, key=lambda row: (row.name, row.uuid))),
        unmatched=visit.selection.unmatched,
    )
    return log_host(host)


def diagnose_domain(
    domain: AnyDomain,
    *,
    via: Source = Source.LIBVIRT,
    timeout: float = DEFAULT_TIMEOUT,
    way: Way = Reach.by_uri,
) -> Diagnosis:
    """Find out why the figures of one domain are as they are that the caller has at hand. Its
    connection stays open.

    :raise HostError: when the connection is broken
    :raise DomainNotFound: when the domain is gone
    :raise NotSupported: ``via`` is QOM and the host's driver is not QEMU's
    :raise ReadOnly: ``via`` is QOM and the connection may not write
    """
    deadline = time.monotonic() + timeout
    domain = Domain.of(domain)
    row = read_domain(domain, via=via, timeout=timeout * _READING_SHARE)
    examination = _Examination(
        domain.connection, [row], [domain], via=via, deadline=deadline, way=way
    )
    (found,) = examination.diagnose()
    return found


@dataclass(frozen=True, slots=True)
class _Processor:
    """The processor time that a QEMU has taken until some moment, by ``time.monotonic()``."""

    at: float
    seconds: float
    cpus: int

    @classmethod
    def of(cls, domain: Domain) -> Self | None:
        with suppress(VirtballoonError):
            seconds, cpus = domain.processor_time()
            return cls(time.monotonic(), seconds, cpus)
        return None

    def told_since(self, before: _Processor) -> tuple[str, str]:
        """What is asked of it, and the answer."""
        over = f"processor time of its QEMU over {self.at - before.at:.1f} s"
        cpus = f"{self.cpus} CPU{'s' * (self.cpus != 1)}"
        return over, f"{self.seconds - before.seconds:.2f} s; the guest has {cpus}"


@dataclass(frozen=True, slots=True)
class _Look:
    """A second look at a domain; ``at`` by ``time.monotonic()``, ``read_at`` by the calendar."""

    figures: Figures
    state: State
    read_at: float
    at: float
    processor: _Processor | None


@dataclass(slots=True, eq=False)
class _Patient:
    """One domain under examination: its row by the last look, and what is known beside it.

    Answers are noted in the thread that asked. One that comes too late is noted in vain.
    """

    row: DomainReport
    domain: Domain | None
    evidence: list[Evidence] = field(default_factory=list)
    signs: dict[Sign, bool] = field(default_factory=dict)
    asked: set[str] = field(default_factory=set)
    control: Control | None = None
    version: tuple[int, int] | None = None
    processor: _Processor | None = None
    begun: float = 0.0
    last: _Look | None = None
    has_moved: bool = False

    def note(self, asked: str, by: Source, answer: str) -> None:
        self.evidence.append(Evidence(asked=asked, by=by, answer=answer))

    def ask(self, asked: str, by: Source, question: Callable[[], str]) -> None:
        """Ask once, whatever comes of it."""
        if asked in self.asked:
            return
        try:
            answer = question()
        except ConnectionLost:
            raise
        except VirtballoonError as error:
            who = "QEMU" if by is Source.QOM else "libvirt"
            answer = f"{who} cannot tell: {error.message}"
        self.asked.add(asked)
        self.note(asked, by, answer)

    def note_unanswered(self, outcome: object, via: Source) -> None:
        """Note that questions were left without an answer, and why."""
        told = outcome.message if isinstance(outcome, VirtballoonError) else "no answer in time"
        self.note("what else there is to ask", via, told)

    @property
    def is_watched(self) -> bool:
        can_answer = self.row.verdict in _WATCHED or self._may_be_polled
        return can_answer and self.domain is not None

    @property
    def _may_be_polled(self) -> bool:
        """Whether the XML has no interval, and a QEMU that has one would soon show it."""
        age = self.row.age_seconds
        causes = {row.cause for row in self.fitting}
        return (
            {Cause.POLLING_OFF, Cause.INTERVAL_DIFFERS} == causes
            and age is not None
            and age <= UNPOLLED_SECONDS
        )

    @property
    def fitting(self) -> tuple[Row, ...]:
        return diagnosis.fitting(self.row.verdict, self.signs)

    def take_row(self) -> None:
        """Note what the reading itself shows."""
        row, interval = self.row, self.row.interval
        own = row.balloon is not None and row.balloon.model is None
        self.signs[Sign.AWAITED] = False
        self.signs[Sign.UNPOLLED] = row.balloon is not None and interval.in_force == 0
        if interval.live is not None:
            self.signs[Sign.XML_POLLS] = interval.live > 0 and not own
        if interval.qemu is not None:
            self.signs[Sign.QEMU_INTERVAL] = True
        if None not in {interval.qemu, interval.live} and not own:
            self.signs[Sign.DRIFT] = interval.qemu != interval.live
        if None not in {interval.live, interval.config} and row.balloon is not None and not own:
            self.signs[Sign.CONFIG_DRIFT] = interval.live != interval.config
        if row.source is Source.QOM and row.verdict not in {Verdict.BUSY, Verdict.FAILED}:
            self.signs[Sign.BEHIND_LIBVIRT] = own
        if row.verdict is Verdict.FAILED:
            age = row.age_seconds
            self.signs[Sign.AHEAD] = age is not None and age < -CLOCK_SKEW_SECONDS
            # Whatever else fails has an error of its own kind.
            plain = type(row.error) is VirtballoonError
            self.signs[Sign.NOT_GIVEN] = plain and row.figures.last_update is None
        self._tell_of_row()

    def _tell_of_row(self) -> None:
        row, interval = self.row, self.row.interval
        device = row.balloon
        if row.state is not State.NOSTATE or row.verdict is not Verdict.BUSY:
            self.note("state", Source.LIBVIRT, row.state.value)
        if row.error is not None:
            self.note("reading", row.source, str(row.error.message))
        if device is not None and device.model is not None:
            named = f"{device.model}, {device.alias}" if device.alias else device.model
            self.note("balloon in the XML", Source.LIBVIRT, named)
        elif row.verdict is not Verdict.BUSY:
            self.note("balloon in the XML", Source.LIBVIRT, "none")
        if device is not None and device.model is None:
            self.note("balloon in QEMU", Source.QOM, str(device.qom_path))
        elif device is None and row.source is Source.QOM and row.verdict is Verdict.NO_DEVICE:
            self.note("balloon in QEMU", Source.QOM, "none")
        for whose, seconds, by in (
            ("live XML", interval.live, Source.LIBVIRT),
            ("persistent XML", interval.config, Source.LIBVIRT),
            ("QEMU", interval.qemu, Source.QOM),
        ):
            if seconds is not None and device is not None:
                told = "0 s, which is off" if seconds == 0 else f"{seconds} s"
                self.note(f"interval of {whose}", by, told)
        if row.verdict not in {Verdict.BUSY, Verdict.SHUTOFF, Verdict.NO_DEVICE}:
            self.note("statistics", row.source, _told(row))

    # In threads of errands: what is asked of a domain that is not well.

    def question(self, via: Source) -> Control | bool:
        """Ask what tells causes apart, or how the monitor is held that stands in the way.

        :return: True when everything was asked
        """
        assert self.domain is not None
        verdict = self.row.verdict
        if verdict is not Verdict.FRESH:
            self.ask("reason of its state", Source.LIBVIRT, partial(self._reason, self.domain))
        if verdict is Verdict.BUSY:
            self.ask("who holds its monitor", Source.LIBVIRT, partial(self._held, self.domain))
            return True
        if verdict is Verdict.FAILED:
            self.ask("version of libvirt", Source.LIBVIRT, partial(self._libvirt, self.domain))
        if verdict in _WATCHED:
            self.processor = self.processor or _Processor.of(self.domain)
        is_unclear = verdict in {*_WATCHED, Verdict.NO_DEVICE, Verdict.EMPTY}
        path = self.row.balloon.qom_path if self.row.balloon and via is Source.QOM else None
        if not is_unclear and path is None:
            return True
        # Newer libvirt has the XML wait for whoever holds a domain, too.
        if hold := hold_of(self.domain):
            return hold
        if is_unclear:
            self._question_xml(self.domain)
        if path is not None:
            self.ask("query-version", Source.QOM, partial(self._version, self.domain))
            if is_unclear:
                self._question_qemu(self.domain, path)
        return True

    def _reason(self, domain: Domain) -> str:
        state, reason = domain.reason()
        self.signs |= _stopping(state, reason)
        return f"{state.value}, {reason}"

    def _held(self, domain: Domain) -> str:
        self.control = control = hold_of(domain) or domain.control()
        self.signs[Sign.OCCUPIED] = control.waiting
        self.signs[Sign.JOB] = not control.free and not control.waiting
        if control.free:
            return "nobody"
        begun = datetime.fromtimestamp(time.time() - control.seconds, UTC)
        since = begun.strftime("%Y-%m-%dT%H:%M:%SZ")
        whom = "a call that waits for QEMU" if control.waiting else "a job"
        return f"{whom}, for {control.seconds:.0f} s, since {since}"

    def _libvirt(self, domain: Domain) -> str:
        version = domain.connection.version()
        self.signs[Sign.OLD_LIBVIRT] = version < diagnosis.LIBVIRT_TELLS_LAST_UPDATE
        return _dotted(version)

    def _question_xml(self, domain: Domain) -> None:
        if self.row.verdict is Verdict.NO_DEVICE:
            if self.row.source is Source.LIBVIRT:
                asked = "balloon in <qemu:commandline>"
                self.ask(asked, Source.LIBVIRT, partial(self._commandline, domain))
            if domain.persistent:
                asked = "balloon in the persistent XML"
                self.ask(asked, Source.LIBVIRT, partial(self._config, domain))
        else:
            self.ask("guest agent", Source.LIBVIRT, partial(self._agent, domain))

    def _commandline(self, domain: Domain) -> str:
        there = domain.hints().balloon_in_commandline
        if there is None:
            return "it reads a file that may add one"
        self.signs[Sign.BEHIND_LIBVIRT] = there
        return "there is one" if there else "none"

    def _config(self, domain: Domain) -> str:
        config = read_configs(domain).config
        there = config is not None and config.balloon is not None
        self.signs[Sign.CONFIG_BALLOON] = there
        return "there is one" if there else "none"

    def _agent(self, domain: Domain) -> str:
        connected = domain.hints().agent_connected
        if connected is None:
            return "it has no channel"
        self.signs[Sign.AGENT_CONNECTED] = connected
        return "connected" if connected else "not connected"

    def _version(self, domain: Domain) -> str:
        self.version = found = domain.monitor().version()
        if found >= diagnosis.CLEARS_FROM or found < diagnosis.KEEPS_UP_TO:
            self.signs[Sign.RESET_CLEARS] = found >= diagnosis.CLEARS_FROM
        self.signs[Sign.OLD_QEMU] = bool(diagnosis.lacking(found))
        return _dotted(found)

    def _question_qemu(self, domain: Domain, path: str) -> None:
        monitor = domain.monitor()

        def status() -> str:
            found = monitor.virtio_status(path)
            self.signs[Sign.DRIVER_OK] = found.driver_ok
            self.signs[Sign.STATISTICS] = found.statistics
            told = ", ".join(found.statuses) or "nothing, so no kernel has found it since a reset"
            if found.statuses == ("ACKNOWLEDGE",):
                told += ", so a kernel has found it and no driver has it"
            return f"{told}; features accepted: {', '.join(found.features) or 'none'}"

        def queue() -> str:
            held = monitor.buffers_held(path)
            self.signs[Sign.BUFFER_HELD] = held > 0
            return f"inuse {held}"

        self.ask("x-query-virtio-status", Source.QOM, status)
        self.ask("x-query-virtio-queue-status, queue 2", Source.QOM, queue)

    def look_again(self, via: Source) -> _Look | Control:
        """Read the figures once more."""
        assert self.domain is not None
        if hold := hold_of(self.domain):
            return hold
        state = self.domain.state()
        path = self.row.balloon.qom_path if self.row.balloon is not None else None
        if via is Source.QOM and path is not None:
            figures = self.domain.monitor().guest_stats(path)
        else:
            answers = self.domain.connection.statistics([self.domain])
            found = answers.get(self.domain.uuid)
            # A driver that takes no part in the bulk call gives none there.
            given = found.figures if found is not None else None
            figures = given or self.domain.figures()
        return _Look(figures, state, time.time(), time.monotonic(), _Processor.of(self.domain))

    # What comes of it.

    @property
    def due_seconds(self) -> float:
        """When another look could decide something, after the first."""
        causes = {row.cause for row in self.fitting}
        if Cause.NOT_DUE in causes and len(causes) > 1:
            return (self.row.interval.in_force or 0) + _LATE_SECONDS
        if self._may_be_polled:
            return UNPOLLED_SECONDS + _LATE_SECONDS
        return _LOOK_SECONDS

    def take_look(self, look: _Look, host: str) -> bool:
        """Take in a second look, and say whether it saw another last update: a later one, or an
        earlier one where the host's clock was set back; none any more where a reset has cleared
        it."""
        row, self.last = self.row, look
        if look.figures.last_update in {None, row.last_update or 0}:
            return False
        self.has_moved = True
        names = {f.name for f in fields(Figures)} - {"stats", "last_update"}
        sizes = {name: getattr(row.figures, name) for name in names}
        self.row = DomainReport.of(
            name=row.name,
            uuid=row.uuid,
            id=row.id,
            state=look.state,
            machine=row.machine,
            balloon=row.balloon,
            interval=row.interval,
            source=row.source,
            figures=Figures(
                stats=look.figures.stats, last_update=look.figures.last_update, **sizes
            ),
            host=host,
            now=look.read_at,
        )
        if look.figures.last_update:
            self.signs[Sign.AWAITED] = True
        else:
            for sign in _UNTIL_RESET:
                self.signs.pop(sign, None)
        return True

    def tell_of_watching(self) -> None:
        """Note what watching it has shown."""
        last = self.last
        if last is None:
            self.note("statistics, once more", self.row.source, "no answer in time")
            return
        elapsed = last.at - self.begun
        interval = self.row.interval.in_force
        if not self.has_moved and interval != 0 and elapsed >= (interval or 0) + _LATE_SECONDS:
            self.signs[Sign.OVERDUE] = True
        told = _told(self.row) if self.has_moved else "no new answer"
        self.note(f"statistics, watched for {elapsed:.1f} s", self.row.source, told)
        if self.processor is not None and last.processor is not None:
            asked, answer = last.processor.told_since(self.processor)
            self.note(asked, Source.LIBVIRT, answer)

    def diagnosis(self, via: Source, reach: Reach) -> Diagnosis:
        """What fits all that is known."""
        # Whatever comes after this moment comes too late.
        row, signs = self.row, dict(self.signs)
        fitting = diagnosis.fitting(row.verdict, signs)
        causes = list(dict.fromkeys(r.cause for r in fitting)) or [Cause.CONTRADICTORY]
        others = [r.cause for r in diagnosis.beside(row.verdict, signs, causes)]
        words = _words(row, reach, self.version)
        possible = tuple(_possible(cause, words) for cause in causes)
        asked = diagnosis.unasked(fitting, signs) if via is Source.LIBVIRT else ()
        several = len(possible) > 1
        remedies = {each.cause: each.remedy for each in possible if each.remedy}
        ways = [f"{each.cause.value}: {each.tell}" for each in possible if each.tell]
        command = "{virtballoon} doctor --via qom {name}".format(**words)
        if asked:
            ways.append(f"or ask QEMU, which marks the guest as tainted: {command}")
        return Diagnosis(
            **{f.name: getattr(row, f.name) for f in fields(DomainReport)},
            cause=None if several else causes[0],
            possible_causes=possible,
            findings=tuple(_possible(cause, words) for cause in others),
            evidence=tuple(self.evidence),
            remedy="; ".join(f"if {cause.value}: {remedy}" for cause, remedy in remedies.items())
            if len(set(remedies.values())) > 1 or len(remedies) not in {0, len(possible)}
            else possible[0].remedy,
            to_tell_apart="; ".join(ways) if several and ways else None,
            unasked=tuple(
                Question(
                    asked=question,
                    by=Source.QOM,
                    would_tell=WOULD_TELL[question],
                    command=command,
                )
                for question in asked
            ),
            seen=tuple(sign for sign in Sign if signs.get(sign) is True),
            absent=tuple(sign for sign in Sign if signs.get(sign) is False),
        )


def _unexamined(row: DomainReport) -> _Patient:
    patient = _Patient(row, None)
    patient.take_row()
    return patient


class _Examination:
    """Examines the domains of one host that have been read.

    :param rows: the domains as they were read
    :param domains: the domains that are there
    :param deadline: when to end, by ``time.monotonic()``
    """

    def __init__(
        self,
        connection: Connection,
        rows: Iterable[DomainReport],
        domains: Iterable[Domain],
        *,
        via: Source,
        deadline: float,
        way: Way,
    ) -> None:
        there = {domain.uuid: domain for domain in domains}
        self._connection = connection
        self._via = via
        self._deadline = deadline
        self._reach = way(connection.uri)
        self._patients = [_Patient(row, there.get(row.uuid)) for row in rows]
        # Each domain that could not be read may have kept a call.
        held = sum(patient.row.verdict is Verdict.BUSY for patient in self._patients)
        self._most = max(1, IN_FLIGHT - held)

    def diagnose(self) -> list[Diagnosis]:
        """Ask, look again, and decide; a diagnosis for each row."""
        begun = time.monotonic()
        for patient in self._patients:
            patient.begun = begun
            patient.take_row()
        clear = _CLEAR if self._via is Source.LIBVIRT else _CLEAR - {Verdict.FRESH}
        unclear = [p for p in self._patients if p.row.verdict not in clear and p.domain]
        # The other half is for watching.
        half = (begun + self._deadline) / 2
        asked = self._run({p: partial(p.question, self._via) for p in unclear}, half)
        for patient, outcome in asked.items():
            if outcome is not True:
                patient.note_unanswered(outcome, self._via)
        self._count_barred()
        self._watch([patient for patient in unclear if patient.is_watched])
        return [patient.diagnosis(self._via, self._reach) for patient in self._patients]

    def _run(
        self, errands: Mapping[_Patient, Callable[[], object]], until: float
    ) -> dict[_Patient, object]:
        """Run an errand for each of these, until this moment and no longer than there is time."""
        by_uuid = {patient.row.uuid: patient for patient in errands}
        looks = {u: partial(hold_of, p.domain) for u, p in by_uuid.items() if p.domain}
        named = {patient.row.uuid: errand for patient, errand in errands.items()}
        link, end = self._connection.link, min(until, self._deadline)
        outcomes = dict(run(named, looks, end, link, most=self._most))
        for outcome in outcomes.values():
            if isinstance(outcome, ConnectionLost):
                raise outcome
        out = sum(outcome is SENT for outcome in outcomes.values())
        self._most = max(1, self._most - out)
        return {by_uuid[uuid]: outcome for uuid, outcome in outcomes.items()}

    def _count_barred(self) -> None:
        busy = [p for p in self._patients if p.row.verdict is Verdict.BUSY]
        hang = sum(p.control is not None and p.control.hangs for p in busy)
        for patient in busy:
            if patient.control is not None:
                is_barred = patient.control.free and hang >= MOST_HELD
                patient.signs[Sign.BARRED] = is_barred

    def _watch(self, patients: Sequence[_Patient]) -> None:
        """Look at these again until each has answered or another look decides nothing."""
        waiting = [patient for patient in patients if self._look_at(patient) <= self._deadline]
        while waiting:
            now = time.monotonic()
            soonest = min(now + _LOOK_SECONDS, *(self._look_at(patient) for patient in waiting))
            time.sleep(max(0.0, soonest - now))
            # One that hangs by now is not to keep the others from their last look.
            until = time.monotonic() + 2 * _LOOK_SECONDS
            errands = {p: partial(p.look_again, self._via) for p in waiting}
            for patient, look in self._run(errands, until).items():
                answered = False
                if isinstance(look, _Look):
                    answered = patient.take_look(look, self._connection.uri)
                    is_last = look.at >= self._look_at(patient)
                else:
                    is_last = True
                if answered or is_last or time.monotonic() >= self._deadline:
                    waiting.remove(patient)
                    patient.tell_of_watching()

    def _look_at(self, patient: _Patient) -> float:
        # Where there is no time to wait for what would decide, a short look must do.
        at = patient.begun + patient.due_seconds
        return at if at < self._deadline else patient.begun + _LOOK_SECONDS


def _stopping(state: State, reason: str) -> dict[Sign, bool]:
    paused = state is State.PAUSED
    return {
        Sign.STOPPED: state in STOPPED_STATES,
        Sign.IN_TRANSIT: paused and reason in _TRANSIT,
        Sign.ASLEEP: state is State.PMSUSPENDED,
        Sign.IO_ERROR: paused and reason == "ioerror",
        Sign.WATCHDOG: paused and reason == "watchdog",
        Sign.CRASHED: state is State.CRASHED or (paused and reason == "crashed"),
    }


def _told(row: DomainReport) -> str:
    if row.figures.last_update is None:
        return "no time of a last update"
    if row.last_update is None:
        return "no update since QEMU was started or reset"
    given = sum(value is not None for value in row.stats.as_dict().values())
    return f"last update {row.age_seconds:.0f} s ago; {given} figures"


def _dotted(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def _words(row: DomainReport, reach: Reach, version: tuple[int, int] | None) -> dict[str, str]:
    """What stands in the braces of a wording."""
    interval = row.interval
    lacks = diagnosis.lacking(version) if version is not None else ()
    set_interval = reach.set_interval
    if row.balloon is not None and row.balloon.model is None:
        # Libvirt does not know of this one.
        set_interval = (*reach.virtballoon, "set-interval", "--via", "qom")
    return {
        "virtballoon": shlex.join(reach.virtballoon),
        "set_interval": shlex.join(set_interval),
        "virsh": shlex.join(reach.virsh),
        "name": shlex.join(words_for([row])),
        "domain": shlex.quote(row.name if _is_plain(row.name) else row.uuid),
        "interval": str(interval.in_force or 0),
        "wanted": str(interval.live or interval.config or _WANTED_INTERVAL),
        "lacks": f"QEMU {_dotted(version)} lacks {'; and '.join(lacks)}"
        if version is not None and lacks
        else "libvirt tells of no last update before 2.1",
    }


def _is_plain(name: str) -> bool:
    """Whether virsh takes this for a name, not for an option, a number or a UUID."""
    looks_other = re.fullmatch(r"\d+|[\da-fA-F-]{32,}|-.*", name)
    return bool(name) and name.isprintable() and not looks_other


def _possible(cause: Cause, words: Mapping[str, str]) -> PossibleCause:
    wording = WORDINGS[cause]
    return PossibleCause(
        cause=cause,
        meaning=wording.meaning.format(**words),
        remedy=wording.remedy.format(**words) if wording.remedy is not None else None,
        tell=wording.tell.format(**words) or None,
    )
