"""Arrays and kernels on the CPU."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pydotcompute.backends.base import BackendType, KernelExecutionResult
from pydotcompute.backends.cpu import CPUBackend, matrix_multiply_cpu, vector_add_cpu


def visit(index: int) -> None:
    print(index)


def use() -> None:
    backend = CPUBackend()
    kind: BackendType = backend.backend_type
    available: bool = backend.is_available
    count: int = backend.device_count
    a: NDArray[np.float32] = backend.allocate((4,), np.dtype(np.float32))
    b: NDArray[np.float32] = backend.allocate_zeros((4,), np.float32)
    device: NDArray[np.float32] = backend.copy_to_device(b)
    host: NDArray[np.float32] = backend.copy_to_host(device)
    compiled: Callable[..., Any] = backend.compile_kernel(np.add, signature=None)
    result: KernelExecutionResult = backend.execute_kernel(compiled, (1,), (1,), a, b)
    backend.parallel_for(0, 4, visit)
    backend.synchronize()
    backend.free(a)
    total: NDArray[np.float32] = vector_add_cpu(b, host)
    square: NDArray[np.float32] = np.zeros((2, 2), np.float32)
    product: NDArray[np.float32] = matrix_multiply_cpu(square, square)
    print(kind, available, count, result.success, total, product)
