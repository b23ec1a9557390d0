"""Text for people: figures, names, results of waiting, and its look on a terminal."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, TextIO

from virtballoon.model.source import Source

if TYPE_CHECKING:
    from virtballoon.model.hostmemory import HostMemory
    from virtballoon.model.outcome import Waited
    from virtballoon.model.rates import NoRate, Rates
    from virtballoon.model.report import Refresh, Unheard

ABSENT: Final = "-"


def printable(text: str) -> str:
    """Foreign text without anything that acts on a terminal or reorders a line.

    Control characters, bidirectional controls, line separators and the like become ``\\x1b``,
    ``\\u202e`` and so on.
    """
    if text.isprintable():
        return text
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


def span(least: int | None, most: int | None, *, exact: bool = False) -> str:
    """What lies between two numbers of bytes; ``-`` where one is unknown."""
    if least is None or most is None:
        return ABSENT
    upto = size(most, exact=exact)
    return upto if least == most else f"{size(least, exact=exact)} to {upto}"


def host_memory(memory: HostMemory) -> str:
    """A host's memory beside its guests'."""
    facts = []
    if memory.current_bytes is not None:
        ratios = percent(memory.current_ratio), percent(memory.maximum_ratio)
        facts.append(
            f"guests have {size(memory.current_bytes)} ({ratios[0]}, at most {ratios[1]})"
            f" and use {span(memory.used_min_bytes, memory.used_max_bytes)}"
        )
    if memory.unknown_domains:
        facts.append(f"{memory.unknown_domains} unknown")
    available = size(memory.available_bytes)
    return ", ".join([*facts, f"{available} of {size(memory.total_bytes)} available"])


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
    """A time in its largest units, at most this many."""
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


def counted(count: int, noun: str) -> str:
    """A number of things."""
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def source(source: Source) -> str:
    """Who gave the figures."""
    return "QEMU" if source is Source.QOM else "libvirt"


# Results of waiting and of comparing readings.


def _spelled(reason: Unheard | NoRate | None) -> str:
    """A reason; the man pages explain each."""
    return ABSENT if reason is None else reason.value.replace("-", " ")


def waiting(waited: Waited) -> str:
    """The result of waiting for a guest's update."""
    if waited.answered:
        return f"after {waited.seconds:.1f} s"
    reason = _spelled(waited.reason)
    return reason if waited.seconds is None else f"{reason} ({waited.seconds:.0f} s)"


def rated(rates: Rates) -> str:
    """Over what time there are rates, or why there are none."""
    if rates.reason is not None:
        return f"no rates: {_spelled(rates.reason)}"
    return f"rates over {rates.elapsed_seconds} s (+-1)"


def refreshed(refresh: Refresh) -> str:
    """Whether figures are as new as was wanted."""
    from virtballoon.model.outcome import Waited

    waited = Waited(answered=refresh.fresh, seconds=refresh.seconds, reason=refresh.reason)
    if not refresh.fresh:
        return f"not fresh: {waiting(waited)}"
    if refresh.seconds is None:
        return "fresh enough"
    return f"{'asked' if refresh.asked else 'awaited'}, and answered {waiting(waited)}"


# Terminals. Importing rich would take longer than the rest of a list.

_CODES: Final = {
    "bold": "1",
    "dim": "2",
    "reverse": "7",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "blue": "34",
    "cyan": "36",
}


def is_dumb() -> bool:
    """Whether the terminal knows no escape sequences."""
    return os.environ.get("TERM", "").lower() in {"dumb", "unknown"}


def is_coloured(stream: TextIO) -> bool:
    """Whether to print colours on this stream."""
    return stream.isatty() and not is_dumb() and not os.environ.get("NO_COLOR")


def styled(text: str, style: str, *, coloured: bool) -> str:
    """The text with the codes of its style, which is any of the words above."""
    codes = ";".join(_CODES[word] for word in style.split())
    return f"\x1b[{codes}m{text}\x1b[0m" if coloured and codes and text else text


def terminal_width(stream: TextIO) -> int | None:
    """The terminal's width, or the one that COLUMNS has; None if there is neither."""
    try:
        columns = os.environ.get("COLUMNS") or os.get_terminal_size(stream.fileno()).columns
        return int(columns) or None
    except (OSError, ValueError):
        return None


def width(text: str) -> int:
    """How many cells of a terminal the text takes."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def cut(text: str, cells: int) -> str:
    """The text, cut to this width if it is wider."""
    if width(text) <= cells:
        return text
    from rich.cells import set_cell_size

    return set_cell_size(text, cells - 1) + "…" if cells > 0 else ""
