"""Text for people: sizes, times, shares, and other people's names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtballoon.render.text import ABSENT, duration, percent, printable, seconds, size

KIB = 1024


@pytest.mark.parametrize("shown", [size, percent, seconds, duration])
def test_what_is_absent_is_a_dash(shown: object) -> None:
    assert callable(shown)
    assert shown(None) == ABSENT == "-"


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (1023, "1023 B"),
        (KIB, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (KIB**2 - 1, "1.0 MiB"),
        (KIB**2, "1.0 MiB"),
        (134217728, "128.0 MiB"),
        (KIB**3, "1.0 GiB"),
        (KIB**4, "1.0 TiB"),
        (KIB**5, "1.0 PiB"),
        (KIB**6, "1.0 EiB"),
        (2**64 - 2, "16.0 EiB"),
        (KIB**7, "1024.0 EiB"),
    ],
)
def test_a_size(count: int, shown: str) -> None:
    assert size(count) == shown
    assert size(count, exact=True) == str(count)


def test_zero_bytes() -> None:
    assert size(None, exact=True) == "-"


@given(st.integers(0, 2**64 - 1))
def test_a_size_is_never_as_wide_as_the_next_unit(count: int) -> None:
    number, unit = size(count).split(" ")

    assert unit in {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
    assert float(number) < 1024


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [
        (0.0, "0%"),
        (0.009, "0%"),
        (0.2219, "22%"),
        (0.5, "50%"),
        (0.999, "99%"),
        (1 - 1e-9, "99%"),
        (1.0, "100%"),
    ],
)
def test_a_share_is_rounded_down(ratio: float, shown: str) -> None:
    assert percent(ratio) == shown


def test_a_whole_share_is_shown_as_it_is() -> None:
    shares = range(101)

    assert [percent(share / 100) for share in shares] == [f"{share}%" for share in shares]


@pytest.mark.parametrize(
    ("interval", "shown"), [(0, "off"), (1, "1 s"), (10, "10 s"), (2**32 - 1, "4294967295 s")]
)
def test_an_interval(interval: int, shown: str) -> None:
    assert seconds(interval) == shown


@pytest.mark.parametrize(
    ("elapsed", "shown"),
    [
        (0, "0 s"),
        (0.9, "0 s"),
        (-0.9, "0 s"),
        (3.1, "3 s"),
        (59.9, "59 s"),
        (60, "1 min 0 s"),
        (61, "1 min 1 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (86399, "23 h 59 min"),
        (86400, "1 d 0 h"),
        (90061, "1 d 1 h"),
        (1e9, "11574 d 1 h"),
        (-1, "-1 s"),
        (-3600, "-1 h 0 min"),
    ],
)
def test_a_span_of_time(elapsed: float, shown: str) -> None:
    assert duration(elapsed) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("web1", "web1"),
        ("Größe 漢字 🎈", "Größe 漢字 🎈"),
        ("a b", "a b"),
        ("a\nb", "a\\nb"),
        ("a\r\tb", "a\\r\\tb"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("\x9b31m", "\\x9b31m"),
        ("\x07\x7f", "\\x07\\x7f"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("\ufeff", "\\ufeff"),
        ("\udcff", "\\udcff"),
        ("\U000e0041", "\\U000e0041"),
        ("", ""),
    ],
)
def test_foreign_text(name: str, shown: str) -> None:
    assert printable(name) == shown


@given(st.text(st.characters()))
def test_any_text_becomes_printable(text: str) -> None:
    shown = printable(text)

    assert shown.isprintable()
    assert printable(shown) == shown
    if text.isprintable():
        assert shown == text
    shown.encode()
