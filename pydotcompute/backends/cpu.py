"""CPU backend, based on NumPy and, if installed, Numba."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from pydotcompute.backends.base import Backend, BackendType, KernelExecutionResult, timed
from pydotcompute.exceptions import KernelCompilationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CPUBackend", "matrix_multiply_cpu", "vector_add_cpu"]

T = TypeVar("T", bound=np.generic)


class CPUBackend(Backend):
    """The CPU. Each launch calls the kernel once, whatever the grid. Arrays are NumPy arrays.

    Example:
        >>> import numpy as np
        >>> backend = CPUBackend()
        >>> array = backend.allocate_zeros((4,), np.float32)
        >>> backend.execute_kernel(lambda a: np.add(a, 1, out=a), (1,), (1,), array).success
        True
        >>> array
        array([1., 1., 1., 1.], dtype=float32)
    """

    @property
    def backend_type(self) -> BackendType:
        """``BackendType.CPU``."""
        return BackendType.CPU

    @property
    def is_available(self) -> bool:
        """Always true."""
        return True

    @property
    def device_count(self) -> int:
        """Always 1."""
        return 1

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[T] | type[T]) -> NDArray[T]:
        """Allocates an uninitialized array.

        Args:
            shape: Shape of the array.
            dtype: Element type.

        Returns:
            The array.
        """
        return np.empty(shape, dtype=dtype)

    def allocate_zeros(self, shape: tuple[int, ...], dtype: np.dtype[T] | type[T]) -> NDArray[T]:
        """Allocates an array of zeros.

        Args:
            shape: Shape of the array.
            dtype: Element type.

        Returns:
            The array.
        """
        return np.zeros(shape, dtype=dtype)

    def free(self, array: NDArray[T]) -> None:
        """Does nothing: NumPy frees the memory with the last reference to the array.

        Args:
            array: The array.
        """

    def copy_to_device(self, host_array: NDArray[T]) -> NDArray[T]:
        """Copies an array.

        Args:
            host_array: The array.

        Returns:
            A new array. As on other devices, writes to it do not change the original.
        """
        return host_array.copy()

    def copy_to_host(self, device_array: NDArray[T]) -> NDArray[T]:
        """Copies an array.

        Args:
            device_array: The array.

        Returns:
            A new array.
        """
        return device_array.copy()

    def synchronize(self) -> None:
        """Does nothing: a kernel has finished when its launch returns."""

    def execute_kernel(
        self, kernel: Callable[..., Any], grid_size: tuple[int, ...], block_size: tuple[int, ...], *args: Any, **kwargs: Any
    ) -> KernelExecutionResult:
        """Calls a kernel once.

        Args:
            kernel: The kernel.
            grid_size: Ignored.
            block_size: Ignored.
            *args: Arguments of the kernel.
            **kwargs: Keyword arguments of the kernel.

        Returns:
            The result. It holds an exception that the kernel raised.
        """
        return timed(lambda: kernel(*args, **kwargs))

    def compile_kernel(self, func: Callable[..., Any], signature: str | None = None) -> Callable[..., Any]:
        """Compiles a function to machine code with Numba. Without Numba the kernel is the function itself.

        Args:
            func: The function.
            signature: Numba signature of the function, for immediate compilation; ``None`` compiles at the first call.

        Returns:
            The kernel.

        Raises:
            KernelCompilationError: The function does not compile for this signature.
        """
        try:
            numba = importlib.import_module("numba")
        except ImportError:
            return func
        try:
            return cast(Callable[..., Any], numba.njit(signature)(func) if signature else numba.njit(func))
        except Exception as error:
            raise KernelCompilationError(getattr(func, "__name__", repr(func)), error) from error

    def parallel_for(self, start: int, end: int, func: Callable[[int], None]) -> None:
        """Calls a function for each index, in order and on this thread, since the GIL would serialize parallel calls anyway.

        To use all cores, write the loop with ``numba.prange`` and compile it with Numba.

        Args:
            start: First index.
            end: Index after the last.
            func: The function.
        """
        for index in range(start, end):
            func(index)

    def __repr__(self) -> str:
        return "CPUBackend(available=True)"


def vector_add_cpu(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Adds two arrays.

    Args:
        a: First array.
        b: Second array, of a shape that broadcasts with the first.

    Returns:
        A new array: the sums.
    """
    return a + b


def matrix_multiply_cpu(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiplies two matrices.

    Args:
        a: First matrix, of shape (m, k).
        b: Second matrix, of shape (k, n).

    Returns:
        A new matrix of shape (m, n): the product.
    """
    product: NDArray[np.float32] = np.matmul(a, b)
    return product
