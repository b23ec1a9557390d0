"""Memory figures: names, units, what is unset, and what of the memory is used."""

from __future__ import annotations

import pickle
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.properties import BULK, MEMORY_STATS, QEMU, assert_sane
from virtballoon.model.memory import Anomaly, Figures, Usage, UsedFormula, anomalies, contradictions
from virtballoon.model.statistics import STATISTICS, MemoryStats

UNSET = (2**64 - 1, -1)

#: The single call's keys for the guest's figures, with our name and the factor to our unit.
SINGLE = {
    "swap_in": ("swap_in", 1024),
    "swap_out": ("swap_out", 1024),
    "major_fault": ("major_faults", 1),
    "minor_fault": ("minor_faults", 1),
    "unused": ("free_memory", 1024),
    "available": ("total_memory", 1024),
    "usable": ("available_memory", 1024),
    "disk_caches": ("disk_caches", 1024),
    "hugetlb_pgalloc": ("htlb_pgalloc", 1),
    "hugetlb_pgfail": ("htlb_pgfail", 1),
}


ANY_64_BITS = st.integers(-(2**63), 2**64 - 1) | st.sampled_from(UNSET)
ANY_KEY = st.sampled_from([*MEMORY_STATS, *BULK, *QEMU, *STATISTICS, "other"]) | st.text(
    st.characters(), max_size=9
)
ANY_FIGURES = st.dictionaries(ANY_KEY, ANY_64_BITS, max_size=12)


@pytest.mark.parametrize("answer", [MEMORY_STATS, BULK], ids=["single", "bulk"])
def test_libvirts_names_and_units_are_converted(answer: dict[str, int]) -> None:
    stats = MemoryStats.from_libvirt(answer)

    expected = dict.fromkeys(STATISTICS)
    expected |= {ours: MEMORY_STATS[key] * factor for key, (ours, factor) in SINGLE.items()}
    assert stats.as_dict() == expected
    assert (stats.total_memory, stats.available_memory, stats.free_memory) == (
        110000 * 1024,
        90000 * 1024,
        71000 * 1024,
    )


def test_single_call_gives_the_hosts_figures() -> None:
    figures = Figures.from_libvirt(MEMORY_STATS)

    assert figures.current_bytes == 134217728
    assert figures.maximum_bytes is None
    assert figures.rss_bytes == 213200 * 1024
    assert figures.last_update == 1700000000


def test_bulk_call_gives_the_hosts_figures() -> None:
    figures = Figures.from_libvirt(BULK)

    assert figures.current_bytes == 134217728
    assert figures.maximum_bytes == 268435456
    assert figures.rss_bytes == 213200 * 1024
    assert figures.last_update == 1700000000


def test_qemus_figures_are_bytes_under_its_own_names() -> None:
    assert list(MemoryStats.from_qemu(QEMU).as_dict().items()) == [
        ("swap_in", 1),
        ("swap_out", 2),
        ("major_faults", 3),
        ("minor_faults", 4),
        ("free_memory", 5),
        ("total_memory", 6),
        ("available_memory", 7),
        ("disk_caches", 8),
        ("htlb_pgalloc", 9),
        ("htlb_pgfail", 10),
        ("oom_kills", 11),
        ("alloc_stalls", 12),
        ("async_scans", 13),
        ("direct_scans", 14),
        ("async_reclaims", 15),
        ("direct_reclaims", 16),
    ]


def absent(stats: MemoryStats) -> list[str]:
    return [name for name in STATISTICS if stats.as_dict()[name] is None]


@pytest.mark.parametrize("unset", UNSET)
def test_a_figure_that_is_unset_is_absent(unset: int) -> None:
    for key in QEMU:
        name = key.removeprefix("stat-").replace("-", "_")
        assert absent(MemoryStats.from_qemu(QEMU | {key: unset})) == [name]
    beyond_libvirt = absent(MemoryStats.from_libvirt(MEMORY_STATS))
    for key, (name, _) in SINGLE.items():
        stats = MemoryStats.from_libvirt(MEMORY_STATS | {key: unset})
        assert set(absent(stats)) == {name, *beyond_libvirt}


def test_a_figure_that_is_left_out_is_absent() -> None:
    for key in QEMU:
        rest = {name: value for name, value in QEMU.items() if name != key}
        assert absent(MemoryStats.from_qemu(rest)) == [key.removeprefix("stat-").replace("-", "_")]
    for key, (name, _) in SINGLE.items():
        rest = {name: value for name, value in MEMORY_STATS.items() if name != key}
        assert getattr(MemoryStats.from_libvirt(rest), name) is None


