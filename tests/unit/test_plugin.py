"""What a plugin prints, by the monitoring plugins' guidelines: whatever domains are called."""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.running import parsed
from tests.unit.builders import MEMORY, SCHEMA
from tests.unit.check_builders import DEAD, FULL, OOM, SWAP, UPDATE, after, guest, host, report
from virtballoon.check import plugin, records
from virtballoon.check.judging import (
    CheckResult,
    CheckStatus,
    HostMeasure,
    Measure,
    Policy,
    Thresholds,
    check_hosts,
)
from virtballoon.check.ranges import Range
from virtballoon.model.hostmemory import HostMemory
from virtballoon.model.memory import Anomaly
from virtballoon.model.verdict import Verdict
from virtballoon.render import formats


def printed(result: CheckResult, **options: Any) -> str:
    return plugin.output(result, **({"names": {}} | options))


def test_all_is_well() -> None:
    result = check_hosts([host(guest(870), guest(100, name="db1"))])
    assert printed(result) == (
        "MEMORY OK - 2 domains, at most 87.0% used by web1"
        " | 'domains'=2;;;0 'judged'=2;;;0;2"
        " 'web1 used'=87%;90;95;0;100 'db1 used'=10%;90;95;0;100\n"
        "[OK] web1: 87.0% used, 870 B of 1000 B, figures 0 s old from libvirt\n"
        "[OK] db1: 10.0% used, 100 B of 1000 B, figures 0 s old from libvirt\n"
    )
    assert printed(result, quiet=True).count("\n") == 1
    assert "|" not in printed(result, perfdata=False)


def test_the_worst_comes_first() -> None:
    unpolled = report(name="db1", **FULL[Verdict.POLLING_OFF])
    result = check_hosts([host(guest(100), guest(930, name="b"), guest(980, name="c"), unpolled)])
    said, _, others = parsed(printed(result))
    assert said == "MEMORY CRITICAL - c: 98.0% used (4 domains; 2 more not OK)"
    assert [line.split(":")[0] for line in others] == [
        *("[CRITICAL] c", "[WARNING] b", "[UNKNOWN] db1", "[OK] web1")
    ]
    assert "98.0% used (range 95)" in others[0]
    assert others[2] == "[UNKNOWN] db1: polling-off: polling is off, figures 0 s old from libvirt"


@pytest.mark.parametrize("verdict", FULL)
def test_every_verdict_says_why_and_no_number_without_its_age(verdict: Verdict) -> None:
    result = check_hosts([host(report(**FULL[verdict]))], domains=["web1"])
    said, figures, others = parsed(printed(result))
    assert said.startswith("MEMORY UNKNOWN - ")
    assert verdict.value in "".join(others)
    assert "99.9" not in "".join([said, *others])
    assert set(figures) == {"domains", "judged"}


def test_hosts_are_distinguished() -> None:
    again = host(guest(930), uri="qemu+ssh://hv1/system")
    third = host(guest(100), uri="qemu+ssh://hv3/system", hostname="hv3")
    result = check_hosts([host(guest(100)), again, third, DEAD])
    said, figures, others = parsed(printed(result, names={"qemu:///system": "local"}))
    # The host's name in the configuration, or its own.
    assert said == "MEMORY WARNING - hv1/web1: 93.0% used (3 domains; 1 more not OK)"
    assert {"local/web1 used", "hv1/web1 used", "hv3/web1 used"} < set(figures)
    assert others[0] == "[UNKNOWN] on qemu+ssh://hv2/system: no route"
    # Two hosts of one name go by their URIs.
    _, figures, _ = parsed(printed(result))
    assert {"qemu:///system/web1 used", "qemu+ssh://hv1/system/web1 used"} < set(figures)


def test_a_host_that_is_not_reached() -> None:
    said, figures, _ = parsed(printed(check_hosts([DEAD])))
    assert said == "MEMORY UNKNOWN - on qemu+ssh://hv2/system: no route"
    assert figures == {
        "domains": ("0", "", "", "", "0", None),
        "judged": ("0", "", "", "", "0", "0"),
    }


HOST_POLICY = Policy(
    host_thresholds={
        HostMeasure.AVAILABLE: Thresholds(Range(50, 100), Range(10, 100)),
        HostMeasure.OVERCOMMIT: Thresholds(critical=Range(0, 100)),
        HostMeasure.USED: Thresholds(warning=Range(0, 90)),
    }
)


