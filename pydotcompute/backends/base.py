"""Interface of all backends."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Backend", "BackendArray", "BackendType", "KernelExecutionResult"]

T = TypeVar("T", bound=np.generic)


class BackendType(Enum):
    """Kind of a backend."""

    CPU = auto()
    CUDA = auto()
    METAL = auto()


@dataclass
class KernelExecutionResult:
    """Result of a kernel run.

    Attributes:
        success: Whether the kernel finished without an error.
        execution_time_ms: Run time, in milliseconds.
        error: The exception that it raised, if any.
    """

    success: bool
    execution_time_ms: float
    error: Exception | None = None


class Backend(ABC):
    """Runs kernels and holds their arrays."""

    @property
    @abstractmethod
    def backend_type(self) -> BackendType:
        """Kind of this backend."""

    @property
    @abstractmethod
    def is_available(self) -> bool:
        """Whether this machine supports the backend."""

    @property
    @abstractmethod
    def device_count(self) -> int:
        """Number of devices."""

    @abstractmethod
    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[T]) -> NDArray[T]:
        """Allocates an uninitialized array on the device.

        Args:
            shape: Shape of the array.
            dtype: Element type.

        Returns:
            The array.
        """

    @abstractmethod
    def free(self, array: NDArray[T]) -> None:
        """Marks an array as no longer needed. Its memory is freed with the last reference to it.

        Args:
            array: The array.
        """

    @abstractmethod
    def copy_to_device(self, host_array: NDArray[T]) -> NDArray[T]:
        """Copies an array to the device.

        Args:
            host_array: A NumPy array.

        Returns:
            A new array on the device.
        """

    @abstractmethod
    def copy_to_host(self, device_array: NDArray[T]) -> NDArray[T]:
        """Copies an array from the device.

        Args:
            device_array: An array on the device.

        Returns:
            A new NumPy array.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Waits for all work that this backend has started."""

    @abstractmethod
    def execute_kernel(
        self, kernel: Callable[..., Any], grid_size: tuple[int, ...], block_size: tuple[int, ...], *args: Any, **kwargs: Any
    ) -> KernelExecutionResult:
        """Runs a kernel, and waits for it.

        Args:
            kernel: The kernel.
            grid_size: Number of blocks in each dimension.
            block_size: Number of threads per block in each dimension.
            *args: Arguments of the kernel.
            **kwargs: Keyword arguments of the kernel.

        Returns:
            The result. It holds an exception that the kernel raised; this method does not raise it.
        """

    @abstractmethod
    def compile_kernel(self, func: Callable[..., Any], signature: str | None = None) -> Callable[..., Any]:
        """Compiles a function to a kernel.

        Args:
            func: The function.
            signature: Numba signature of the function; ``None`` compiles for the types of the first call.

        Returns:
            The kernel.
        """


class BackendArray(Generic[T]):
    """An array together with its backend.

    Args:
        data: The array.
        backend: Backend that holds the array.
        owns_data: Whether the array is freed with this object.
    """

    def __init__(self, data: NDArray[T], backend: Backend, *, owns_data: bool = True) -> None:
        self._data = data
        self._backend = backend
        self._owns_data = owns_data

    @property
    def data(self) -> NDArray[T]:
        """The array."""
        return self._data

    @property
    def backend(self) -> Backend:
        """The backend."""
        return self._backend

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype[T]:
        """Element type."""
        return self._data.dtype

    @property
    def nbytes(self) -> int:
        """Size, in bytes."""
        return self._data.nbytes

    def to_host(self) -> NDArray[T]:
        """Copies the array from the device.

        Returns:
            A new NumPy array.
        """
        return self._backend.copy_to_host(self._data)

    def synchronize(self) -> None:
        """Waits for all work that the backend has started."""
        self._backend.synchronize()

    def __del__(self) -> None:
        # The attribute is missing if the constructor raised.
        if getattr(self, "_owns_data", False):
            self._backend.free(self._data)

    def __repr__(self) -> str:
        return f"BackendArray(shape={self.shape}, dtype={self.dtype}, backend={self._backend.backend_type.name})"


def timed(run: Callable[[], Any]) -> KernelExecutionResult:
    """Runs a function and measures its run time.

    Args:
        run: The function.

    Returns:
        The result. It holds an exception that the function raised.
    """
    start = time.perf_counter()
    failure: Exception | None = None
    try:
        run()
    except Exception as error:
        failure = error
    return KernelExecutionResult(failure is None, (time.perf_counter() - start) * 1000, failure)
