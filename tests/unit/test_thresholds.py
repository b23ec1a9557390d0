"""The ranges of the monitoring plugins' guidelines."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtballoon.check import ranges as thresholds
from virtballoon.check.ranges import Range
from virtballoon.model.units import BYTES, PERCENT, SECONDS, Units

inf = math.inf
finite = st.floats(allow_nan=False, allow_infinity=False)


# The guidelines' own table of examples, and what lies beside it.
@pytest.mark.parametrize(
    ("text", "alarms", "silent"),
    [
        ("10", [-0.1, -1, 10.1, 11], [0, 5, 10]),
        ("10:", [9.9, 0, -5], [10, 11, 1e300]),
        ("~:10", [10.1, 11], [-1e300, -1, 10]),
        ("10:20", [9.9, 20.1], [10, 15, 20]),
        ("@10:20", [10, 15, 20], [9.9, 20.1]),
        ("@10", [0, 10], [-0.1, 10.1]),
        ("0", [1, -1], [0]),
        ("0:", [-1], [0, 1]),
        ("-5:-1", [-6, 0], [-5, -1]),
        ("@~:0", [-1, 0], [0.1]),
        ("~:", [], [-1e300, 0, 1e300]),
        ("@~:", [-1e300, 0, 1e300], []),
        ("0.5:1.25", [0.4, 1.3], [0.5, 1.25]),
    ],
)
def test_alarms(text: str, alarms: list[float], silent: list[float]) -> None:
    parsed = Range.parse(text)
    assert [value for value in alarms if not parsed.alarms(value)] == []
    assert [value for value in silent if parsed.alarms(value)] == []


@pytest.mark.parametrize(
    "text",
    [
        *("", "@", ":", ":10", "~", "@~", "~10", "10:~", "1:2:3", "@@10", "20:10", "10:@20"),
        *("1e3", "nan", "inf", "-inf", "+5", "0x10", "1_000", "1,5", ".5", "5.", "--5", "1.2.3"),
        *(" 10", "10 ", "10: 20", "10\n", "٣", "80%", "5 %", "9" * 400),
    ],
)
def test_rejects_invalid_ranges(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Range.parse(text)


@pytest.mark.parametrize(
    ("text", "units", "parsed"),
    [
        ("80%", PERCENT, Range(0, 80)),
        ("80", PERCENT, Range(0, 80)),
        ("@10%:20", PERCENT, Range(10, 20, inverted=True)),
        ("~:90%", PERCENT, Range(-inf, 90)),
        ("5%:", PERCENT, Range(5, inf)),
        ("2min", SECONDS, Range(0, 120)),
        ("30s:1h", SECONDS, Range(30, 3600)),
        ("1.5MiB", BYTES, Range(0, 1.5 * 1024**2)),
        ("1000B:2KiB", BYTES, Range(1000, 2048)),
    ],
)
def test_units(text: str, units: Units, parsed: Range) -> None:
    assert Range.parse(text, units) == parsed


@pytest.mark.parametrize("text", ["80s", "80%%", "%", "1MB", "1mib", "5%:10s"])
def test_a_unit_that_does_not_belong_there(text: str) -> None:
    with pytest.raises(ValueError, match=r"no unit|not a number"):
        Range.parse(text, PERCENT)


def test_ends_that_are_the_wrong_way_round() -> None:
    with pytest.raises(ValueError, match="starts at 20, above its end 10"):
        Range.parse("20:10")
    for ends in ((2, 1), (inf, inf), (-inf, -inf), (math.nan, 1), (0, math.nan)):
        with pytest.raises(ValueError, match=r"\w"):
            Range(*ends)


@given(st.floats(max_value=1e300, allow_nan=False), finite, st.booleans())
def test_what_is_written_reads_as_the_same(start: float, length: float, inverted: bool) -> None:
    end = start + abs(length) if math.isfinite(start) else length
    written = Range(start, end, inverted)
    assert Range.parse(str(written)) == written
    assert Range.parse(str(Range(start, inf, inverted))) == Range(start, inf, inverted)
    # Perfdata has no exponents, quotes or separators.
    assert set(str(written)) <= set("@~:-.0123456789")


@given(finite, finite, finite)
def test_at_alarms_where_it_would_not_without(a: float, b: float, value: float) -> None:
    start, end = sorted((a, b))
    assert Range(start, end).alarms(value) is not Range(start, end, inverted=True).alarms(value)


@given(st.text(alphabet="@~:-.0123456789%sB ", max_size=12))
def test_any_text_is_a_range_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parsed = Range.parse(text, PERCENT)
        assert Range.parse(str(parsed)) == parsed


@given(finite)
def test_numbers_of_performance_data_are_exact_and_decimal(value: float) -> None:
    written = thresholds.number(value)
    assert float(written) == value
    assert set(written) <= set("-.0123456789")
