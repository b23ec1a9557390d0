"""Guests that lie: a real one gives a real QEMU any figures, and the clock goes wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from tests.conftest import GuestFactory
from tests.lab import Guest, GuestSpec, wait_until
from tests.lab.guest import TAGS
from tests.running import run
from tests.unit.builders import VALIDATOR
from virtballoon import (
    Anomaly,
    DomainReport,
    Source,
    Usage,
    UsedFormula,
    Verdict,
    read_host,
)
from virtballoon.render.columns import column
from virtballoon.render.documents import document, domain_columns, domain_record, host_record
from virtballoon.render.formats import to_json

MIB = 1024**2
#: What the guest can have at most.
MAXIMUM = 128 * MIB
UNSET = 2**64 - 1
NOTHING = Usage()


def used(share: int, whole: int, formula: UsedFormula = UsedFormula.TOTAL_AVAILABLE) -> Usage:
    return Usage(used_bytes=share, total_bytes=whole, formula=formula)


@dataclass(frozen=True)
class Lie:
    """What the guest says, and what is made of it."""

    figures: dict[str, int]
    usage: Usage = NOTHING
    anomalies: tuple[Anomaly, ...] = ()
    verdict: Verdict = Verdict.FRESH


def memory(total: int, available: int, **others: int) -> dict[str, int]:
    named = {name.replace("_", "-"): value for name, value in others.items()}
    return {"total-memory": total, "available-memory": available, **named}


LIES = {
    "no record": Lie({}, verdict=Verdict.EMPTY),
    "every figure unset": Lie(dict.fromkeys(TAGS, UNSET), verdict=Verdict.EMPTY),
    "every figure 0": Lie(dict.fromkeys(TAGS, 0), anomalies=(Anomaly.TOTAL_ZERO,)),
    "every figure 2^63": Lie(dict.fromkeys(TAGS, 2**63), anomalies=(Anomaly.FIGURE_TOO_LARGE,)),
    "every figure 2^64-2": Lie(
        dict.fromkeys(TAGS, 2**64 - 2), anomalies=(Anomaly.FIGURE_TOO_LARGE,)
    ),
    "every figure 2^63-1024": Lie(
        dict.fromkeys(TAGS, 2**63 - 1024), anomalies=(Anomaly.TOTAL_ABOVE_MAXIMUM,)
    ),
    "more available than anyone has": Lie(
        memory(64 * MIB, 2**63, free_memory=MIB), anomalies=(Anomaly.FIGURE_TOO_LARGE,)
    ),
    "the total alone": Lie({"total-memory": 64 * MIB}),
    "parts without a total": Lie({"available-memory": 64 * MIB, "free-memory": 64 * MIB}),
    "all of it available": Lie(memory(64 * MIB, 64 * MIB), used(0, 64 * MIB)),
    "nothing available": Lie(memory(64 * MIB, 0), used(64 * MIB, 64 * MIB)),
    "what is free in place of what is available": Lie(
        {"total-memory": 64 * MIB, "free-memory": 16 * MIB},
        used(48 * MIB, 64 * MIB, UsedFormula.TOTAL_FREE),
    ),
    "more available than there is": Lie(
        memory(64 * MIB, 65 * MIB, free_memory=MIB), anomalies=(Anomaly.AVAILABLE_ABOVE_TOTAL,)
    ),
    "more free than there is": Lie(
        memory(64 * MIB, 32 * MIB, free_memory=65 * MIB), anomalies=(Anomaly.FREE_ABOVE_TOTAL,)
    ),
    "more caches than there is": Lie(
        memory(64 * MIB, 32 * MIB, disk_caches=65 * MIB), anomalies=(Anomaly.CACHES_ABOVE_TOTAL,)
    ),
    "twice what it can have": Lie(memory(2 * MAXIMUM, 0), used(2 * MAXIMUM, 2 * MAXIMUM)),
    "more than twice": Lie(memory(2 * MAXIMUM + 1024, 0), anomalies=(Anomaly.TOTAL_ABOVE_MAXIMUM,)),
    "counts beyond reason": Lie(
        memory(64 * MIB, 32 * MIB, major_faults=2**63, swap_in=2**64 - 2),
        used(32 * MIB, 64 * MIB),
        anomalies=(Anomaly.FIGURE_TOO_LARGE,),
    ),
    "a figure that nobody knows": Lie(
        memory(64 * MIB, 32 * MIB) | {"9999": 1}, used(32 * MIB, 64 * MIB)
    ),
}


@pytest.fixture(scope="module")
def liar(module_guest_factory: GuestFactory) -> Guest:
    """A guest that says what it is told to say."""
    return module_guest_factory(GuestSpec("liar", period=1, lies=True))


def read(guest: Guest, via: Source, verdict: Verdict) -> DomainReport:
    """The guest's row, once it has this verdict: under load an answer may come late."""

    def row() -> DomainReport | None:
        (row,) = read_host(guest.hypervisor.uri, [guest.name], via=via).domains
        return row if row.verdict is verdict else None

    return wait_until(row, 60, f"the verdict {verdict.value} through {via.value}")


@pytest.mark.parametrize("name", LIES)
def test_a_guest_that_lies(liar: Guest, name: str) -> None:
    lie = LIES[name]
    liar.lie(lie.figures)
    for via in Source:
        row = read(liar, via, lie.verdict)
        # Those that libvirt passes on and that any QEMU has.
        for tag in TAGS[:10]:
            value = lie.figures.get(tag, UNSET)
            figure = row.stats.as_dict()[tag.replace("-", "_")]
            if value >= 2**63 or figure is None:
                assert value >= 2**63
                assert figure is None
            else:
                # Libvirt cuts sizes down to KiB.
                assert figure <= value < figure + (1024 if via is Source.LIBVIRT else 1)
        assert row.figures.maximum_bytes == MAXIMUM
        assert (row.usage, row.anomalies, row.error) == (lie.usage, lie.anomalies, None)
        record = domain_record(row)
        assert record["anomalies"] == list(lie.anomalies)
        assert all(column(key).cell(row, exact=True).isprintable() for key in domain_columns())
    host = read_host(liar.hypervisor.uri, [liar.name])
    text = to_json(document([host_record(host)], generated_at=0))
    VALIDATOR.validate(json.loads(text, parse_constant=pytest.fail))


def test_the_command_says_so(liar: Guest) -> None:
    liar.lie(memory(64 * MIB, 65 * MIB))
    read(liar, Source.LIBVIRT, Verdict.FRESH)
    shown = run(liar.hypervisor, "stats", "--units", "bytes", "liar").stdout.splitlines()
    lines = {line.split()[0]: line.split()[-1] for line in shown[1:]}
    assert (lines["available_memory"], lines["used"]) == (str(65 * MIB), "-")
    assert shown[-1] == f"  {Anomaly.AVAILABLE_ABOVE_TOTAL}: {Anomaly.AVAILABLE_ABOVE_TOTAL.text}"
    listed = run(liar.hypervisor, "list", "--columns", "name,used,anomalies", "liar").stdout
    assert listed.splitlines()[1].split() == ["liar", "-", "available-above-total"]


def test_a_driver_without_statistics_is_believed_again(liar: Guest) -> None:
    liar.lie({})
    read(liar, Source.LIBVIRT, Verdict.EMPTY)
    liar.stop_lying()
    liar.load_driver()
    row = read(liar, Source.LIBVIRT, Verdict.FRESH)
    assert row.stats.total_memory == liar.meminfo()["MemTotal"]
    assert row.anomalies == ()
