"""Values: immutable, with keyword-only fields, and usable as dataclasses."""

from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from virtballoon.model.value import Value


class Point(Value):
    x: int
    y: int = 2


class Named(Point):
    name: str


def test_fields_defaults_and_equality() -> None:
    assert Point(x=1) == Point(x=1, y=2) != Point(x=1, y=3)
    assert hash(Point(x=1)) == hash(Point(x=1, y=2))
    assert Point(x=1) != Named(x=1, name="n")
    assert repr(Named(x=1, name="n")) == "Named(x=1, y=2, name='n')"


def test_missing_and_unknown_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="x"):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="z"):
        Point(x=1, z=3)  # type: ignore[call-arg]


def test_values_cannot_be_changed() -> None:
    point = Point(x=1)
    with pytest.raises(FrozenInstanceError):
        point.x = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del point.x


def test_values_work_as_dataclasses() -> None:
    named = Named(x=1, name="n")
    assert [field.name for field in fields(Named)] == ["x", "y", "name"]
    assert [field.name for field in fields(Point)] == ["x", "y"]
    assert replace(named, y=5) == Named(x=1, y=5, name="n")
    assert pickle.loads(pickle.dumps(named)) == named == deepcopy(named)
