"""The memory of a buffer, from its allocation until it is freed."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydotcompute import _core
from pydotcompute._optional import wait_for_device_work
from pydotcompute.core._device_array import device_array
from pydotcompute.core._metal_array import MetalHalf
from pydotcompute.core.accelerator import get_accelerator
from pydotcompute.core.memory_pool import get_memory_pool
from pydotcompute.exceptions import BufferSyncError, CUDAError

__all__ = ["BufferMemory"]


class BufferMemory:
    """The halves of one buffer, and the arrays that look at them.

    The arrays refer to the memory, not to this object: they stay good when it is gone. A buffer that is freed and allocated again gets
    another object, so that no thread finds an array of the one in the other.

    Args:
        shape: The buffer's shape.
        dtype: The type of its elements.
        nbytes: How many bytes each half has.
        pinned: Whether the host's half is page-locked, where there is a GPU.

    Attributes:
        halves: Which half is newer, and their bytes.
        device_id: The number of the GPU.
        metal: The array of MLX's beside them.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int, *, pinned: bool) -> None:
        handle = get_accelerator()._handle()
        self._shape = shape
        self._dtype = dtype
        self.halves = _core.BufferCopies(handle, nbytes, pinned, get_memory_pool()._pool_of(handle))
        self.device_id = handle.index
        self.metal = MetalHalf(shape, dtype)
        self._host: NDArray[Any] | None = None
        self._device: Any | None = None

    @property
    def state(self) -> str:
        """The name of the state."""
        if self.metal.is_newer:
            return "DEVICE_DIRTY"
        state = self.halves.state
        return "SYNCHRONIZED" if state == "HOST_ONLY" and self.metal.is_current else state

    @property
    def is_newest_on_device(self) -> bool:
        """Whether only the half on a GPU is up to date."""
        return self.halves.has_device and self.halves.state in ("DEVICE_ONLY", "DEVICE_DIRTY")

    def allocate(self, *, host: bool, device: bool) -> None:
        """Makes the halves that are asked for and not there."""
        with _Copying("host->device"):
            self.halves.allocate(host, device)

    def host(self) -> NDArray[Any]:
        """The array on the host, up to date."""
        if self.metal.is_newer:
            self.metal.write_to(self.overwritten_host())
            if self.halves.is_shared:
                self.halves.synchronize()
        array = self._host
        if array is not None and self.halves.state not in ("DEVICE_DIRTY", "UNINITIALIZED"):
            return array
        with _Copying("device->host"):
            if self.halves.has_device:
                wait_for_device_work()
            return self._view(self.halves.host())

    def overwritten_host(self) -> NDArray[Any]:
        """The array on the host, all of which is about to be written: nothing is copied to it before."""
        self.metal.forget()
        return self._view(self.halves.overwrite_host())

    def _view(self, memory: _core.HostCopy) -> NDArray[Any]:
        array = self._host
        if array is None:
            array = self._host = np.ndarray(self._shape, self._dtype, buffer=memoryview(memory))
        return array

    def device(self) -> Any:
        """The array on the device, up to date; where its memory is the host's, the array there."""
        if self.metal.is_newer:
            self.host()
        with _Copying("host->device"):
            memory = self.halves.device()
        if memory is None:
            return self.host() if self._host is None else self._host
        array = self._device
        if array is None:
            array = self._device = device_array(memory, self._shape, self._dtype, self.device_id)
        return array

    def metal_array(self) -> Any:
        """The array of MLX's, up to date."""
        if self.metal.is_behind:
            self.metal.read_from(self.host())
            if self.halves.is_shared:
                self.halves.synchronize()
        return self.metal.array

    def synchronize(self) -> None:
        """Brings the half that is behind up to date."""
        if self.state == "DEVICE_DIRTY":
            self.host()
        with _Copying("host->device"):
            self.halves.synchronize()


class _Copying:
    """Turns the device's refusal to copy into a :class:`BufferSyncError`."""

    def __init__(self, direction: str) -> None:
        self._direction = direction

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> None:
        if isinstance(error, CUDAError):
            raise BufferSyncError(self._direction, error) from error
