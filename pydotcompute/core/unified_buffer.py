"""One array on the host and on a device, copied on demand.

Example:
    >>> import numpy as np
    >>> from pydotcompute import UnifiedBuffer
    >>> prices = UnifiedBuffer(3, np.float32).allocate()
    >>> prices.host[:] = [1.0, 2.0, 3.0]
    >>> prices.mark_host_dirty()
    >>> float(np.asarray(prices).sum())
    6.0
"""

from __future__ import annotations

import asyncio
import math
import operator
import sys
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from pydotcompute._optional import busy_streams, import_cupy, wait_for_device_work
from pydotcompute.core._buffer_memory import BufferMemory
from pydotcompute.core.accelerator import get_accelerator
from pydotcompute.exceptions import BufferNotAllocatedError, InvalidConfigurationError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["BufferState", "UnifiedBuffer"]

T = TypeVar("T", bound=np.generic)

# DLPack's device types.
_DL_CPU = 1
_DL_CUDA = (2, 13)
_DL_METAL = 8


class BufferState(Enum):
    """Which copies of a buffer exist, and which of them is dirty."""

    UNINITIALIZED = auto()
    HOST_ONLY = auto()
    DEVICE_ONLY = auto()
    SYNCHRONIZED = auto()
    HOST_DIRTY = auto()
    DEVICE_DIRTY = auto()


