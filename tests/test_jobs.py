"""Guests that a job of libvirt's keeps to itself: their row waits or is busy, and no other's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import libvirt
import pytest

from tests.conftest import started
from tests.lab import Guest, GuestSpec, Hypervisor, wait_until
from virtballoon import (
    Busy,
    DomainReport,
    Outcome,
    State,
    Verdict,
    read_host,
    set_intervals,
)

#: Time enough for what answers, with other guests booting on the same two cores.
TIMEOUT = 1.5

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


def rows(hypervisor: Hypervisor, *, timeout: float = TIMEOUT) -> dict[str, DomainReport]:
    """The running domains by name."""
    return {row.name: row for row in read_host(hypervisor.uri, timeout=timeout).domains}


def test_a_device_that_the_guest_does_not_let_go(alone: Hypervisor) -> None:
    first, second = alone.create_blank(2, prefix="holding", period=5)
    domain = alone.connection.lookupByName(first)
    domain.attachDevice(DEVICE)
    with meanwhile(lambda: domain.detachDevice(DEVICE)) as removal:
        wait_until(lambda: domain.controlInfo()[0], 60, "the job to begin")
        verdicts = {name: row.verdict for name, row in rows(alone).items()}
        changes = set_intervals(alone.uri, 6, [first, second], timeout=TIMEOUT).changes
        assert removal.is_alive()
        # Whoever has more time waits for the job's end.
        late = rows(alone, timeout=60)[first]
    assert (verdicts[first], verdicts[second]) == (Verdict.BUSY, Verdict.SUSPENDED)
    assert [change.outcome for change in changes] == [Outcome.FAILED, Outcome.CHANGED]
    assert isinstance(changes[0].error, Busy)
    assert late.verdict is Verdict.SUSPENDED
    assert late.figures.rss_bytes


@pytest.fixture
def mover(alone: Hypervisor) -> Guest:
    """A guest with more in its memory than a slow migration moves in a minute."""
    guest = alone.boot([GuestSpec("mover", period=2, persistent=False)])["mover"]
    guest.run("dd if=/dev/urandom of=/hog/fill bs=1M count=60 2>/dev/null")
    return guest


def test_a_guest_on_its_way_to_another_host(
    alone: Hypervisor, other: Hypervisor, mover: Guest
) -> None:
    leaving = mover.domain
    way = {
        libvirt.VIR_MIGRATE_PARAM_URI: "tcp://127.0.0.1",
        libvirt.VIR_MIGRATE_PARAM_BANDWIDTH: 1,
    }
    flags = libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_UNSAFE
    with meanwhile(lambda: leaving.migrate3(other.connection, way, flags)):
        try:
            wait_until(
                lambda: leaving.jobStats().get("data_processed"), 60, "the migration to begin"
            )
            there = rows(other)
            changes = set_intervals(other.uri, 6, None, timeout=TIMEOUT).changes
            here = rows(alone, timeout=60)["mover"]
            assert "mover" in other.virsh("list").stdout
        finally:
            leaving.migrateSetMaxSpeed(10_000)
    assert (there["mover"].verdict, there["mover"].state) == (Verdict.BUSY, State.PAUSED)
    assert isinstance(there["mover"].error, Busy)
    assert there["bystander0000"].verdict is Verdict.SUSPENDED
    assert {change.name: change.outcome for change in changes} == {
        "bystander0000": Outcome.CHANGED,
        "mover": Outcome.FAILED,
    }
    assert here.verdict is Verdict.FRESH
    # The XML's interval came along, and so did the guest's answers.
    wait_until(
        lambda: rows(other, timeout=60)["mover"].verdict is Verdict.FRESH, 60, "the guest to answer"
    )
    arrived = rows(other, timeout=60)["mover"]
    assert (arrived.uuid, arrived.interval.live) == (here.uuid, 2)
    assert "mover" not in rows(alone, timeout=60)
