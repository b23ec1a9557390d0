"""The questions that tell causes apart: what each asks, of whom, and for which domains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from virtballoon.doctor.causes import CLEARS_FROM, KEEPS_UP_TO, Sign, lacking
from virtballoon.doctor.results import Evidence, dotted
from virtballoon.engine.tasks import hold_of
from virtballoon.errors import Busy, BusyReason, ConnectionLost, NotSupported, VirtballoonError
from virtballoon.hypervisor.device import read_configs
from virtballoon.hypervisor.domain import Control, Domain
from virtballoon.model.memory import Anomaly
from virtballoon.model.pressure import Pressure
from virtballoon.model.report import DomainReport
from virtballoon.model.source import Source
from virtballoon.model.verdict import STOPPED_STATES, State, Verdict

#: A guest that has used this much processor time was not started just now.
_LONG_RUN_SECONDS: Final = 300.0
#: Linux uses all of one CPU after a crash and, emulation apart, while it boots.
ONE_CPU: Final = (0.8, 1.2)

_TRANSIT: Final = frozenset(
    {
        *("migration", "save", "dump", "snapshot", "shutting down", "starting up"),
        *("post-copy", "post-copy failed"),
    }
)


class ProcessorTime(NamedTuple):
    """The processor time that a domain's QEMU has used, at some time by ``time.monotonic()``."""

    at: float
    seconds: float
    cpus: int


class Answer(NamedTuple):
    """The answer to a question, as a text for people, and what it shows."""

    text: str
    signs: Mapping[Sign, bool] = {}
    #: The version of QEMU, or its processor time.
    found: tuple[int, int] | ProcessorTime | None = None


class Probe(NamedTuple):
    """A question."""

    name: str
    #: QEMU is asked only if that is the source of the figures.
    source: Source
    applies: Callable[[DomainReport, Domain], bool]
    ask: Callable[[Domain], Answer]
    #: Whether it may wait for what holds the domain: then it is asked only of one that is not held.
    waits: bool = True


def ask(
    domain: Domain, report: DomainReport, probes: Iterable[Probe]
) -> Control | list[tuple[Probe, Answer]]:
    """Ask some questions about one domain; or say how it is held, where that would delay them."""
    wanted = [probe for probe in probes if probe.applies(report, domain)]
    if any(probe.waits for probe in wanted) and (hold := hold_of(domain)):
        return hold
    answers = []
    for probe in wanted:
        try:
            answer = probe.ask(domain)
        except ConnectionLost:
            raise
        except VirtballoonError as error:
            answer = Answer(f"failed: {error.message}")
        answers.append((probe, answer))
    return answers


def _reason(domain: Domain) -> Answer:
    state, reason = domain.reason()
    is_paused = state is State.PAUSED
    has_crashed = state is State.CRASHED or (is_paused and reason == "crashed")
    signs = {
        Sign.STOPPED: state in STOPPED_STATES,
        Sign.IN_TRANSIT: is_paused and reason in _TRANSIT,
        Sign.ASLEEP: state is State.PMSUSPENDED,
        Sign.IO_ERROR: is_paused and reason == "ioerror",
        Sign.WATCHDOG: is_paused and reason == "watchdog",
        Sign.CRASHED: has_crashed,
    }
    return Answer(f"{state.value}, {reason}", signs)


def _holder(domain: Domain) -> Answer:
    control = hold_of(domain)
    if control is None:
        return Answer("none now")
    signs = {Sign.MONITOR: control.waiting, Sign.JOB: not control.waiting, Sign.LIMIT: False}
    if not control.waiting:
        return Answer("a job", signs)
    since = datetime.fromtimestamp(time.time() - control.seconds, UTC)
    text = f"a call that waits for QEMU, for {control.seconds:.0f} s, since "
    return Answer(text + since.strftime("%Y-%m-%dT%H:%M:%SZ"), signs)


def _processor(domain: Domain) -> Answer:
    seconds, cpus = domain.processor_time()
    signs = {Sign.LONG_RUN: seconds >= _LONG_RUN_SECONDS}
    return Answer(f"{seconds:.1f} s", signs, ProcessorTime(time.monotonic(), seconds, cpus))


def _agent(domain: Domain) -> Answer:
    connected = domain.hints().agent_connected
    if connected is None:
        return Answer("it has no channel")
    signs = {Sign.AGENT_CONNECTED: connected, Sign.AGENT_DISCONNECTED: not connected}
    return Answer("connected" if connected else "not connected", signs)


def _iommu(domain: Domain) -> Answer:
    iommu = domain.hints().balloon_iommu
    return Answer("on" if iommu else "off", {Sign.IOMMU: iommu})


def _commandline(domain: Domain) -> Answer:
    present = domain.hints().balloon_in_commandline
    if present is None:
        return Answer("not known: it reads a file that may add one")
    return Answer("yes" if present else "none", {Sign.BEHIND_LIBVIRT: present})


def _persistent_balloon(domain: Domain) -> Answer:
    config = read_configs(domain).config
    present = config is not None and config.balloon is not None
    return Answer("yes" if present else "none", {Sign.CONFIG_BALLOON: present})


def _qemu_version(domain: Domain) -> Answer:
    version = domain.monitor().version()
    signs = {Sign.OLD_QEMU: bool(lacking(version))}
    if version >= CLEARS_FROM or version < KEEPS_UP_TO:
        signs[Sign.RESET_CLEARS] = version >= CLEARS_FROM
    return Answer(dotted(version), signs, version)


