"""Messages with arrays in them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydotcompute.ring_kernels.array_message import ArrayMessage, array_message


@array_message
@dataclass
class Frame(ArrayMessage):
    pixels: NDArray[Any] = field(default_factory=lambda: np.zeros(4))


@array_message
@dataclass
class Trace(ArrayMessage):
    samples: NDArray[Any] = field(default_factory=lambda: np.zeros(4))


def use() -> None:
    frame = Frame(pixels=np.ones(8))
    data: bytes = frame.serialize()
    again: Frame = Frame.deserialize(data)
    released: int = again.release_arrays()
    print(released, Trace(samples=np.zeros(1)).samples)
