"""Daemons that restart, and guests that come and go, while they are read."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

import virtballoon
from tests.conftest import started
from tests.lab import GuestSpec, Hypervisor
from tests.lab.keeper import lab_processes, signal_process
from virtballoon import (
    DomainReport,
    HostStatus,
    Source,
    Verdict,
    iter_domains,
    read_host,
)

#: Time enough for a daemon to start again and to find its guests, on a machine that is busy.
TIMEOUT = 60.0


@pytest.fixture(scope="module")
def alone() -> Iterator[Hypervisor]:
    """A hypervisor of this module's own: its daemon is killed."""
    with started() as hypervisor:
        yield hypervisor


@pytest.fixture(scope="module")
def steady(alone: Hypervisor) -> list[str]:
    """Domains that stay, suspended and so cheap; enough for several calls."""
    return alone.create_blank(24, prefix="steady", period=5)


@contextmanager
def meanwhile(work: threading.Thread) -> Iterator[None]:
    """Do this in the background, and wait for its end."""
    work.start()
    try:
        yield
    finally:
        work.join()


@pytest.fixture
def interrupted(
    alone: Hypervisor, steady: list[str]
) -> Iterator[Callable[..., list[DomainReport]]]:
    """Read until two guests are left, whose QEMU does not answer, and kill the daemon then."""
    uuids = [alone.connection.lookupByName(name).UUIDString() for name in steady[6:8]]
    pids = [pid for uuid in uuids for pid in lab_processes(alone.directory, uuid)]

    def read(reading: Iterator[DomainReport]) -> list[DomainReport]:
        rows = [next(reading) for _ in steady[2:]]
        alone.kill_daemon()
        for pid in pids:
            signal_process(pid, signal.SIGCONT, alone.directory)
        return rows

    for pid in pids:
        signal_process(pid, signal.SIGSTOP, alone.directory)
    yield read
    for pid in pids:
        signal_process(pid, signal.SIGCONT, alone.directory)


@pytest.mark.parametrize("via", Source)
def test_a_daemon_that_restarts_costs_no_row(
    alone: Hypervisor,
    steady: list[str],
    interrupted: Callable[..., list[DomainReport]],
    via: Source,
) -> None:
    reading = iter_domains(alone.uri, steady, via=via, timeout=TIMEOUT)
    rows = interrupted(reading)
    with meanwhile(threading.Thread(target=alone.start_daemon)):
        rows.extend(reading)
    assert sorted(row.name for row in rows) == steady
    verdicts = {row.name: row.verdict for row in rows}
    hung = {verdicts.pop(name) for name in steady[6:8]}
    assert set(verdicts.values()) == {Verdict.SUSPENDED}
    # On a busy machine they were held for longer than is waited for before the daemon ended.
    assert hung <= {Verdict.SUSPENDED, Verdict.BUSY}
    assert {row.interval.live for row in rows} == {5}
    assert all(row.figures.rss_bytes for row in rows)


def test_a_connection_of_the_callers_is_not_renewed(
    alone: Hypervisor, steady: list[str], interrupted: Callable[..., list[DomainReport]]
) -> None:
    connection = alone.conn()
    reading = iter_domains(connection, steady, timeout=TIMEOUT)
    rows = interrupted(reading)
    with pytest.raises(virtballoon.ConnectionLost):
        rows.extend(reading)
    alone.start_daemon()
    assert sorted(row.name for row in rows) == steady
    lost = [row.name for row in rows if isinstance(row.error, virtballoon.ConnectionLost)]
    assert sorted(lost) == steady[6:8]
    assert [row.verdict for row in rows[-2:]] == [Verdict.FAILED] * 2


def test_guests_that_are_killed_while_they_are_read(alone: Hypervisor, steady: list[str]) -> None:
    kept = [f"kept{number:02}" for number in range(6)]
    for name in kept:
        alone.add(GuestSpec(name, memory_mib=16, paused=True))
    gone = alone.create_blank(6, prefix="gone", period=5)
    doomed = [*kept, *gone]
    uuids = [alone.connection.lookupByName(name).UUIDString() for name in doomed]
    pids = [pid for uuid in uuids for pid in lab_processes(alone.directory, uuid)]
    reading = iter_domains(alone.uri, timeout=TIMEOUT, inactive=True)
    rows = [next(reading)]
    for pid in pids:
        signal_process(pid, signal.SIGKILL, alone.directory)
    rows.extend(reading)
    by_name = {row.name: row for row in rows}
    assert {by_name[name].verdict for name in steady} == {Verdict.SUSPENDED}
    # A persistent domain is still there, a transient one vanishes; what was read before, stands.
    assert by_name.keys() >= {*steady, *kept}
    for name in by_name.keys() & doomed:
        check_doomed(by_name[name])
    host = read_host(alone.uri, timeout=TIMEOUT, inactive=True)
    assert {row.name: row.verdict for row in host.domains} == (
        dict.fromkeys(kept, Verdict.SHUTOFF) | dict.fromkeys(steady, Verdict.SUSPENDED)
    )
    for name in kept:
        alone.connection.lookupByName(name).undefine()


def check_doomed(row: DomainReport) -> None:
    """A guest that ended is read as what it was or as what it became."""
    assert row.verdict in {Verdict.SUSPENDED, Verdict.POLLING_OFF, Verdict.SHUTOFF}, row
    # An RSS of 0 is what libvirt says of a QEMU that went away under the call; it may have none.
    assert row.figures.rss_bytes != 0


def test_many_guests_starting_and_stopping(alone: Hypervisor, steady: list[str]) -> None:
    dozens = 2

    def churn() -> None:
        for dozen in range(dozens):
            for name in alone.create_blank(12, prefix=f"fly{dozen}-", period=5):
                alone.connection.lookupByName(name).destroy()

    hosts = []
    work = threading.Thread(target=churn)
    with meanwhile(work):
        while work.is_alive():
            hosts.append(read_host(alone.uri, timeout=TIMEOUT))
    assert len(hosts) > dozens
    flown = set()
    for host in hosts:
        # Starting one is a job, which takes longer than it is waited for on a busy machine.
        held = [row for row in host.domains if row.verdict is Verdict.BUSY]
        assert host.error is None
        assert host.status is (HostStatus.PARTIAL if held else HostStatus.OK), host.domains
        verdicts = {row.name: row.verdict for row in host.domains}
        assert [name for name in verdicts if name.startswith("steady")] == steady
        assert {verdicts[name] for name in steady} == {Verdict.SUSPENDED}
        flown |= verdicts.keys() - set(steady)
        for row in host.domains:
            if row not in held:
                check_doomed(row)
    # The readings did fall among them.
    assert flown
