"""What a check comes to: thresholds on figures that can be trusted, verdicts, former readings."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from tests.unit.check_builders import (
    DEAD,
    FULL,
    OOM,
    SWAP,
    UPDATE,
    after,
    figures,
    guest,
    host,
    judged,
    report,
)
from virtballoon.check.judging import (
    DEFAULT_STATES,
    CheckStatus,
    Measure,
    Policy,
    Problem,
    Samples,
    Trouble,
    check_hosts,
)
from virtballoon.check.ranges import Range
from virtballoon.errors import LibvirtFailure
from virtballoon.model.report import HostStatus
from virtballoon.model.verdict import Verdict

OK, WARNING, CRITICAL, UNKNOWN = CheckStatus


@pytest.mark.parametrize(
    ("used", "status"), [(0, OK), (900, OK), (901, WARNING), (950, WARNING), (951, CRITICAL)]
)
def test_the_used_share_by_default(used: int, status: CheckStatus) -> None:
    result = check_hosts([host(guest(used))])
    assert result.status is status
    (row,) = result.domains
    assert [(m.measure, m.value) for m in row.measurements] == [(Measure.USED, used / 10)]


def test_share_without_exact_float_is_not_above_itself() -> None:
    # A hundred times the ratio would be 28.999999999999996 and 56.00000000000001.
    policy = judged(Measure.USED, "@29", "56")
    assert check_hosts([host(guest(290))], policy).status is WARNING
    assert check_hosts([host(guest(560))], policy).status is OK


def test_critical_wins_over_warning_and_each_may_be_missing() -> None:
    for warning, critical, status in (
        ("50", None, WARNING),
        (None, "50", CRITICAL),
        ("50", "50", CRITICAL),
        ("50", "~:", WARNING),
        ("~:", "~:", OK),
    ):
        assert (
            check_hosts([host(guest(990))], judged(Measure.USED, warning, critical)).status
            is status
        )


@pytest.mark.parametrize("verdict", FULL)
def test_no_threshold_is_applied_to_figures_that_cannot_be_trusted(verdict: Verdict) -> None:
    row = report(**FULL[verdict])
    assert row.verdict is verdict
    policies = [Policy(), *(judged(m, "0", "0") for m in Measure if m is not Measure.AGE)]
    for policy in policies:
        result = check_hosts([host(row)], policy)
        assert result.status is DEFAULT_STATES[verdict]
        assert result.domains[0].measurements == ()


def test_state_of_each_verdict() -> None:
    assert {verdict for verdict in FULL if DEFAULT_STATES[verdict] is OK} == {
        Verdict.SUSPENDED,
        Verdict.NO_DEVICE,
        Verdict.SHUTOFF,
    }
    assert DEFAULT_STATES[Trouble.CLOCK] is WARNING
    rest = set(Trouble) - {Trouble.CLOCK}
    assert all(DEFAULT_STATES[trouble] is UNKNOWN for trouble in rest)
    for verdict, facts in FULL.items():
        for status in CheckStatus:
            policy = Policy(states={verdict: status})
            assert check_hosts([host(report(**facts))], policy).status is status


def test_impossible_figures_are_unknown() -> None:
    row = report(figures=figures(-5))
    assert (row.verdict, row.usage.ratio) == (Verdict.FRESH, None)
    assert check_hosts([host(row)]).status is UNKNOWN


def test_worst_state_wins() -> None:
    order = [OK, UNKNOWN, WARNING, CRITICAL]
    for statuses in permutations(order, 3):
        assert CheckStatus.worst(statuses) is max(statuses, key=order.index)
    assert CheckStatus.worst([]) is OK
    unpolled = report(name="db1", **FULL[Verdict.POLLING_OFF])
    assert check_hosts([host(guest(920), unpolled)]).status is WARNING
    assert check_hosts([host(guest(100), unpolled)]).status is UNKNOWN
    assert check_hosts([host(guest(999), guest(920, name="b")), DEAD]).status is CRITICAL


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        ({}, OK),
        (FULL[Verdict.STALE], CRITICAL),
        (FULL[Verdict.POLLING_OFF] | {"figures": figures(1, update=UPDATE - 40)}, WARNING),
        (FULL[Verdict.EMPTY], UNKNOWN),
        # They stand still, and that is no fault; or nobody knows their age.
        (FULL[Verdict.SUSPENDED] | {"figures": figures(1, update=1)}, OK),
        (FULL[Verdict.UNANSWERED], UNKNOWN),
        ({"figures": figures(1, update=UPDATE + 1000)}, UNKNOWN),
    ],
)
def test_the_age_is_the_hosts_word_and_judged_beyond_fresh(
    facts: dict[str, Any], status: CheckStatus
) -> None:
    result = check_hosts([host(report(**facts))], judged(Measure.AGE, "30", "1min"))
    assert result.status is status


def test_unreachable_hosts_and_unmatched_words() -> None:
    assert check_hosts([DEAD]).status is UNKNOWN
    assert [p.message for p in check_hosts([DEAD]).problems] == [
        "on qemu+ssh://hv2/system: no route"
    ]
    unreachable = Policy(states={Trouble.UNREACHABLE: CRITICAL})
    assert check_hosts([host(guest()), DEAD], unreachable).status is CRITICAL
    # A host that broke off says as much, whatever it said before.
    broken = host(guest(), status=HostStatus.PARTIAL, error=LibvirtFailure("gone"))
    assert check_hosts([broken]).status is UNKNOWN

    missing = host(unmatched=("nobody",))
    result = check_hosts([missing], domains=["nobody"])
    assert (result.status, len(result.problems)) == (UNKNOWN, 1)
    unmatched = Policy(states={Trouble.UNMATCHED: WARNING})
    assert check_hosts([missing], unmatched, domains=["nobody"]).status is WARNING
    # It is on another host.
    assert check_hosts([missing, host(guest(), uri="b")], domains=["nobody"]).status is OK
    # A pattern that matches what does not run.
    assert check_hosts([host()], domains=["web*"]).status is UNKNOWN
    assert check_hosts([host()]).status is OK


@pytest.mark.parametrize("verdict", [Verdict.SUSPENDED, Verdict.NO_DEVICE, Verdict.SHUTOFF])
def test_named_domain_that_is_not_judged_is_unknown(verdict: Verdict) -> None:
    there = host(report(**FULL[verdict]))
    assert check_hosts([there]).status is OK
    assert check_hosts([there], domains=["web1"]).status is UNKNOWN
    assert check_hosts([there], Policy(states={verdict: OK}), domains=["web1"]).status is OK
    # One that can be judged is an answer.
    both = replace(there, domains=(*there.domains, guest(name="b")))
    assert check_hosts([both], domains=["web1", "b"]).status is OK


def test_rates_need_a_former_reading_and_say_so() -> None:
    first = check_hosts([host(guest(swap_in=5, swap_out=5, oom_kills=7))], SWAP)
    assert (first.status, first.is_first) == (OK, True)
    (measured,) = first.domains[0].measurements
    assert (measured.value, measured.status) == (None, OK)
    second = check_hosts(
        [host(guest(swap_in=5, swap_out=5, update=UPDATE + 10))], SWAP, former=first.samples
    )
    assert (second.status, second.is_first) == (OK, False)
    # Without a guest to compare, nothing is missing; without such thresholds, nothing is needed.
    assert not check_hosts([DEAD], SWAP).is_first
    assert not check_hosts([host(guest())]).is_first


@pytest.mark.parametrize(
    ("swap_in", "swap_out", "status"),
    [
        (10_240, 0, OK),
        (10_240, 10, WARNING),
        (10 * 2**20, 0, WARNING),
        (9 * 2**20, 2**21, CRITICAL),
    ],
)
def test_swap_is_what_goes_in_and_out_per_second(
    swap_in: int, swap_out: int, status: CheckStatus
) -> None:
    first = guest(swap_in=100, swap_out=200)
    second = guest(swap_in=100 + swap_in, swap_out=200 + swap_out, update=UPDATE + 10)
    result = after(first, second, SWAP)
    assert result.status is status
    (measured,) = result.domains[0].measurements
    assert measured.value == (swap_in + swap_out) / 10


def test_faults_and_oom_kills() -> None:
    first = guest(major_faults=10, oom_kills=3, swap_in=0)
    second = guest(major_faults=610, oom_kills=4, swap_in=0, update=UPDATE + 10)
    assert after(first, second, judged(Measure.FAULTS, "60")).status is OK
    assert after(first, second, judged(Measure.FAULTS, "59.9")).status is WARNING
    assert after(first, second, OOM).status is CRITICAL
    assert after(second, guest(oom_kills=4, update=UPDATE + 20), OOM).status is OK


def test_restart_or_reset_gives_no_negative_rate() -> None:
    first = guest(swap_in=10**9, swap_out=10**9, oom_kills=9, major_faults=9, minor_faults=10**6)
    again = guest(swap_in=0, swap_out=0, oom_kills=0, major_faults=0, update=UPDATE + 10)
    for policy in (SWAP, OOM, judged(Measure.FAULTS, "0")):
        for second in (again, replace(again, id=8), replace(again, figures=first.figures)):
            result = after(first, second, policy)
            assert result.status is OK
            assert all(m.value is None for m in result.domains[0].measurements)
    # And the next one is compared with what came after it.
    later = guest(swap_in=50 * 2**20, swap_out=0, update=UPDATE + 20)
    former = after(first, again, SWAP).samples
    assert check_hosts([host(later)], SWAP, former=former).status is CRITICAL


def test_a_figure_that_the_guest_does_not_give_is_unknown() -> None:
    assert after(guest(), guest(update=UPDATE + 10), OOM).status is UNKNOWN
    # Given for the first time, it can be compared the next time.
    assert after(guest(), guest(update=UPDATE + 10, oom_kills=5), OOM).status is OK


def test_a_figure_that_never_alarms_may_be_missing() -> None:
    first, second = (
        guest(update=UPDATE + s, swap_in=0, swap_out=0, available_memory=None) for s in (0, 10)
    )
    never = judged(Measure.USED, "~:", "~:").thresholds
    policy = Policy(thresholds={**never, **SWAP.thresholds})
    (checked,) = after(first, second, policy).domains
    assert checked.status is OK
    assert [m.measure for m in checked.measurements] == [Measure.SWAP]
    # One that is there is judged, and in the performance data with its range.
    (checked,) = check_hosts([host(guest())], Policy(thresholds=never)).domains
    assert [m.value for m in checked.measurements] == [10]
    # One range that can alarm is enough to miss it.
    assert check_hosts([host(first)], judged(Measure.USED, "~:", "95")).status is UNKNOWN


def kept(samples: Samples) -> dict[str, int | None]:
    return {uuid: s.last_update for rows in samples.values() for uuid, s in rows.items()}


@pytest.mark.parametrize("verdict", sorted(set(FULL) - {Verdict.SHUTOFF, Verdict.SUSPENDED}))
def test_a_reading_that_cannot_be_trusted_does_not_replace_one_that_could(verdict: Verdict) -> None:
    first = guest(swap_in=0, swap_out=0)
    between = replace(report(**FULL[verdict]), uuid=first.uuid)
    former = after(first, between, SWAP).samples
    assert kept(former) == {first.uuid: UPDATE}
    later = guest(swap_in=100 * 2**20, swap_out=0, update=UPDATE + 20)
    assert check_hosts([host(later)], SWAP, former=former).status is CRITICAL


def test_what_is_kept_for_the_next_check() -> None:
    former = check_hosts([host(guest(), guest(name="b"))], SWAP).samples
    assert kept(former) == {"uuid-web1": UPDATE, "uuid-b": UPDATE}
    # A host that is not reached has lost nothing; a domain that is gone is forgotten.
    dead = replace(DEAD, uri="qemu:///system")
    assert kept(check_hosts([dead], SWAP, former=former).samples) == kept(former)
    assert kept(check_hosts([host(guest())], SWAP, former=former).samples) == {"uuid-web1": UPDATE}
    # The same domain on another host is another one.
    other = check_hosts([host(guest(), uri="other")], SWAP, former=former)
    assert other.is_first


def test_a_problem_from_outside_hides_nothing() -> None:
    problem = Problem(status=UNKNOWN, message="no state")
    assert check_hosts([host(guest(999))]).with_problem(problem).status is CRITICAL
    result = check_hosts([host(guest())]).with_problem(problem)
    assert (result.status, result.problems) == (UNKNOWN, (problem,))


def test_the_measures_units() -> None:
    assert {m: Range.parse("1", m.units).end for m in Measure} == dict.fromkeys(Measure, 1)
