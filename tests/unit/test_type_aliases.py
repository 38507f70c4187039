"""Annotations that are type aliases: `numpy.typing.NDArray`, which is one from NumPy 2.5 on, and those of `type X = ...`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pydotcompute._type_aliases import without_aliases
from pydotcompute.decorators.validators import _has_type
from pydotcompute.native import float32
from pydotcompute.native.fields import layout_of

has_type_statement = pytest.mark.skipif(sys.version_info < (3, 12), reason="Python has `type X = ...` from 3.12 on")


@dataclass
class Samples:
    values: Annotated[NDArray[np.float32], 8]
    table: Annotated[NDArray[np.int64], (2, 3)]


def test_arrays_are_fields_with_every_numpy() -> None:
    assert [(f.name, f.dtype, f.shape) for f in layout_of(Samples).fields] == [
        ("values", np.dtype(np.float32), (8,)),
        ("table", np.dtype(np.int64), (2, 3)),
    ]


def test_an_array_annotation_stands_for_the_class() -> None:
    resolved: Any = without_aliases(NDArray[np.float32])
    assert resolved.__origin__ is np.ndarray
    assert _has_type(np.zeros(2), NDArray[np.float64])
    assert not _has_type([0.0], NDArray[np.float64])


def test_what_is_no_alias_is_returned() -> None:
    for annotation in (int, list[int], Annotated[float, np.float32], None, "Name", int | None):
        assert without_aliases(annotation) is annotation


@has_type_statement
def test_aliases_of_the_type_statement() -> None:
    variables: dict[str, Any] = {
        "Annotated": Annotated,
        "NDArray": NDArray,
        "np": np,
        "float32": float32,
        "dataclass": dataclass,
        "__name__": __name__,
    }
    program = """
type Celsius = float32
type Window[T] = Annotated[NDArray[T], 4]
type Hot = Celsius

@dataclass
class Reading:
    celsius: Hot
    samples: Window[np.int16]
"""
    exec(compile(program, "<program>", "exec", dont_inherit=True), variables)
    fields = layout_of(variables["Reading"]).fields
    assert [(f.name, f.dtype, f.shape) for f in fields] == [
        ("celsius", np.dtype(np.float32), ()),
        ("samples", np.dtype(np.int16), (4,)),
    ]
    assert _has_type(1.5, variables["Hot"])
    assert not _has_type("1.5", variables["Hot"])