def test_memory_of_hosts() -> None:
    result = check_hosts([host(guest(), memory=MEMORY), DEAD], HOST_POLICY)
    text = printed(result)
    assert result.status is CheckStatus.WARNING
    assert text.startswith("MEMORY WARNING - memory of hv1: 46.9% available (range 50:100) (and 1")
    assert "[WARNING] memory of hv1: 46.9% available (range 50:100)\n" in text
    assert "'hv1/host available'=46.88%;50:100;10:100;0 " in text
    assert "'hv1/host overcommit'=37.5%;;100;0 " in text
    assert "'hv1/host used'=21.88%;90;;0 " in text
    parsed(text)
    # One that is not reached has one problem.
    assert len(result.problems) == 2


def test_a_domain_with_the_name_of_a_hosts_figures() -> None:
    result = check_hosts([host(guest(name="host"), memory=MEMORY)], HOST_POLICY)
    # Each label once.
    parsed(printed(result))


def test_memory_of_hosts_that_is_not_known() -> None:
    part = HostMemory(total_bytes=100, available_bytes=60)
    result = check_hosts([host(guest(), memory=part)], HOST_POLICY)
    assert result.status is CheckStatus.UNKNOWN
    assert [problem.message for problem in result.problems] == [
        "memory of hv1: unknown how much is given to guests",
        "memory of hv1: unknown how much is used by guests at most",
    ]
    untold = check_hosts([host(guest())], HOST_POLICY)
    assert (len(untold.problems), untold.status) == (3, CheckStatus.UNKNOWN)
    assert check_hosts([host(guest())]).status is CheckStatus.OK


def test_rates_and_their_lack() -> None:
    first = guest(swap_in=0, swap_out=0, oom_kills=0)
    second = guest(swap_in=2**20, swap_out=2**20, oom_kills=1, update=UPDATE + 10)
    said, figures, others = parsed(printed(check_hosts([host(first)], SWAP)))
    assert said.endswith(", no rates yet")
    assert "no rates: no figures" in others[0]
    assert "No former readings" in others[1]
    assert "web1 swap_per_second" not in figures

    said, figures, others = parsed(printed(after(first, second, SWAP)))
    assert said == "MEMORY WARNING - web1: 204.8 KiB/s to and from swap"
    assert figures["web1 swap_per_second"] == ("209715.2", "B", "1024", "1048576", "0", None)
    assert "rates over 10 s (+-1)" in others[0]
    said, figures, _ = parsed(printed(after(first, second, OOM)))
    assert said == "MEMORY CRITICAL - web1: 1 OOM kill"
    assert figures["web1 new_oom_kills"] == ("1", "", "", "0", "0", None)
    # It has no thresholds here.
    assert figures["web1 used"] == ("10", "%", "", "", "0", "100")
    said, _, _ = parsed(printed(check_hosts([host(guest())], OOM)))
    assert said.startswith("MEMORY UNKNOWN - web1: its OOM kills are unknown")


def test_all_performance_data_has_its_unit() -> None:
    row = guest(500, swap_in=1, swap_out=2, major_faults=3, oom_kills=4)
    unpolled = report(name="db1", **FULL[Verdict.POLLING_OFF])
    _, figures, _ = parsed(printed(check_hosts([host(row, unpolled)]), everything=True))
    assert {label: figure[:2] for label, figure in figures.items() if " " in label} == {
        "web1 used": ("50", "%"),
        "web1 used_bytes": ("500", "B"),
        "web1 age": ("0.5", "s"),
        "web1 swap_in": ("1", "c"),
        "web1 swap_out": ("2", "c"),
        "web1 major_faults": ("3", "c"),
        "web1 oom_kills": ("4", "c"),
        # The age of old figures is true as well.
        "db1 age": ("0.5", "s"),
    }
    assert figures["judged"] == ("1", "", "", "", "0", "2")
    assert figures["web1 used"] == ("50", "%", "90", "95", "0", "100")
    assert figures["web1 used_bytes"][-1] == "1000"


@pytest.mark.parametrize("verdict", FULL)
def test_performance_data_has_no_figures_that_cannot_be_trusted(verdict: Verdict) -> None:
    result = check_hosts([host(report(**FULL[verdict]))])
    _, figures, _ = parsed(printed(result, everything=True))
    assert set(figures) <= {"domains", "judged", "web1 age"}


@given(st.floats(allow_nan=False), st.floats(allow_nan=False), st.booleans())
def test_ranges_in_performance_data(start: float, end: float, inverted: bool) -> None:
    if not start < end:
        return
    limit = Range(start, end, inverted)
    policy = Policy(thresholds={Measure.USED: Thresholds(warning=limit, critical=limit)})
    _, figures, _ = parsed(printed(check_hosts([host(guest(500))], policy)))
    _, _, warning, critical, *_ = figures["web1 used"]
    assert Range.parse(warning or "") == Range.parse(critical or "") == limit


