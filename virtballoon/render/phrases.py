"""What became of waiting for guests and of comparing readings, as a person reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from virtballoon.errors import MONITOR_HELD
from virtballoon.model.outcome import Waited
from virtballoon.model.rates import UNCERTAINTY_SECONDS, NoRate, Rates
from virtballoon.model.report import Refresh, Unheard
from virtballoon.render.text import ABSENT

_UNHEARD: Final[Mapping[Unheard | None, str]] = {
    Unheard.NO_ANSWER: "no answer",
    Unheard.BUSY: MONITOR_HELD,
    Unheard.FAILED: "it could not be read",
    Unheard.RESTARTED: "it was started anew",
    Unheard.VANISHED: "it vanished",
    Unheard.POLLING_OFF: "polling is off",
    Unheard.SUSPENDED: "suspended",
    Unheard.INCOMING: "being migrated to this host",
    Unheard.SHUTOFF: "does not run",
    Unheard.NO_DEVICE: "no balloon",
    Unheard.NOT_SET: ABSENT,
}

_NO_RATE: Final[Mapping[NoRate, str]] = {
    NoRate.NO_FIGURES: "no figures to compare",
    NoRate.NOT_UPDATED: "not updated in between",
    NoRate.RESTARTED: "started anew in between",
    NoRate.RESET: "reset in between",
    NoRate.BACKWARDS: "its counters went backwards",
    NoRate.CLOCK: "the host's clock went back",
}


def waiting(waited: Waited) -> str:
    """What became of waiting for a guest."""
    if waited.answered:
        return f"after {waited.seconds:.1f} s"
    reason = _UNHEARD.get(waited.reason, ABSENT)
    return reason if waited.seconds is None else f"{reason} ({waited.seconds:.0f} s)"


def rated(rates: Rates) -> str:
    """Over what time there are rates, or why there are none."""
    if rates.reason is not None:
        return f"no rates: {_NO_RATE[rates.reason]}"
    return f"rates over {rates.elapsed_seconds} s (+-{UNCERTAINTY_SECONDS})"


def refreshed(refresh: Refresh) -> str:
    """Whether figures are as new as was wanted."""
    waited = Waited(answered=refresh.fresh, seconds=refresh.seconds, reason=refresh.reason)
    if not refresh.fresh:
        return f"not fresh: {waiting(waited)}"
    if refresh.seconds is None:
        return "fresh enough"
    return f"{'asked' if refresh.asked else 'awaited'}, and answered {waiting(waited)}"
