"""Whether a guest is short of memory: the rule, and each place that applies it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.running import EXAMPLES
from tests.unit.check_builders import UPDATE, figures, host, report
from tests.unit.test_drawing import line_of
from tests.unit.view_builders import host as watched_host
from virtballoon.check.judging import (
    PRESSED,
    CheckResult,
    CheckStatus,
    Measure,
    Policy,
    check_hosts,
)
from virtballoon.check.plugin import output
from virtballoon.doctor.causes import Cause
from virtballoon.doctor.examination import DomainExamination
from virtballoon.doctor.results import CommandPrefixes
from virtballoon.model.memory import Usage, UsedFormula
from virtballoon.model.pressure import (
    AVAILABLE_RATIO,
    FAULTS_PER_SECOND,
    SWAP_PER_SECOND,
    Pressure,
)
from virtballoon.model.report import DomainReport
from virtballoon.watch.view import Order, View

MIB = 1024**2
QUIET: dict[str, Any] = {"swap_in": 0, "swap_out": 0, "major_faults": 0, "minor_faults": 0}
POLICY = Policy(thresholds={Measure.PRESSURE: PRESSED})


def pressure(
    available: float | None, faults: float | None, swap: float | None, kills: int | None = None
) -> Pressure:
    return Pressure(
        available_ratio=available, faults_per_second=faults, swap_per_second=swap, oom_kills=kills
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        # Little is left, and the guest suffers; each limit belongs to the guest that is well.
        (pressure(0.049, 5.1, 0), True),
        (pressure(0.049, 0, MIB + 1), True),
        (pressure(0.049, 5.0, MIB), False),
        (pressure(0.05, 100, 9 * MIB), False),
        # One sign of suffering is enough, without the other.
        (pressure(0.01, None, 2 * MIB), True),
        (pressure(0.01, 6, None), True),
        # A figure that decides is missing.
        (pressure(None, 100, 9 * MIB), None),
        (pressure(None, 0, 0), None),
        (pressure(0.01, None, 0), None),
        (pressure(0.01, 0, None), None),
        (pressure(0.01, None, None), None),
        (Pressure(), None),
        # One that does not decide.
        (pressure(0.5, None, None), False),
        # A process was killed, by a limit inside the guest perhaps.
        (pressure(0.5, 0, 0, 1), True),
        (pressure(None, None, None, 1), True),
        (pressure(0.01, None, None, 0), None),
        (pressure(0.01, 0, 0, 0), False),
    ],
)
def test_rule(given: Pressure, expected: bool | None) -> None:
    assert given.is_short is expected


def test_only_available_memory_counts() -> None:
    usage = Usage(used_bytes=99, total_bytes=100, formula=UsedFormula.TOTAL_FREE)
    assert Pressure.of(usage, None).available_ratio is None
    usage = Usage(used_bytes=75, total_bytes=100, formula=UsedFormula.TOTAL_AVAILABLE_BALLOON)
    assert Pressure.of(usage, None).available_ratio == 0.25


def guest(used: int, *, seconds: int = 0, name: str = "web1", **gained: Any) -> DomainReport:
    """A guest that uses so many of its 1000 bytes, after these seconds."""
    update = UPDATE + seconds
    stats = figures(used, update=update, **(QUIET | {"minor_faults": seconds} | gained))
    return report(name=name, uuid=f"uuid-{name}", figures=stats, read_at=update + 0.5)


def checked(*rows: DomainReport) -> CheckResult:
    """The last of several checks."""
    samples = None
    for row in rows:
        result = check_hosts([host(row)], POLICY, former=samples)
        samples = result.samples
    return result


THRASHING: dict[str, Any] = {"major_faults": 60, "swap_in": 20 * MIB, "minor_faults": 90}


def test_check() -> None:
    result = checked(guest(980), guest(980, seconds=10, **THRASHING))
    assert result.status is CheckStatus.WARNING
    text = output(result, names={})
    assert text.startswith("MEMORY WARNING - web1: short of memory | ")
    assert "'web1 pressure'=1;0" in text
    assert "'web1 swap_per_second'=2097152B" in text
    assert "'web1 major_faults_per_second'=6" in text
    assert "2.0% available, 6.0 major faults/s, 2.0 MiB/s swap, OOM kills unknown" in text


def test_check_of_a_full_guest_that_is_well() -> None:
    result = checked(guest(999), guest(999, seconds=10))
    assert result.status is CheckStatus.OK
    assert "'web1 pressure'=0;0" in output(result, names={})
    assert "not short of memory" in output(result, names={})


def test_check_of_a_first_run_says_that_it_knows_no_rates() -> None:
    text = output(checked(guest(999)), names={})
    assert text.startswith("MEMORY OK - ")
    assert "no rates yet" in text
    assert "major faults unknown" in text
    assert "short of memory" not in text


@pytest.mark.parametrize("missing", ["available_memory", "major_faults", "swap_out"])
def test_check_of_a_missing_figure_is_unknown(missing: str) -> None:
    lacks: dict[str, Any] = {missing: None}
    result = checked(guest(990, **lacks), guest(990, seconds=10, **lacks))
    assert result.status is CheckStatus.UNKNOWN
    assert "whether it is short of memory is unknown" in output(result, names={})


def test_check_of_an_impossible_figure_is_unknown() -> None:
    wrong: dict[str, Any] = {"available_memory": 2000}
    result = checked(guest(990, **wrong), guest(990, seconds=10, **wrong))
    assert result.status is CheckStatus.UNKNOWN


def test_check_counts_kills_where_they_are_known() -> None:
    result = checked(guest(100, oom_kills=3), guest(100, seconds=10, oom_kills=4))
    assert result.status is CheckStatus.WARNING
    assert "1 OOM kills" in output(result, names={})


def test_check_after_a_reset_starts_again() -> None:
    former = guest(980, minor_faults=1000)
    assert checked(former, guest(980, seconds=10, **THRASHING)).status is CheckStatus.OK


def watched(order: Order, *readings: list[DomainReport]) -> View:
    view = View(["hv1"], every=2.0, order=order)
    for rows in readings:
        view.update(0, watched_host(rows), rows[0].read_at)
    return view


def test_watch_shows_and_sorts_by_pressure() -> None:
    first = [guest(980), guest(990, name="full"), guest(100, name="idle")]
    later = [
        guest(980, seconds=10, **THRASHING),
        guest(990, name="full", seconds=10),
        guest(100, name="idle", seconds=10),
    ]
    # A reading without a new update in between, and one after it, change nothing.
    view = watched(Order.PRESSURE, first, first, later, later)
    names = [line.domain.name for line in view.lines if line.domain]
    assert names == ["web1", "full", "idle"]
    pressures = [line.domain.pressure.is_short for line in view.lines if line.domain]
    assert pressures == [True, False, False]
    view = watched(Order.PRESSURE, first)
    assert [line.domain.pressure.is_short for line in view.lines if line.domain] == [
        *(None, None, False)
    ]
    assert "yes" in line_of("web1", watched(Order.PRESSURE, first, later), 80).split()


def diagnosed(first: DomainReport, *later: DomainReport) -> tuple[list[Cause], Cause | None]:
    examined = DomainExamination(first, uri="qemu:///system")
    for each in later:
        examined.add_watch(each)
    diagnosis = examined.diagnosis(CommandPrefixes.by_uri("qemu:///system"))
    return [finding.cause for finding in diagnosis.findings], diagnosis.cause


def test_doctor() -> None:
    full = guest(980)
    assert diagnosed(full, guest(980, seconds=10, **THRASHING)) == (
        [Cause.SHORT_OF_MEMORY],
        Cause.WELL,
    )
    assert diagnosed(full, guest(980, seconds=10)) == ([], Cause.WELL)
    # No second update in time.
    assert diagnosed(full) == ([Cause.LOW_MEMORY], Cause.WELL)
    assert diagnosed(full, full) == ([Cause.LOW_MEMORY], Cause.WELL)
    assert diagnosed(guest(500)) == ([], Cause.WELL)


def test_alert_has_the_constants() -> None:
    rules = (EXAMPLES / "prometheus" / "virtballoon.rules.yml").read_text()
    rule = rules.partition("alert: GuestMemoryPressure")[2].partition("for:")[0]
    numbers = [float(number) for number in re.findall(r"[<>] ([\d.]+)", rule)]
    assert numbers == [AVAILABLE_RATIO, FAULTS_PER_SECOND, SWAP_PER_SECOND]
