"""Memory pool: caches freed memory for later buffers instead of returning it to the device.

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
    """Statistics of a pool.

    Attributes:
        used_bytes: Bytes in use.
        total_bytes: Bytes in use and cached.
        n_free_blocks: Number of cached blocks.
    """

    used_bytes: int
    total_bytes: int
    n_free_blocks: int

    @property
    def free_bytes(self) -> int:
        """Bytes cached."""
        return self.total_bytes - self.used_bytes

    @property
    def utilization(self) -> float:
        """Fraction of the memory in use, from 0 to 1; 0 for an empty pool."""
        return self.used_bytes / self.total_bytes if self.total_bytes else 0.0

    @property
    def used_mb(self) -> float:
        """Memory in use, in units of 2**20 bytes."""
        return self.used_bytes / _MB

    @property
    def total_mb(self) -> float:
        """Memory in use and cached, in units of 2**20 bytes."""
        return self.total_bytes / _MB


class MemoryPool:
    """Pool that buffers allocate from while it is enabled. A singleton, with one pool per device.

    Blocks belong to size classes, four per power of two, so that the memory of one buffer can be reused by the next. On a GPU the pool is
    ordered by a stream of its own: neither allocating nor freeing waits for a resident ring kernel. Without a GPU it caches host memory
    in the same way.

    While it is enabled, CuPy also uses a stream-ordered pool, so that it never waits for the whole device when it frees memory.
    """

    _instance: ClassVar[MemoryPool | None] = None
    _lock: ClassVar[threading.RLock] = threading.RLock()

    def __new__(cls, initial_size_mb: int = 0, max_size_mb: int | None = None) -> MemoryPool:
        """Returns the singleton; the arguments of the first call apply."""
        with cls._lock:
            if cls._instance is None:
                cls._instance = super().__new__(cls)
                cls._instance._initialized = False
            return cls._instance

    def __init__(self, initial_size_mb: int = 0, max_size_mb: int | None = None) -> None:
        """Creates the pool, disabled and empty. Only the first call has an effect.

        Args:
            initial_size_mb: Validated, but without effect: memory is allocated on demand.
            max_size_mb: Limit for each device, in units of 2**20 bytes; ``None`` for no limit.

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
        """Makes buffers allocated from now on use the pool."""
        with self._lock:
            self._enabled = True
            if self._cuda_available and self._cupy_pool is None:
                try:
                    cupy = import_cupy()
                except BackendNotAvailableError:
                    return  # Buffers do not need CuPy.
                self._cupy_pool = stream_ordered_pool(cupy)
                cupy.cuda.set_allocator(self._cupy_pool.malloc)

    def disable(self) -> None:
        """Makes buffers allocated from now on use the device's own allocator. Memory in use stays valid."""
        with self._lock:
            self._enabled = False
            if self._cupy_pool is not None:
                cupy = import_cupy()
                cupy.cuda.set_allocator(cupy.get_default_memory_pool().malloc)
                self._cupy_pool = None

    @property
    def enabled(self) -> bool:
        """Whether buffers use the pool."""
        return self._enabled

    def get_stats(self) -> PoolStatistics:
        """Returns the statistics of device memory, including CuPy's pool.

        Returns:
            The statistics over all devices. Sizes are rounded up to size classes.
        """
        with self._lock:
            stats = [pool.stats() for pool in self._pools.values()]
            if self._cupy_pool is not None:
                stats.append((self._cupy_pool.used_bytes(), self._cupy_pool.total_bytes(), 0))
        return _total(stats)

    def get_pinned_stats(self) -> PoolStatistics:
        """Returns the statistics of page-locked host memory, for buffers with ``pinned=True``.

        Returns:
            The statistics over all devices. Sizes are rounded up to size classes.
        """
        with self._lock:
            return _total([pool.page_locked_stats() for pool in self._pools.values()])

    def free_all_blocks(self) -> None:
        """Frees all cached device and page-locked memory. Resident ring kernels leave the device briefly for that.

        Raises:
            CUDAError: A CUDA call failed.
        """
        with self._lock:
            for pool in self._pools.values():
                pool.trim()
            if self._cupy_pool is not None:
                self._cupy_pool.free_all_blocks()

    def free_all_free(self) -> None:
        """Frees the cached device memory; keeps the cached page-locked memory of buffers with ``pinned=True``."""
        with self._lock:
            for pool in self._pools.values():
                pool.trim_device()

    def set_limit(self, size_mb: int | None) -> None:
        """Limits the pool's memory on each device. Allocations beyond the limit raise ``MemoryError``, which says what would fit.

        Args:
            size_mb: Limit of memory in use and cached, in units of 2**20 bytes; ``None`` for no limit.

        Raises:
            InvalidConfigurationError: The limit is negative.
        """
        with self._lock:
            self._max_size_mb = None if size_mb is None else _checked_size("size_mb", size_mb)
            for pool in self._pools.values():
                pool.set_limit(self._limit())

    def _limit(self) -> int | None:
        return None if self._max_size_mb is None else self._max_size_mb * _MB

    def _pool_of(self, device: _core.Device) -> _core.DevicePool | None:
        """Returns the pool that a buffer on this device allocates from; ``None`` if the pool is disabled."""
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
        raise InvalidConfigurationError(name, size_mb, "a size must be 0 or more, in units of 2**20 bytes")
    return size_mb


def _total(stats: list[tuple[int, int, int]]) -> PoolStatistics:
    used, total, blocks = (sum(column) for column in zip(*stats, strict=True)) if stats else (0, 0, 0)
    return PoolStatistics(used_bytes=used, total_bytes=total, n_free_blocks=blocks)


def get_memory_pool() -> MemoryPool:
    """Returns the memory pool.

    Returns:
        The :class:`MemoryPool` singleton.
    """
    return MemoryPool()


def configure_memory_pool(_initial_size_mb: int = 0, max_size_mb: int | None = None, enable: bool = True) -> MemoryPool:
    """Sets the limit of the memory pool, and enables it.

    Args:
        _initial_size_mb: Accepted, without effect.
        max_size_mb: Limit for each device, in units of 2**20 bytes; ``None`` keeps the current limit.
        enable: Whether to enable the pool.

    Returns:
        The :class:`MemoryPool` singleton.

    Raises:
        InvalidConfigurationError: ``max_size_mb`` is negative.
    """
    pool = MemoryPool()
    if max_size_mb is not None:
        pool.set_limit(max_size_mb)
    if enable:
        pool.enable()
    return pool
