"""Arrays and kernels on an NVIDIA GPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydotcompute.backends.base import BackendType, KernelExecutionResult
from pydotcompute.backends.cuda import CUDABackend, get_matrix_multiply_kernel, get_vector_add_kernel


def use() -> None:
    backend = CUDABackend(device_id=0)
    kind: BackendType = backend.backend_type
    available: bool = backend.is_available
    numbers: tuple[int, int] = (backend.device_count, backend.device_id)
    backend.set_device(0)
    array: Any = backend.allocate((4,), np.float32)
    zeros: Any = backend.allocate_zeros((4,), np.dtype(np.float32))
    device: Any = backend.copy_to_device(np.ones(4, np.float32))
    host: NDArray[np.float32] = backend.copy_to_host(device)
    add: Callable[..., Any] | None = get_vector_add_kernel()
    multiply: Callable[..., Any] | None = get_matrix_multiply_kernel()
    compiled: Callable[..., Any] = backend.compile_kernel(print, signature="void()")
    result: KernelExecutionResult = backend.execute_kernel(compiled, (1,), (32,), array, zeros)
    memory: dict[str, int] = backend.get_memory_info()
    stream: Any = backend.create_stream()
    backend.synchronize()
    backend.free(array)
    print(kind, available, numbers, host, add, multiply, result, memory, stream)
