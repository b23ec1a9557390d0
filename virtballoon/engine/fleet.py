"""Visits many hosts at the same time, each under its own deadline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
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

    :param visit: called with each target, in other threads
    :param jobs: the number of targets that are visited at a time
    :param on_result: called in this thread with each result as soon as it is there
    :raise BaseException: whatever a visit raises
    """
    results: dict[int, T] = {}
    for index, result in as_they_end(targets, visit, jobs=jobs):
        results[index] = result
        if on_result is not None:
            on_result(result)
    return tuple(results[index] for index in range(len(targets)))


def as_they_end(
    targets: Sequence[S], visit: Callable[[S], T], *, jobs: int
) -> Iterator[tuple[int, T]]:
    """Visit each target, and yield its index and its result as soon as that is there."""
    if jobs < 1:
        raise ValueError(f"at least 1 host is visited at a time, not {jobs}")
    calls: Calls[int] = Calls()
    waiting = list(enumerate(targets))[::-1]
    results: dict[int, T] = {}

    def keep(index: int, target: S) -> None:
        results[index] = visit(target)

    try:
        while waiting or calls.in_flight:
            while waiting and len(calls.in_flight) < jobs:
                index, target = waiting.pop()
                calls.submit(index, partial(keep, index, target))
            answer = calls.wait(math.inf)
            if answer is None:
                continue
            if answer.error is not None:
                raise answer.error
            yield answer.key, results.pop(answer.key)
    finally:
        calls.close()
