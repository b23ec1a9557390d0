"""Many hosts at a time: what comes back in which order, who is told when, whose time it is."""

from __future__ import annotations

import socket
import threading
from typing import TYPE_CHECKING

import pytest

import virtballoon
from tests.unit.command import LONG, NOBODY_LISTENS, TEST
from tests.unit.silence import SilentHost
from virtballoon import HostStatus
from virtballoon.engine.fleet import on_hosts
from virtballoon.hypervisor.translation import keep_stderr_quiet
from virtballoon.operations import fleet

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OTHER = "test:///default?other"


@pytest.fixture(autouse=True)
def _no_noise() -> None:
    keep_stderr_quiet()


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[SilentHost]:
    with SilentHost(tmp_path / "socket") as host:
        yield host


def test_each_host_is_reported_as_it_ends(silent: SilentHost) -> None:
    targets = [silent.uri, NOBODY_LISTENS, TEST]
    threads: set[threading.Thread] = set()
    told: list[virtballoon.HostReport] = []

    def each(host: virtballoon.HostReport) -> None:
        told.append(host)
        threads.add(threading.current_thread())
        if len(told) == 2:
            silent.close()

    hosts = virtballoon.read_hosts(targets, timeout=LONG, on_result=each)

    assert [host.uri for host in hosts] == targets
    assert {id(host) for host in told} == {id(host) for host in hosts}
    assert told[-1].uri == silent.uri
    assert threads == {threading.current_thread()}


def test_a_host_that_waits_for_a_job_keeps_its_time(silent: SilentHost) -> None:
    # Together the silent ones take as long as a host has.
    targets = [silent.uri, silent.uri, TEST]
    expected = [HostStatus.UNREACHABLE, HostStatus.UNREACHABLE, HostStatus.OK]

    changed = virtballoon.set_intervals_on_hosts(
        targets, virtballoon.IntervalRequest(9, dry_run=True), ["test"], timeout=2, jobs=1
    )
    assert [host.status for host in changed] == expected
    assert [change.name for change in changed[-1].domains] == ["test"]


def test_no_more_hosts_than_jobs_at_a_time() -> None:
    lock = threading.Lock()
    running = most = 0
    # Each three visits wait for one another, which only three that run at a time can do.
    together = threading.Barrier(3)

    def visit(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        together.wait(60)
        with lock:
            running -= 1
        return number

    assert on_hosts(range(12), visit, jobs=3) == tuple(range(12))
    assert most == 3


@pytest.mark.parametrize("jobs", [0, -1])
def test_no_jobs(jobs: int) -> None:
    with pytest.raises(ValueError, match=str(jobs)):
        on_hosts([TEST], virtballoon.probe_host, jobs=jobs)


@pytest.mark.parametrize("words", [["test"], ["nowhere"], None], ids=str)
def test_setting_reports_each_host_once(words: list[str] | None) -> None:
    targets = [NOBODY_LISTENS, OTHER, TEST]
    told: list[virtballoon.HostChanges] = []
    hosts = virtballoon.set_intervals_on_hosts(
        targets, virtballoon.IntervalRequest(9, dry_run=True), words, on_result=told.append
    )

    assert len(told) == len(hosts) == len(targets)
    assert {id(host) for host in told} == {id(host) for host in hosts}
    assert [host.uri for host in hosts] == targets


def test_probing() -> None:
    good, nobody = on_hosts([TEST, NOBODY_LISTENS], virtballoon.probe_host)

    assert (good.uri, good.status, good.error) == (TEST, HostStatus.OK, None)
    assert good.hostname == socket.gethostname()
    assert (good.running, good.defined) == (1, 1)
    assert (nobody.status, nobody.hostname) == (HostStatus.UNREACHABLE, None)
    assert (nobody.running, nobody.defined) == (None, None)
    assert isinstance(nobody.error, virtballoon.ConnectError)


def test_names() -> None:
    assert fleet.domain_names([NOBODY_LISTENS, TEST]) == {"test"}
