"""The memory of a host and the sums over its domains."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import NOW, report
from virtballoon.model.hostmemory import HostFigures, HostMemory
from virtballoon.model.memory import Figures
from virtballoon.model.report import DomainReport, Interval
from virtballoon.model.statistics import MemoryStats
from virtballoon.model.verdict import State, Verdict

GIB = 1024**3
HOST = HostFigures(total_bytes=8 * GIB, free_bytes=GIB, available_bytes=3 * GIB)
STATS = {"total": 8388608, "free": 1048576, "buffers": 24, "cached": 1000}
KSM = {"shm_pages_shared": 5, "shm_pages_sharing": 70, "shm_pages_volatile": 1}
SUMS = ("maximum_bytes", "current_bytes", "rss_bytes", "used_bytes", "used_max_bytes")


def domain(use: int | None, current: int | None = GIB, **facts: Any) -> DomainReport:
    """A running domain that is polled; without a use, one that was never updated."""
    stats = {} if use is None else {"stat-total-memory": GIB, "stat-available-memory": GIB - use}
    figures = Figures(
        stats=MemoryStats.from_qemu(stats),
        last_update=0 if use is None else int(NOW),
        current_bytes=current,
        maximum_bytes=2 * GIB,
        rss_bytes=GIB // 2,
    )
    return report(**{"figures": figures} | facts)


def test_figures_of_libvirt() -> None:
    figures = HostFigures.from_libvirt(STATS, KSM)

    assert figures == HostFigures(
        total_bytes=8 * GIB,
        free_bytes=GIB,
        available_bytes=GIB + 1024 * 1024,
        ksm_shared_pages=5,
        ksm_saved_pages=70,
    )


@pytest.mark.parametrize("missing", ["free", "buffers", "cached"])
def test_available_memory_is_no_part_of_itself(missing: str) -> None:
    figures = HostFigures.from_libvirt({k: v for k, v in STATS.items() if k != missing}, {})

    assert figures is not None
    assert figures.available_bytes is figures.ksm_saved_pages is None
    assert (figures.free_bytes is None) is (missing == "free")


@pytest.mark.parametrize("stats", [{}, {"total": 0}, {"total": None}, {"total": 2**64 - 1}])
def test_a_host_without_a_total_has_no_figures(stats: dict[str, Any]) -> None:
    assert HostFigures.from_libvirt(stats, KSM) is None


def test_sums() -> None:
    off = domain(None, id=None, state=State.SHUTOFF, interval=Interval(config=5))
    memory = HostMemory.of(HOST, [domain(1000), domain(2000), off])

    assert (memory.total_bytes, memory.available_bytes) == (8 * GIB, 3 * GIB)
    assert (memory.maximum_bytes, memory.current_bytes, memory.rss_bytes) == (4 * GIB, 2 * GIB, GIB)
    assert memory.used_bytes == memory.used_min_bytes == memory.used_max_bytes == 3000
    assert memory.unknown_domains == 0
    assert (memory.current_ratio, memory.maximum_ratio) == (0.25, 0.5)


def test_an_unknown_domain_may_use_what_it_has() -> None:
    # Its figures are there, but old.
    stale = domain(500, read_at=NOW + 3600)
    assert stale.verdict is Verdict.STALE
    memory = HostMemory.of(HOST, [domain(1000), stale, domain(None)])

    assert (memory.used_bytes, memory.unknown_domains) == (None, 2)
    assert (memory.used_min_bytes, memory.used_max_bytes) == (1000, 1000 + 2 * GIB)
    assert memory.current_bytes == 3 * GIB


def test_an_unknown_size_leaves_no_sum_of_the_others() -> None:
    memory = HostMemory.of(HOST, [domain(1000), domain(None, None)])

    assert (memory.current_bytes, memory.used_max_bytes, memory.current_ratio) == (None,) * 3
    assert (memory.used_min_bytes, memory.maximum_bytes) == (1000, 4 * GIB)


def test_huge_pages_are_not_in_the_rss() -> None:
    assert HostMemory.of(HOST, [domain(1), domain(1, has_hugepages=True)]).rss_bytes is None


def test_no_sums_of_a_part_of_the_domains() -> None:
    memory = HostMemory.of(HOST, None)

    assert [getattr(memory, name) for name in (*SUMS, "used_min_bytes")] == [None] * 6
    assert memory.unknown_domains is memory.maximum_ratio is None
    assert memory.available_bytes == 3 * GIB


ROWS = st.lists(
    st.builds(
        domain,
        st.none() | st.integers(0, GIB),
        st.none() | st.integers(GIB, 2 * GIB),
        has_hugepages=st.booleans(),
        read_at=st.sampled_from([NOW, NOW + 3600]),
    ),
    max_size=6,
)


@given(ROWS)
def test_the_range_has_the_use_in_it(rows: list[DomainReport]) -> None:
    memory = HostMemory.of(HOST, rows)

    assert memory.used_min_bytes is not None
    assert memory.used_max_bytes is None or memory.used_min_bytes <= memory.used_max_bytes
    if memory.used_bytes is not None:
        assert memory.used_bytes == memory.used_min_bytes == memory.used_max_bytes
    assert (memory.used_bytes is None) is (memory.unknown_domains != 0)


@given(ROWS, ROWS)
def test_the_sums_of_two_parts_are_those_of_the_whole(
    some: list[DomainReport], others: list[DomainReport]
) -> None:
    whole, *parts = (HostMemory.of(HOST, rows) for rows in (some + others, some, others))

    for name in (*SUMS, "used_min_bytes", "unknown_domains"):
        values = [getattr(part, name) for part in parts]
        assert getattr(whole, name) == (None if None in values else sum(values)), name
