"""Whether a guest is short of memory: little is left, and it suffers. Pure.

A guest with little memory left can be healthy: a database that takes all it is given, say. The
constants are those of KubeVirt's alert ``KubeVirtVMGuestMemoryPressure``
(pkg/monitoring/rules/alerts/vms.go), which averages the rates over 5 minutes and fires after 5
more. How long is long enough is for the caller to decide: rates are over the time between two
readings.
"""

from __future__ import annotations

from typing import Final, Self

from virtballoon.model.memory import Usage
from virtballoon.model.rates import Rates
from virtballoon.model.value import Value

#: Less than this share of the total is little: available memory, without the balloon.
AVAILABLE_RATIO: Final = 0.05
#: More major faults per second than this mean that the guest suffers.
FAULTS_PER_SECOND: Final = 5.0
#: And so do more bytes per second than this, read from and written to swap.
SWAP_PER_SECOND: Final = 1024.0**2


class Pressure(Value):
    """What a guest's shortage of memory is judged by; None for what is not known.

    :ivar available_ratio: the available share of the guest's memory, 0 to 1
    :ivar faults_per_second: major faults
    :ivar swap_per_second: bytes read from and written to swap
    :ivar oom_kills: the processes killed for lack of memory between two readings. libvirt does not
        pass it on: without QOM as the source it is not known, and is not judged.
    """

    available_ratio: float | None = None
    faults_per_second: float | None = None
    swap_per_second: float | None = None
    oom_kills: int | None = None

    @classmethod
    def of(cls, usage: Usage, rates: Rates | None) -> Self:
        """By a guest's used memory and what it did since an earlier reading. Impossible figures
        give no used memory, and so nothing is known of them here."""
        formula, ratio = usage.formula, usage.ratio
        has_available = formula is not None and formula.leaves_out_caches and ratio is not None
        gained = rates.per_second if rates is not None else {}
        swap = [gained.get(name) for name in ("swap_in", "swap_out")]
        known = [rate for rate in swap if rate is not None]
        return cls(
            available_ratio=1 - ratio if ratio is not None and has_available else None,
            faults_per_second=gained.get("major_faults"),
            swap_per_second=sum(known) if len(known) == len(swap) else None,
            oom_kills=rates.oom_kills if rates is not None else None,
        )

    @property
    def is_low(self) -> bool | None:
        """Whether little is left."""
        return None if self.available_ratio is None else self.available_ratio < AVAILABLE_RATIO

    @property
    def suffers(self) -> bool | None:
        """Whether the guest waits for its disk because of it."""
        faults, swap = self.faults_per_second, self.swap_per_second
        if (faults or 0) > FAULTS_PER_SECOND or (swap or 0) > SWAP_PER_SECOND:
            return True
        return None if faults is None or swap is None else False

    @property
    def is_short(self) -> bool | None:
        """Whether it is short of memory; None where a figure that decides it is missing."""
        if self.oom_kills:
            return True
        return self.suffers if self.is_low else self.is_low

    @property
    def text(self) -> str:
        """The figures, for people."""
        available, faults = self.available_ratio, self.faults_per_second
        swap, kills = self.swap_per_second, self.oom_kills
        return ", ".join(
            (
                "available unknown" if available is None else f"{100 * available:.1f}% available",
                "major faults unknown" if faults is None else f"{faults:.1f} major faults/s",
                "swap unknown" if swap is None else f"{swap / 1024**2:.1f} MiB/s swap",
                "OOM kills unknown" if kills is None else f"{kills} OOM kills",
            )
        )