def test_zero_is_a_figure() -> None:
    assert MemoryStats.from_qemu({"stat-swap-in": 0}).swap_in == 0
    assert MemoryStats.from_libvirt({"swap_in": 0}).swap_in == 0


@pytest.mark.parametrize("value", [None, True, 1.5, float("nan"), "7", [], {}, -2])
def test_invalid_figure_is_absent(value: Any) -> None:
    assert MemoryStats.from_qemu({"stat-swap-in": value, "stat-new": value}) == MemoryStats()
    assert MemoryStats.from_libvirt({"swap_in": value, "new": value}) == MemoryStats()
    assert Figures.from_libvirt({"rss": value, "last_update": value}) == Figures()


def test_unknown_figures_are_kept_in_the_same_spelling() -> None:
    stats = MemoryStats.from_qemu({"stat-page-cache-hits": 5, "stat-a-b": 6, "stat-unset": -1})

    assert dict(stats.other) == {"page_cache_hits": 5, "a_b": 6}
    assert list(stats.as_dict()) == [*STATISTICS, "a_b", "page_cache_hits"]
    assert dict(MemoryStats.from_libvirt({"page-cache-hits": 5}).other) == {"page_cache_hits": 5}


def test_an_unknown_key_cannot_take_a_known_ones_place() -> None:
    # libvirt's own name for this figure is "unused", so "free_memory" is nothing that it says.
    stats = MemoryStats.from_libvirt({"free_memory": 5, "other": 6})

    assert stats == MemoryStats()
    assert MemoryStats.from_qemu({"stat-other": 7}) == MemoryStats()


def test_the_hosts_figures_are_not_the_guests() -> None:
    host = {"actual": 1, "current": 1, "maximum": 1, "rss": 1, "last_update": 1, "last-update": 1}

    assert MemoryStats.from_libvirt(host).is_empty


@pytest.mark.parametrize("figures", [{}, {"rss": 0}, {"rss": -1}, {"rss": 2**64 - 1}])
def test_no_rss_is_no_figure(figures: dict[str, int]) -> None:
    assert Figures.from_libvirt(figures).rss_bytes is None


def test_never_updated_is_not_unknown() -> None:
    assert Figures.from_libvirt({"last-update": 0}).last_update == 0
    assert Figures.from_libvirt({}).last_update is None


def test_empty_means_without_any_figure() -> None:
    assert MemoryStats().is_empty
    assert MemoryStats.from_qemu(dict.fromkeys(QEMU, 2**64 - 1)).is_empty
    assert not MemoryStats(swap_in=0).is_empty
    assert not MemoryStats.from_qemu({"stat-new": 0}).is_empty


@pytest.mark.parametrize(
    ("stats", "usage"),
    [
        (
            MemoryStats(total_memory=100, available_memory=25, free_memory=10),
            Usage(used_bytes=75, total_bytes=100, formula=UsedFormula.TOTAL_AVAILABLE),
        ),
        (
            MemoryStats(total_memory=100, free_memory=10),
            Usage(used_bytes=90, total_bytes=100, formula=UsedFormula.TOTAL_FREE),
        ),
        (
            MemoryStats(total_memory=100, available_memory=100),
            Usage(used_bytes=0, total_bytes=100, formula=UsedFormula.TOTAL_AVAILABLE),
        ),
        (
            MemoryStats(total_memory=100, available_memory=0),
            Usage(used_bytes=100, total_bytes=100, formula=UsedFormula.TOTAL_AVAILABLE),
        ),
        (MemoryStats(total_memory=100), Usage()),
        (MemoryStats(available_memory=100, free_memory=10), Usage()),
        (MemoryStats(), Usage()),
        (MemoryStats(total_memory=0, available_memory=0), Usage()),
        (MemoryStats(total_memory=100, available_memory=101), Usage()),
        # Whoever has more available than there is is not believed in what is free, either.
        (MemoryStats(total_memory=100, available_memory=101, free_memory=10), Usage()),
        (MemoryStats(total_memory=100, free_memory=101), Usage()),
        (MemoryStats(total_memory=100, available_memory=10, free_memory=101), Usage()),
        (MemoryStats(total_memory=100, available_memory=10, disk_caches=101), Usage()),
    ],
)
def test_used_memory(stats: MemoryStats, usage: Usage) -> None:
    assert Usage.of(Figures(stats=stats)) == usage


