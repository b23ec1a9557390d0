"""Judges the memory of domains by thresholds and by how reliable their figures are. Pure.

States and exit statuses are the monitoring plugins'. A threshold is applied to nothing but a
figure that can be trusted: what a guest uses counts only where it is fresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Self

from virtballoon.check.ranges import Range
from virtballoon.model.hostmemory import HostMemory
from virtballoon.model.rates import Sample
from virtballoon.model.report import DomainReport, HostReport, unmatched_everywhere
from virtballoon.model.units import BYTES, COUNT, PERCENT, SECONDS, Units
from virtballoon.model.value import Value
from virtballoon.model.verdict import Verdict
from virtballoon.render import text


class CheckStatus(IntEnum):
    """The state of a service, as the monitoring plugins' exit status."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3

    @property
    def severity(self) -> int:
        """The larger the worse: what is known to be bad is not hidden by what is not known."""
        return _BY_SEVERITY.index(self)

    @classmethod
    def worst(cls, statuses: Iterable[CheckStatus]) -> CheckStatus:
        """The worst of them: critical, warning, unknown, ok; ok where there is none."""
        return max(statuses, key=lambda status: status.severity, default=cls.OK)


_BY_SEVERITY: Final = (
    CheckStatus.OK,
    CheckStatus.UNKNOWN,
    CheckStatus.WARNING,
    CheckStatus.CRITICAL,
)


class Trouble(StrEnum):
    """A problem other than a domain's verdict."""

    UNREACHABLE = "unreachable"
    UNMATCHED = "unmatched"
    CLOCK = "clock"


class Measure(StrEnum):
    """What thresholds are for; each member is all that is known of it.

    ``used`` is in percent of the guest's memory, ``age`` in seconds, ``swap`` in bytes read from
    and written to swap per second, ``faults`` in major faults per second, and ``oom`` the number of
    processes killed for lack of memory since the former reading. ``pressure`` is 1 for a guest that
    is short of memory (:class:`virtballoon.Pressure`), else 0.

    :ivar units: the units that a threshold may have
    :ivar statistics: the statistics of which it is the difference to a former reading
    :ivar label: its name in performance data. A rate has no unit of its own there.
    :ivar unit: its unit in performance data
    :ivar missing: the text where the guest does not give it
    """

    units: Units
    statistics: tuple[str, ...]
    label: str
    unit: str
    missing: str

    PRESSURE = (
        *("pressure", COUNT, ("available_memory", "swap_in", "swap_out", "major_faults")),
        *("pressure", "", "whether it is short of memory is unknown"),
    )
    USED = "used", PERCENT, (), "used", "%", "its used memory is unknown"
    AGE = "age", SECONDS, (), "age", "s", "the age of its figures is unknown"
    SWAP = (
        *("swap", BYTES, ("swap_in", "swap_out"), "swap_per_second", "B"),
        "its swap activity is unknown",
    )
    FAULTS = (
        *("faults", COUNT, ("major_faults",), "major_faults_per_second", ""),
        "its major faults are unknown",
    )
    OOM = (
        *("oom", COUNT, ("oom_kills",), "new_oom_kills", ""),
        "its OOM kills are unknown (they need QEMU 9.2, Linux 6.12 and QOM as the source)",
    )

    def __new__(cls, value: str, *traits: Any) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.units, member.statistics, member.label, member.unit, member.missing = traits
        return member

    @property
    def needs_former(self) -> bool:
        """Whether it is the difference to a former reading."""
        return bool(self.statistics)

    def text(self, value: float) -> str:
        """The figure for people."""
        match self:
            case Measure.PRESSURE:
                return "short of memory" if value else "not short of memory"
            case Measure.USED:
                return f"{value:.1f}% used"
            case Measure.AGE:
                return f"figures {text.duration(max(0.0, value))} old"
            case Measure.SWAP:
                return f"{text.size(round(value))}/s to and from swap"
            case Measure.FAULTS:
                return f"{value:.1f} major faults/s"
            case Measure.OOM:
                return text.counted(round(value), "OOM kill")


#: The status of a verdict or a problem: unknown where there are no fresh figures, unless nothing is
#: to be done about it.
DEFAULT_STATES: Final[Mapping[Verdict | Trouble, CheckStatus]] = MappingProxyType(
    {
        **{verdict: CheckStatus.OK for verdict in Verdict if verdict.is_well},
        **{verdict: CheckStatus.UNKNOWN for verdict in Verdict if not verdict.is_well},
        **dict.fromkeys(Trouble, CheckStatus.UNKNOWN),
        # Ages are corrected, so that the guests are judged all the same.
        Trouble.CLOCK: CheckStatus.WARNING,
    }
)


