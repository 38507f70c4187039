"""Compiled kernels on disk."""

from pathlib import Path
from typing import Any

from pydotcompute.compilation.cache import CacheEntry, KernelCache, get_kernel_cache, warmup_kernels


def use(folder: Path) -> None:
    cache = KernelCache(cache_dir=folder, max_entries=16, max_size_mb=8)
    stored: bool = cache.store("add", "hash", b"code", signature="void()", metadata={"registers": 24})
    loaded: bytes | None = cache.load("add", "hash")
    contained: bool = cache.contains("add", "hash")
    removed: bool = cache.remove("add", "hash")
    cleared: int = cache.clear()
    stats: dict[str, Any] = cache.get_stats()
    shared: KernelCache = get_kernel_cache()
    warmup_kernels([print, max])
    entry = CacheEntry(
        kernel_name="add",
        source_hash="hash",
        signature=None,
        ptx_path=folder / "add.ptx",
        metadata={},
        created_timestamp=0.0,
        last_accessed=0.0,
        hit_count=0,
    )
    names: tuple[str, str, str | None] = (entry.kernel_name, entry.source_hash, entry.signature)
    path: Path | None = entry.ptx_path
    about: dict[str, Any] = entry.metadata
    times: tuple[float, float, int] = (entry.created_timestamp, entry.last_accessed, entry.hit_count)
    print(stored, loaded, contained, removed, cleared, stats, shared, names, path, about, times)
