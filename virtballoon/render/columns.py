"""The columns of a list: their names, headings and cells.

A column is named by its key in the flattened record, such as ``used_bytes``,
``interval.live`` or ``stats.swap_in``; the unit or the part before the dot may be left out where
that is clear: ``used``, ``swap_in``. ``interval`` alone is ``interval.in_force``. A label has a
short name only where no other column has it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from virtballoon.model.report import DomainReport
from virtballoon.model.statistics import STATISTIC_BY_NAME, Unit
from virtballoon.render import text
from virtballoon.render.documents import DOMAIN, domain_columns

IN_FORCE: Final = "interval.in_force"

#: The columns of a list by default, and those with ``--wide``.
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
    "age_seconds": "AGE",
    "used_ratio": "USED%",
    "stats.total_memory": "TOTAL",
    "current_bytes": "BALLOON",
}

#: The columns that are text, flush left, besides those of the balloon, the error and the labels.
_TEXT: Final = frozenset(
    {
        *("name", "uuid", "state", "machine", "verdict", "source"),
        *("excluded", "read_at", "last_update", "used_formula", "anomalies", "free_page_reporting"),
    }
)


class Column(NamedTuple):
    """One column; numbers are flush right.

    :ivar value: gets the value of a report, to sort by
    :ivar show: makes a cell of a value; the second argument is whether sizes are exact
    """

    key: str
    title: str
    is_number: bool
    value: Callable[[Any], Any]
    show: Callable[[Any, bool], str]

    def cell(self, row: DomainReport, *, exact: bool) -> str:
        """What a table shows, safe for a terminal."""
        return self.show(self.value(row), exact)


def usual(rows: Sequence[DomainReport], *, wide: bool) -> list[Column]:
    """The columns of a list of these domains where none are asked for."""
    found = [column(key) for key in (WIDE if wide else DEFAULT)]
    if wide:
        present = {f"labels.{name}" for row in rows for name in row.labels}
        found += [column(key) for key in domain_columns() if key in present]
    elif any(row.labels and row.title for row in rows):
        found.insert(1, TITLE)
    if any(row.excluded for row in rows):
        found.append(column("excluded"))
    return found


def figures(row: DomainReport) -> tuple[str, ...]:
    """The columns of all figures of a domain."""
    return (
        *(f"stats.{name}" for name in row.stats.as_dict()),
        *("used_bytes", "used_ratio", "current_bytes", "ballooned_bytes", "maximum_bytes"),
        "rss_bytes",
    )


def figure_name(key: str) -> str:
    """What to call a figure next to the others of a domain, safe for a terminal."""
    return text.printable(key.removeprefix("stats.").removesuffix("_bytes"))


def column(key: str) -> Column:
    """The column with this key."""
    name = key.rpartition(".")[2]
    title = name.removesuffix("_bytes").removesuffix("_seconds").upper().replace("_", " ")
    is_text = key in _TEXT or key.startswith(("balloon.", "error.", "labels."))
    return Column(key, _TITLES.get(key, title), not is_text, _getter(key), _shower(key))


def _getter(key: str) -> Callable[[DomainReport], Any]:
    part, _, rest = key.partition(".")
    get = DOMAIN[part]
    if rest in STATISTIC_BY_NAME:
        return lambda row: getattr(row.stats, rest)
    if key == "used_ratio":
        # A record has it rounded.
        return lambda row: row.usage.ratio

    def value(row: DomainReport) -> Any:
        found = get(row)
        for name in rest.split(".") if rest else ():
            found = found.get(name) if isinstance(found, Mapping) else None
        return ", ".join(found) or None if isinstance(found, list) else found

    return value


def _shower(key: str) -> Callable[[Any, bool], str]:
    if key == "age_seconds":
        return lambda age, _exact: text.duration(age)
    if key == "used_ratio":
        return lambda ratio, _exact: text.percent(ratio)
    if key.startswith("interval."):
        return lambda interval, _exact: text.seconds(interval)
    if is_size(key):
        return lambda count, exact: text.size(count, exact=exact)
    if key == "excluded":
        return lambda excluded, _exact: "yes" if excluded else text.ABSENT
    return lambda value, _exact: text.ABSENT if value is None else text.printable(str(value))


def find(word: str) -> Column | None:
    """The column that a word means, or None."""
    wanted = _normal(word)
    if wanted == "interval":
        return column(IN_FORCE)
    if wanted in domain_columns():
        return column(wanted)
    key = _short_forms(domain_columns()).get(wanted)
    # A statistic of QEMU that this version does not know has no short name.
    return column(key or wanted) if key or wanted.startswith("stats.") else None


def meant(word: str, keys: Sequence[str]) -> str:
    """The one of the keys that a word means.

    :raise ValueError: when there is none, with the nearest
    """
    wanted, forms = _normal(word), _short_forms(keys)
    if wanted in keys or wanted in forms:
        return wanted if wanted in keys else forms[wanted]
    from difflib import get_close_matches

    near = get_close_matches(word, [*keys, *forms], n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise ValueError(f"no column {word!r}; {hint}Columns: {', '.join(keys)}")


def _normal(word: str) -> str:
    return word.strip().lower().replace("-", "_")


def _short_forms(keys: Sequence[str]) -> dict[str, str]:
    labels_last = sorted(keys, key=lambda key: key.startswith("labels."))
    return {
        name: key
        for key in reversed(labels_last)
        for name in (key.rpartition(".")[2], key.removesuffix("_bytes").removesuffix("_seconds"))
    }


def known(word: str) -> Column:
    """The column that a word means.

    :raise ValueError: when there is none, with the nearest
    """
    return find(word) or column(meant(word, domain_columns()))


def is_size(key: str) -> bool:
    """Whether a column is in bytes."""
    if key.startswith("stats."):
        # The unit of a statistic that this version does not know is not known either.
        statistic = STATISTIC_BY_NAME.get(key.removeprefix("stats."))
        return statistic is not None and statistic.unit is Unit.BYTES
    return key.endswith("_bytes")


#: What people call a domain, in a list of any that has a title or the like.
TITLE: Final = column("labels.title")._replace(value=lambda row: row.title)