class Thresholds(NamedTuple):
    """When a figure is a cause for a warning, and when it is critical."""

    warning: Range | None = None
    critical: Range | None = None

    def judge(self, value: float) -> CheckStatus:
        """The status of this figure."""
        if self.critical is not None and self.critical.alarms(value):
            return CheckStatus.CRITICAL
        if self.warning is not None and self.warning.alarms(value):
            return CheckStatus.WARNING
        return CheckStatus.OK

    def broken(self, status: CheckStatus) -> Range | None:
        """The threshold that made a figure have this status."""
        return {CheckStatus.WARNING: self.warning, CheckStatus.CRITICAL: self.critical}.get(status)


class HostMeasure(StrEnum):
    """A figure of a host that thresholds apply to, in percent of its memory."""

    AVAILABLE = "available"
    OVERCOMMIT = "overcommit"
    USED = "used"

    def of(self, memory: HostMemory) -> float | None:
        """The figure; ``used`` is the most that it can be."""
        count = {
            HostMeasure.AVAILABLE: memory.available_bytes,
            HostMeasure.OVERCOMMIT: memory.current_bytes,
            HostMeasure.USED: memory.used_max_bytes,
        }[self]
        ratio = memory.share(count)
        return None if ratio is None else 100 * ratio

    @property
    def text(self) -> str:
        """What the figure is a share of the host's memory of, for people."""
        return {
            HostMeasure.AVAILABLE: "available",
            HostMeasure.OVERCOMMIT: "given to guests",
            HostMeasure.USED: "used by guests at most",
        }[self]


#: The thresholds unless others are given: more than 90 and more than 95 percent used.
DEFAULT_THRESHOLDS: Final[Mapping[Measure, Thresholds]] = MappingProxyType(
    {Measure.USED: Thresholds(warning=Range(0, 90), critical=Range(0, 95))}
)

#: The thresholds of pressure.
PRESSED: Final = Thresholds(warning=Range(0, 0))


class Policy(Value):
    """What is judged, and how.

    :ivar states: the statuses of verdicts and problems that differ from :data:`DEFAULT_STATES`;
        fresh figures are judged by thresholds alone
    """

    thresholds: Mapping[Measure, Thresholds] = DEFAULT_THRESHOLDS
    host_thresholds: Mapping[HostMeasure, Thresholds] = MappingProxyType({})
    states: Mapping[Verdict | Trouble, CheckStatus] = MappingProxyType({})

    @property
    def needs_former(self) -> bool:
        """Whether something is judged by the difference to a former reading."""
        return any(measure.needs_former for measure in self.thresholds)

    def state(self, cause: Verdict | Trouble) -> CheckStatus:
        """The status of a verdict or a problem."""
        return self.states.get(cause, DEFAULT_STATES[cause])


class Measurement(Value):
    """One figure that was judged.

    :ivar value: the figure, in the unit of its measure; None where it is not known
    :ivar status: unknown where the guest does not give the figure, ok where there is nothing to
        compare it with yet
    """

    measure: Measure
    value: float | None
    thresholds: Thresholds
    status: CheckStatus


class HostMeasurement(Value):
    """One figure of a host that was judged.

    :ivar value: the figure in percent of the host's memory; None where it is not known
    """

    host: HostReport
    measure: HostMeasure
    value: float | None
    thresholds: Thresholds

    @property
    def status(self) -> CheckStatus:
        """Unknown without a figure."""
        return CheckStatus.UNKNOWN if self.value is None else self.thresholds.judge(self.value)

    @property
    def message(self) -> str:
        """What is wrong with it, for people."""
        value = "unknown how much is" if self.value is None else f"{self.value:.1f}%"
        limit = self.thresholds.broken(self.status)
        return (
            f"memory of {self.host.hostname}: {value} {self.measure.text}"
            f"{'' if limit is None else f' (range {limit})'}"
        )


class CheckedDomain(Value):
    """One domain and its status.

    :ivar status: the worst of its verdict and its measurements
    :ivar report: what was read of it, with its rates where they were needed
    """

    status: CheckStatus
    host: HostReport
    report: DomainReport
    measurements: tuple[Measurement, ...]


class Problem(Value):
    """A problem that is not one domain's."""

    status: CheckStatus
    message: str


#: Readings to compare the next ones with, by a host's URI and a domain's UUID.
Samples = Mapping[str, Mapping[str, Sample]]


class CheckResult(Value):
    """The result of a check.

    :ivar status: the worst of the domains' and the problems'; its number is the exit status
    :ivar samples: what the next check is to be given as the former readings
    :ivar is_first: whether differences are judged, and there was no former reading of any domain
    """

    status: CheckStatus
    hosts: tuple[HostReport, ...]
    measurements: tuple[HostMeasurement, ...]
    domains: tuple[CheckedDomain, ...]
    problems: tuple[Problem, ...]
    samples: Samples
    is_first: bool

    def with_problem(self, problem: Problem) -> Self:
        """The same with another problem."""
        status = CheckStatus.worst([self.status, problem.status])
        return replace(self, status=status, problems=(*self.problems, problem))


