"""The memory pool."""

from pydotcompute.core.memory_pool import MemoryPool, PoolStatistics, configure_memory_pool, get_memory_pool


def use() -> None:
    pool: MemoryPool = MemoryPool(initial_size_mb=0, max_size_mb=None)
    pool = get_memory_pool()
    pool = configure_memory_pool(0, max_size_mb=64, enable=True)
    pool.enable()
    enabled: bool = pool.enabled
    statistics: PoolStatistics = pool.get_stats()
    pinned: PoolStatistics = pool.get_pinned_stats()
    counts: tuple[int, int, int, int] = (
        statistics.used_bytes,
        statistics.total_bytes,
        statistics.free_bytes,
        statistics.n_free_blocks,
    )
    shares: tuple[float, float, float] = (statistics.utilization, statistics.used_mb, statistics.total_mb)
    pool.free_all_blocks()
    pool.free_all_free()
    pool.set_limit(None)
    pool.disable()
    own = PoolStatistics(used_bytes=0, total_bytes=0, n_free_blocks=0)
    print(enabled, pinned, counts, shares, own)
