"""Conditions on domains, as ``--where`` has them: ``used_ratio>90%``, ``project=acme``. Pure."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from fnmatch import translate
from typing import Any, Final

from virtballoon.model.report import DomainReport
from virtballoon.model.selection import Where
from virtballoon.model.units import BYTES, COUNT, PERCENT, SECONDS, Units, parse_number
from virtballoon.render import columns

_FORMAT: Final = r"([^=!<>]+)(==|!=|<=|>=|=|<|>)(.*)"
_COMPARISONS: Final = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "!=": operator.ne,
}


def where(text: str, *, known: Callable[[str], columns.Column] = columns.known) -> Where:
    """A condition on a column of a list, which a selection of domains may contain.

    A figure is compared with a number, which may have a unit: ``used_ratio>90%``, ``age>5m``,
    ``current<2GiB``. Any other value is compared with a shell pattern: ``=`` or ``!=``. A value
    that a domain does not have is like an empty text: ``title=`` is true then, ``!=`` is the
    opposite of ``=``, and ``<`` and ``>`` are false.

    :param text: ``KEY=PATTERN`` with the name of a column or its short form
    :param known: finds the column that is meant
    :raise ValueError: when it is not a condition, or there is no such column
    """
    found = re.fullmatch(_FORMAT, text, re.DOTALL)
    if found is None:
        raise ValueError(f"{text!r} is not a condition such as verdict=stale or used_ratio>90%")
    word, sign, wanted = found.groups()
    sign = "=" if sign == "==" else sign
    column = known(word)
    compare, value = _COMPARISONS[sign], column.value
    is_equality = sign in {"=", "!="}
    meets: Callable[[Any], bool]
    if not column.is_number or (is_equality and not wanted):
        if not is_equality:
            raise ValueError(f"{text!r}: {column.key} is text, which has only = and !=")
        # Patterns take no exponential time: what fnmatch makes of them does not backtrack.
        matches = re.compile(translate(wanted)).match
        meets = lambda found: (matches(_text(found)) is not None) is (sign == "=")  # noqa: E731
    else:
        number = _number(text, column.key, wanted.strip())
        meets = lambda found: (  # noqa: E731
            sign == "!=" if found is None else compare(found, number)
        )

    def test(row: Any) -> bool | None:
        found = value(row)
        return None if found is None and _is_unread(row, column.key) else meets(found)

    return Where(text, test)


def _is_unread(row: object, key: str) -> bool:
    """Whether a value may be missing because the domain could not be read."""
    if not isinstance(row, DomainReport):
        return False
    if key.startswith("labels.") and row.machine is not None:
        # The XML has been read.
        return False
    return row.has_failed and not key.startswith("error.")


def _text(value: object) -> str:
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(text: str, key: str, wanted: str) -> float:
    units: Units = BYTES if columns.is_size(key) else COUNT
    if key.endswith("_seconds") or key.startswith("interval."):
        units = SECONDS
    is_ratio = key.endswith("_ratio")
    if is_ratio:
        units = PERCENT
    try:
        number = parse_number(wanted, units)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    if is_ratio and wanted.endswith("%"):
        # Not times 0.01, which makes 0.7000000000000001 of 70.
        number /= 100
    if is_ratio and number > 1:
        raise ValueError(f"{text!r}: a ratio is at most 1, which is 100%")
    return number
