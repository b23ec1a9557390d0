"""Waiting until real guests have answered, and who is not waited for."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator, Sequence
from threading import Thread

import pytest

from tests.conftest import GuestFactory, started
from tests.lab import Guest, GuestSpec, Hypervisor, wait_until
from tests.running import COMMAND, on_a_terminal, run
from virtballoon import (
    IntervalRequest,
    Source,
    Unheard,
    set_intervals,
    wait_for_update,
)

#: More than anything here takes: where it is waited for that long, something is wrong.
LONG = 300.0


@pytest.fixture(scope="module")
def willing(module_guest_factory: GuestFactory) -> Guest:
    """A guest that answers, not polled at first."""
    return module_guest_factory(GuestSpec("willing"))


@pytest.fixture(scope="module")
def mixed(module_guest_factory: GuestFactory, willing: Guest) -> Guest:
    """Beside it guests that do not answer, each for a reason of its own."""
    module_guest_factory(GuestSpec("will-not", driver=False))
    module_guest_factory(GuestSpec("will-later", paused=True))
    module_guest_factory(GuestSpec("will-start", start=False))
    module_guest_factory(GuestSpec("will-never", model="none", paused=True))
    return willing


def last_update(guest: Guest) -> int:
    return int(guest.domain.memoryStats().get("last_update", 0))


@pytest.mark.parametrize("via", Source)
def test_an_answer_is_one_that_came_after(willing: Guest, via: Source) -> None:
    uri = willing.hypervisor.uri

    def wait(seconds: int) -> bool | None:
        (change,) = set_intervals(
            uri, IntervalRequest(seconds, via=via), ["willing"], wait=LONG
        ).domains
        assert change.waited is not None
        assert (change.waited.reason is None) == (change.waited.answered is True)
        return change.waited.answered

    wait(0)
    before = last_update(willing)
    assert wait(1) is True
    assert last_update(willing) != before
    # Another interval does not ask at once, and the same one not at all: the next answer counts.
    for seconds in (2, 2):
        before = last_update(willing)
        assert wait(seconds) is True
        assert last_update(willing) > before
    assert wait(0) is None


def test_reasons_not_to_wait(mixed: Guest) -> None:
    result = run(
        mixed.hypervisor, "set-interval", "1", "will*", "--wait-timeout", "3", "--format", "json"
    )
    (host,) = json.loads(result.stdout)["hosts"]
    waited = {domain["name"]: domain["waited"] for domain in host["domains"]}
    assert {name: (w["answered"], w["reason"]) for name, w in waited.items()} == {
        "willing": (True, None),
        "will-not": (False, "no-answer"),
        "will-later": (None, "suspended"),
        "will-start": (None, "shutoff"),
        "will-never": (None, "not-set"),
    }
    assert (result.returncode, host["status"]) == (3, "partial")
    assert waited["will-not"]["seconds"] >= 3
    (line,) = result.stderr.splitlines()
    assert "'will-not'" in line
    # Hosts are waited for at the same time; one without real guests has none that answers.
    hosts = ("-c", mixed.hypervisor.uri, "-c", "test:///default")
    words = ("set-interval", "1", "willing", "test", "--wait-timeout", "3", "--format", "jsonl")
    result = run(mixed.hypervisor, *hosts, *words)
    answered = {
        r["name"]: r["waited"]["answered"] for r in map(json.loads, result.stdout.splitlines())
    }
    assert (result.returncode, answered) == (3, {"willing": True, "test": False})
    # What was asked for was set, though of none that was waited for is there an answer.
    result = run(
        mixed.hypervisor, "set-interval", "--wait-timeout", "1", "1", "will-not", "will-later"
    )
    assert result.returncode == 3
    assert "no answer (" in result.stdout
    # And here there was nothing to wait for.
    result = run(
        mixed.hypervisor, "set-interval", "1", "will-later", "--wait-timeout=10m", "--quiet"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    result = run(mixed.hypervisor, "set-interval", "0", "will*", "--wait", "--format", "csv")
    assert result.returncode == 0
    assert result.stdout.splitlines()[0].endswith("waited.answered,waited.seconds,waited.reason")
    assert ",polling-off" in result.stdout


def test_waiting_is_shown_on_a_terminal(willing: Guest) -> None:
    set_intervals(willing.hypervisor.uri, 0, ["willing"])
    shown = on_a_terminal(
        willing.hypervisor, 100, "set-interval", "1", "willing", "--wait", stderr=True
    )
    assert "waiting for willing to answer\r\x1b[2K" in shown
    assert shown.splitlines()[-1].split()[-3:] == ["after", shown.split()[-2], "s"]


def test_an_interrupted_wait_ends_at_once(mixed: Guest) -> None:
    command = [str(COMMAND), "-v", "-c", mixed.hypervisor.uri, "set-interval", "1", "will-not"]
    with subprocess.Popen(
        [*command, "--wait-timeout", "600"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stderr is not None
        seen = 0
        for line in process.stderr:
            seen += "domainListGetStats" in line
            if seen > 3:
                break
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_restarted_guest_has_not_answered(guest_factory: GuestFactory) -> None:
    """What was set in the guest before is gone with it."""
    guest = guest_factory(GuestSpec("anew", driver=False))
    awaited: list[Sequence[str]] = []

    def start_anew(uri: str, names: Sequence[str]) -> None:
        if names and not awaited:
            guest.domain.destroy()
            guest.domain.create()
        awaited.append(names)

    (change,) = set_intervals(
        guest.hypervisor.uri, 1, ["anew"], wait=LONG, on_waiting=start_anew
    ).domains
    assert change.waited is not None
    assert (change.waited.answered, change.waited.reason) == (False, Unheard.RESTARTED)
    assert (awaited[0], awaited[-1]) == (["anew"], [])


def test_on_a_connection_of_the_callers(mixed: Guest) -> None:
    set_intervals(mixed.hypervisor.uri, 1, ["willing"])
    with mixed.hypervisor.conn() as connection:
        (wait,) = wait_for_update(connection, ["willing"]).domains
        assert (wait.name, wait.waited.answered, wait.report is None) == ("willing", True, False)
        seen = wait.report.last_update if wait.report is not None else None
        # One that was there before may be named: whatever is newer has answered.
        since = {mixed.uuid: (seen or 0) - 1}
        (wait,) = wait_for_update(connection, ["willing"], since=since, seconds=0).domains
        assert wait.waited.answered is True
        (wait,) = wait_for_update(connection, ["will-start"]).domains
        assert (wait.waited.answered, wait.waited.reason) == (None, Unheard.SHUTOFF)
        assert connection.isAlive()


@pytest.fixture
def alone() -> Iterator[Hypervisor]:
    """A hypervisor of a test's own, whose guests may hang."""
    with started() as hypervisor:
        yield hypervisor


def test_guest_that_begins_to_hang_is_no_longer_waited_for(alone: Hypervisor) -> None:
    guests = alone.boot([GuestSpec("hangs", driver=False), GuestSpec("works", driver=False)])
    pending = {"hangs"}
    loading = Thread(target=guests["works"].load_driver)

    def hang(_uri: str, names: Sequence[str]) -> None:
        if names and pending:
            guests[pending.pop()].stop_process()
        elif names == ["works"] and loading.ident is None:
            # Only now, long after the other one is known to hang.
            loading.start()

    host = set_intervals(alone.uri, 1, None, wait=LONG, timeout=3, on_waiting=hang)
    loading.join()
    waited = {change.name: change.waited for change in host.domains}
    assert waited["hangs"] is not None
    assert (waited["hangs"].answered, waited["hangs"].reason) == (False, Unheard.BUSY)
    assert waited["works"] is not None
    assert waited["works"].answered is True
    guests["hangs"].cont_process()
    wait_until(guests["hangs"].domain.memoryStats, 60, "it to go on")
