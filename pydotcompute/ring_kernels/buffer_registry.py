"""Registry of arrays that are passed by handle: the array stays where it is, and messages refer to it.

Example:
    >>> import numpy as np
    >>> registry = BufferRegistry()
    >>> array = np.arange(4)
    >>> handle = registry.register(array)
    >>> registry.get(handle.buffer_id) is array
    True
    >>> registry.release(handle.buffer_id)
    True
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, ClassVar
from uuid import UUID, uuid4

__all__ = ["BufferHandle", "BufferRegistry", "get_buffer", "get_buffer_registry", "register_buffer", "release_buffer"]


@dataclass
class BufferHandle:
    """Handle of a registered array.

    Attributes:
        buffer_id: Id of the array in this process.
        shape: Shape of the array.
        dtype: Name of its element type.
        device: Location: ``"cpu"``, ``"cuda:0"``, ``"metal"``.
        size_bytes: Size, in bytes.
        ref_count: Number of references; the registry drops the array with the last one.
    """

    buffer_id: UUID
    shape: tuple[int, ...]
    dtype: str
    device: str
    size_bytes: int
    ref_count: int = 1

    def __repr__(self) -> str:
        return f"BufferHandle(id={self.buffer_id.hex[:8]}, shape={self.shape}, dtype={self.dtype}, device={self.device})"


def _device_of(array: Any) -> str:
    """Returns the location of an array, from its attributes. Imports no library for that."""
    if hasattr(array, "__cuda_array_interface__"):
        device = getattr(array, "device", None)
        index = getattr(device, "id", getattr(device, "index", getattr(array, "device_id", None)))
        return f"cuda:{index or 0}"
    return "metal" if type(array).__module__.partition(".")[0] == "mlx" else "cpu"


class BufferRegistry:
    """The arrays that messages of this process refer to. A singleton; thread-safe.

    The registry holds an array until it is released, or until its reference count is zero: :meth:`register` takes one reference,
    :meth:`increment_ref` another.
    """

    _instance: ClassVar[BufferRegistry | None] = None
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def __new__(cls) -> BufferRegistry:
        """Returns the singleton."""
        with cls._lock:
            if cls._instance is None:
                cls._instance = super().__new__(cls)
                cls._instance._initialized = False
            return cls._instance

    def __init__(self) -> None:
        with self._lock:
            if self._initialized:
                return
            self._entries: dict[UUID, tuple[Any, BufferHandle]] = {}
            # Reentrant: the finalizer of an array may call back into the registry.
            self._registry_lock = threading.RLock()
            self._registered = self._retrieved = self._released = self._bytes = 0
            self._initialized: bool = True

    def register(self, array: Any) -> BufferHandle:
        """Registers an array. The array is not copied: :meth:`get` returns the same object.

        Args:
            array: A NumPy, CuPy or MLX array, a tensor, a :class:`~pydotcompute.UnifiedBuffer`, or another object with ``shape``,
                ``dtype`` and ``nbytes``.

        Returns:
            Its handle.

        Raises:
            TypeError: The object is not an array.
        """
        missing = [name for name in ("shape", "dtype", "nbytes") if not hasattr(array, name)]
        if missing:
            raise TypeError(
                f"Cannot register {type(array).__name__} as a buffer: it has no {' and no '.join(missing)}; convert it to an array"
            )
        handle = BufferHandle(uuid4(), tuple(array.shape), str(array.dtype), _device_of(array), int(array.nbytes))
        with self._registry_lock:
            self._entries[handle.buffer_id] = (array, handle)
            self._registered += 1
            self._bytes += handle.size_bytes
        return handle

    def get(self, buffer_id: UUID) -> Any | None:
        """Returns the array of a handle.

        Args:
            buffer_id: Id of the handle.

        Returns:
            The array; ``None`` if it is not registered.
        """
        with self._registry_lock:
            entry = self._entries.get(buffer_id)
            if entry is None:
                return None
            self._retrieved += 1
            return entry[0]

    def get_handle(self, buffer_id: UUID) -> BufferHandle | None:
        """Returns the handle of an array.

        Args:
            buffer_id: Id of the handle.

        Returns:
            The handle; ``None`` if it is not registered.
        """
        with self._registry_lock:
            entry = self._entries.get(buffer_id)
        return entry[1] if entry else None

    def release(self, buffer_id: UUID) -> bool:
        """Drops an array, regardless of its reference count.

        Args:
            buffer_id: Id of the handle.

        Returns:
            Whether the array was registered.
        """
        with self._registry_lock:
            entry = self._entries.pop(buffer_id, None)
            if entry is None:
                return False
            self._released += 1
            self._bytes -= entry[1].size_bytes
        return True

    def increment_ref(self, buffer_id: UUID) -> bool:
        """Takes another reference to an array.

        Args:
            buffer_id: Id of the handle.

        Returns:
            Whether the array is registered.
        """
        with self._registry_lock:
            entry = self._entries.get(buffer_id)
            if entry is None:
                return False
            entry[1].ref_count += 1
        return True

    def decrement_ref(self, buffer_id: UUID) -> int:
        """Releases a reference to an array, and drops the array with the last one.

        Args:
            buffer_id: Id of the handle.

        Returns:
            The remaining number of references; -1 if the array is not registered.
        """
        with self._registry_lock:
            entry = self._entries.get(buffer_id)
            if entry is None:
                return -1
            entry[1].ref_count -= 1
            if entry[1].ref_count <= 0:
                self.release(buffer_id)
                return 0
            return entry[1].ref_count

    def clear(self) -> int:
        """Drops all arrays.

        Returns:
            The number of arrays dropped.
        """
        with self._registry_lock:
            entries, self._entries = self._entries, {}
            self._bytes = 0
            self._released += len(entries)
        return len(entries)

    def get_stats(self) -> dict[str, int]:
        """Returns counters.

        Returns:
            ``registered``, ``retrieved`` and ``released``, counted since the start; ``bytes_registered`` and ``active_buffers`` of
            the arrays registered now.
        """
        with self._registry_lock:
            return {
                "registered": self._registered,
                "retrieved": self._retrieved,
                "released": self._released,
                "bytes_registered": self._bytes,
                "active_buffers": len(self._entries),
            }

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, buffer_id: object) -> bool:
        return buffer_id in self._entries


def get_buffer_registry() -> BufferRegistry:
    """Returns the registry.

    Returns:
        The :class:`BufferRegistry` singleton.
    """
    return BufferRegistry()


def register_buffer(array: Any) -> BufferHandle:
    """Registers an array in the process's registry. The array is not copied.

    Args:
        array: A NumPy, CuPy or MLX array, a tensor, or another object with ``shape``, ``dtype`` and ``nbytes``.

    Returns:
        Its handle.

    Raises:
        TypeError: The object is not an array.
    """
    return get_buffer_registry().register(array)


def get_buffer(buffer_id: UUID) -> Any | None:
    """Returns the array of a handle, from the process's registry.

    Args:
        buffer_id: Id of the handle.

    Returns:
        The array; ``None`` if it is not registered.
    """
    return get_buffer_registry().get(buffer_id)


def release_buffer(buffer_id: UUID) -> bool:
    """Drops an array from the process's registry, regardless of its reference count.

    Args:
        buffer_id: Id of the handle.

    Returns:
        Whether the array was registered.
    """
    return get_buffer_registry().release(buffer_id)
