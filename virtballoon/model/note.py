"""What is odd about a domain's figures. A guest is not trusted: it can write any 64 bits."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Note(StrEnum):
    """Something about a domain's figures that cannot be so."""

    TOTAL_ZERO = "total-zero"
    TOTAL_ABOVE_MAXIMUM = "total-above-maximum"
    AVAILABLE_ABOVE_TOTAL = "available-above-total"
    FREE_ABOVE_TOTAL = "free-above-total"
    CACHES_ABOVE_TOTAL = "caches-above-total"
    FIGURE_TOO_LARGE = "figure-too-large"
    UPDATE_IN_FUTURE = "update-in-future"

    @property
    def text(self) -> str:
        """The note as a sentence for people, without a full stop."""
        return _TEXTS[self]


_TEXTS: Final[Mapping[Note, str]] = MappingProxyType(
    {
        Note.TOTAL_ZERO: "the guest says that it has no memory at all",
        Note.TOTAL_ABOVE_MAXIMUM: "the guest says that it has far more than the domain can have",
        Note.AVAILABLE_ABOVE_TOTAL: "the guest says that more is available than there is",
        Note.FREE_ABOVE_TOTAL: "the guest says that more is free than there is",
        Note.CACHES_ABOVE_TOTAL: "the guest says that its caches have more than there is",
        Note.FIGURE_TOO_LARGE: "the guest gives a figure of 2^63 or more, which counts as absent",
        Note.UPDATE_IN_FUTURE: "the last update lies in the future: a clock was set back, or those "
        "of this machine and of the host differ",
    }
)
