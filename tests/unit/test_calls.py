"""Calls in other threads."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest

from tests.lab import wait_until
from virtballoon.engine.calls import BackgroundCall, gather


class Thing:
    """What a failed call has used, like a connection."""


def test_failed_calls_keep_nothing() -> None:
    def failing(thing: Thing) -> Callable[[], None]:
        def call() -> None:
            raise ValueError(thing)

        return call

    gc.collect()
    gc.disable()
    try:
        things = [Thing(), Thing(), Thing()]
        kept = [weakref.ref(thing) for thing in things]
        with pytest.raises(ValueError, match="Thing"):
            BackgroundCall(failing(things[0])).result()
        # Of calls at the same time, only one error is raised.
        with pytest.raises(ValueError, match="Thing"):
            gather(failing(things[1]), failing(things[2]))
        things.clear()
        wait_until(lambda: all(thing() is None for thing in kept), 10, "them to be freed")
    finally:
        gc.enable()
