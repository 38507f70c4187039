"""Memory of a buffer, from allocation to release."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydotcompute import _core
from pydotcompute._optional import wait_for_device_work
from pydotcompute.core._device_array import device_array
from pydotcompute.core._metal_array import MetalCopy
from pydotcompute.core.accelerator import get_accelerator
from pydotcompute.core.memory_pool import get_memory_pool
from pydotcompute.exceptions import BufferSyncError, CUDAError

__all__ = ["BufferMemory"]


class BufferMemory:
    """Host copy, device copy and MLX copy of one buffer, with the arrays that view them.

    The arrays keep the memory alive, independently of this object. A buffer that is freed and allocated again gets a new object, so that no
    thread mixes arrays of the old and the new memory.

    Args:
        shape: Shape of the buffer.
        dtype: Element type.
        nbytes: Size of each copy, in bytes.
        pinned: Whether the host copy is page-locked, if there is a GPU.

    Attributes:
        copies: Host copy and device copy, and which of them is stale.
        device_id: Index of the GPU.
        metal: The MLX copy.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], nbytes: int, *, pinned: bool) -> None:
        handle = get_accelerator()._handle()
        self._shape = shape
        self._dtype = dtype
        self.copies = _core.BufferCopies(handle, nbytes, pinned, get_memory_pool()._pool_of(handle))
        self.device_id = handle.index
        self.metal = MetalCopy(shape, dtype)
        self._host: NDArray[Any] | None = None
        self._device: Any | None = None

    @property
    def state(self) -> str:
        """Name of the buffer state."""
        if self.metal.is_dirty:
            return "DEVICE_DIRTY"
        state = self.copies.state
        return "SYNCHRONIZED" if state == "HOST_ONLY" and self.metal.is_current else state

    @property
    def is_only_device_current(self) -> bool:
        """Whether only the device copy, on a GPU, is up to date."""
        return self.copies.has_device and self.copies.state in ("DEVICE_ONLY", "DEVICE_DIRTY")

    def allocate(self, *, host: bool, device: bool) -> None:
        """Allocates the requested copies that do not exist yet."""
        with _Copying("host->device"):
            self.copies.allocate(host, device)

    def host(self) -> NDArray[Any]:
        """Returns the host array, up to date."""
        if self.metal.is_dirty:
            self.metal.write_to(self.host_for_overwrite())
            if self.copies.is_shared:
                self.copies.synchronize()
        array = self._host
        if array is not None and self.copies.state not in ("DEVICE_DIRTY", "UNINITIALIZED"):
            return array
        with _Copying("device->host"):
            if self.copies.has_device:
                wait_for_device_work()
            return self._view(self.copies.host())

    def host_for_overwrite(self) -> NDArray[Any]:
        """Returns the host array for a full overwrite, without copying to it first."""
        self.metal.mark_stale()
        return self._view(self.copies.overwrite_host())

    def _view(self, memory: _core.HostCopy) -> NDArray[Any]:
        array = self._host
        if array is None:
            array = self._host = np.ndarray(self._shape, self._dtype, buffer=memoryview(memory))
        return array

    def device(self) -> Any:
        """Returns the device array, up to date; the host array if the device uses host memory."""
        if self.metal.is_dirty:
            self.host()
        with _Copying("host->device"):
            memory = self.copies.device()
        if memory is None:
            return self.host() if self._host is None else self._host
        array = self._device
        if array is None:
            array = self._device = device_array(memory, self._shape, self._dtype, self.device_id)
        return array

    def metal_array(self) -> Any:
        """Returns the MLX array, up to date."""
        if self.metal.is_stale:
            self.metal.read_from(self.host())
            if self.copies.is_shared:
                self.copies.synchronize()
        return self.metal.array

    def synchronize(self) -> None:
        """Brings the stale copy up to date."""
        if self.state == "DEVICE_DIRTY":
            self.host()
        with _Copying("host->device"):
            self.copies.synchronize()


class _Copying:
    """Converts a device error during a copy into a :class:`BufferSyncError`."""

    def __init__(self, direction: str) -> None:
        self._direction = direction

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None) -> None:
        if isinstance(error, CUDAError):
            raise BufferSyncError(self._direction, error) from error