def check_hosts(
    hosts: Sequence[HostReport],
    policy: Policy | None = None,
    *,
    domains: Sequence[str] = (),
    former: Samples | None = None,
) -> CheckResult:
    """Judge what was read of hosts.

    :param domains: what was asked for; it is a problem if none of these could be judged
    """
    former, policy = former or {}, policy or Policy()
    if policy.needs_former:
        hosts = [_since(host, former.get(host.uri, {})) for host in hosts]
    checked = tuple(_check_domain(host, row, policy) for host in hosts for row in host.domains)
    measured = tuple(
        HostMeasurement(
            host=host,
            measure=measure,
            value=None if host.memory is None else measure.of(host.memory),
            thresholds=thresholds,
        )
        for host in hosts
        for measure, thresholds in policy.host_thresholds.items()
        if host.error is None
    )
    problems = (
        *(Problem(status=m.status, message=m.message) for m in measured if m.status),
        *_problems(hosts, checked, policy, domains),
    )
    fresh = [row for row in checked if row.report.verdict is Verdict.FRESH]
    return CheckResult(
        status=CheckStatus.worst([*(r.status for r in checked), *(p.status for p in problems)]),
        hosts=tuple(hosts),
        measurements=measured,
        domains=checked,
        problems=problems,
        samples={host.uri: _samples(host, former.get(host.uri, {})) for host in hosts},
        is_first=policy.needs_former
        and bool(fresh)
        and not any(row.report.uuid in former.get(row.host.uri, {}) for row in fresh),
    )


def _since(host: HostReport, former: Mapping[str, Sample]) -> HostReport:
    return replace(host, domains=tuple(row.since(former.get(row.uuid)) for row in host.domains))


def _samples(host: HostReport, former: Mapping[str, Sample]) -> dict[str, Sample]:
    """What the next reading is compared with: the newest fresh figures."""
    kept = dict(former) if host.error is not None else {}
    for row in host.domains:
        if row.verdict is Verdict.FRESH:
            kept[row.uuid] = row.sample
        elif row.uuid in former:
            kept[row.uuid] = former[row.uuid]
    return kept


def _check_domain(host: HostReport, row: DomainReport, policy: Policy) -> CheckedDomain:
    fresh = row.verdict is Verdict.FRESH
    statuses = [] if fresh else [policy.state(row.verdict)]
    measurements = []
    for measure, thresholds in policy.thresholds.items():
        has_age = row.verdict.can_update and row.age_seconds is not None
        if not (has_age if measure is Measure.AGE else fresh):
            continue
        value, is_given = _measured(row, measure)
        if value is None and not any(limit and limit.can_alarm for limit in thresholds):
            # It is not to be judged, so it may be missing.
            continue
        if value is not None:
            status = thresholds.judge(value)
        else:
            status = CheckStatus.OK if is_given else CheckStatus.UNKNOWN
        statuses.append(status)
        measurements.append(
            Measurement(measure=measure, value=value, thresholds=thresholds, status=status)
        )
    return CheckedDomain(
        status=CheckStatus.worst(statuses),
        host=host,
        report=row,
        measurements=tuple(measurements),
    )


def _measured(row: DomainReport, measure: Measure) -> tuple[float | None, bool]:
    """A figure, or None; and whether the guest gives what it is made of."""
    if measure is Measure.USED:
        return row.usage.percent, row.usage.percent is not None
    if measure is Measure.AGE:
        return row.age_seconds, row.age_seconds is not None
    names = measure.statistics
    is_given = all(getattr(row.stats, name) is not None for name in names)
    if measure is Measure.PRESSURE:
        pressure = row.pressure
        value = None if pressure.is_short is None else float(pressure.is_short)
        return value, is_given and pressure.is_low is not None
    rates = row.rates
    gains = {**rates.per_second, "oom_kills": rates.oom_kills} if rates is not None else {}
    gained = [gains.get(name) for name in names]
    known = [value for value in gained if value is not None]
    return (sum(known) if len(known) == len(names) else None), is_given


def _problems(
    hosts: Sequence[HostReport],
    rows: Sequence[CheckedDomain],
    policy: Policy,
    domains: Sequence[str],
) -> Iterator[Problem]:
    for host in hosts:
        if host.error is not None:
            yield Problem(status=policy.state(Trouble.UNREACHABLE), message=str(host.error))
        if host.clock_problem is not None:
            yield Problem(status=policy.state(Trouble.CLOCK), message=host.clock_problem)
    unmatched = unmatched_everywhere(hosts)
    for word in unmatched:
        status = policy.state(Trouble.UNMATCHED)
        yield Problem(status=status, message=f"no domain matches {word!r}")
    if not domains or unmatched or any(host.error for host in hosts):
        return
    if not rows:
        status = policy.state(Trouble.UNMATCHED)
        yield Problem(status=status, message="no running domain matches")
        return
    said = {Verdict.FRESH, *policy.states}
    if all(row.status is CheckStatus.OK and row.report.verdict not in said for row in rows):
        # They were asked for by name.
        message = "none of them has figures to judge"
        yield Problem(status=CheckStatus.UNKNOWN, message=message)
