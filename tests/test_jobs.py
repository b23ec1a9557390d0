"""Guests that a job of libvirt's keeps to itself: their row waits or is busy, and no other's."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import libvirt
import pytest

from tests.conftest import started
from tests.lab import Guest, GuestSpec, Hypervisor, wait_until
from virtballoon import (
    Busy,
    BusyReason,
    DomainReport,
    HostStatus,
    Incoming,
    Outcome,
    Source,
    State,
    Verdict,
    read_host,
    set_interval,
    set_intervals,
)

#: Time enough for what answers, with other guests booting on the same two cores.
TIMEOUT = 1.5
#: A time that no run takes for a domain that is held, however busy the machine is.
LONG = 60.0

# libvirt waits five seconds for a guest to let go of a device.
DEVICE = """
<rng model='virtio'>
  <backend model='random'>/dev/urandom</backend>
  <address type='pci' domain='0' bus='0' slot='0x1c' function='0'/>
</rng>
"""


@pytest.fixture(scope="module")
def alone() -> Iterator[Hypervisor]:
    """A hypervisor of this module's own, from which a guest moves."""
    with started() as hypervisor:
        yield hypervisor


@pytest.fixture(scope="module")
def other() -> Iterator[Hypervisor]:
    """The one that it moves to, which has a guest of its own."""
    with started() as hypervisor:
        hypervisor.create_blank(1, prefix="bystander", period=5)
        yield hypervisor


@contextmanager
def meanwhile(work: Callable[[], object]) -> Iterator[threading.Thread]:
    """Do this in the background, and wait for its end."""
    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield thread
    finally:
        thread.join()


def wait_for_job(hypervisor: Hypervisor, name: str) -> None:
    # On a connection of its own: libvirt's client may not send a call behind one that waits.
    with hypervisor.conn() as connection:
        domain = connection.lookupByName(name)
        wait_until(lambda: domain.controlInfo()[0], 60, "the job to begin")


def rows(hypervisor: Hypervisor, *, timeout: float = TIMEOUT) -> dict[str, DomainReport]:
    """The running domains by name."""
    return {row.name: row for row in read_host(hypervisor.uri, timeout=timeout).domains}


def test_device_that_the_guest_does_not_release(alone: Hypervisor) -> None:
    first, second = alone.create_blank(2, prefix="holding", period=5)
    domain = alone.connection.lookupByName(first)
    domain.attachDevice(DEVICE)
    with meanwhile(lambda: domain.detachDevice(DEVICE)) as removal:
        wait_for_job(alone, domain.name())
        verdicts = {name: row.verdict for name, row in rows(alone).items()}
        changes = set_intervals(alone.uri, 6, [first, second], timeout=TIMEOUT).domains
        assert removal.is_alive()
    assert (verdicts[first], verdicts[second]) == (Verdict.BUSY, Verdict.SUSPENDED)
    assert [change.outcome for change in changes] == [Outcome.FAILED, Outcome.CHANGED]
    assert isinstance(changes[0].error, Busy)
    assert changes[0].error.reason is BusyReason.JOB
    late = rows(alone)[first]
    assert late.verdict is Verdict.SUSPENDED
    assert late.figures.rss_bytes


@pytest.mark.parametrize("via", Source)
def test_a_job_is_not_waited_for_to_its_end(alone: Hypervisor, via: Source) -> None:
    (name,) = alone.create_blank(1, prefix=f"held-{via.value}", period=5)
    domain = alone.connection.lookupByName(name)
    domain.attachDevice(DEVICE)
    with meanwhile(lambda: domain.detachDevice(DEVICE)) as removal:
        wait_for_job(alone, domain.name())
        (row,) = read_host(alone.uri, [name], via=via, timeout=LONG).domains
        assert removal.is_alive()
    assert isinstance(row.error, Busy)
    assert (row.verdict, row.error.reason) == (Verdict.BUSY, BusyReason.JOB)


