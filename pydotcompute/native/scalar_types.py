"""Annotations for numbers of a fixed width. Type checkers see ``int`` and ``float``."""

from __future__ import annotations

from typing import Annotated

import numpy as np

__all__ = ["float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]

float32 = Annotated[float, np.float32]
float64 = Annotated[float, np.float64]
int8 = Annotated[int, np.int8]
int16 = Annotated[int, np.int16]
int32 = Annotated[int, np.int32]
int64 = Annotated[int, np.int64]
uint8 = Annotated[int, np.uint8]
uint16 = Annotated[int, np.uint16]
uint32 = Annotated[int, np.uint32]
uint64 = Annotated[int, np.uint64]
