"""What each guest has used of its memory lately. Pure: remembers what it is given."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Final

from virtballoon.model.report import DomainReport
from virtballoon.model.verdict import Verdict

#: So many updates of a guest are remembered.
LENGTH: Final = 64


@dataclass(slots=True)
class _Past:
    marks: deque[float | None] = field(default_factory=lambda: deque(maxlen=LENGTH))
    last_update: int | None = None


class History:
    """The used share of each guest's memory, one mark for each update that the guest gave.

    Figures that do not move, because nobody polls or the guest hangs, would draw a flat line that
    says what nobody knows: they leave a gap.
    """

    def __init__(self) -> None:
        self._pasts: dict[Hashable, _Past] = {}

    def add(self, guest: Hashable, row: DomainReport | None) -> None:
        """Remember a reading.

        :param guest: whatever tells the guests apart
        :param row: the reading; None where the guest could not be read
        """
        past = self._pasts.setdefault(guest, _Past())
        ratio = row.usage.ratio if row is not None and row.verdict is Verdict.FRESH else None
        if row is None or ratio is None:
            if past.marks and past.marks[-1] is not None:
                past.marks.append(None)
        elif row.last_update != past.last_update:
            past.marks.append(ratio)
            past.last_update = row.last_update

    def of(self, guest: Hashable) -> tuple[float | None, ...]:
        """The used share at each update, 0 to 1, the oldest first; None for a gap."""
        past = self._pasts.get(guest)
        return tuple(past.marks) if past is not None else ()

    def keep(self, guests: Collection[Hashable]) -> None:
        """Forget all others."""
        self._pasts = {guest: past for guest, past in self._pasts.items() if guest in guests}
