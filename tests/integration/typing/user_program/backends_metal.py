"""Arrays and kernels with MLX."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydotcompute.backends.base import BackendType, KernelExecutionResult
from pydotcompute.backends.metal import (
    MetalBackend,
    MetalBufferInfo,
    MetalBufferState,
    get_elementwise_kernel,
    get_matrix_multiply_kernel,
    get_vector_add_kernel,
)


def describe(info: MetalBufferInfo) -> str:
    size: int = info.size
    shape: tuple[int, ...] = info.shape
    dtype: np.dtype[Any] = info.dtype
    state: MetalBufferState = info.state
    times: tuple[float, float] = (info.created_at, info.last_accessed)
    return f"{info.array_id} {size} {shape} {dtype} {state} {times}"


def use() -> None:
    backend = MetalBackend(device_id=0)
    kind: BackendType = backend.backend_type
    available: bool = backend.is_available
    numbers: tuple[int, int] = (backend.device_count, backend.device_id)
    array: Any = backend.allocate((4,), np.float32)
    zeros: Any = backend.allocate_zeros((4,), np.dtype(np.float32))
    device: Any = backend.copy_to_device(np.ones(4, np.float32))
    host: NDArray[np.float32] = backend.copy_to_host(device)
    kernels: list[Callable[..., Any] | None] = [get_vector_add_kernel(), get_matrix_multiply_kernel(), get_elementwise_kernel("exp")]
    compiled: Callable[..., Any] = backend.compile_kernel(print, signature=None)
    result: KernelExecutionResult = backend.execute_kernel(compiled, (1,), (32,), array, zeros)
    memory: dict[str, int] = backend.get_memory_info()
    backend.clear_cache()
    backend.synchronize()
    backend.free(array)
    states = [MetalBufferState.ALLOCATED, MetalBufferState.FREED, MetalBufferState.IN_USE]
    info = MetalBufferInfo(array_id=1, size=16, shape=(4,), dtype=np.dtype(np.float32), state=states[0], created_at=0.0, last_accessed=0.0)
    print(kind, available, numbers, host, kernels, result, memory, describe(info))
