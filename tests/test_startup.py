"""The command starts about as fast as its own option parser can be imported."""

from __future__ import annotations

import pytest

from tests.bench import startup


def test_starting_costs_little_more_than_click() -> None:
    if not startup.COMMAND.exists():
        pytest.fail(f"{startup.COMMAND} is missing: install the package into this environment")
    ours, peers = startup.measure(rounds=10)
    assert ours / peers <= 1.4