@pytest.mark.parametrize(
    ("maximum", "total", "is_believed"),
    [
        # What is not known is no limit.
        (None, 2**63 - 1, True),
        (0, 2**63 - 1, True),
        (100, 200, True),
        (100, 201, False),
        (2**62, 2**63 - 1, True),
    ],
)
def test_a_total_that_the_domain_cannot_have(
    maximum: int | None, total: int, is_believed: bool
) -> None:
    stats = MemoryStats(total_memory=total, available_memory=0)
    figures = Figures(stats=stats, maximum_bytes=maximum)

    assert Usage.of(figures).used_bytes == (total if is_believed else None)
    assert contradictions(figures) == (() if is_believed else (Anomaly.TOTAL_ABOVE_MAXIMUM,))


GIB = 1024**3
MIB = 1024**2


@pytest.mark.parametrize(
    ("sizes", "stats", "used", "formula", "found"),
    [
        # Windows: 16 GiB ballooned to 4.
        (
            (16 * GIB, 4 * GIB, 0),
            MemoryStats(total_memory=16776000 * 1024, available_memory=700000 * 1024),
            *((16776000 - 12 * 1024**2 - 700000) * 1024, "total-available-balloon", ()),
        ),
        # Windows, and a driver that gives no available memory.
        (
            (16 * GIB, 4 * GIB, 0),
            MemoryStats(total_memory=16776000 * 1024, free_memory=700000 * 1024),
            *((16776000 - 12 * 1024**2 - 700000) * 1024, "total-free-balloon", ()),
        ),
        # Linux, with autodeflate and without; then an empty balloon.
        (
            (160 * MIB, 80 * MIB, 0),
            MemoryStats(total_memory=122 * MIB, available_memory=21 * MIB),
            *(21 * MIB, "total-available-balloon", ()),
        ),
        (
            (160 * MIB, 100 * MIB, 0),
            MemoryStats(total_memory=62 * MIB, available_memory=41 * MIB),
            *(21 * MIB, "total-available", ()),
        ),
        (
            (160 * MIB, 160 * MIB, 0),
            MemoryStats(total_memory=122 * MIB, available_memory=100 * MIB),
            *(22 * MIB, "total-available", ()),
        ),
        # virtio-mem that is half plugged, with an empty balloon; then with a full one.
        (
            (672 * MIB, 416 * MIB, 256 * MIB),
            MemoryStats(total_memory=313 * MIB, available_memory=281 * MIB),
            *(32 * MIB, "total-available", ()),
        ),
        (
            (672 * MIB, 276 * MIB, 256 * MIB),
            MemoryStats(total_memory=313 * MIB, available_memory=141 * MIB),
            *(32 * MIB, "total-available-balloon", ()),
        ),
        # The balloon has grown since the guest's last update.
        (
            (160 * MIB, 80 * MIB, 0),
            MemoryStats(total_memory=122 * MIB, available_memory=43 * MIB),
            *(None, None, (Anomaly.BALLOON_ABOVE_TOTAL,)),
        ),
        (
            (160 * MIB, 10 * MIB, 0),
            MemoryStats(total_memory=122 * MIB, available_memory=0),
            *(None, None, (Anomaly.BALLOON_ABOVE_TOTAL,)),
        ),
        (
            (160 * MIB, 80 * MIB, 0),
            MemoryStats(total_memory=122 * MIB, available_memory=42 * MIB),
            *(0, "total-available-balloon", ()),
        ),
        # No correction where either is unknown, or current is above the maximum.
        (
            (None, 80 * MIB, 0),
            MemoryStats(total_memory=122 * MIB, available_memory=21 * MIB),
            *(101 * MIB, "total-available", ()),
        ),
        (
            (80 * MIB, 100 * MIB, 0),
            MemoryStats(total_memory=122 * MIB, available_memory=21 * MIB),
            *(101 * MIB, "total-available", ()),
        ),
    ],
)
def test_balloon_in_the_total_is_not_used(
    sizes: tuple[int | None, int, int],
    stats: MemoryStats,
    used: int | None,
    formula: str | None,
    found: tuple[Anomaly, ...],
) -> None:
    maximum, current, unplugged = sizes
    figures = Figures(
        stats=stats, maximum_bytes=maximum, current_bytes=current, unplugged_bytes=unplugged
    )
    usage = Usage.of(figures)

    assert (usage.used_bytes, usage.formula) == (used, formula)
    assert anomalies(figures) == found
    if usage.percent is not None:
        assert 0 <= usage.percent < 90
        assert usage.ratio == pytest.approx(usage.percent / 100)


