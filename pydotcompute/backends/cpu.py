"""The processor as a backend, by NumPy and, where it is installed, Numba."""

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
    """The processor. A kernel is called once for a launch, whatever the grid; arrays are those of NumPy.

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
        """Always."""
        return True

    @property
    def device_count(self) -> int:
        """One."""
        return 1

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[T] | type[T]) -> NDArray[T]:
        """Makes an array, with any content.

        Args:
            shape: Its shape.
            dtype: The type of its elements.

        Returns:
            The array.
        """
        return np.empty(shape, dtype=dtype)

    def allocate_zeros(self, shape: tuple[int, ...], dtype: np.dtype[T] | type[T]) -> NDArray[T]:
        """Makes an array of zeros.

        Args:
            shape: Its shape.
            dtype: The type of its elements.

        Returns:
            The array.
        """
        return np.zeros(shape, dtype=dtype)

    def free(self, array: NDArray[T]) -> None:
        """Nothing: NumPy gives the memory back when nobody refers to the array."""

    def copy_to_device(self, host_array: NDArray[T]) -> NDArray[T]:
        """Copies an array.

        Args:
            host_array: The array.

        Returns:
            A new array: what is done to it is not seen in the other, as with any device.
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
        """Nothing: a kernel has ended when its launch returns."""

    def execute_kernel(
        self, kernel: Callable[..., Any], grid_size: tuple[int, ...], block_size: tuple[int, ...], *args: Any, **kwargs: Any
    ) -> KernelExecutionResult:
        """Calls a kernel once.

        Args:
            kernel: The kernel.
            grid_size: Without effect.
            block_size: Without effect.
            *args: The kernel's arguments.
            **kwargs: The kernel's arguments by name.

        Returns:
            How that ended. What the kernel raised is there.
        """
        return timed(lambda: kernel(*args, **kwargs))

    def compile_kernel(self, func: Callable[..., Any], signature: str | None = None) -> Callable[..., Any]:
        """Has Numba compile a function to machine code; without Numba the kernel is the function itself.

        Args:
            func: The function.
            signature: The types of its arguments, as Numba writes them: it is compiled at once then. None: when it is first called.

        Returns:
            The kernel.

        Raises:
            KernelCompilationError: It cannot be compiled for this signature.
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
        """Calls a function for each index, in order and in this thread: one interpreter runs one of them at a time anyway.

        For all cores, write the loop with ``numba.prange`` and give it to :meth:`compile_kernel`'s Numba.

        Args:
            start: The first index.
            end: The index after the last.
            func: The function.
        """
        for index in range(start, end):
            func(index)

    def __repr__(self) -> str:
        return "CPUBackend(available=True)"


def vector_add_cpu(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Adds two arrays.

    Args:
        a: One array.
        b: The other, of a shape that broadcasts with the first.

    Returns:
        A new array: the sums.
    """
    return a + b


def matrix_multiply_cpu(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float32]:
    """Multiplies two matrices.

    Args:
        a: The first, of shape (m, k).
        b: The second, of shape (k, n).

    Returns:
        A new matrix of shape (m, n): the product.
    """
    product: NDArray[np.float32] = np.matmul(a, b)
    return product
