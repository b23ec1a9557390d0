"""Visits many hosts at the same time, each under its own deadline."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from virtballoon.engine.calls import Calls

#: The number of hosts that are visited at a time. The time of each begins with its visit.
DEFAULT_JOBS: Final = 32

S = TypeVar("S")
T = TypeVar("T")


def on_hosts(
    targets: Sequence[S],
    visit: Callable[[S], T],
    *,
    jobs: int = DEFAULT_JOBS,
    on_result: Callable[[T], object] | None = None,
) -> tuple[T, ...]:
    """Visit each target, and return the results in the order of the targets.

    :param visit: called with each target, in other threads; what it raises passes through
    :param jobs: the number of targets that are visited at a time
    :param on_result: called in this thread with each result as soon as it is there
    """
    if jobs < 1:
        raise ValueError(f"at least 1 host is visited at a time, not {jobs}")
    calls: Calls[int] = Calls()
    waiting = list(enumerate(targets))[::-1]
    results: dict[int, T] = {}
    while waiting or calls.in_flight:
        while waiting and len(calls.in_flight) < jobs:
            index, target = waiting.pop()
            calls.submit(index, partial(visit, target))
        if (ended := calls.wait(math.inf)) is not None:
            index, call = ended
            results[index] = call.result()
            if on_result is not None:
                on_result(results[index])
    return tuple(results[index] for index in range(len(targets)))
