"""The ranges of the monitoring plugins' guidelines: when a figure is a cause for alarm. Pure.

A range is written ``[@]START:END``: a figure outside of it, ends included in it, is a cause for
alarm; with ``@``, one inside. ``END`` alone starts at 0, ``~`` is minus infinity, and an ``END``
left out is plus infinity: ``80``, ``10:``, ``~:90``, ``10:20``, ``@10:20``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Self

from virtballoon.model.units import COUNT, Units, parse_number


@dataclass(frozen=True, slots=True)
class Range:
    """A range of figures that is no cause for alarm, or, inverted, the only one that is.

    :ivar start: its lower end, which belongs to it, as the upper one does
    :raise ValueError: when it has no ends, or they are the wrong way round
    """

    start: float = 0.0
    end: float = math.inf
    inverted: bool = False

    def __post_init__(self) -> None:
        if not (self.start <= self.end and self.start < math.inf and self.end > -math.inf):
            raise ValueError(f"it starts at {_bare(self.start)}, above its end {_bare(self.end)}")

    @classmethod
    def parse(cls, text: str, units: Units = COUNT) -> Self:
        """From text; a number without a unit is in the range's own.

        :raise ValueError: when it is not a range
        """
        body = text.removeprefix("@")
        start, colon, end = body.rpartition(":")
        try:
            low = 0.0 if not colon else -math.inf if start == "~" else parse_number(start, units)
            high = math.inf if colon and not end else parse_number(end, units)
            return cls(low, high, inverted=body != text)
        except ValueError as error:
            raise ValueError(
                f"{text!r} is not a range such as 80, 10: or @10:20: {error}"
            ) from None

    def alarms(self, value: float) -> bool:
        """Whether this figure is a cause for alarm."""
        return (self.start <= value <= self.end) is self.inverted

    @property
    def can_alarm(self) -> bool:
        """Whether there is any figure that alarms; with ``~:`` there is none."""
        return self.inverted or self.start > -math.inf or self.end < math.inf

    def __str__(self) -> str:
        """As the guidelines write it, and performance data has it: without units."""
        start = "" if self.start == 0 else f"{_bare(self.start)}:"
        end = "" if self.end == math.inf else _bare(self.end)
        return f"{'@' if self.inverted else ''}{start if end else start or '0:'}{end}"


def _bare(value: float) -> str:
    """A number without an exponent, which not every reader of performance data knows."""
    if math.isinf(value):
        return "~" if value < 0 else ""
    return number(value)


def number(value: float) -> str:
    """A number as performance data has it: decimal, and as short as it is exact."""
    text = format(Decimal(repr(value)), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