def test_ballooned() -> None:
    assert Figures(maximum_bytes=160, current_bytes=80).ballooned_bytes == 80
    assert Figures(maximum_bytes=160, current_bytes=200).ballooned_bytes == 0
    assert Figures(maximum_bytes=160).ballooned_bytes is None
    assert Figures(current_bytes=160).ballooned_bytes is None


@pytest.mark.parametrize(
    ("stats", "found"),
    [
        (MemoryStats(), ()),
        (MemoryStats(total_memory=100, available_memory=100, free_memory=100, disk_caches=100), ()),
        # Linux keeps a reserve of what is free, so that less can be available.
        (MemoryStats(total_memory=100, available_memory=10, free_memory=20), ()),
        (MemoryStats(available_memory=100), ()),
        (MemoryStats(total_memory=0), (Anomaly.TOTAL_ZERO,)),
        (
            MemoryStats(total_memory=5, available_memory=6, free_memory=7, disk_caches=8),
            (Anomaly.AVAILABLE_ABOVE_TOTAL, Anomaly.FREE_ABOVE_TOTAL, Anomaly.CACHES_ABOVE_TOTAL),
        ),
        (MemoryStats(total_memory=201), (Anomaly.TOTAL_ABOVE_MAXIMUM,)),
        (MemoryStats.from_qemu({"total-memory": 2**63}), (Anomaly.FIGURE_TOO_LARGE,)),
        (MemoryStats.from_qemu({"oom-kills": 2**64 - 2}), (Anomaly.FIGURE_TOO_LARGE,)),
        (MemoryStats.from_qemu({"new": 2**63}), (Anomaly.FIGURE_TOO_LARGE,)),
        (MemoryStats.from_libvirt({"swap_in": 2**53}), (Anomaly.FIGURE_TOO_LARGE,)),
        (MemoryStats.from_libvirt({"swap_in": 2**53 - 1}), ()),
        (MemoryStats.from_qemu({"swap-in": 2**63 - 1}), ()),
    ],
)
def test_anomalies(stats: MemoryStats, found: tuple[Anomaly, ...]) -> None:
    assert anomalies(Figures(stats=stats, maximum_bytes=100)) == found


@pytest.mark.parametrize(
    ("name", "used"), [("major-faults", 75), ("free-memory", None), ("total-memory", None)]
)
def test_too_large_figure_is_absent(name: str, used: int | None) -> None:
    stats = MemoryStats.from_qemu({"total-memory": 100, "available-memory": 25, name: 2**63})

    assert stats.as_dict()[name.replace("-", "_")] is None
    assert stats.too_large == (name.replace("-", "_"),)
    assert not stats.is_empty
    assert pickle.loads(pickle.dumps(stats)) == stats
    assert Usage.of(Figures(stats=stats)).used_bytes == used


def test_every_anomaly_has_a_text() -> None:
    for anomaly in Anomaly:
        assert anomaly.text.isprintable()
        assert len(anomaly.text) > len(anomaly.value)


@given(ANY_FIGURES)
def test_any_figures_give_a_sane_result(answer: dict[str, int]) -> None:
    assert_sane(answer)


@given(ANY_FIGURES, ANY_FIGURES)
def test_figures_are_values(one: dict[str, int], two: dict[str, int]) -> None:
    figures = Figures.from_libvirt(one)

    for copy in (pickle.loads(pickle.dumps(figures)), deepcopy(figures)):
        assert copy == figures
        assert hash(copy) == hash(figures)
        assert copy.stats.as_dict() == figures.stats.as_dict()
    other = Figures.from_libvirt(two)
    assert (figures == other) == (
        figures.stats.as_dict() == other.stats.as_dict()
        and figures.stats.too_large == other.stats.too_large
        and (figures.last_update, figures.current_bytes, figures.maximum_bytes, figures.rss_bytes)
        == (other.last_update, other.current_bytes, other.maximum_bytes, other.rss_bytes)
    )


def test_what_is_equal_has_the_same_hash() -> None:
    one, two = MemoryStats(other={"a": 1, "b": 2}), MemoryStats(other={"b": 2, "a": 1})

    assert one == two
    assert hash(one) == hash(two)


def test_figures_cannot_be_changed() -> None:
    stats = MemoryStats.from_qemu(QEMU | {"stat-new": 1})

    with pytest.raises(AttributeError):
        stats.swap_in = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        stats.other["new"] = 5  # type: ignore[index]
