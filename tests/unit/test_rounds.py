"""Hosts that are read again and again: what is shared, what is not, and what does not pile up."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.lab.waiting import wait_until
from tests.unit.silence import SilentHost, held
from tests.unit.test_report import report
from virtballoon import (
    ConfigurationError,
    ConnectError,
    HostChanges,
    HostReport,
    HostStatus,
    Interval,
    IntervalChange,
    InvalidInterval,
    LibvirtFailure,
    Outcome,
    Rounds,
    VirtballoonError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Hosts:
    """Gives the hosts, and counts how often."""

    def __init__(self, **hosts: str) -> None:
        self.hosts = hosts
        self.asked = 0

    def __call__(self) -> dict[str, str]:
        self.asked += 1
        return self.hosts


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[SilentHost]:
    with SilentHost(tmp_path / "socket") as host:
        yield host


def test_a_round(node: str) -> None:
    round_ = Rounds({"one": node, "gone": "qemu+unix:///system?socket=/no/such/sock"}).read()
    assert {name: report.status for name, report in round_.hosts.items()} == {
        "one": HostStatus.OK,
        "gone": HostStatus.UNREACHABLE,
    }
    assert round_.hosts["gone"].error is not None
    assert len(round_.hosts["one"].domains) > 1


def test_who_comes_meanwhile_gets_the_same(node: str, silent: SilentHost) -> None:
    hosts = Hosts(one=node, silent=silent.uri)
    rounds = Rounds(hosts, timeout=0.3)
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda _: rounds.read(), range(4)))
    assert hosts.asked == 1
    assert len({round_.begun_at for round_ in read}) == 1
    assert {round_.hosts["one"].status for round_ in read} == {HostStatus.OK}


@pytest.mark.parametrize(("max_age", "asked"), [(3600, 1), (0, 2)])
def test_who_comes_shortly_after(node: str, max_age: float, asked: int) -> None:
    hosts = Hosts(one=node)
    rounds = Rounds(hosts, max_age=max_age)
    first, second = rounds.read(), rounds.read()
    assert hosts.asked == asked
    assert (second.begun_at == first.begun_at) is (asked == 1)
    assert second.age_seconds > 0


def test_what_was_cut_short_is_only_for_who_was_in_a_hurry(silent: SilentHost) -> None:
    hosts = Hosts(silent=silent.uri)
    rounds = Rounds(hosts, timeout=0.4, max_age=3600)
    rounds.read(0.1)
    rounds.read(0.1)
    assert hosts.asked == 1
    rounds.read()
    assert hosts.asked == 2


def test_hosts_are_asked_for_at_each_round(node: str) -> None:
    hosts = Hosts(one=node)
    rounds = Rounds(hosts)
    rounds.read()
    hosts.hosts = {"two": node}
    assert list(rounds.read().hosts) == ["two"]


def test_hosts_that_cannot_be_given(node: str) -> None:
    broken = [ConfigurationError("broken")]

    def hosts() -> dict[str, str]:
        if broken:
            raise broken.pop()
        return {"one": node}

    rounds = Rounds(hosts)
    with pytest.raises(ConfigurationError):
        rounds.read()
    assert list(rounds.read().hosts) == ["one"]


def test_a_silent_host_is_not_visited_again_before_it_answers(
    node: str, silent: SilentHost
) -> None:
    before = held()
    rounds = Rounds({"silent": silent.uri, "one": node}, timeout=0.2)
    first = rounds.read()
    for _ in range(4):
        round_ = rounds.read()
    # Those of the other host have ended.
    wait_until(lambda: held()[0] <= before[0] + 1, 30, "one thread to be left")
    errors = [str(r.hosts["silent"].error) for r in (first, round_)]
    assert "no answer within 0.2 s" in errors[0]
    assert "no answer for" in errors[1]
    assert round_.hosts["one"].status is HostStatus.OK
    silent.close()
    wait_until(
        lambda: "no answer" not in str(rounds.read().hosts["silent"].error), 30, "another visit"
    )
    wait_until(lambda: held()[0] <= before[0], 30, "the threads to end")


def test_a_host_for_which_no_time_is_left(node: str, silent: SilentHost) -> None:
    rounds = Rounds({"silent": silent.uri, "one": node}, timeout=0.2, jobs=1)
    report = rounds.read().hosts["one"]
    assert report.status is HostStatus.UNREACHABLE
    assert "not" in str(report.error)


def test_an_interval_that_there_is_not() -> None:
    with pytest.raises(InvalidInterval):
        Rounds({}, ensure=-1)


class Ensuring:
    """Rounds of a host with one guest that is not polled. No real libvirtd fails to be written to
    and can be read, and at a word, so both are made up here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, node: str) -> None:
        self.failure: VirtballoonError | None = None
        self.is_reached = True
        self.tries = 0
        monkeypatch.setattr("virtballoon.exporter.snapshots.read_visited", self._read)
        monkeypatch.setattr("virtballoon.exporter.snapshots.set_intervals", self._set)
        self._rounds = Rounds({"one": node}, ensure=5)

    def scrape(self) -> int:
        """How often it has been tried after another round."""
        before = threading.active_count()
        self._rounds.read()
        wait_until(lambda: threading.active_count() <= before, 30, "the round's thread to end")
        return self.tries

    def _read(self, *_visit: object, **_how: object) -> HostReport:
        row = report(uuid="uuid-off", interval=Interval(live=0))
        return HostReport(
            uri="test:///default",
            hostname="hv1",
            status=HostStatus.OK,
            error=None,
            elapsed_seconds=0.0,
            domains=(row,),
        )

    def _set(self, *_what: object, **_how: object) -> HostChanges:
        self.tries += 1
        change = IntervalChange(
            name="web1",
            uuid="uuid-off",
            outcome=Outcome.FAILED,
            changed=False,
            before=Interval(live=0),
            after=Interval(live=0),
            error=self.failure,
        )
        return HostChanges(
            uri="test:///default",
            hostname=None,
            status=HostStatus.PARTIAL if self.is_reached else HostStatus.UNREACHABLE,
            error=None if self.is_reached else self.failure,
            elapsed_seconds=0.0,
            changes=(change,) if self.is_reached else (),
        )


def test_a_guest_is_tried_again_once_its_host_can_be_written_to(
    node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensuring = Ensuring(monkeypatch, node)
    ensuring.failure = ConnectError("libvirtd is being restarted", host="hv1")
    ensuring.is_reached = False
    # Not at each scrape.
    assert [ensuring.scrape() for _ in range(3)] == [1, 1, 1]
    monkeypatch.setattr("virtballoon.exporter.snapshots._REST_SECONDS", 0.0)
    ensuring = Ensuring(monkeypatch, node)
    ensuring.failure = ConnectError("libvirtd is being restarted", host="hv1")
    ensuring.is_reached = False
    assert [ensuring.scrape() for _ in range(3)] == [1, 2, 3]
    # What comes of the guest itself is for its whole run.
    ensuring.failure = LibvirtFailure("no")
    ensuring.is_reached = True
    assert [ensuring.scrape() for _ in range(3)] == [4, 4, 4]