def test_a_migration_that_failed_leaves_a_domain_suspended(alone: Hypervisor) -> None:
    (name,) = alone.create_blank(1, prefix="left", period=5)
    # Libvirt says so of the source of a migration whose outcome it does not know.
    alone.stop_daemon()
    status = alone.directory / f"run/libvirt/qemu/run/{name}.xml"
    text = status.read_text()
    left = re.sub(r"(<domstatus state='paused') reason='[^']*'", r"\1 reason='migration'", text)
    assert left != text
    status.write_text(left)
    alone.start_daemon()
    domain = alone.connection.lookupByName(name)
    assert domain.state() == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION]
    (row,) = read_host(alone.uri, [name], timeout=LONG).domains
    assert (row.verdict, row.error) == (Verdict.SUSPENDED, None)
    assert set_interval(domain, 7).outcome is Outcome.CHANGED


@pytest.fixture
def mover(alone: Hypervisor, other: Hypervisor) -> Iterator[Guest]:
    """A guest with more in its memory than a slow migration moves in a minute."""
    guest = alone.boot([GuestSpec("mover", period=2, memory_mib=192, persistent=False)])["mover"]
    guest.run("dd if=/dev/urandom of=/hog/fill bs=1M count=60 2>/dev/null")
    yield guest
    for hypervisor in (alone, other):
        with suppress(libvirt.libvirtError):
            hypervisor.connection.lookupByName("mover").destroy()


@contextmanager
def migrating(guest: Guest, destination: Hypervisor, flags: int) -> Iterator[None]:
    """Move the guest in the background: slowly until the block ends, then fast."""
    way = {
        libvirt.VIR_MIGRATE_PARAM_URI: "tcp://127.0.0.1",
        libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: 1,
    }
    domain = guest.domain

    def migrate() -> None:
        # It may be aborted.
        with suppress(libvirt.libvirtError):
            domain.migrate3(destination.connection, way, flags | libvirt.VIR_MIGRATE_UNSAFE)

    with meanwhile(migrate):
        try:
            wait_until(
                lambda: domain.jobStats().get("data_processed"), 60, "the migration to begin"
            )
            yield
        finally:
            # To abort it can take as long as the rest of it, with QEMU 7.2.
            domain.migrateSetMaxSpeed(10_000)


def test_a_guest_on_its_way_to_another_host(
    alone: Hypervisor, other: Hypervisor, mover: Guest
) -> None:
    with migrating(mover, other, libvirt.VIR_MIGRATE_LIVE):
        hosts = {via: read_host(other.uri, via=via, timeout=LONG) for via in Source}
        changes = set_intervals(other.uri, 6, None, timeout=LONG).domains
        (named,) = set_intervals(other.uri, 6, ["mover"], timeout=LONG).domains
        here = rows(alone, timeout=60)["mover"]
        assert "mover" in other.virsh("list").stdout
    for host in hosts.values():
        assert host.status is HostStatus.OK
        assert host.elapsed_seconds < LONG / 2
        there = {row.name: row for row in host.domains}
        assert (there["mover"].verdict, there["mover"].state) == (Verdict.INCOMING, State.PAUSED)
        assert there["mover"].error is None
        assert there["bystander0000"].verdict is Verdict.SUSPENDED
    assert {change.name: change.outcome for change in changes} == {
        "bystander0000": Outcome.CHANGED,
        "mover": Outcome.SKIPPED,
    }
    assert named.outcome is Outcome.FAILED
    assert isinstance(named.error, Incoming)
    assert here.verdict is Verdict.FRESH
    # The XML's interval came along, and so did the guest's answers.
    wait_until(
        lambda: rows(other, timeout=60)["mover"].verdict is Verdict.FRESH, 60, "the guest to answer"
    )
    arrived = rows(other, timeout=60)["mover"]
    assert (arrived.uuid, arrived.interval.live) == (here.uuid, 2)
    assert "mover" not in rows(alone, timeout=60)


def test_the_source_of_a_migration_that_stops_the_guest(
    alone: Hypervisor, other: Hypervisor, mover: Guest
) -> None:
    """Its state is that of the destination: paused, for a migration."""
    with migrating(mover, other, 0):
        state = mover.domain.state()
        (row,) = read_host(alone.uri, ["mover"], timeout=LONG).domains
    assert state == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION]
    assert (row.verdict, row.error) == (Verdict.SUSPENDED, None)
    assert row.stats.total_memory
