"""Plans: which call is made next, with domains that hang, are held or migrate."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.fake_hypervisor import FakeHost, Simulation, Trouble, connected
from virtballoon.engine.limits import HOLD_SECONDS, IN_FLIGHT, MOST_HUNG, Limits
from virtballoon.engine.plan import Plan, Row, Step
from virtballoon.engine.reader import ReadPlan, _Row
from virtballoon.engine.tasks import TaskPlan
from virtballoon.errors import Busy, BusyReason
from virtballoon.hypervisor.domain import Control, Domain
from virtballoon.model.source import Source

#: The simulation's first moment.
START = 1000.0
TIMEOUT = 60.0

MakePlan = Callable[[list[Domain], Limits], Plan[Row]]


def near(domains: list[Domain], limits: Limits) -> Plan[Row]:
    return ReadPlan(domains, via=Source.LIBVIRT, limits=limits, xml_waits=False)  # type: ignore[return-value]


def far(domains: list[Domain], limits: Limits) -> Plan[Row]:
    return ReadPlan(  # type: ignore[return-value]
        domains, via=Source.LIBVIRT, limits=limits, xml_waits=False, is_far=True
    )


def newer(domains: list[Domain], limits: Limits) -> Plan[Row]:
    return ReadPlan(domains, via=Source.LIBVIRT, limits=limits, xml_waits=True)  # type: ignore[return-value]


def tasks(domains: list[Domain], limits: Limits) -> Plan[Row]:
    return TaskPlan(dict.fromkeys(domains, object), limits=limits)  # type: ignore[return-value]


PLANS = pytest.mark.parametrize("make", [near, far, newer, tasks])


class Run:
    """A plan that was carried out.

    :ivar rows: the domains by number
    :ivar seconds: how long it took
    """

    def __init__(
        self,
        make: MakePlan,
        number: int,
        trouble: dict[int, Trouble],
        *,
        seconds: float = TIMEOUT,
        limits: Limits | None = None,
    ) -> None:
        _, domains = connected(FakeHost(number))
        by_uuid = {domains[index].uuid: what for index, what in trouble.items()}
        self.simulation = Simulation(by_uuid)
        found = list(self.simulation.run(make(domains, limits or Limits()), seconds=seconds))
        assert sorted(row.domain.name for row in found) == [d.name for d in domains]
        self.rows = {int(row.domain.name[4:]): row for row in found}
        self.seconds = self.simulation.now - START

    @property
    def reasons(self) -> dict[int, BusyReason]:
        """The domains that are busy, with the reason."""
        errors = {number: row.error for number, row in self.rows.items()}
        return {n: error.reason for n, error in errors.items() if isinstance(error, Busy)}


def hung() -> Trouble:
    return Trouble(hangs_from=0.0)


def held(seconds: float, until: float = math.inf) -> Trouble:
    """Hung, with a call of an earlier run that has waited for this time."""
    return Trouble(hangs_from=0.0, hangs_until=until, held=[(START - seconds, until)])


def job(until: float = math.inf, *, is_shown: bool = True) -> Trouble:
    return Trouble(held=[(START - 100.0, until)], is_job=True, is_shown=is_shown)


@PLANS
def test_all_is_well(make: MakePlan) -> None:
    run = Run(make, 100, {})
    assert not any(row.error for row in run.rows.values())
    assert run.seconds < 0.5


@PLANS
@pytest.mark.parametrize("numbers", [(3, 40, 77), (3, 4, 5), (97, 98, 99)])
def test_a_first_run_waits_two_seconds(make: MakePlan, numbers: tuple[int, ...]) -> None:
    run = Run(make, 100, {number: hung() for number in numbers})
    assert run.reasons == dict.fromkeys(numbers, BusyReason.MONITOR)
    assert HOLD_SECONDS <= run.seconds < HOLD_SECONDS + 1.5


@PLANS
def test_a_later_run_does_not_wait(make: MakePlan) -> None:
    run = Run(make, 100, {number: held(60.0) for number in (3, 40, 77)})
    assert run.reasons == dict.fromkeys((3, 40, 77), BusyReason.MONITOR)
    assert run.seconds < 0.5


@pytest.mark.parametrize("make", [near, far])
def test_xml_is_read_even_if_too_many_domains_hang_to_ask_for_figures(make: MakePlan) -> None:
    run = Run(make, 20, dict.fromkeys(range(MOST_HUNG), held(60.0)))
    assert all(isinstance(row, _Row) and row.configs is not None for row in run.rows.values())


@PLANS
def test_the_time_counts_from_when_it_was_taken(make: MakePlan) -> None:
    run = Run(make, 20, {5: held(1.5)})
    assert run.reasons == {5: BusyReason.MONITOR}
    assert 0.5 <= run.seconds < 0.7


@PLANS
def test_domain_that_continues_in_time(make: MakePlan) -> None:
    run = Run(
        make, 20, {5: held(0.0, START + 1.0), 6: Trouble(0.0, START + 1.5), 7: job(START + 1)}
    )
    assert run.reasons == {}
    assert run.seconds < HOLD_SECONDS


@PLANS
def test_a_job_counts_from_when_it_was_first_seen(make: MakePlan) -> None:
    limits = Limits()
    run = Run(make, 20, {5: job()}, limits=limits)
    assert run.reasons == {5: BusyReason.JOB}
    assert HOLD_SECONDS <= run.seconds < HOLD_SECONDS + 0.3


@pytest.mark.parametrize("make", [near, far, newer])
def test_a_job_of_an_earlier_run(make: MakePlan) -> None:
    _, domains = connected(FakeHost(20))
    limits = Limits()
    limits.note_job(domains[5].uuid, START - 60.0)
    row = Run(make, 20, {5: job()}, limits=limits).rows[5]
    assert isinstance(row.error, Busy)
    # Libvirt knows the state of a domain that a job holds.
    assert row.unasked is not None  # type: ignore[attr-defined]
    assert Run(make, 20, {}, limits=limits).reasons == {}


@pytest.mark.parametrize("make", [near, far, newer])
def test_a_job_that_libvirt_does_not_show(make: MakePlan) -> None:
    run = Run(make, 20, {5: job(is_shown=False), 6: job(START + 1, is_shown=False)})
    assert run.reasons == {5: BusyReason.JOB}
    assert HOLD_SECONDS <= run.seconds < HOLD_SECONDS + 0.3


@PLANS
def test_an_incoming_migration_is_not_waited_for(make: MakePlan) -> None:
    run = Run(make, 20, {5: Trouble(is_incoming=True)})
    if make is tasks:
        assert [n for n, row in run.rows.items() if row.is_incoming] == [5]
    else:
        assert [n for n, row in run.rows.items() if row.is_incoming] == [5]
        assert run.reasons == {}
    assert run.seconds < 0.5


@pytest.mark.parametrize("via", Source)
def test_only_a_plan_by_qom_uses_the_monitor(via: Source) -> None:
    _, domains = connected(FakeHost(1))
    uuid = domains[0].uuid
    plan = ReadPlan(domains, via=via, limits=Limits(), xml_waits=True)
    (scan,) = plan.start(START)
    plan.take(scan, {uuid: Control(free=True, seconds=0.0, waiting=False)}, START)
    (bulk,) = plan.start(START)
    # The call is late, so that the domain is checked; the answer to that comes after its own.
    (check,) = plan.start(plan.next_event())
    assert check.step is Step.CHECK
    assert not plan.take(bulk, {uuid: Simulation.asked(bulk)}, START)
    plan.take(check, {uuid: Control(free=True, seconds=0.0, waiting=False)}, START)
    steps = {call.step for call in plan.start(START + HOLD_SECONDS)}
    assert steps == ({Step.XML} if via is Source.LIBVIRT else {Step.XML, Step.QOM})


@PLANS
def test_many_hung_domains_leave_workers_free(make: MakePlan) -> None:
    trouble = {number: hung() for number in range(4, 28)}
    for _ in range(6):
        run = Run(make, 30, trouble)
        assert run.seconds < 2 * HOLD_SECONDS + 1.5
        assert run.reasons.keys() <= trouble.keys() | set(range(30))
        assert all(run.rows[n].error is not None for n in trouble)
        # The next run is some time later.
        for what in trouble.values():
            what.held = [(START - 60.0, end) for _, end in what.held]
    workers = sum(bool(what.held) for what in trouble.values())
    assert IN_FLIGHT <= workers <= MOST_HUNG
    assert set(run.reasons.values()) == {BusyReason.MONITOR, BusyReason.LIMIT}


@PLANS
def test_a_host_without_answers_ends_in_time(make: MakePlan) -> None:
    _, domains = connected(FakeHost(3))
    simulation = Simulation({}, call_seconds=1000.0)
    rows = list(simulation.run(make(domains, Limits()), seconds=5.0))
    assert simulation.now - START == pytest.approx(5.0)
    assert [row.error.reason for row in rows if isinstance(row.error, Busy)] == [
        BusyReason.LIMIT
    ] * 3


TROUBLES = st.builds(
    lambda kind, begins, lasts: {
        "hung": Trouble(hangs_from=START + begins, hangs_until=START + begins + lasts),
        "held": Trouble(held=[(START - begins, START - begins + lasts)]),
        "job": Trouble(held=[(START - begins, START - begins + lasts)], is_job=True),
        "incoming": Trouble(is_incoming=True),
    }[kind],
    kind=st.sampled_from(["hung", "held", "job", "incoming"]),
    begins=st.floats(0.0, 3.0),
    lasts=st.floats(0.0, 10.0) | st.just(math.inf),
)


@PLANS
@settings(max_examples=60, deadline=None)
@given(
    number=st.integers(1, 40),
    trouble=st.dictionaries(st.integers(0, 39), TROUBLES, max_size=25),
)
def test_whatever_happens(make: MakePlan, number: int, trouble: dict[int, Trouble]) -> None:
    trouble = {index: what for index, what in trouble.items() if index < number}
    run = Run(make, number, trouble)
    simulation = run.simulation
    # libvirtd serves five calls of a connection; the fifth is for what cannot be blocked.
    assert simulation.most_blocking <= IN_FLIGHT
    assert make is far or simulation.most_in_flight <= IN_FLIGHT + 1
    # A chunk can be stuck on one domain after the other.
    assert run.seconds <= (HOLD_SECONDS + 0.7) * (len(trouble) + 1)
    if sum(what.hangs_from < math.inf for what in trouble.values()) < IN_FLIGHT:
        # Nothing is lost but what does not answer.
        assert run.reasons.keys() <= trouble.keys()
        assert BusyReason.LIMIT not in run.reasons.values()
    for index, reason in run.reasons.items():
        if reason is BusyReason.JOB:
            assert trouble[index].is_job or trouble[index].is_incoming
