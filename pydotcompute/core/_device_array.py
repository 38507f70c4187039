"""Memory of a device as an array."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from pydotcompute import _core
from pydotcompute._optional import import_cupy, wait_for_device_work
from pydotcompute.exceptions import BackendNotAvailableError

__all__ = ["DeviceArray", "device_array"]


# DLPack's number of CUDA, and its numbers of kinds of elements.
_DL_CUDA = 2
_DL_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}


class _Lease:
    """Keeps device memory until nobody looks at it, and until what was started with it has ended."""

    def __init__(self, memory: _core.DeviceCopy) -> None:
        self.memory = memory

    def __del__(self) -> None:
        # It goes back in the order of a stream that waits for no other.
        if not sys.is_finalizing():
            wait_for_device_work()


class DeviceArray:
    """An array on a GPU, for any library that knows ``__cuda_array_interface__`` or DLPack: Numba, PyTorch, JAX, CuPy.

    It is what ``UnifiedBuffer.device`` gives where CuPy is not installed. It is contiguous, in C order.

    Attributes:
        shape: Its shape.
        dtype: The type of its elements.
        device_id: The number of the GPU.
    """

    def __init__(self, memory: _core.DeviceCopy, shape: tuple[int, ...], dtype: np.dtype[Any], device_id: int) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device_id = device_id
        self._lease = _Lease(memory)

    @property
    def ndim(self) -> int:
        """How many dimensions it has."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """How many bytes they take."""
        return self.size * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The CUDA array interface, version 3. Its bytes are there already: there is no stream to wait for."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "data": (self._lease.memory.address if self.size else 0, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """DLPack's number of CUDA, and that of the GPU."""
        return (_DL_CUDA, self.device_id)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The array for another library, without a copy. Its bytes are there already: no stream has to wait for them.

        Raises:
            BufferError: It is wanted elsewhere or as a copy, or DLPack has no such type; this is Python's own exception.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(f"An array on GPU {self.device_id} is offered there and without a copy only; copy it afterwards")
        code = _DL_CODES.get(self.dtype.kind)
        if code is None or not self.dtype.isnative:
            raise BufferError(f"DLPack has no type for elements of {self.dtype.str!r}; use __cuda_array_interface__")
        bits = self.dtype.itemsize * 8
        return _core.device_capsule(self._lease.memory, self._lease, list(self.shape), code, bits, self.device_id)

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device_id={self.device_id})"


def device_array(memory: _core.DeviceCopy, shape: tuple[int, ...], dtype: np.dtype[Any], device_id: int) -> Any:
    """Device memory as an array of CuPy's, or as a :class:`DeviceArray` where that is not installed. Nothing is copied.

    Args:
        memory: The memory, which lives as long as the array.
        shape: The array's shape.
        dtype: The type of its elements.
        device_id: The number of the GPU that the memory is on.

    Returns:
        The array.
    """
    try:
        cupy = import_cupy()
    except BackendNotAvailableError:
        return DeviceArray(memory, shape, dtype, device_id)
    owned = cupy.cuda.UnownedMemory(memory.address, len(memory), _Lease(memory), device_id)
    with cupy.cuda.Device(device_id):
        return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(owned, 0))
