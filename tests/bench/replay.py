"""Compares what three rules say that domains need: the one of advise, that of Kubernetes' Vertical
Pod Autoscaler, and that of AWS Compute Optimizer. Each sees two weeks of a series of used memory,
and is compared with the two weeks after them. The series are made up.

usage: python -m tests.bench.replay
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Final

from tests.unit.sizing_histories import (
    GIB,
    NOW,
    STEP,
    Use,
    bursts,
    daily,
    history,
    leak,
    steady,
    weekly,
    working,
)
from virtballoon.sizing.day import DAY_SECONDS
from virtballoon.sizing.rule import HEADROOM, PROFILES, advise

_DAYS: Final = 14

Need = Callable[[Sequence[float]], float]


def percentile(used: Sequence[float], share: float) -> float:
    """What was used for this share of the time, at most."""
    ordered = sorted(used)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def vertical_pod_autoscaler(used: Sequence[float]) -> float:
    """The 90th percentile of the largest use of each day of the last eight, and 15 %; each day
    counts half of the next one (pkg/recommender/model/aggregations_config.go)."""
    size = DAY_SECONDS // STEP
    peaks = [max(used[at : at + size]) for at in range(0, len(used), size)][-8:]
    weights = sorted(zip(peaks, (2.0**age for age in range(len(peaks))), strict=True))
    wanted, counted = 0.90 * sum(weight for _, weight in weights), 0.0
    for peak, weight in weights:
        counted += weight
        if counted >= wanted:
            return peak * 1.15
    raise AssertionError(weights)


def compute_optimizer(used: Sequence[float]) -> float:
    """The 99.5th percentile of two weeks, and 20 % (user guide, "Rightsizing recommendation
    preferences"). AWS offers a few sizes only, which are left out here."""
    return percentile(used, 0.995) * 1.20


def ours(profile: str) -> Need:
    """The rule of advise, without what the kernel keeps and without rounding up: as the others."""

    def need(used: Sequence[float]) -> float:
        of = history(lambda at: used[at // STEP], days=_DAYS, current=64 * GIB)
        value = advise(of, now=NOW).percentile(PROFILES[profile])
        assert value is not None
        return value * HEADROOM

    return need


def noisy(use: Use, seed: int) -> Use:
    """With up to a tenth more or less."""
    chance = random.Random(seed)
    return lambda at: use(at) * (0.9 + 0.2 * chance.random())


RULES: Final[dict[str, Need]] = {
    "advise, max": ours("max"),
    "advise, p99": ours("p99"),
    "advise, p95": ours("p95"),
    "VPA": vertical_pod_autoscaler,
    "Compute Optimizer": compute_optimizer,
}
SERIES: Final[dict[str, Callable[[int], Use]]] = {
    "steady": lambda seed: noisy(steady((1 + seed % 8) * GIB), seed),
    "daily peak": lambda seed: noisy(daily(GIB, (2 + seed % 6) * GIB), seed),
    "weekly peak": lambda seed: noisy(weekly(GIB, (2 + seed % 6) * GIB), seed),
    "office hours": lambda seed: noisy(working(GIB, (2 + seed % 6) * GIB), seed),
    "bursts": lambda seed: noisy(bursts(GIB, (2 + seed % 6) * GIB, seed), seed),
    "leak": lambda seed: noisy(leak(GIB, (0.02 + 0.01 * (seed % 8)) * GIB), seed),
}


def main() -> None:
    """Print a line per rule."""
    count = 20
    known = [
        (kind, [make(seed)(at) for at in range(0, 2 * _DAYS * DAY_SECONDS, STEP)])
        for kind, make in SERIES.items()
        for seed in range(count)
    ]
    print(f"{len(known)} series: {', '.join(SERIES)}; {count} of each")
    for name, rule in RULES.items():
        short, time, wasted = dict.fromkeys(SERIES, 0), 0.0, 0.0
        for kind, used in known:
            half = len(used) // 2
            need, then = rule(used[:half]), used[half:]
            over = sum(value > need for value in then)
            short[kind] += over > 0
            time += over / len(then)
            wasted += max(0, need - max(then)) / max(then)
        total = sum(short.values())
        kinds = ", ".join(f"{kind} {number}" for kind, number in short.items() if number)
        print(
            f"{name:18} {total:3} too small, {time / len(known):7.3%} of the time, "
            f"{wasted / len(known):6.1%} unused; {kinds}"
        )


if __name__ == "__main__":
    main()
