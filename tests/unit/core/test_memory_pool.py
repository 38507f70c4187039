"""The memory pool: accounting, limit, and cached blocks."""

import gc
from collections.abc import Iterator

import numpy as np
import pytest

from pydotcompute.core.memory_pool import MemoryPool, PoolStatistics, configure_memory_pool, get_memory_pool
from pydotcompute.core.unified_buffer import UnifiedBuffer
from pydotcompute.exceptions import InvalidConfigurationError

MB = 1 << 20


@pytest.fixture(autouse=True)
def pool(without_gpu: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryPool]:
    monkeypatch.setattr(MemoryPool, "_instance", None)
    pool = MemoryPool()
    yield pool
    pool.disable()


def buffer_of(size_mb: float, *, pinned: bool = False) -> UnifiedBuffer[np.uint8]:
    return UnifiedBuffer(int(size_mb * MB), np.uint8, pinned=pinned).allocate()


def test_it_is_a_singleton() -> None:
    assert MemoryPool() is MemoryPool(5, 7) is get_memory_pool() is configure_memory_pool(enable=False)


def test_statistics() -> None:
    stats = PoolStatistics(used_bytes=MB, total_bytes=4 * MB, n_free_blocks=3)
    assert (stats.free_bytes, stats.utilization, stats.used_mb, stats.total_mb) == (3 * MB, 0.25, 1.0, 4.0)
    assert PoolStatistics(0, 0, 0).utilization == 0.0


def test_a_new_pool_is_disabled_and_empty(pool: MemoryPool) -> None:
    assert not pool.enabled
    buffer = buffer_of(1)
    assert pool.get_stats() == pool.get_pinned_stats() == PoolStatistics(0, 0, 0)
    del buffer


@pytest.mark.parametrize("pinned", [False, True])
def test_memory_accounting(pool: MemoryPool, pinned: bool) -> None:
    stats, other = (pool.get_pinned_stats, pool.get_stats) if pinned else (pool.get_stats, pool.get_pinned_stats)
    pool.enable()
    first, second = buffer_of(1, pinned=pinned), buffer_of(1, pinned=pinned)
    assert stats() == PoolStatistics(2 * MB, 2 * MB, 0)
    address = second.host.ctypes.data
    del second
    gc.collect()
    assert stats() == PoolStatistics(MB, 2 * MB, 1)
    again = buffer_of(1, pinned=pinned)
    assert again.host.ctypes.data == address, "a cached block is reused"
    again.free()
    pool.free_all_blocks()
    assert stats() == PoolStatistics(MB, MB, 0)
    assert other() == PoolStatistics(0, 0, 0)
    del first


def test_a_block_returns_to_a_disabled_pool(pool: MemoryPool) -> None:
    pool.enable()
    buffer = buffer_of(1)
    pool.disable()
    unpooled = buffer_of(1)
    assert pool.get_stats().used_bytes == MB
    buffer.free()
    assert pool.get_stats() == PoolStatistics(0, MB, 1)
    pool.free_all_free()
    assert pool.get_stats() == PoolStatistics(0, 0, 0)
    del unpooled


def test_the_limit_bounds_the_memory_in_use(pool: MemoryPool) -> None:
    configure_memory_pool(max_size_mb=3)
    held = buffer_of(2)
    with pytest.raises(MemoryError, match=r"limited to 3145728 bytes, of which 2097152 are in use.*raise the limit"):
        buffer_of(2)
    rejected: UnifiedBuffer[np.uint8] = UnifiedBuffer(2 * MB, np.uint8)
    with pytest.raises(MemoryError):
        rejected.fill(np.uint8(1))
    assert not rejected.is_allocated
    pool.set_limit(None)
    assert rejected.fill(np.uint8(1)).host.all()
    assert pool.get_stats().used_bytes == 4 * MB
    del held


def test_negative_sizes_raise(pool: MemoryPool, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidConfigurationError, match="-1"):
        pool.set_limit(-1)
    with pytest.raises(InvalidConfigurationError):
        configure_memory_pool(max_size_mb=-5)
    monkeypatch.setattr(MemoryPool, "_instance", None)
    with pytest.raises(InvalidConfigurationError, match="initial_size_mb"):
        MemoryPool(initial_size_mb=-3)


def test_repr(pool: MemoryPool) -> None:
    assert repr(pool).startswith("MemoryPool(enabled=False, used=0.00MB, total=0.00MB, cuda=")
