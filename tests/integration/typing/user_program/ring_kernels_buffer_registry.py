"""Arrays registered by handle."""

from typing import Any
from uuid import UUID

import numpy as np

from pydotcompute.ring_kernels.buffer_registry import (
    BufferHandle,
    BufferRegistry,
    get_buffer,
    get_buffer_registry,
    register_buffer,
    release_buffer,
)


def use() -> None:
    registry: BufferRegistry = get_buffer_registry()
    handle: BufferHandle = registry.register(np.zeros(4))
    number: UUID = handle.buffer_id
    shape: tuple[int, ...] = handle.shape
    names: tuple[str, str] = (handle.dtype, handle.device)
    counts: tuple[int, int] = (handle.size_bytes, handle.ref_count)
    array: Any = registry.get(number)
    same: BufferHandle | None = registry.get_handle(number)
    more: bool = registry.increment_ref(number)
    fewer: int = registry.decrement_ref(number)
    was_released: bool = registry.release(number)
    stats: dict[str, int] = registry.get_stats()
    cleared: int = registry.clear()
    remaining: int = len(BufferRegistry())
    other: BufferHandle = register_buffer(np.zeros(1))
    found: Any = get_buffer(other.buffer_id)
    released: bool = release_buffer(other.buffer_id)
    own = BufferHandle(buffer_id=number, shape=(1,), dtype="float32", device="cpu", size_bytes=4, ref_count=1)
    print(shape, names, counts, array, same, more, fewer, was_released, stats, cleared, remaining, found, released, own)