class UnifiedBuffer(Generic[T]):
    """An array with a host copy (``host``, NumPy), a device copy (``device``, CuPy if there is a GPU) and an MLX copy (``metal``).

    A stale copy is brought up to date on access. Code that writes through ``host``, ``device`` or ``metal`` must report the write
    afterwards, with :meth:`mark_host_dirty`, :meth:`mark_device_dirty` or :meth:`mark_metal_dirty`. Writes by this class (:meth:`fill`,
    :meth:`copy_from`, ``buffer[index] = value``) are reported automatically.

    - Without a GPU, ``device`` is the host array. There is only one copy then, and the states change as if there were two.
    - A new buffer holds zeros, on host and device.
    - Arrays taken from a buffer stay valid after :meth:`free` and after the buffer itself is deleted, but no longer belong to the buffer.
    - Work of other libraries that uses ``device`` on a stream other than their current one must finish before the host copy is accessed.

    A buffer may be passed between threads. Code that writes from one thread while another reads must synchronize the accesses.

    Args:
        shape: Shape, or length.
        dtype: Element type; must not contain Python objects.
        pinned: Whether the host copy is page-locked, if there is a GPU. The GPU copies page-locked memory asynchronously, but allocating
            it is slow. Use a :class:`~pydotcompute.core.memory_pool.MemoryPool` for many buffers.

    Raises:
        InvalidConfigurationError: The shape or the type is invalid.
    """

    def __init__(self, shape: tuple[int, ...] | int, dtype: DTypeLike = np.float32, *, pinned: bool = False) -> None:
        self._shape = _checked_shape(shape)
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        if self._dtype.hasobject:
            raise InvalidConfigurationError("dtype", self._dtype, "its elements are Python objects, which devices cannot read")
        if self.nbytes > sys.maxsize:
            raise InvalidConfigurationError("shape", shape, f"{self.nbytes} bytes exceed the address space; use a smaller shape")
        self._pinned = pinned
        self._memory: BufferMemory | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the buffer."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[T]:
        """Element type."""
        return self._dtype

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self._shape)

    @property
    def nbytes(self) -> int:
        """Size of each copy, in bytes."""
        return self.size * self._dtype.itemsize

    @property
    def state(self) -> BufferState:
        """Which copies exist, and which of them is dirty."""
        return BufferState.UNINITIALIZED if self._memory is None else BufferState[self._memory.state]

    @property
    def is_allocated(self) -> bool:
        """Whether the buffer has memory."""
        return self._memory is not None

    def allocate(self, *, host: bool = True, device: bool = True) -> UnifiedBuffer[T]:
        """Allocates the requested copies that do not exist yet. A new copy holds zeros, or the content of the other copy.

        Args:
            host: Whether to allocate the host copy.
            device: Whether to allocate the device copy. Without a GPU that is the host copy.

        Returns:
            This buffer.

        Raises:
            MemoryError: Not enough memory, or the pool's limit would be exceeded.
            CUDAError: A CUDA call failed.
        """
        memory = self._memory or self._new_memory()
        memory.allocate(host=host or not device, device=device)
        self._memory = memory
        return self

    def _new_memory(self) -> BufferMemory:
        return BufferMemory(self._shape, self._dtype, self.nbytes, pinned=self._pinned)

    def _allocated(self) -> BufferMemory:
        if self._memory is None:
            raise BufferNotAllocatedError
        return self._memory

    def free(self) -> None:
        """Frees the memory. Arrays taken from this buffer stay valid; the memory is freed with the last of them."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.copies.free()

    @property
    def _cuda_available(self) -> bool:
        return get_accelerator().cuda_available  # Only for the tests of 0.2, which read this name.

    @property
    def host(self) -> NDArray[T]:
        """The host array, up to date. Copies only if the device copy is dirty.

        Raises:
            BufferNotAllocatedError: The buffer has no memory.
            BufferSyncError: Copying from the device failed; the device copy stays dirty.
        """
        return self._allocated().host()

    @property
    def device(self) -> object:
        """The device array, up to date.

        It is a CuPy array. Without CuPy it is a ``DeviceArray``, which supports ``__cuda_array_interface__``. Without a GPU it is the host
        array.

        Raises:
            BufferNotAllocatedError: The buffer has no memory.
            BufferSyncError: Copying from the host failed.
            MemoryError: Not enough device memory.
        """
        device: object = self._allocated().device()
        return device

    @property
    def metal(self) -> object:
        """The MLX array, up to date. 64-bit floats become 32-bit floats, because Apple GPUs have no others.

        MLX operations usually create new arrays. Assigning an array to this attribute makes it the MLX copy, and marks it as dirty.

        Raises:
            BufferNotAllocatedError: The buffer has no memory.
            MetalError: MLX is not installed, or does not support the type.
            BufferSyncError: Copying from the host or device failed.
        """
        array: object = self._allocated().metal_array()
        return array

    @metal.setter
    def metal(self, array: object) -> None:
        self._allocated().metal.replace(array)

    def mark_host_dirty(self, rows: slice | None = None) -> None:
        """Marks the host copy as written. Discards unsynchronized writes to other copies.

        Args:
            rows: Rows of the first axis that were written; only these are copied later. ``None`` for all.

        Raises:
            BufferNotAllocatedError: The buffer has no memory.
        """
        memory = self._allocated()
        memory.copies.mark_host_dirty(*self._byte_range(rows))
        memory.metal.mark_stale()

    def mark_device_dirty(self, rows: slice | None = None) -> None:
        """Marks the device copy as written. Discards unsynchronized writes to other copies.

        Args:
            rows: Rows of the first axis that were written; only these are copied later. ``None`` for all.

        Raises:
            BufferNotAllocatedError: The buffer has no memory.
        """
        memory = self._allocated()
        memory.copies.mark_device_dirty(*self._byte_range(rows))
        memory.metal.mark_stale()

    def _byte_range(self, rows: slice | None) -> tuple[int, int]:
        """Returns the byte range that spans the given rows of the first axis, including the rows in between."""
        if rows is None or not self._shape or not self.nbytes:
            return (0, self.nbytes)
        selected = range(self._shape[0])[rows]
        if not selected:
            return (0, 0)
        row = self.nbytes // self._shape[0]
        return (min(selected) * row, (max(selected) + 1) * row)

    def mark_metal_dirty(self) -> None:
        """Marks the MLX copy as written.

        Raises:
            BufferNotAllocatedError: The buffer has no memory.
        """
        self._allocated().metal.mark_dirty()

    def synchronize(self) -> None:
        """Brings the stale copy up to date.

        Raises:
            BufferSyncError: The copy failed.
        """
        if self._memory is not None:
            self._memory.synchronize()

    async def ensure_on_device(self) -> None:
        """Brings the device copy up to date, without blocking the event loop.

        Raises:
            BufferNotAllocatedError: The buffer has no memory.
            BufferSyncError: The copy failed.
        """
        await self._bring_up_to_date("device")

    async def ensure_on_host(self) -> None:
        """Brings the host copy up to date, without blocking the event loop.

        Raises:
            BufferNotAllocatedError: The buffer has no memory.
            BufferSyncError: The copy failed.
        """
        await self._bring_up_to_date("host")

    async def _bring_up_to_date(self, side: str) -> None:
        if self._allocated().copies.is_shared:
            # Host and device share one copy, so a thread would not pay off.
            getattr(self, side)
        else:
            # Current streams are per thread, so they are read here.
            await asyncio.to_thread(self._synchronize_and_access, busy_streams(), side)

    def _synchronize_and_access(self, streams: list[Any], side: str) -> None:
        for stream in streams:
            stream.synchronize()
        getattr(self, side)

    def copy_from(self, data: NDArray[T]) -> None:
        """Copies the elements of an array into the buffer. Allocates memory if there is none.

        Args:
            data: The array, of this buffer's shape or one that broadcasts to it.

        Raises:
            ValueError: The shape does not fit.
            TypeError: The elements cannot be converted under NumPy's ``same_kind`` rule.
        """
        # Checked before anything is marked, so that a failed call changes nothing.
        array = np.asanyarray(data)
        if not _broadcasts(array.shape, self._shape):
            raise ValueError(f"An array of shape {array.shape} does not fit a buffer of shape {self._shape}; reshape it")
        if not np.can_cast(array.dtype, self._dtype, casting="same_kind"):
            raise TypeError(
                f"Elements of {array.dtype} cannot be converted to {self._dtype}; convert the array with astype({self._dtype.name!r})"
            )
        if self._memory is None:
            self.allocate()
        np.copyto(self._allocated().host_for_overwrite(), array)

    def copy_to(self, data: NDArray[T]) -> None:
        """Copies the elements to an array.

        Args:
            data: The array, of this buffer's shape or one that it broadcasts to.

        Raises:
            BufferNotAllocatedError: The buffer has no memory.
            ValueError: The shape does not fit, or the array is read-only.
            TypeError: The elements cannot be converted under NumPy's ``same_kind`` rule.
        """
        np.copyto(data, self.host)

    def zeros(self) -> UnifiedBuffer[T]:
        """Sets all elements to zero. Allocates memory if there is none.

        Returns:
            This buffer.
        """
        return self._fill(0)

    def fill(self, value: T) -> UnifiedBuffer[T]:
        """Sets all elements to a value. Allocates memory if there is none.

        Args:
            value: The value.

        Returns:
            This buffer.

        Raises:
            ValueError: The value is not valid for the element type.
            TypeError: The value is not valid for the element type.
        """
        return self._fill(value)

    def _fill(self, value: Any) -> UnifiedBuffer[T]:
        # Converted before anything is marked, so that a failed call changes nothing.
        element = np.empty((), self._dtype)
        element.fill(value)
        if self._memory is None:
            self.allocate()
        self._allocated().host_for_overwrite()[...] = element
        return self

    @classmethod
    def from_dlpack(cls, source: Any, *, copy: bool | None = None) -> UnifiedBuffer[T]:
        """Creates a buffer from another library's array: NumPy, PyTorch, JAX, CuPy, MLX.

        A host array becomes the buffer's host copy without copying, so that writes are visible to both. Report writes through the other
        library as writes to ``host``. A GPU array is copied into the buffer's own device memory.

        Args:
            source: An object that supports DLPack.
            copy: ``None`` copies only if needed, ``False`` never, ``True`` always.

        Returns:
            The buffer, allocated.

        Raises:
            TypeError: The object does not support DLPack.
            BufferError: The array cannot be exported, or needs a copy and ``copy`` is false. This is Python's own exception.
            BackendNotAvailableError: The array is on a GPU, and CuPy, which copies it, is not installed.
        """
        if not (hasattr(source, "__dlpack__") and hasattr(source, "__dlpack_device__")):
            raise TypeError(f"{type(source).__name__} does not support DLPack: it has no __dlpack__; convert it to an array first")
        kind = source.__dlpack_device__()[0]
        if kind in _DL_CUDA:
            return cls._from_device(source, copy)
        # NumPy rejects Metal arrays through DLPack, but accepts them through the buffer protocol: their memory is host memory.
        array: NDArray[Any] = np.asarray(source) if kind == _DL_METAL else np.from_dlpack(source)
        buffer = cls(array.shape, array.dtype)
        if copy or not array.flags.c_contiguous:
            if copy is False:
                raise _cannot_share("its elements are not contiguous in C order")
            buffer.copy_from(array)
            return buffer
        memory = buffer._new_memory()
        memory.copies.adopt(array.reshape(-1).view(np.uint8))
        buffer._memory = memory
        return buffer

    @classmethod
    def _from_device(cls, source: Any, copy: bool | None) -> UnifiedBuffer[T]:
        if copy is False:
            raise _cannot_share("it is on a GPU, and buffers use their own device memory")
        array = import_cupy().from_dlpack(source)
        buffer = cls(array.shape, np.dtype(array.dtype)).allocate(host=False)
        target: Any = buffer.device
        target[...] = array
        wait_for_device_work()
        buffer.mark_device_dirty()
        return buffer

    def __dlpack_device__(self) -> tuple[int, int]:
        """Returns the DLPack device of ``__dlpack__``'s default: the GPU if only the device copy is up to date, else the host."""
        memory = self._memory
        return (_DL_CPU, 0) if memory is None or not memory.is_only_device_current else (_DL_CUDA[0], memory.device_id)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Exports the elements through DLPack, without a copy. Exports the copy on ``dl_device``, by default on ``__dlpack_device__()``.

        Raises:
            BufferNotAllocatedError: The buffer has no memory.
            BufferError: There is no copy on this device, or DLPack does not support the type. This is Python's own exception.
        """
        kind = (dl_device or self.__dlpack_device__())[0]
        if kind == _DL_CPU:
            # NumPy before 2.1 lacks these parameters, so they are passed only if they differ from their defaults.
            options = {"max_version": max_version, "copy": copy}
            host: Any = self.host
            return host.__dlpack__(**{name: value for name, value in options.items() if value is not None})
        if kind not in _DL_CUDA or self._allocated().copies.is_shared:
            raise _cannot_share(f"it has no copy on a device of DLPack type {kind}")
        array: Any = self.device
        return array.__dlpack__(stream=stream)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Returns the host array, for NumPy; a copy only on request or if the type differs."""
        array: NDArray[Any] = self.host
        requested = array.dtype if dtype is None else np.dtype(dtype)
        if requested != array.dtype:
            if copy is False:
                raise ValueError(f"Elements of {array.dtype} cannot be converted to {requested} without a copy")
            return array.astype(requested)
        return array.copy() if copy else array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """CUDA array interface of the device copy, up to date. Raises ``AttributeError`` without a device copy on a GPU."""
        if self._memory is None or not self._memory.copies.has_device:
            raise AttributeError("a UnifiedBuffer has __cuda_array_interface__ only if it has GPU memory; use its .host")
        interface: dict[str, Any] = self.device.__cuda_array_interface__  # type: ignore[attr-defined]
        return interface

    def __repr__(self) -> str:
        return f"UnifiedBuffer(shape={self._shape}, dtype={self._dtype}, state={self.state.name}, pinned={self._pinned})"

    def __len__(self) -> int:
        if not self._shape:
            raise TypeError("len() of a buffer without dimensions; use .size")
        return self._shape[0]

    def __getitem__(self, key: Any) -> Any:
        return self.host[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.host[key] = value
        # All of it, which also publishes earlier unreported writes through `host`.
        self.mark_host_dirty()


def _cannot_share(reason: str) -> BufferError:
    """Returns Python's own ``BufferError``, which the DLPack protocol requires."""
    return BufferError(f"The array cannot be shared without a copy: {reason}")


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of one shape can be broadcast to another."""
    leading = len(to) - len(shape)
    return leading >= 0 and all(size in (1, target) for size, target in zip(shape, to[leading:], strict=True))


def _checked_shape(shape: tuple[int, ...] | int) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(size) for size in shape) if isinstance(shape, (tuple, list)) else (operator.index(shape),)
    except TypeError as error:
        raise InvalidConfigurationError("shape", shape, "expected an integer, or a tuple of integers") from error
    if any(size < 0 for size in sizes):
        raise InvalidConfigurationError("shape", shape, "no size may be negative")
    return sizes
