"""Immutable values: frozen dataclasses with keyword-only fields, but cheap to define.

A command defines some fifty of them before it does anything, and defining a dataclass takes up to
a millisecond, since each of its methods is compiled.
"""

from __future__ import annotations

from dataclasses import Field, FrozenInstanceError, make_dataclass
from typing import Any, ClassVar, dataclass_transform


class _DataclassFields:
    """Makes :func:`dataclasses.replace` and :func:`dataclasses.fields` work, when they are used."""

    def __get__(self, value: Value | None, kind: type[Value]) -> dict[str, Field[Any]]:
        fields: dict[str, Field[Any]] = vars(make_dataclass("_", kind.field_names))[
            "__dataclass_fields__"
        ]
        kind.__dataclass_fields__ = fields
        return fields


@dataclass_transform(kw_only_default=True, frozen_default=True)
class Value:
    """Base of the values. A subclass annotates its fields; those with a default can be left out.

    :cvar field_names: the names of the fields, in order
    """

    field_names: ClassVar[tuple[str, ...]] = ()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    _known: ClassVar[frozenset[str]] = frozenset()
    _required: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        own = (name for name, of in cls.__annotations__.items() if not of.startswith("ClassVar"))
        cls.field_names = tuple(dict.fromkeys((*cls.field_names, *own)))
        cls._known = frozenset(cls.field_names)
        cls._required = frozenset(n for n in cls.field_names if not hasattr(cls, n))
        cls.__dataclass_fields__ = _DataclassFields()  # type: ignore[assignment]

    def __init__(self, **values: Any) -> None:
        if not self._required <= values.keys() <= self._known:
            wrong = sorted((self._required - values.keys()) | (values.keys() - self._known))
            raise TypeError(f"{type(self).__name__}: missing or unknown: {', '.join(wrong)}")
        # A field that is left out has its default as an attribute of the class.
        object.__setattr__(self, "__dict__", values)

    def __setattr__(self, name: str, value: object) -> None:
        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, name) for name in self.field_names)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        values = (f"{name}={getattr(self, name)!r}" for name in self.field_names)
        return f"{type(self).__name__}({', '.join(values)})"