def _has(verdict: Verdict) -> Callable[[DomainReport, Domain], bool]:
    return lambda report, _domain: report.verdict is verdict


def _lacks_update(report: DomainReport, _domain: Domain) -> bool:
    return report.verdict.lacks_update


#: Is asked again of a domain that was watched.
PROCESSOR_TIME: Final = Probe(
    "processor time of its QEMU", Source.LIBVIRT, _lacks_update, _processor, waits=False
)
PROBES: Final = (
    Probe(
        "reason of its state",
        Source.LIBVIRT,
        lambda report, _: report.verdict not in {Verdict.FRESH, Verdict.SHUTOFF},
        _reason,
        waits=False,
    ),
    Probe("holder of its monitor", Source.LIBVIRT, _has(Verdict.BUSY), _holder, waits=False),
    PROCESSOR_TIME,
    Probe("guest agent", Source.LIBVIRT, _lacks_update, _agent),
    Probe("iommu of the balloon's driver", Source.LIBVIRT, _has(Verdict.UNANSWERED), _iommu),
    Probe(
        "balloon in <qemu:commandline>",
        Source.LIBVIRT,
        lambda report, _: report.verdict is Verdict.NO_DEVICE and report.source is Source.LIBVIRT,
        _commandline,
    ),
    Probe(
        "balloon in the persistent XML",
        Source.LIBVIRT,
        lambda report, domain: report.verdict is Verdict.NO_DEVICE and domain.persistent,
        _persistent_balloon,
    ),
    Probe(
        "query-version",
        Source.QOM,
        lambda report, _: (
            report.verdict.was_read
            and report.balloon is not None
            and report.balloon.qom_path is not None
        ),
        _qemu_version,
    ),
)


def signs_of(report: DomainReport) -> dict[Sign, bool]:
    """What the reading itself shows."""
    interval, figures = report.interval, report.figures
    # libvirt's intervals do not apply to a balloon that it did not define.
    is_foreign = report.balloon is not None and report.balloon.model is None
    live = interval.live if not is_foreign else None
    signs = {
        Sign.UPDATED: False,
        Sign.UNPOLLED: report.balloon is not None and interval.in_force == 0,
    }
    if interval.live is not None:
        signs[Sign.XML_POLLS] = bool(live)
    if interval.qemu is not None:
        signs[Sign.QEMU_INTERVAL] = True
        if live is not None:
            signs[Sign.DRIFT] = interval.qemu != live
    if live is not None and interval.config is not None and report.balloon is not None:
        signs[Sign.CONFIG_DRIFT] = live != interval.config
    if report.source is Source.QOM and report.verdict.was_read:
        signs[Sign.BEHIND_LIBVIRT] = is_foreign
    if figures.maximum_bytes is not None and figures.current_bytes is not None:
        signs[Sign.BALLOONED] = figures.current_bytes < figures.maximum_bytes
    is_low = Pressure.of(report.usage, None).is_low
    if is_low is not None:
        signs[Sign.LOW_MEMORY] = is_low
    if Anomaly.UPDATE_IN_FUTURE in report.anomalies:
        signs[Sign.FUTURE] = True
    if isinstance(report.error, Busy):
        # The signs have the names of the reasons.
        signs |= {Sign(reason): report.error.reason is reason for reason in BusyReason}
    if report.verdict is Verdict.FAILED:
        is_unsupported = isinstance(report.error, NotSupported)
        signs[Sign.NOT_GIVEN] = is_unsupported and figures.last_update is None
    return signs


def evidence_of(report: DomainReport) -> list[Evidence]:
    """The reading itself, as evidence."""
    balloon, verdict, source = report.balloon, report.verdict, report.source
    found: list[tuple[str, Source, str]] = []
    if report.state is not State.NOSTATE or verdict is not Verdict.BUSY:
        found.append(("state", Source.LIBVIRT, report.state.value))
    if report.error is not None:
        found.append(("reading", source, report.error.message))
    if balloon is not None and balloon.model is not None:
        named = f"{balloon.model}, {balloon.alias}" if balloon.alias else balloon.model
        found.append(("balloon in the XML", Source.LIBVIRT, named))
    elif verdict is not Verdict.BUSY:
        found.append(("balloon in the XML", Source.LIBVIRT, "none"))
    if balloon is not None and balloon.model is None:
        found.append(("balloon in QEMU", Source.QOM, str(balloon.qom_path)))
    elif balloon is None and source is Source.QOM and verdict is Verdict.NO_DEVICE:
        found.append(("balloon in QEMU", Source.QOM, "none"))
    for owner, seconds, by in (
        ("live XML", report.interval.live, Source.LIBVIRT),
        ("persistent XML", report.interval.config, Source.LIBVIRT),
        ("QEMU", report.interval.qemu, Source.QOM),
    ):
        if seconds is not None and balloon is not None:
            text = "0 s, which is off" if seconds == 0 else f"{seconds} s"
            found.append((f"interval of {owner}", by, text))
    if verdict.has_figures and verdict is not Verdict.BUSY:
        found.append(("statistics", source, update_text(report)))
    return [Evidence(asked=asked, by=by, answer=answer) for asked, by, answer in found]


def update_text(report: DomainReport) -> str:
    """When a domain was last updated, for people."""
    if report.figures.last_update is None:
        return "no time of a last update"
    if report.last_update is None:
        return "no update since QEMU was started or reset"
    if report.age_seconds is None:
        return "last update in the future"
    given = sum(value is not None for value in report.stats.as_dict().values())
    return f"last update {report.age_seconds:.0f} s ago; {given} figures"
