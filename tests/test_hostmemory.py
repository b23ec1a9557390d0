"""A host's memory against what its kernel and its guests say of it."""

from __future__ import annotations

import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import libvirt
import pytest

from tests.conftest import POLLED
from tests.lab import Guest, GuestSpec, Hypervisor, wait_until
from virtballoon import (
    DomainReport,
    HostMemory,
    HostReport,
    State,
    Verdict,
    read_domain,
    read_host,
)

if TYPE_CHECKING:
    from tests.conftest import GuestFactory

MIB = 1024**2


def meminfo() -> dict[str, int]:
    """This machine's memory, in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {name: int(value.split()[0]) * 1024 for name, value in (x.split(":") for x in lines)}


def read(hypervisor: Hypervisor) -> tuple[HostReport, HostMemory]:
    report = read_host(hypervisor.uri)
    assert report.memory is not None
    return report, report.memory


def test_memory_of_the_host_is_that_of_its_kernel(
    hypervisor: Hypervisor, guests: dict[str, Guest]
) -> None:
    assert guests

    def is_between() -> bool:
        # It moves all the time: a reading is held against those before and after it.
        before, (_, memory), after = meminfo(), read(hypervisor), meminfo()
        assert memory.total_bytes == before["MemTotal"]
        assert memory.free_bytes is not None
        assert memory.available_bytes is not None
        free = [each["MemFree"] for each in (before, after)]
        available = [each["MemFree"] + each["Buffers"] + each["Cached"] for each in (before, after)]
        return (
            min(free) - MIB <= memory.free_bytes <= max(free) + MIB
            and min(available) - MIB <= memory.available_bytes <= max(available) + MIB
        )

    wait_until(is_between, 60, "a reading between two others of the same memory")
    pages = Path("/sys/kernel/mm/ksm/pages_sharing")
    if pages.exists():
        assert read(hypervisor)[1].ksm_saved_pages == int(pages.read_text())


def test_sums_are_those_of_the_guests(hypervisor: Hypervisor, guests: dict[str, Guest]) -> None:
    def all_fresh() -> tuple[HostReport, HostMemory] | None:
        report, memory = read(hypervisor)
        fresh = {row.name for row in report.domains if row.verdict is Verdict.FRESH}
        return (report, memory) if fresh.issuperset(POLLED) else None

    report, memory = wait_until(all_fresh, 60, "fresh figures of all that are polled")
    running = [row for row in report.domains if row.state is not State.SHUTOFF]
    fresh = [row for row in running if row.verdict is Verdict.FRESH]
    unknown = [row for row in running if row not in fresh]
    for row in fresh:
        if row.name in POLLED:
            own = guests[row.name].meminfo()
            used = own["MemTotal"] - own["MemAvailable"]
            assert row.usage.used_bytes == pytest.approx(used, abs=2 * MIB), row.name

    assert unknown
    assert memory.used_bytes is None
    assert memory.unknown_domains == len(unknown)
    assert memory.used_min_bytes == sum(row.usage.used_bytes or 0 for row in fresh)
    kib = [row.domain.info()[2] for row in guests.values() if row.domain.isActive()]
    assert memory.current_bytes is not None
    assert memory.current_bytes >= sum(kib) * 1024
    assert memory.used_max_bytes == memory.used_min_bytes + sum(
        row.figures.current_bytes or 0 for row in unknown
    )
    assert memory.rss_bytes == sum(row.figures.rss_bytes or 0 for row in running)


@pytest.mark.once
def test_what_is_reclaimable_comes_back(guest_factory: GuestFactory) -> None:
    guest = guest_factory(GuestSpec("spare", period=1))

    def updated() -> DomainReport:
        now = time.time() + 1
        rows = (read_domain(guest.domain) for _ in count())
        return wait_until(
            lambda: row if (row := next(rows)).last_update and row.last_update > now else None,
            60,
            "new figures",
        )

    # All of it is resident once the guest has touched it.
    guest.hog(guest.meminfo()["MemAvailable"] // MIB - 12)
    guest.unhog()
    before = updated()
    spare, current = before.reclaimable_bytes, before.figures.current_bytes
    assert spare is not None
    assert current is not None
    assert spare > 30 * MIB
    guest.domain.setMemoryFlags((current - spare) // 1024, libvirt.VIR_DOMAIN_AFFECT_LIVE)
    wait_until(
        lambda: (read_domain(guest.domain).figures.current_bytes or 0) < current - spare + MIB,
        60,
        "the balloon to take it",
    )
    after = updated()
    assert before.figures.rss_bytes is not None
    assert after.figures.rss_bytes is not None
    assert before.figures.rss_bytes - after.figures.rss_bytes > 0.8 * spare
    # The guest keeps a fifth of what it had.
    assert before.usage.total_bytes is not None
    assert after.stats.available_memory is not None
    assert after.stats.available_memory > 0.15 * before.usage.total_bytes
    assert (after.reclaimable_bytes or 0) < spare / 4


def test_a_selection_has_no_sums(hypervisor: Hypervisor, guests: dict[str, Guest]) -> None:
    memory = read_host(hypervisor.uri, [guests["modern"].name]).memory

    assert memory is not None
    assert memory.total_bytes == meminfo()["MemTotal"]
    assert memory.current_bytes is memory.unknown_domains is memory.used_min_bytes is None
