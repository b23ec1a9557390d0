"""Times as people write them: ``10``, ``10s``, ``5m``, ``2h``, ``90d``."""

from __future__ import annotations

import re
from typing import Final

_FORMAT: Final = r"(\d+\.?\d*|\.\d+)([smhd]?)"
_SECONDS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_seconds(text: str) -> float:
    """The number of seconds.

    :raise ValueError: when it is not a time
    """
    found = re.fullmatch(_FORMAT, text, re.ASCII)
    if found is None or len(text) > 20:  # noqa: PLR2004 - longer than any time
        raise ValueError("not a time such as 10, 10s, 5m, 2h or 1d")
    return float(found[1]) * _SECONDS[found[2]]
