"""Memory that is kept for the next buffer instead of being given back to the device.

Example:
    >>> from pydotcompute.core.memory_pool import configure_memory_pool
    >>> pool = configure_memory_pool(max_size_mb=64)
    >>> pool.get_stats().used_mb
    0.0
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, ClassVar

from pydotcompute import _core
from pydotcompute._optional import import_cupy, stream_ordered_pool
from pydotcompute.core.accelerator import get_accelerator
from pydotcompute.exceptions import BackendNotAvailableError, InvalidConfigurationError

__all__ = ["MemoryPool", "PoolStatistics", "configure_memory_pool", "get_memory_pool"]

_MB = 1 << 20


@dataclass
class PoolStatistics:
    """What a pool has.

    Attributes:
        used_bytes: Bytes in use.
        total_bytes: Bytes in use and kept.
        n_free_blocks: Blocks that are kept.
    """

    used_bytes: int
    total_bytes: int
    n_free_blocks: int

    @property
    def free_bytes(self) -> int:
        """Bytes that are kept."""
        return self.total_bytes - self.used_bytes

    @property
    def utilization(self) -> float:
        """The part that is in use, from 0 to 1; 0 of an empty pool."""
        return self.used_bytes / self.total_bytes if self.total_bytes else 0.0

    @property
    def used_mb(self) -> float:
        """What is in use, in units of 2**20 bytes."""
        return self.used_bytes / _MB

    @property
    def total_mb(self) -> float:
        """What is in use and kept, in units of 2**20 bytes."""
        return self.total_bytes / _MB


class MemoryPool:
    """The pool that buffers take their memory from while it is enabled. There is one object of this class, with a pool per device.

    Blocks are of size classes, four to each doubling, so that what one buffer gave back suits the next. On a GPU the pool is ordered by a
    stream of its own: neither taking memory nor giving it back waits for a resident ring kernel. With no GPU it keeps the host's memory
    in the same way.

    While it is enabled, CuPy allocates in the order of its streams too, so that it never waits for the whole device when it frees.
    """

    _instance: ClassVar[MemoryPool | None] = None
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def __new__(cls, initial_size_mb: int = 0, max_size_mb: int | None = None) -> MemoryPool:
        """The one object; the arguments are those of the first call."""
        with cls._lock:
            if cls._instance is None:
                cls._instance = super().__new__(cls)
                cls._instance._initialized = False
            return cls._instance

    def __init__(self, initial_size_mb: int = 0, max_size_mb: int | None = None) -> None:
        """Makes the pool, disabled and empty; only the first call does that.

        Args:
            initial_size_mb: Accepted, and checked; memory is taken when it is first asked for.
            max_size_mb: The most that it has of each device's memory, in units of 2**20 bytes; None: no limit.

        Raises:
            InvalidConfigurationError: A size is negative.
        """
        with self._lock:
            if self._initialized:
                return
            self._initial_size_mb = _checked_size("initial_size_mb", initial_size_mb)
            self._max_size_mb = None if max_size_mb is None else _checked_size("max_size_mb", max_size_mb)
            self._enabled = False
            self._pools: dict[_core.Device, _core.DevicePool] = {}
            self._cuda_available = get_accelerator().cuda_available
            self._cupy_pool: Any | None = None
            self._initialized: bool = True

    def enable(self) -> None:
        """Has buffers that are allocated from now on take their memory from the pool."""
        with self._lock:
            self._enabled = True
            if self._cuda_available and self._cupy_pool is None:
                try:
                    cupy = import_cupy()
                except BackendNotAvailableError:
                    return  # Buffers do without it.
                self._cupy_pool = stream_ordered_pool(cupy)
                cupy.cuda.set_allocator(self._cupy_pool.malloc)

    def disable(self) -> None:
        """Has buffers that are allocated from now on take their memory from the device itself. What is in use stays in use."""
        with self._lock:
            self._enabled = False
            if self._cupy_pool is not None:
                cupy = import_cupy()
                cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
                self._cupy_pool = None

    @property
    def enabled(self) -> bool:
        """Whether buffers take their memory from the pool."""
        return self._enabled

    def get_stats(self) -> PoolStatistics:
        """What it has of device memory, CuPy's part with it.

        Returns:
            The statistics, of all devices together. Bytes are those of size classes.
        """
        with self._lock:
            figures = [pool.stats() for pool in self._pools.values()]
            if self._cupy_pool is not None:
                figures.append((self._cupy_pool.used_bytes(), self._cupy_pool.total_bytes(), 0))
        return _summed(figures)

    def get_pinned_stats(self) -> PoolStatistics:
        """What it has of host memory for buffers with ``pinned=True``.

        Returns:
            The statistics, of all devices together. Bytes are those of size classes.
        """
        with self._lock:
            return _summed([pool.page_locked_stats() for pool in self._pools.values()])

    def free_all_blocks(self) -> None:
        """Gives back all that is kept, of both kinds of memory. Resident ring kernels make way for a moment for that.

        Raises:
            CUDAError: The device did not take it.
        """
        with self._lock:
            for pool in self._pools.values():
                pool.trim()
            if self._cupy_pool is not None:
                self._cupy_pool.free_all_blocks()

    def free_all_free(self) -> None:
        """Gives back what is kept of device memory, and leaves what is kept for buffers with ``pinned=True``."""
        with self._lock:
            for pool in self._pools.values():
                pool.trim_device()

    def set_limit(self, size_mb: int | None) -> None:
        """Limits what the pool has of each device's memory. Who asks for more then gets a ``MemoryError`` that says what would fit.

        Args:
            size_mb: The most, in use and kept, in units of 2**20 bytes; None: no limit.

        Raises:
            InvalidConfigurationError: It is negative.
        """
        with self._lock:
            self._max_size_mb = None if size_mb is None else _checked_size("size_mb", size_mb)
            for pool in self._pools.values():
                pool.set_limit(self._limit())

    def _limit(self) -> int | None:
        return None if self._max_size_mb is None else self._max_size_mb * _MB

    def _pool_of(self, device: _core.Device) -> _core.DevicePool | None:
        """The pool that a buffer for this device takes its memory from, if any."""
        with self._lock:
            if not self._enabled:
                return None
            if device not in self._pools:
                pool = _core.DevicePool(device)
                pool.set_limit(self._limit())
                self._pools[device] = pool
            return self._pools[device]

    def __repr__(self) -> str:
        stats = self.get_stats()
        return f"MemoryPool(enabled={self._enabled}, used={stats.used_mb:.2f}MB, total={stats.total_mb:.2f}MB, cuda={self._cuda_available})"


def _checked_size(name: str, size_mb: int) -> int:
    if size_mb < 0:
        raise InvalidConfigurationError(name, size_mb, "a size is 0 or more, in units of 2**20 bytes")
    return size_mb


def _summed(figures: list[tuple[int, int, int]]) -> PoolStatistics:
    used, total, blocks = (sum(column) for column in zip(*figures, strict=True)) if figures else (0, 0, 0)
    return PoolStatistics(used_bytes=used, total_bytes=total, n_free_blocks=blocks)


def get_memory_pool() -> MemoryPool:
    """The pool.

    Returns:
        The one :class:`MemoryPool`.
    """
    return MemoryPool()


def configure_memory_pool(_initial_size_mb: int = 0, max_size_mb: int | None = None, enable: bool = True) -> MemoryPool:
    """Sets the pool's limit, and enables it.

    Args:
        _initial_size_mb: Accepted, and without effect.
        max_size_mb: The most that it has of each device's memory, in units of 2**20 bytes; None: as it was.
        enable: Whether to enable it.

    Returns:
        The one :class:`MemoryPool`.

    Raises:
        InvalidConfigurationError: ``max_size_mb`` is negative.
    """
    pool = MemoryPool()
    if max_size_mb is not None:
        pool.set_limit(max_size_mb)
    if enable:
        pool.enable()
    return pool
