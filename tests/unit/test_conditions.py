"""Conditions on domains: what they mean, what is refused, and what they restrict."""

from __future__ import annotations

import json
import re
import shlex
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import BARE, HELD, HOST, report
from tests.unit.command import EVIL, Command, Result, assert_refused, only_host
from tests.unit.fake_hypervisor import FakeHost
from virtballoon.doctor.examination import diagnose_host
from virtballoon.errors import Busy
from virtballoon.hypervisor.connection import Connection
from virtballoon.hypervisor.domain import Domain
from virtballoon.model.memory import Figures
from virtballoon.model.outcome import Outcome
from virtballoon.model.report import DomainReport
from virtballoon.model.selection import Exclude, Excluded, Where, select
from virtballoon.model.source import Source
from virtballoon.model.statistics import MemoryStats
from virtballoon.operations import reading
from virtballoon.operations.reading import iter_domains, read_host
from virtballoon.operations.setting import IntervalRequest, set_intervals
from virtballoon.render.columns import column
from virtballoon.render.conditions import where
from virtballoon.render.documents import domain_columns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Used: 21,573,632 of 97,222,656 bytes, 3 seconds ago.
ROW = report()


@pytest.mark.parametrize(
    "text",
    [
        *("verdict=fresh", "verdict==fresh", "verdict=fr*h", "verdict!=stale", "name=web[12]"),
        *("used_ratio>22%", "used_ratio<23%", "used_ratio>0.2", "used-ratio<=100%"),
        *(
            "used<21MiB",
            "used_bytes>=21573632",
            "used=21573632",
            "total_memory=97222656",
            "rss!=1KiB",
        ),
        *("age<5m", "age>3s", "interval=10s", "interval.live<=10", "swap_in=0", "id=7"),
        *("interval.qemu=", "used!=", "interval.qemu!=5", "anomalies=", "excluded=false"),
    ],
)
def test_a_condition_that_is_met(text: str) -> None:
    assert where(text).test(ROW) is True
    assert where(text) == text


@pytest.mark.parametrize(
    "text",
    [
        *("verdict=stale", "verdict=Fresh", "verdict=fres", "verdict!=f*", "name=web"),
        *("used_ratio>23%", "used_ratio<0.2", "used>21MiB", "age>5m", "interval!=10"),
        # A figure that is missing is neither less nor greater.
        *("interval.qemu<5", "interval.qemu>5", "interval.qemu=5", "interval.qemu!="),
        *("machine=", "excluded=true", "stats.not_known>0", "oom_kills>=0"),
    ],
)
def test_a_condition_that_is_not_met(text: str) -> None:
    assert where(text).test(ROW) is False


