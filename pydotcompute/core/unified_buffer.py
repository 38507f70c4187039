"""One array on the host and on a device, copied when the other side looks.

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
from pydotcompute.exceptions import BufferNotAllocatedError, InvalidConfigurationError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = ["BufferState", "UnifiedBuffer"]

T = TypeVar("T", bound=np.generic)

# DLPack's numbers of kinds of devices.
_DL_CPU = 1
_DL_CUDA = (2, 13)
_DL_METAL = 8


class BufferState(Enum):
    """Which halves of a buffer there are, and which is newer."""

    UNINITIALIZED = auto()
    HOST_ONLY = auto()
    DEVICE_ONLY = auto()
    SYNCHRONIZED = auto()
    HOST_DIRTY = auto()
    DEVICE_DIRTY = auto()


class UnifiedBuffer(Generic[T]):
    """One array with two halves: ``host``, of NumPy's, and ``device``, of CuPy's where there is a GPU; and ``metal``, of MLX's.

    A half that is behind is brought up to date when it is looked at. Who writes to a half through ``host``, ``device`` or ``metal`` says so
    afterwards, with :meth:`mark_host_dirty`, :meth:`mark_device_dirty` or :meth:`mark_metal_dirty`; what this class writes itself
    (:meth:`fill`, :meth:`copy_from`, ``buffer[index] = value``) it marks itself.

    - With no GPU ``device`` is the host's array: there is one half then, and the states go on as if there were two.
    - A new buffer is zeros, on either side.
    - An array that was taken from a buffer stays good after :meth:`free`, and after the buffer itself is gone; it is only no longer the
      buffer's.
    - Work that another library has started with ``device`` on a stream other than its current one has to have ended before the host looks.

    A buffer may be handed from thread to thread; who writes in one while another looks has to see to the order himself.

    Args:
        shape: Its shape, or its length.
        dtype: The type of its elements; none that refers to Python objects.
        pinned: Whether the host's half is page-locked, where there is a GPU: the GPU copies it by itself then, but it takes long to get.
            Use a :class:`~pydotcompute.core.memory_pool.MemoryPool` for many.

    Raises:
        InvalidConfigurationError: The shape or the type is not one that a buffer can have.
    """

    def __init__(self, shape: tuple[int, ...] | int, dtype: DTypeLike = np.float32, *, pinned: bool = False) -> None:
        self._shape = _checked_shape(shape)
        self._dtype: np.dtype[Any] = np.dtype(dtype)
        if self._dtype.hasobject:
            raise InvalidConfigurationError("dtype", self._dtype, "its elements refer to Python objects, which no device can read")
        if self.nbytes > sys.maxsize:
            raise InvalidConfigurationError("shape", shape, f"{self.nbytes} bytes cannot be addressed; ask for less")
        self._pinned = pinned
        self._memory: BufferMemory | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self._shape

    @property
    def dtype(self) -> np.dtype[T]:
        """The type of its elements."""
        return self._dtype

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self._shape)

    @property
    def nbytes(self) -> int:
        """How many bytes each half has."""
        return self.size * self._dtype.itemsize

    @property
    def state(self) -> BufferState:
        """Which halves there are, and which is newer."""
        return BufferState.UNINITIALIZED if self._memory is None else BufferState[self._memory.state]

    @property
    def is_allocated(self) -> bool:
        """Whether it has memory."""
        return self._memory is not None

    def allocate(self, *, host: bool = True, device: bool = True) -> UnifiedBuffer[T]:
        """Takes memory, for the halves that are asked for and not there yet. It is zeros, or what the other half holds.

        Args:
            host: Whether for the host's half.
            device: Whether for the device's half. With no GPU that is the host's.

        Returns:
            This buffer.

        Raises:
            MemoryError: There is not so much, or the pool's limit would be passed.
            CUDAError: The device refused.
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
        """Lets go of all memory. Arrays that were taken from this buffer stay good; the memory is given back when they are gone too."""
        memory, self._memory = self._memory, None
        if memory is not None:
            memory.halves.free()

    @property
    def host(self) -> NDArray[T]:
        """The array on the host, up to date. Nothing is copied if the device's half is not newer.

        Raises:
            BufferNotAllocatedError: It has no memory.
            BufferSyncError: What is newer on the device could not be copied; it is still there.
        """
        return self._allocated().host()

    @property
    def device(self) -> object:
        """The array on the device, up to date.

        It is one of CuPy's; without CuPy a ``DeviceArray``, which other libraries take by its ``__cuda_array_interface__``; with no GPU the
        host's array.

        Raises:
            BufferNotAllocatedError: It has no memory.
            BufferSyncError: What is newer on the host could not be copied.
            MemoryError: The device has not so much memory.
        """
        device: object = self._allocated().device()
        return device

    @property
    def metal(self) -> object:
        """The array of MLX's, up to date; an array of 64-bit floats is one of 32-bit floats there, as GPUs of Apple's have no others.

        MLX mostly makes new arrays: to assign one to this attribute makes it the buffer's, and marks it as newer.

        Raises:
            BufferNotAllocatedError: It has no memory.
            MetalError: There is no MLX, or it has no such type.
            BufferSyncError: What is newer elsewhere could not be copied.
        """
        array: object = self._allocated().metal_array()
        return array

    @metal.setter
    def metal(self, array: object) -> None:
        self._allocated().metal.replace(array)

    def mark_host_dirty(self, rows: slice | None = None) -> None:
        """Says that ``host`` was written to. If another half was newer, that is given up for all of this one.

        Args:
            rows: Which part of the first axis; only that is copied then. None: all of it.

        Raises:
            BufferNotAllocatedError: It has no memory.
        """
        memory = self._allocated()
        memory.halves.mark_host_dirty(*self._bytes_of(rows))
        memory.metal.forget()

    def mark_device_dirty(self, rows: slice | None = None) -> None:
        """Says that ``device`` was written to. If another half was newer, that is given up for all of this one.

        Args:
            rows: Which part of the first axis; only that is copied then. None: all of it.

        Raises:
            BufferNotAllocatedError: It has no memory.
        """
        memory = self._allocated()
        memory.halves.mark_device_dirty(*self._bytes_of(rows))
        memory.metal.forget()

    def _bytes_of(self, rows: slice | None) -> tuple[int, int]:
        """From which byte to before which a part of the first axis is, with what lies between its rows."""
        if rows is None or not self._shape or not self.nbytes:
            return (0, self.nbytes)
        wanted = range(self._shape[0])[rows]
        if not wanted:
            return (0, 0)
        row = self.nbytes // self._shape[0]
        return (min(wanted) * row, (max(wanted) + 1) * row)

    def mark_metal_dirty(self) -> None:
        """Says that ``metal`` was written to.

        Raises:
            BufferNotAllocatedError: It has no memory.
        """
        self._allocated().metal.mark_dirty()

    def synchronize(self) -> None:
        """Brings the half that is behind up to date.

        Raises:
            BufferSyncError: It could not be copied.
        """
        if self._memory is not None:
            self._memory.synchronize()

    async def ensure_on_device(self) -> None:
        """Brings the device's half up to date, while the event loop goes on.

        Raises:
            BufferNotAllocatedError: It has no memory.
            BufferSyncError: It could not be copied.
        """
        await self._looked_at("device")

    async def ensure_on_host(self) -> None:
        """Brings the host's half up to date, while the event loop goes on.

        Raises:
            BufferNotAllocatedError: It has no memory.
            BufferSyncError: It could not be copied.
        """
        await self._looked_at("host")

    async def _looked_at(self, side: str) -> None:
        if self._allocated().halves.is_shared:
            # There is nothing to copy that would be worth a thread.
            getattr(self, side)
        else:
            # Which streams are current depends on the thread.
            await asyncio.to_thread(self._look_after, busy_streams(), side)

    def _look_after(self, streams: list[Any], side: str) -> None:
        for stream in streams:
            stream.synchronize()
        getattr(self, side)

    def copy_from(self, data: NDArray[T]) -> None:
        """Takes over the elements of an array; memory is allocated if there is none.

        Args:
            data: The array, of this buffer's shape or one that broadcasts to it.

        Raises:
            ValueError: Its shape does not fit.
            TypeError: Its elements cannot be converted without loss of kind.
        """
        # Before anything is marked, so that an array that does not fit changes nothing.
        array = np.asanyarray(data)
        if not _broadcasts(array.shape, self._shape):
            raise ValueError(f"An array of shape {array.shape} does not fit a buffer of shape {self._shape}; reshape it")
        if not np.can_cast(array.dtype, self._dtype, casting="same_kind"):
            raise TypeError(f"Elements of {array.dtype} do not become {self._dtype}; convert the array with astype({self._dtype.name!r})")
        if self._memory is None:
            self.allocate()
        np.copyto(self._allocated().overwritten_host(), array)

    def copy_to(self, data: NDArray[T]) -> None:
        """Copies the elements to an array.

        Args:
            data: The array, of this buffer's shape or one that it broadcasts to.

        Raises:
            BufferNotAllocatedError: It has no memory.
            ValueError: Its shape does not fit, or it is read-only.
            TypeError: The elements cannot be converted without loss of kind.
        """
        np.copyto(data, self.host)

    def zeros(self) -> UnifiedBuffer[T]:
        """Makes all elements zero; memory is allocated if there is none.

        Returns:
            This buffer.
        """
        return self._filled(0)

    def fill(self, value: T) -> UnifiedBuffer[T]:
        """Gives all elements a value; memory is allocated if there is none.

        Args:
            value: The value.

        Returns:
            This buffer.

        Raises:
            ValueError: It is not one that the elements can have.
            TypeError: As above.
        """
        return self._filled(value)

    def _filled(self, value: Any) -> UnifiedBuffer[T]:
        # Before anything is marked, so that a value that does not fit changes nothing.
        element = np.empty((), self._dtype)
        element.fill(value)
        if self._memory is None:
            self.allocate()
        self._allocated().overwritten_host()[...] = element
        return self

    @classmethod
    def from_dlpack(cls, source: Any, *, copy: bool | None = None) -> UnifiedBuffer[T]:
        """A buffer of another library's array: NumPy's, PyTorch's, JAX's, CuPy's, MLX's.

        On the host the buffer is the array, so that both see what either writes (a write through the other is to be marked as any write to
        ``host``). An array on a GPU is copied to memory of the buffer, on the GPU.

        Args:
            source: An object that speaks DLPack.
            copy: None: only if it has to be. False: never. True: always.

        Returns:
            The buffer, with its memory.

        Raises:
            TypeError: The object does not speak DLPack.
            BufferError: It cannot be exported, or had to be copied where ``copy`` is False; this is Python's own exception.
            BackendNotAvailableError: It is on a GPU, and there is no CuPy to copy it.
        """
        if not (hasattr(source, "__dlpack__") and hasattr(source, "__dlpack_device__")):
            raise TypeError(f"{type(source).__name__} does not speak DLPack: it has no __dlpack__; convert it to an array first")
        kind = source.__dlpack_device__()[0]
        if kind in _DL_CUDA:
            return cls._from_device(source, copy)
        # NumPy takes no array of Metal by DLPack, but by the buffer protocol: it is the host's memory.
        array: NDArray[Any] = np.asarray(source) if kind == _DL_METAL else np.from_dlpack(source)
        buffer = cls(array.shape, array.dtype)
        if copy or not array.flags.c_contiguous:
            if copy is False:
                raise _cannot_share("its elements are not contiguous in C order")
            buffer.copy_from(array)
            return buffer
        memory = buffer._new_memory()
        memory.halves.adopt(array.reshape(-1).view(np.uint8))
        buffer._memory = memory
        return buffer

    @classmethod
    def _from_device(cls, source: Any, copy: bool | None) -> UnifiedBuffer[T]:
        if copy is False:
            raise _cannot_share("it is on a GPU, and a buffer has device memory of its own")
        array = import_cupy().from_dlpack(source)
        buffer = cls(array.shape, np.dtype(array.dtype)).allocate(host=False)
        target: Any = buffer.device
        target[...] = array
        wait_for_device_work()
        buffer.mark_device_dirty()
        return buffer

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where ``__dlpack__`` offers the elements: on the device if they are newest there, else on the host."""
        memory = self._memory
        return (_DL_CPU, 0) if memory is None or not memory.is_newest_on_device else (_DL_CUDA[0], memory.device_id)

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """The elements for another library, without a copy: of the half that ``dl_device`` names, or that ``__dlpack_device__`` does.

        Raises:
            BufferNotAllocatedError: It has no memory.
            BufferError: There is no such half, or DLPack has no such type; this is Python's own exception.
        """
        kind = (dl_device or self.__dlpack_device__())[0]
        if kind == _DL_CPU:
            # NumPy before 2.1 knows none of the newer arguments, and is asked for none that has its default.
            asked = {"max_version": max_version, "copy": copy}
            host: Any = self.host
            return host.__dlpack__(**{name: value for name, value in asked.items() if value is not None})
        if kind not in _DL_CUDA or self._allocated().halves.is_shared:
            raise _cannot_share(f"it has no half on a device of DLPack's kind {kind}")
        array: Any = self.device
        return array.__dlpack__(stream=stream)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """The array on the host, for NumPy; a copy only if one is asked for or the type differs."""
        array: NDArray[Any] = self.host
        wanted = array.dtype if dtype is None else np.dtype(dtype)
        if wanted != array.dtype:
            if copy is False:
                raise ValueError(f"Elements of {array.dtype} do not become {wanted} without a copy")
            return array.astype(wanted)
        return array.copy() if copy else array

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """The CUDA array interface of the device's half, up to date; there is none without a half on a GPU."""
        if self._memory is None or not self._memory.halves.has_device:
            raise AttributeError("a UnifiedBuffer has a __cuda_array_interface__ once it has memory on a GPU; use its .host")
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
        # All of it: who has written through `host` before and not said so finds that on the device too.
        self.mark_host_dirty()


def _cannot_share(reason: str) -> BufferError:
    """Python's own ``BufferError``, which is what DLPack asks for."""
    return BufferError(f"The array cannot be shared without a copy: {reason}")


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of one shape can be copied to one of another."""
    leading = len(to) - len(shape)
    return leading >= 0 and all(size in (1, wanted) for size, wanted in zip(shape, to[leading:], strict=True))


def _checked_shape(shape: tuple[int, ...] | int) -> tuple[int, ...]:
    try:
        sizes = tuple(operator.index(size) for size in shape) if isinstance(shape, (tuple, list)) else (operator.index(shape),)
    except TypeError as error:
        raise InvalidConfigurationError("shape", shape, "it is a whole number, or a tuple of such") from error
    if any(size < 0 for size in sizes):
        raise InvalidConfigurationError("shape", shape, "no size may be negative")
    return sizes
