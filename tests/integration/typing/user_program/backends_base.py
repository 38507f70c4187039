"""A custom backend, and arrays that refer to their backend."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pydotcompute.backends.base import Backend, BackendArray, BackendType, KernelExecutionResult

T = TypeVar("T", bound=np.generic)


class Own(Backend):
    """Implements every abstract method with the types of the base class."""

    @property
    def backend_type(self) -> BackendType:
        return BackendType.CPU

    @property
    def is_available(self) -> bool:
        return True

    @property
    def device_count(self) -> int:
        return 1

    def allocate(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return np.empty(shape, dtype)

    def free(self, array: Any) -> None:
        del array

    def copy_to_device(self, host_array: NDArray[Any]) -> Any:
        return host_array

    def copy_to_host(self, device_array: Any) -> NDArray[Any]:
        return np.asarray(device_array)

    def synchronize(self) -> None:
        return None

    def execute_kernel(
        self, kernel: Callable[..., Any], grid_size: tuple[int, ...], block_size: tuple[int, ...], *args: Any, **kwargs: Any
    ) -> KernelExecutionResult:
        kernel(*args, **kwargs)
        return KernelExecutionResult(success=True, execution_time_ms=0.5, error=None)

    def compile_kernel(self, func: Callable[..., Any], signature: str | None = None) -> Callable[..., Any]:
        return func


def use() -> None:
    backend = Own()
    kinds: list[BackendType] = [BackendType.CPU, BackendType.CUDA, BackendType.METAL, backend.backend_type]
    available: bool = backend.is_available
    count: int = backend.device_count
    result = backend.execute_kernel(print, (1,), (1,), "x", end="")
    took: float = result.execution_time_ms
    worked: bool = result.success
    error: Exception | None = result.error

    data: NDArray[np.float64] = np.zeros(3)
    array = BackendArray(data, backend, owns_data=False)
    same: Backend = array.backend
    inner: NDArray[np.float64] = array.data
    shape: tuple[int, ...] = array.shape
    dtype: np.dtype[np.float64] = array.dtype
    size: int = array.nbytes
    host: NDArray[np.float64] = array.to_host()
    array.synchronize()
    backend.free(backend.copy_to_host(backend.copy_to_device(backend.allocate((2,), np.dtype(np.float32)))))
    backend.synchronize()
    compiled: Callable[..., Any] = backend.compile_kernel(max, signature=None)
    print(kinds, available, count, took, worked, error, same, inner, shape, dtype, size, host, compiled)
