"""Arrays over device memory."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np

from pydotcompute import _core
from pydotcompute._optional import import_cupy, wait_for_device_work
from pydotcompute.exceptions import BackendNotAvailableError

__all__ = ["DeviceArray", "device_array"]


# DLPack's device type of CUDA, and its type codes by NumPy kind.
_DL_CUDA = 2
_DL_CODES = {"i": 0, "u": 1, "f": 2, "c": 5, "b": 6}


class _MemoryOwner:
    """Owner of device memory that arrays refer to. Its finalizer waits for the work that uses the memory."""

    def __init__(self, memory: _core.DeviceCopy) -> None:
        self.memory = memory

    def __del__(self) -> None:
        # The memory is freed in the order of a stream that synchronizes with no other.
        if not sys.is_finalizing():
            wait_for_device_work()


class DeviceArray:
    """An array on a GPU, for libraries that support ``__cuda_array_interface__`` or DLPack: Numba, PyTorch, JAX, CuPy.

    ``UnifiedBuffer.device`` returns it if CuPy is not installed. It is contiguous, in C order.

    Attributes:
        shape: Shape of the array.
        dtype: Element type.
        device_id: Index of the GPU.
    """

    def __init__(self, memory: _core.DeviceCopy, shape: tuple[int, ...], dtype: np.dtype[Any], device_id: int) -> None:
        self.shape = shape
        self.dtype = dtype
        self.device_id = device_id
        self._owner = _MemoryOwner(memory)

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size, in bytes."""
        return self.size * self.dtype.itemsize

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """CUDA array interface, version 3. The content is complete, so there is no stream to synchronize with."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "descr": self.dtype.descr,
            "data": (self._owner.memory.address if self.size else 0, False),
            "strides": None,
            "stream": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """Returns DLPack's device type of CUDA and the index of the GPU."""
        return (_DL_CUDA, self.device_id)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Exports the array through DLPack, without a copy. The content is complete, so no stream needs to wait.

        Raises:
            BufferError: The caller requests a copy or another device, or DLPack does not support the type. This is Python's own exception.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(f"exporting an array on GPU {self.device_id}: only that device is supported, without a copy; copy it later")
        code = _DL_CODES.get(self.dtype.kind)
        if code is None or not self.dtype.isnative:
            raise BufferError(f"exporting an array: DLPack has no element type {self.dtype.str!r}; use __cuda_array_interface__")
        bits = self.dtype.itemsize * 8
        return _core.device_capsule(self._owner.memory, self._owner, list(self.shape), code, bits, self.device_id)

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, device_id={self.device_id})"


def device_array(memory: _core.DeviceCopy, shape: tuple[int, ...], dtype: np.dtype[Any], device_id: int) -> Any:
    """Wraps device memory as a CuPy array, or as a :class:`DeviceArray` if CuPy is not installed. Does not copy.

    Args:
        memory: The memory, which lives as long as the array.
        shape: Shape of the array.
        dtype: Element type.
        device_id: Index of the GPU that holds the memory.

    Returns:
        The array.
    """
    try:
        cupy = import_cupy()
    except BackendNotAvailableError:
        return DeviceArray(memory, shape, dtype, device_id)
    unowned = cupy.cuda.UnownedMemory(memory.address, len(memory), _MemoryOwner(memory), device_id)
    with cupy.cuda.Device(device_id):
        return cupy.ndarray(shape, dtype, cupy.cuda.MemoryPointer(unowned, 0))
