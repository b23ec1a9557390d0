"""The columns that a list can show: their names, headings and cells.

A column is named by its key in the flattened record, such as ``used_bytes``,
``interval.live`` or ``stats.swap_in``; the unit or the part before the dot may be left out where
that is clear: ``used``, ``swap_in``. ``interval`` alone is ``interval.in_force``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from virtballoon.model.report import DomainReport
from virtballoon.model.statistics import COUNTERS, STATISTIC_BY_NAME, STATISTICS, Unit
from virtballoon.render import text
from virtballoon.render.documents import domain_record, flattened

#: Every column of a record, in the record's order.
RECORD: Final = (
    "name",
    "uuid",
    "id",
    "state",
    "machine",
    "balloon.model",
    "balloon.alias",
    "balloon.qom_path",
    "interval.live",
    "interval.config",
    "interval.saved",
    "interval.qemu",
    "interval.in_force",
    "verdict",
    "source",
    "last_update",
    "age_seconds",
    "maximum_bytes",
    "current_bytes",
    "ballooned_bytes",
    "rss_bytes",
    *(f"stats.{name}" for name in STATISTICS),
    "used_bytes",
    "used_ratio",
    "used_formula",
    "anomalies",
    "error.code",
    "error.message",
    "error.reason",
    "error.hint",
)

#: What a record has besides where new figures were asked for.
REFRESH: Final = (
    *(f"refresh.{key}" for key in ("fresh", "asked", "seconds", "reason", "restored")),
    *(f"refresh.error.{key}" for key in ("code", "message", "reason", "hint")),
)

#: What a record has besides where rates were asked for.
RATES: Final = (
    "rates.elapsed_seconds",
    "rates.reason",
    *(f"rates.per_second.{name}" for name in COUNTERS),
    "rates.oom_kills",
)

IN_FORCE: Final = "interval.in_force"

#: What a list shows unless told otherwise, and what ``--wide`` adds.
DEFAULT: Final = (
    "name",
    IN_FORCE,
    "age_seconds",
    "used_bytes",
    "used_ratio",
    "stats.total_memory",
    "current_bytes",
    "verdict",
)
WIDE: Final = (
    *DEFAULT,
    "rss_bytes",
    "interval.live",
    "interval.qemu",
    "balloon.model",
    "balloon.alias",
    "balloon.qom_path",
)

_TITLES: Final = {
    "name": "DOMAIN",
    IN_FORCE: "INTERVAL",
    "interval.live": "LIBVIRT",
    "interval.config": "CONFIG",
    "interval.saved": "SAVED",
    "interval.qemu": "QEMU",
    "age_seconds": "AGE",
    "used_bytes": "USED",
    "used_ratio": "USED%",
    "stats.total_memory": "TOTAL",
    "current_bytes": "BALLOON",
    "maximum_bytes": "MAXIMUM",
    "ballooned_bytes": "BALLOONED",
    "balloon.model": "MODEL",
    "balloon.alias": "ALIAS",
    "balloon.qom_path": "QOM PATH",
    "rss_bytes": "RSS",
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    :ivar key: its name
    :ivar title: its heading
    :ivar is_number: whether it stands flush right
    """

    key: str
    title: str
    is_number: bool

    def value(self, row: DomainReport) -> Any:
        """What to sort by."""
        value = flattened(domain_record(row)).get(self.key)
        return ", ".join(value) or None if isinstance(value, list) else value

    def cell(self, row: DomainReport, *, exact: bool) -> str:
        """What a table shows, safe for a terminal."""
        value = self.value(row)
        if self.key == "age_seconds":
            return text.duration(row.age_seconds)
        if self.key == "used_ratio":
            return text.percent(row.usage.ratio)
        if self.key.startswith("interval."):
            return text.seconds(value)
        if is_size(self.key):
            return text.size(value, exact=exact)
        return text.ABSENT if value is None else text.printable(str(value))


def column(key: str) -> Column:
    """The column with this key."""
    title = _TITLES.get(key, key.rpartition(".")[2].upper().replace("_", " "))
    words = {
        *("name", "uuid", "state", "machine", "verdict", "source"),
        *("last_update", "used_formula", "anomalies"),
    }
    is_text = key in words or key.startswith(("balloon.", "error."))
    return Column(key, title, not is_text)


def find(word: str) -> Column | None:
    """The column that a person means, or None."""
    wanted = word.strip().lower().replace("-", "_")
    if wanted == "interval":
        return column(IN_FORCE)
    if wanted in RECORD:
        return column(wanted)
    short = {
        name: key
        for key in reversed(RECORD)
        for name in (key.rpartition(".")[2], key.removesuffix("_bytes").removesuffix("_seconds"))
    }
    key = short.get(wanted)
    # A statistic that QEMU has and we do not know has no short name.
    return column(key or wanted) if key or wanted.startswith("stats.") else None


def is_size(key: str) -> bool:
    """Whether a column is in bytes."""
    if key.startswith("stats."):
        # The unit of a statistic that this version does not know is not known either.
        statistic = STATISTIC_BY_NAME.get(key.removeprefix("stats."))
        return statistic is not None and statistic.unit is Unit.BYTES
    return key.endswith("_bytes")
