"""Methods that message classes have in place of those that `dataclass` generates."""

from __future__ import annotations

import dataclasses
import reprlib
from typing import Any
from uuid import UUID

import numpy as np

__all__ = ["compare", "is_generated", "represent"]

_HEADER = ("message_id", "priority", "correlation_id")
# Types whose comparison returns a bool.
_PLAIN = frozenset({int, float, str, bytes, bool, type(None), UUID})


def is_generated(function: Any) -> bool:
    """Whether `dataclass` has generated a function: it creates them inside `__create_fn__`."""
    code = getattr(function, "__code__", None)
    return code is not None and code.co_qualname.startswith("__create_fn__.")


def compare(self: Any, other: Any) -> bool:
    """Whether two messages have the same class and equal fields, arrays included."""
    if other.__class__ is not self.__class__:
        return NotImplemented  # type: ignore[no-any-return]
    return all(_equal(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self) if f.compare)


def _equal(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) in _PLAIN and type(other) in _PLAIN:
        return bool(one == other)
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        return bool(np.array_equal(one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(item, other[key]) for key, item in one.items())
    if isinstance(one, (list, tuple)) and isinstance(other, type(one)):
        return len(one) == len(other) and all(map(_equal, one, other))
    same = one == other
    # Comparing arrays of other libraries returns an array.
    return bool(same.all()) if hasattr(same, "all") else bool(same)


@reprlib.recursive_repr()
def represent(self: Any) -> str:
    """Shows the fields of the class, and the header only where it says something: not the random id, nor normal priority."""
    fields = [f for f in dataclasses.fields(self) if f.repr]
    shown = [f"{f.name}={getattr(self, f.name)!r}" for f in fields if f.name not in _HEADER]
    if self.priority != 128:
        shown.append(f"priority={self.priority!r}")
    if self.correlation_id is not None:
        shown.append(f"correlation_id={str(self.correlation_id)[:8]}…")
    return f"{type(self).__qualname__}({', '.join(shown)})"