HOSTILE = [
    *(
        "it's",
        "''",
        "a=b",
        "a|b",
        "a;b;c",
        "x\ny",
        "\r\n",
        "\x1b[31mred",
        "\u202eevil",
        "tab\there",
    ),
    *(
        "'a'=1 'b",
        "MEMORY OK - | 'x'=1",
        "-w",
        " ",
        "  two  ",
        "\u2028",
        "n\0l",
        "$(id)",
        "<b>",
        "\x7f",
    ),
    *("名前", "\udc80", "a" * 200, "ç", "\\x7c", "100%", "💾"),
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name(name: str) -> None:
    rows = [guest(990, name=name), guest(100, name="web1")]
    for hosts in ([host(*rows)], [host(*rows), host(*rows, uri="other")]):
        result = check_hosts(hosts)
        for options in (
            {},
            {"everything": True},
            {"names": {"other": name, "qemu:///system": "b"}},
        ):
            said, figures, others = parsed(printed(result, **options))
            assert said.startswith("MEMORY CRITICAL - ")
            assert len([label for label in figures if label.endswith(" used")]) == 2 * len(hosts)
            assert len(others) == 2 * len(hosts)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_any_names_have_labels_of_their_own(names: list[str]) -> None:
    rows = [
        replace(guest(990, name=name), uuid=f"uuid-{number}") for number, name in enumerate(names)
    ]
    said, figures, others = parsed(printed(check_hosts([host(*rows)])))
    assert said.startswith("MEMORY CRITICAL - ")
    assert len(figures) == 2 + len(rows)
    assert len(others) == len(rows)


def test_names_that_differ_in_what_a_label_cannot_hold() -> None:
    rows = [guest(name=name) for name in ("a|b", "a\\x7cb", "a b", "a  b", "a\nb")]
    _, figures, _ = parsed(printed(check_hosts([host(*rows)])))
    assert {"a\\x7cb used", "a\\x7cb uuid-a\\x7cb used", "a b used", "a  b used"} < set(figures)


def test_impossible_figures() -> None:
    said, figures, others = parsed(printed(check_hosts([host(guest(-5))])))
    assert said == "MEMORY UNKNOWN - web1: its used memory is unknown"
    assert Anomaly.AVAILABLE_ABOVE_TOTAL.text in others[0]
    assert "web1 used" not in figures


def test_calls_that_could_not_start() -> None:
    assert plugin.failure("no") == "MEMORY UNKNOWN - no"
    long = "word " * 40
    first, second = plugin.failure(long).split("\n")
    assert (len(first), second) == (80, long.strip())
    assert "|" not in plugin.failure("a|b\x1b\n| c=1")


def test_the_document_holds_to_the_schema() -> None:
    rows = [guest(swap_in=0, swap_out=0), guest(990, name="b", swap_in=0, swap_out=0)]
    rows += [report(name=v.value, **FULL[v]) for v in FULL]
    rows = [replace(row, uuid=str(uuid.UUID(int=number))) for number, row in enumerate(rows)]
    states = Policy(thresholds={**Policy().thresholds, **SWAP.thresholds})
    result = check_hosts([host(*rows), DEAD], states)
    validator = jsonschema.Draft202012Validator(SCHEMA)
    data = records.check_data(result, quiet=False, generated_at=UPDATE, table=list)
    document = data.document()
    validator.validate(document)
    assert document["check"]["status"] == "critical"
    assert document["check"]["exit_status"] == 2
    domains = document["hosts"][0]["domains"]
    assert [d["check"]["status"] for d in domains[:2]] == ["ok", "critical"]
    assert domains[1]["check"]["measures"][0] == {
        "measure": "used",
        "value": 99.0,
        "status": "critical",
        "warning": "90",
        "critical": "95",
    }
    data = records.check_data(result, quiet=True, generated_at=UPDATE, table=list)
    quiet = data.document()
    validator.validate(quiet)
    assert {d["check"]["status"] for d in quiet["hosts"][0]["domains"]} == {"critical", "unknown"}
    header = formats.to_csv(data.rows(), data.columns()).split("\n")[0]
    assert header.startswith("uri,check.status,name,")


def test_schema_has_every_enumeration() -> None:
    properties = SCHEMA["$defs"]["measurement"]["properties"]
    assert properties["measure"]["enum"] == [measure.value for measure in Measure]
    assert SCHEMA["$defs"]["state"]["enum"] == [status.name.lower() for status in CheckStatus]
