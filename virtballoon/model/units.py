"""Numbers with units, as thresholds and conditions have them: ``90%``, ``5m``, ``2GiB``."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

#: Units that a number may have, and how much of the figure's own unit each is.
Units = Mapping[str, float]

PERCENT: Final[Units] = MappingProxyType({"%": 1})
SECONDS: Final[Units] = MappingProxyType({"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400})
BYTES: Final[Units] = MappingProxyType(
    {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
)
COUNT: Final[Units] = MappingProxyType({})

_NUMBER: Final = r"(-?[0-9]+(?:\.[0-9]+)?)([A-Za-z%]*)"


def parse_number(text: str, units: Units) -> float:
    """The number; without a unit, it is in the figure's own.

    :raise ValueError: when it is not a number, is too large, or has an unknown unit
    """
    found = re.fullmatch(_NUMBER, text)
    if found is None:
        raise ValueError(f"{text!r} is not a number" if text else "a number is missing")
    unit = found[2]
    if unit and unit not in units:
        known = f"; there are: {', '.join(units)}" if units else ""
        raise ValueError(f"no unit {unit!r}{known}")
    value = float(found[1]) * (units[unit] if unit else 1)
    if math.isinf(value):
        raise ValueError(f"{text[:20]}… is too large")
    # Minus zero is none.
    return value + 0.0
