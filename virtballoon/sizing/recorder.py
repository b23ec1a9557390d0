"""What a new sample adds to a domain's days. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Self
from uuid import UUID

from virtballoon.model.memory import Usage, UsedFormula
from virtballoon.model.pressure import Pressure
from virtballoon.model.rates import NoRate, Rates
from virtballoon.model.rates import Sample as Counters
from virtballoon.model.report import DomainReport
from virtballoon.model.statistics import MemoryStats, figure
from virtballoon.model.value import Value
from virtballoon.model.verdict import Verdict
from virtballoon.sizing.day import DAY_SECONDS, Day, Histogram, Latest, Peak

#: A sample covers the time until the next one, but no more than this.
COVERED_SECONDS: Final = 15 * 60

#: How far a sample may be ahead of this machine's clock. Were a later one kept, after a clock was
#: wrong, all that follow would be older than it, and left out.
AHEAD_SECONDS: Final = 15 * 60


class Sample(Value):
    """Fresh figures of a domain.

    :ivar uri: the host's URI
    :ivar name: the domain's name, foreign text
    :ivar id: libvirt's number of the running domain
    :ivar at: when the guest gave the figures, epoch seconds by the host's clock
    """

    uri: str
    uuid: str
    name: str
    id: int | None
    at: int
    stats: MemoryStats
    usage: Usage = Usage()
    current_bytes: int | None = None
    maximum_bytes: int | None = None
    reclaimable_bytes: int | None = None
    labels: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def of(cls, uri: str, row: DomainReport) -> Self | None:
        """From a report; None where its figures are not fresh."""
        if row.verdict is not Verdict.FRESH or row.last_update is None:
            return None
        return cls(
            uri=uri,
            uuid=row.uuid,
            name=row.name,
            id=row.id,
            at=row.last_update,
            stats=row.stats,
            usage=row.usage,
            current_bytes=row.figures.current_bytes,
            maximum_bytes=row.figures.maximum_bytes,
            reclaimable_bytes=row.reclaimable_bytes,
            labels=row.labels,
        )

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self | None:
        """From a record as ``list --format jsonl`` writes it, which may have been changed on a
        disk; None where its figures are not fresh.

        :raise ValueError: when it is not such a record
        """
        try:
            if record["verdict"] != Verdict.FRESH:
                return None
            at = datetime.strptime(record["last_update"], "%Y-%m-%dT%H:%M:%S%z")
            stats = MemoryStats.from_qemu(record["stats"])
            used, formula = figure(record["used_bytes"]), record["used_formula"]
            usage = Usage()
            if formula is not None and used is not None:
                by = UsedFormula(formula)
                rest = stats.available_memory if by.leaves_out_caches else stats.free_memory
                usage = Usage(used_bytes=used, total_bytes=used + (rest or 0), formula=by)
            return cls(
                uri=_text(record["uri"]),
                uuid=str(UUID(record["uuid"])),
                name=_text(record["name"]),
                id=figure(record["id"]),
                at=int(at.timestamp()),
                stats=stats,
                usage=usage,
                current_bytes=figure(record["current_bytes"]),
                maximum_bytes=figure(record["maximum_bytes"]),
                reclaimable_bytes=figure(record["reclaimable_bytes"]),
                labels={_text(name): _text(text) for name, text in record["labels"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
            raise ValueError(f"not a line of list --format jsonl: {error!r:.200}") from error

    def as_dict(self) -> dict[str, Any]:
        """The keys of such a record that :meth:`from_dict` needs."""
        return {
            **{name: getattr(self, name) for name in ("uri", "uuid", "name", "id")},
            "verdict": Verdict.FRESH,
            "last_update": datetime.fromtimestamp(self.at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "stats": {name: n for name, n in self.stats.as_dict().items() if n is not None},
            "used_bytes": self.usage.used_bytes,
            "used_formula": self.usage.formula,
            "current_bytes": self.current_bytes,
            "maximum_bytes": self.maximum_bytes,
            "reclaimable_bytes": self.reclaimable_bytes,
            "labels": dict(self.labels),
        }

    @property
    def _counters(self) -> Counters:
        return Counters(uuid=self.uuid, id=self.id, last_update=self.at, stats=self.stats)


def days_of(sample: Sample, before: Sample | None) -> Iterator[Day]:
    """What a sample adds to the days of its domain.

    :param before: the newest sample before it: its figures count for the time in between
    """
    used = sample.usage.used_bytes
    added = Day.at(
        sample.at,
        peak=None if used is None else Peak(used, sample.at),
        latest=Latest(
            at=sample.at,
            current_bytes=sample.current_bytes,
            maximum_bytes=sample.maximum_bytes,
            total_bytes=sample.usage.total_bytes,
            reclaimable_bytes=sample.reclaimable_bytes,
        ),
        current_min_bytes=sample.current_bytes,
        current_max_bytes=sample.current_bytes,
        formulas=frozenset({str(sample.usage.formula)} if sample.usage.formula else ()),
    )
    if before is None:
        yield added
        return
    yield from _covered(before, min(sample.at, before.at + COVERED_SECONDS))
    counters = before._counters
    if before.uri != sample.uri:
        # It has migrated: another host gives it another number, and it counts on.
        counters = replace(counters, id=sample.id)
    rates = Rates.between(counters, sample._counters)
    gains = {
        name: round(rate * (rates.elapsed_seconds or 0))
        for name, rate in rates.per_second.items()
        if rate is not None
    }
    if rates.oom_kills is not None:
        gains["oom_kills"] = rates.oom_kills
    is_short = Pressure.of(sample.usage, rates).is_short
    is_resized = sizes(before) != sizes(sample)
    yield replace(
        added,
        gains=gains,
        pressure_hours=frozenset({sample.at % DAY_SECONDS // 3600} if is_short else ()),
        restarts=int(rates.reason in {NoRate.RESTARTED, NoRate.RESET}),
        resizes=int(is_resized),
        resized_at=sample.at if is_resized else None,
    )


def sizes(sample: Sample) -> tuple[int | None, int | None]:
    """What makes a resize where it changes."""
    return sample.current_bytes, sample.maximum_bytes


def _covered(sample: Sample, until: int) -> Iterator[Day]:
    start = sample.at
    formula, stats = sample.usage.formula, sample.stats
    # Impossible figures, which a guest can write, leave no formula.
    figures = {
        "used": sample.usage.used_bytes,
        "available": stats.available_memory if formula and formula.leaves_out_caches else None,
        "cache": stats.disk_caches if formula else None,
    }
    while start < until:
        end = min(until, (start // DAY_SECONDS + 1) * DAY_SECONDS)
        histograms = {
            name: Histogram().add(value, end - start)
            for name, value in figures.items()
            if value is not None
        }
        yield Day.at(start, covered_seconds=end - start, **histograms)
        start = end


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"not a text: {value!r:.40}")
    return value