@pytest.mark.parametrize(
    ("text", "why"),
    [
        *((text, "not a condition") for text in ("", "used", "=", "=x", ">5", "!=x")),
        ("usd>5", "no column 'usd'; did you mean 'used'?"),
        ("verdct=stale", "did you mean 'verdict'?"),
        ("verdict>stale", "is text, which has only = and !="),
        ("name<b", "is text"),
        ("used_ratio>90", "at most 1, which is 100%"),
        ("used>5GB", "no unit 'GB'; there are: B, KiB, MiB, GiB, TiB"),
        ("used>90%", "no unit '%'"),
        ("age>5x", "no unit 'x'; there are: s, min, m, h, d"),
        ("age>", "a number is missing"),
        ("age>-", "'-' is not a number"),
        ("age=1*", "'1*' is not a number"),
        ("swap_in>5s", "no unit 's'"),
        ("used>" + "9" * 400, "too large"),
    ],
)
def test_what_is_refused(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        where(text)


@pytest.mark.parametrize(
    ("text", "meets"),
    [
        # What could not be read may meet the condition, and what is known decides.
        *(("used_ratio>90%", None), ("used=", None), ("used!=5", None), ("machine=x", False)),
        *(
            ("name=web1", True),
            ("name=db", False),
            ("verdict=busy", True),
            ("verdict!=busy", False),
        ),
        *(("error.hint=", True), ("error.code=68", True), ("error.code=7", False)),
    ],
)
def test_a_domain_that_was_not_read(text: str, meets: bool | None) -> None:
    held = report(figures=BARE.figures, error=Busy("held", host=HOST, domain="web1", code=68))
    assert where(text).test(held) is meets
    # A domain that does not run was read, and has no memory.
    assert where("used_ratio>90%").test(BARE) is False


keys = st.sampled_from(domain_columns())


@given(keys, st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.text(max_size=20))
def test_any_text_is_a_condition_or_refused(key: str, sign: str, value: str) -> None:
    try:
        condition = where(key + sign + value)
    except ValueError:
        return
    for row in (ROW, BARE, HELD):
        assert condition.test(row) in {True, False, None}
        if sign == "!=":
            opposite = {True: False, False: True, None: None}
            assert condition.test(row) is opposite[where(f"{key}={value}").test(row)]


@given(st.integers(0, 2**70), st.integers(0, 2**70))
def test_figures_are_ordered(figure: int, limit: int) -> None:
    row = report(id=figure)
    results = {sign: where(f"id{sign}{limit}").test(row) for sign in ("<", "<=", ">", ">=")}
    assert column("id").value(row) == figure
    assert results["<"] is not results[">="]
    assert results[">"] is not results["<="]


@given(st.text(max_size=200))
def test_a_name_is_met_by_itself(name: str) -> None:
    pattern = "".join(f"[{c}]" if c in "*?[=" else c for c in name)
    assert where(f"name={pattern}").test(report(name=name)) is True


def test_a_pattern_takes_no_exponential_time() -> None:
    row = report(name="a" * 200)
    started = time.process_time()
    assert where(f"name={'*a' * 50}*b").test(row) is False
    assert time.process_time() - started < 5


def test_all_conditions_must_hold() -> None:
    words = [where("verdict=fresh"), where("used_ratio>90%")]
    selection = select([ROW], words)
    assert [one.domain for one in selection.domains] == [ROW]
    assert selection.meets(ROW) is False
    assert selection.meets(HELD) is False
    assert select([ROW], words[1:]).meets(report(error=HELD.error, figures=BARE.figures)) is None
    assert select([ROW], ["web1"]).meets(ROW) is True


def test_excluded_by_the_configuration() -> None:
    def selected(*words: str, keep: bool = False) -> list[str]:
        chosen = select([firewall, ROW], [*words, Excluded("fw*", keep=keep)])
        assert chosen.excluded == {"u"}
        return [one.domain.name for one in chosen.domains]

    firewall = report(name="fw1", uuid="u")
    assert selected() == selected("*") == ["web1"]
    assert selected("fw1") == ["fw1"]
    assert selected("fw1", "*") == ["fw1", "web1"]
    assert selected(keep=True) == selected("*", keep=True) == ["fw1", "web1"]
    assert select([firewall], ["f*", Excluded("fw*")]).unmatched == ("f*",)


# Hosts, which are only pretended.


@pytest.fixture
def fake() -> Iterator[FakeHost]:
    host = FakeHost(4)
    for domain, interval in zip(host.domains, (0, 5, 0, 7), strict=True):
        domain.live = interval
    yield host
    host.wake()


def test_reading_gives_those_that_meet_it(fake: FakeHost) -> None:
    target = Connection(fake)
    assert [r.name for r in read_host(target, [where("interval=0")]).domains] == [
        *("fake0000", "fake0002")
    ]
    assert [r.name for r in iter_domains(target, [where("interval>5")])] == ["fake0003"]
    # One that is named and does not meet it is no match, and no word without one either.
    host = read_host(target, ["fake0001", where("interval=0")])
    assert (host.domains, host.unmatched, host.status.value) == ((), (), "ok")
    marked = read_host(target, [Excluded("*3", keep=True), where("excluded=true")])
    assert [row.name for row in marked.domains] == ["fake0003"]
    assert marked.domains[0].is_well


def test_sums_of_the_host_include_what_is_left_out(fake: FakeHost) -> None:
    for words in (None, [Excluded("*3")], [Excluded("*3", keep=True)], [where("interval>6")]):
        host = read_host(Connection(fake), words)
        assert host.memory is not None
        assert host.memory.current_bytes == 4 * 1024**3
    assert [row.name for row in read_host(Connection(fake), [Excluded("fake000?")]).domains] == []
    # A host that is not read as a whole.
    parts: list[list[str]] = [["fake0000"], [Exclude("*3")], ["*", Excluded("*3")]]
    for part in parts:
        host = read_host(Connection(fake), part)
        assert host.memory is not None
        assert host.memory.current_bytes is host.memory.unknown_domains is None


@pytest.mark.parametrize("percent", range(1, 101))
def test_a_percentage_is_the_same_number_as_the_share(percent: int) -> None:
    stats = {"stat-total-memory": 100, "stat-available-memory": 100 - percent}
    row = report(figures=Figures(stats=MemoryStats.from_qemu(stats), last_update=1_700_000_000))
    assert where(f"used_ratio = {percent}%").test(row) is True
    assert where(f"used_ratio>={percent}%").test(row) is True
    assert where(f"used_ratio<{percent}%").test(row) is False


def test_doctor_has_the_sums_of_all_domains(fake: FakeHost) -> None:
    host = diagnose_host(Connection(fake), [where("interval>6")], timeout=1)
    assert [row.name for row in host.domains] == ["fake0003"]
    assert host.memory is not None
    assert host.memory.current_bytes == 4 * 1024**3


def test_left_out_domains_are_not_asked_through_qom(
    fake: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Domain] = []

    def read(_session: object, chosen: dict[str, Domain], *, via: Source) -> list[DomainReport]:
        asked[:] = [*chosen.values()]
        return []

    monkeypatch.setattr(reading, "read_domains", read)
    for via, count in ((Source.LIBVIRT, 4), (Source.QOM, 3)):
        read_host(Connection(fake), [Excluded("*3")], via=via)
        assert len(asked) == count


def test_an_unread_domain_stays_where_the_value_is_unknown(fake: FakeHost) -> None:
    fake.domains[0].control = (2, 0, 60_000)
    fake.domains[0].is_held = True

    def read(text: str) -> tuple[list[str], str]:
        host = read_host(Connection(fake), [where(text)])
        return [row.name for row in host.domains], host.status.value

    assert read("used>1TiB") == (["fake0000"], "partial")
    assert read("name!=fake0000") == (["fake0001", "fake0002", "fake0003"], "ok")
    assert read("verdict=stale") == ([], "ok")


@pytest.mark.parametrize("dry_run", [False, True])
def test_setting_sets_exactly_those_that_meet_it(fake: FakeHost, *, dry_run: bool) -> None:
    request = IntervalRequest(60, dry_run=dry_run)
    host = set_intervals(Connection(fake), request, [where("interval=0"), where("name!=*2")])
    assert [(c.name, c.outcome) for c in host.domains] == [("fake0000", Outcome.CHANGED)]
    assert [domain.live for domain in fake.domains] == [0 if dry_run else 60, 5, 0, 7]


def test_setting_leaves_a_domain_alone_of_which_nothing_is_known(fake: FakeHost) -> None:
    fake.domains[0].control = (2, 0, 60_000)
    fake.domains[0].is_held = True
    host = set_intervals(Connection(fake), 60, [where("used<1TiB")])
    failed, *others = host.domains
    assert (failed.name, failed.outcome) == ("fake0000", Outcome.FAILED)
    assert isinstance(failed.error, Busy)
    assert {change.outcome for change in others} == {Outcome.CHANGED}
    assert [domain.live for domain in fake.domains] == [0, 60, 60, 60]
    assert host.status.value == "partial"


def test_a_condition_of_the_caller(fake: FakeHost) -> None:
    def is_odd(row: DomainReport) -> bool:
        return row.name[-1] in "13"

    host = read_host(Connection(fake), [Where("odd", is_odd)])
    assert [row.name for row in host.domains] == ["fake0001", "fake0003"]


# The command line.


def test_every_command_takes_conditions(command: Command, node: str) -> None:
    commands: list[list[str]] = [
        *(["list"], ["stats"], ["doctor"], ["export"], ["watch", "--once"]),
        ["set-interval", "9", "--all", "--dry-run"],
    ]
    args = ["-c", node]
    met = command.each([*args, *c, "--where", "name=polled"] for c in commands)
    for result in met:
        assert result.status == 0, result
        assert "polled" in result.stdout
        assert "bare" not in result.stdout
    for result in command.each([*args, *c, "--where", "name=none"] for c in commands):
        assert (result.status, "no domain matches --where name=none" in result.stderr) == (1, True)
    for result in command.each([*args, *c, "--where", "projct=x"] for c in commands):
        assert_refused(result, 2, "--where: no column 'projct'")
    for text in ("name=none", "projct=x"):
        result = command("-c", node, "check", "--where", text)
        assert (result.status, result.stdout.split()[1]) == (3, "UNKNOWN"), result


def test_conditions_of_a_list(command: Command, node: str) -> None:
    def names(result: Result) -> list[str]:
        return [row["name"] for row in only_host(result)["domains"]]

    args = ["-c", node, "list", "--format", "json"]
    polled, off, two = command.each(
        [*args, *more]
        for more in (
            ["--where", "interval>5"],
            ["--all", "--where", "state=shutoff"],
            ["--where", "interval=0", "--where", "name=pass*"],
        )
    )
    assert (names(polled), names(off), names(two)) == (["polled"], ["off"], ["passing"])


def test_what_the_configuration_excludes(command: Command, node: str, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[exclude]\ndomains = ['poll*']\n", encoding="utf-8")
    args = ["-c", node, "--config-file", str(file)]

    def run(*more: str) -> Result:
        return command(*args, *more)

    listed = json.loads(run("list", "--format", "json").stdout)["hosts"][0]["domains"]
    assert {row["name"]: row["excluded"] for row in listed} == {
        EVIL: False,
        "bare": False,
        "passing": False,
        "polled": True,
    }
    heads, *rows = run("list").stdout.splitlines()
    assert "EXCLUDED" in heads
    assert [row.split()[0] for row in rows if "yes" in row] == ["polled"]
    assert "EXCLUDED" not in command("-c", node, "list").stdout
    results: dict[str, Any] = {
        "all": run("set-interval", "9", "--all", "--dry-run"),
        "exact": run("set-interval", "9", "polled", "--dry-run"),
        "export": run("export"),
        "named": run("export", "polled"),
        "check": run("check", "--format", "json"),
    }
    assert [name for name, result in results.items() if "polled" in result.stdout] == [
        *("exact", "named")
    ]
    refused = run("set-interval", "9", "poll*")
    assert_refused(refused, 1, "no domain matches 'poll*'")
    assert "the configuration excludes must be named exactly" in refused.stderr
    assert "excludes" not in run("set-interval", "9", "none").stderr


def test_the_advised_command_sets_the_listed_domains_only(command: Command, tmp_path: Path) -> None:
    names = [*(f"a{number:02}" for number in range(11)), "b"]
    file = tmp_path / "node.xml"
    file.write_text(
        "<node>"
        + "".join(
            f"<domain type='test'><name>{name}</name><memory>65536</memory>"
            "<os><type>hvm</type></os><devices><memballoon model='virtio'/></devices></domain>"
            for name in names
        )
        + "</node>",
        encoding="utf-8",
    )
    for words, expected in (
        ([], names),
        (["a*"], names[:-1]),
        (["--exclude", "a00"], names[1:]),
        (["--where", "name=a*", "--exclude", "a00"], names[1:-1]),
    ):
        (advice,) = command("-c", f"test://{file}", "list", *words).complaints
        _, *advised = shlex.split(advice.partition("turn polling on: ")[2])
        done = command(*advised, "--dry-run", "--format", "json")
        assert [row["name"] for row in only_host(done)["domains"]] == expected, words
