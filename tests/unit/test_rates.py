"""What a guest did between two readings, and when nothing can be said of it."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.builders import READ, SCHEMA, UUID, VALIDATOR, document, report
from virtballoon.model.memory import Figures
from virtballoon.model.rates import NoRate, Rates, Sample
from virtballoon.model.report import DomainReport
from virtballoon.model.statistics import COUNTERS, STATISTICS, MemoryStats
from virtballoon.render import documents, formats, table

NOW = 1_700_000_000


def sample(last_update: int | None = NOW, *, id: int | None = 7, **counters: int) -> Sample:  # noqa: A002
    stats = MemoryStats(**({"minor_faults": 5000} | counters))  # type: ignore[arg-type]
    return Sample(uuid=UUID, id=id, last_update=last_update, stats=stats)


def test_each_counter_over_the_guests_own_time() -> None:
    before = sample(swap_in=4096, major_faults=3, oom_kills=1, direct_scans=10)
    after = sample(NOW + 10, minor_faults=5025, swap_in=45056, major_faults=3, oom_kills=3)
    rates = Rates.between(before, after)
    assert (rates.elapsed_seconds, rates.reason, rates.oom_kills) == (10, None, 2)
    assert (
        rates.per_second["minor_faults"],
        rates.per_second["swap_in"],
        rates.per_second["major_faults"],
    ) == (2.5, 4096.0, 0.0)
    # What one of the two readings does not have has no rate, rather than one of 0.
    assert (rates.per_second["direct_scans"], rates.per_second["swap_out"]) == (None, None)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        (sample(), sample(), NoRate.NOT_UPDATED),
        (sample(), sample(NOW + 5, id=8), NoRate.RESTARTED),
        (sample(), sample(NOW + 5, id=8, minor_faults=1), NoRate.RESTARTED),
        (sample(), sample(0), NoRate.RESET),
        (sample(), sample(NOW + 5, minor_faults=1), NoRate.RESET),
        # A boot can have more of what is rare.
        (sample(major_faults=1), sample(NOW + 5, minor_faults=1, major_faults=9), NoRate.RESET),
        (sample(swap_out=8192), sample(NOW + 5, swap_out=4096), NoRate.BACKWARDS),
        (sample(oom_kills=2), sample(NOW + 5, oom_kills=1), NoRate.BACKWARDS),
        (sample(), sample(NOW - 3600, minor_faults=9999), NoRate.CLOCK),
        (sample(), sample(NOW - 3600, minor_faults=1), NoRate.RESET),
        (sample(0), sample(), NoRate.NO_FIGURES),
        (sample(None), sample(), NoRate.NO_FIGURES),
        (sample(), sample(None), NoRate.NO_FIGURES),
        (sample(), sample(None, id=None), NoRate.NO_FIGURES),
        (sample(id=None), sample(NOW + 5), NoRate.NO_FIGURES),
        (sample(), replace(sample(NOW + 5), stats=MemoryStats()), NoRate.NO_FIGURES),
    ],
)
def test_nothing_can_be_said(before: Sample, after: Sample, reason: NoRate) -> None:
    assert Rates.between(before, after) == Rates(reason=reason)


def test_two_domains_are_not_compared() -> None:
    with pytest.raises(ValueError, match="two domains"):
        Rates.between(sample(), replace(sample(), uuid="another"))


FIGURE = st.none() | st.integers(0, 2**64 - 2)
SAMPLES = st.builds(
    Sample,
    uuid=st.just(UUID),
    id=st.none() | st.integers(1, 2),
    last_update=FIGURE,
    stats=st.fixed_dictionaries(dict.fromkeys(STATISTICS, FIGURE) | {"new": FIGURE}).map(
        lambda given: MemoryStats.from_qemu({f"stat-{n}": v for n, v in given.items()})
    ),
)


@given(SAMPLES, SAMPLES)
def test_no_rate_is_ever_negative(before: Sample, after: Sample) -> None:
    rates = Rates.between(before, after)
    said = [rate for rate in (*rates.per_second.values(), rates.oom_kills) if rate is not None]
    assert all(rate >= 0 for rate in said)
    assert (rates.elapsed_seconds is None) == (rates.reason is not None)
    assert not (said and rates.reason)


@given(SAMPLES)
def test_a_sample_can_be_kept(kept: Sample) -> None:
    again = Sample.from_dict(json.loads(json.dumps(kept.as_dict())))
    assert again.as_dict() == kept.as_dict()


@pytest.mark.parametrize(
    "stored", [None, [], {}, {"uuid": 5, "stats": {}}, {"uuid": UUID, "stats": [1]}]
)
def test_rejects_invalid_samples(stored: Any) -> None:
    with pytest.raises(ValueError, match="sample"):
        Sample.from_dict(stored)


def test_a_sample_from_an_older_or_newer_version() -> None:
    stored = {"uuid": UUID, "id": "x", "stats": {"swap_in": 5, "newer": 6, "major_faults": -1}}
    rebuilt = Sample.from_dict(stored)
    assert (rebuilt.id, rebuilt.last_update, rebuilt.stats.swap_in) == (None, None, 5)
    assert (rebuilt.stats.major_faults, dict(rebuilt.stats.other)) == (None, {"newer": 6})


def later(**counters: int) -> DomainReport:
    stats = MemoryStats(swap_in=40960, minor_faults=125, **counters)  # type: ignore[arg-type]
    row = report(figures=Figures(stats=stats, last_update=NOW + 10), read_at=NOW + 11.0)
    earlier = Figures(stats=MemoryStats(swap_in=0, minor_faults=100), last_update=NOW)
    return row.since(report(figures=earlier).sample)


def test_documents_with_rates() -> None:
    lone = later().since(None)
    whole = document(replace(READ, domains=(later(), lone)))
    VALIDATOR.validate(whole)
    first, second = (domain["rates"] for domain in whole["hosts"][0]["domains"])
    assert list(first["per_second"]) == list(COUNTERS)
    assert (first["elapsed_seconds"], first["per_second"]["minor_faults"]) == (10, 2.5)
    assert (second["reason"], second["elapsed_seconds"]) == ("no-figures", None)
    assert "rates" not in document(READ)["hosts"][0]["domains"][0]
    flat = formats.flattened(documents.domain_record(later()))
    assert [key for key in flat if key.startswith("rates.")] == [
        c for c in documents.domain_columns(rates=True) if c.startswith("rates.")
    ]
    schema = SCHEMA["$defs"]["rates"]["properties"]
    assert schema["reason"]["enum"] == [*NoRate, None]
    assert schema["per_second"]["required"] == list(COUNTERS)
    assert list(schema["per_second"]["properties"]) == list(COUNTERS)


def test_a_table_with_rates() -> None:
    stream = io.StringIO()
    rows = [(READ, later(oom_kills=3)), (READ, later().since(later().sample))]
    table.stats_blocks(rows, exact=False, with_host=False, stream=stream)
    first, second = stream.getvalue().split("\n\n")
    assert "rates over 10 s" in first.splitlines()[0]
    cells = {line.split()[0]: line.split()[1:] for line in first.splitlines()[1:]}
    assert cells["swap_in"] == ["40.0", "KiB", "4.0", "KiB/s"]
    assert cells["minor_faults"] == ["125", "2.5/s"]
    assert cells["oom_kills"] == ["3"], "the reading before did not have any"
    assert cells["free_memory"] == ["-"]
    assert second.splitlines()[0].endswith("no rates: not updated")
    assert "/s" not in second


def test_a_host_is_compared_by_uuid() -> None:
    renamed = replace(READ, domains=(replace(later(), name="renamed", rates=None),))
    (row,) = renamed.since(replace(READ, domains=(later(),))).domains
    assert row.rates == Rates(reason=NoRate.NOT_UPDATED)
