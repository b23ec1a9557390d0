"""Figures and names as a person reads them."""

from __future__ import annotations

from typing import Final

ABSENT: Final = "-"


def printable(text: str) -> str:
    """Somebody else's text without anything that acts on a terminal or reorders a line.

    Control characters, bidirectional controls, line separators and the like become ``\\x1b``,
    ``\\u202e`` and so on.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def size(count: int | None, *, exact: bool = False) -> str:
    """Bytes, in binary units unless exact."""
    if count is None:
        return ABSENT
    if exact or count < 1024:  # noqa: PLR2004
        return str(count) if exact else f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        amount /= 1024
        # What would be rounded up to 1024 belongs to the next unit.
        if amount < 1023.95 or unit == "EiB":  # noqa: PLR2004
            break
    return f"{amount:.1f} {unit}"


def percent(ratio: float | None) -> str:
    """A ratio in percent, rounded down so that 100 % means all of it."""
    # A little more, since 0.29 times 100 is 28.999999999999996.
    return ABSENT if ratio is None else f"{int(ratio * 100 + 1e-9)}%"


def seconds(interval: int | None) -> str:
    """A polling interval."""
    if interval is None:
        return ABSENT
    return "off" if interval == 0 else f"{interval} s"


def duration(elapsed: float | None, *, units: int = 2) -> str:
    """A span of time in so many of its largest units."""
    if elapsed is None:
        return ABSENT
    sign = "-" if elapsed <= -1 else ""
    rest = int(abs(elapsed))
    if rest < 60:  # noqa: PLR2004
        return f"{sign}{rest} s"
    parts: list[str] = []
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        amount, rest = divmod(rest, length)
        if amount or parts:
            parts.append(f"{amount} {unit}")
    return sign + " ".join(parts[:units])
