"""Advice for whoever asks again and again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.unit.sizing_histories import GIB, UUID, history, steady, store
from virtballoon.sizing.advisor import Advisor
from virtballoon.sizing.rule import Sizing

if TYPE_CHECKING:
    from pathlib import Path


def test_a_store_is_read_once_an_hour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    path = tmp_path / "history.db"
    advisor = Advisor(path, on_error=said.append)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    assert (advisor(), len(said)) == ({}, 1)
    now[0] += 3601
    assert (advisor(), len(said)) == ({}, 1)

    store(path, [history(steady(GIB), end=int(time.time()))])
    assert advisor() == {}
    now[0] += 3601
    assert {uuid: each.verdict for uuid, each in advisor().items()} == {UUID.format(0): Sizing.OVER}
    path.unlink()
    assert list(advisor()) == [UUID.format(0)]
    now[0] += 3601
    assert (advisor(), len(said)) == ({}, 2)
