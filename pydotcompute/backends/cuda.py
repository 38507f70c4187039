"""CUDA backend: CuPy arrays, and kernels compiled by Numba or CuPy.

All work runs on a non-blocking stream of the backend, and memory comes from a stream-ordered pool. Nothing here therefore waits for the
whole device, on which a ring kernel may be resident.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from pydotcompute._optional import cuda_devices, import_cupy, import_numba_cuda, stream_ordered_pool, wait_for_device_work
from pydotcompute.backends.base import Backend, BackendType, KernelExecutionResult, timed
from pydotcompute.core._grid_launch import launch, launchable
from pydotcompute.exceptions import BackendNotAvailableError, CUDAError, KernelCompilationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CUDABackend", "get_matrix_multiply_kernel", "get_vector_add_kernel"]

T = TypeVar("T", bound=np.generic)


class CUDABackend(Backend):
    """A CUDA GPU.

    Without a driver, a GPU or CuPy, ``is_available`` is false, and every use raises ``BackendNotAvailableError``, which says what is
    missing and what to do.

    Args:
        device_id: Index of the GPU, from 0.

    Raises:
        BackendNotAvailableError: There are GPUs, and this one is not among them.
    """

    def __init__(self, device_id: int = 0) -> None:
        self._count = 0
        self._device_id = device_id
        self._streams: dict[int, Any] = {}
        self._module: Any = None
        self._unavailable: BackendNotAvailableError | None = None
        try:
            # Before CuPy, because its errors do not say what is missing.
            count = len(cuda_devices())
            self._module = import_cupy()
        except BackendNotAvailableError as error:
            self._unavailable = error
            return
        self._count = count
        self._pool = stream_ordered_pool(self._module)
        self.set_device(device_id)

    @property
    def backend_type(self) -> BackendType:
        """``BackendType.CUDA``."""
        return BackendType.CUDA

    @property
    def _cupy(self) -> Any:
        """The module, or ``BackendNotAvailableError``."""
        if self._unavailable is not None:
            raise BackendNotAvailableError(self._unavailable.backend_name, self._unavailable.reason)
        return self._module

    @property
    def is_available(self) -> bool:
        """Whether there are a driver, a GPU and CuPy."""
        return self._unavailable is None

    @property
    def device_count(self) -> int:
        """Number of GPUs that this process may use."""
        return self._count

    @property
    def device_id(self) -> int:
        """Index of the current GPU."""
        return self._device_id

    def set_device(self, device_id: int) -> None:
        """Selects the GPU for later calls.

        Args:
            device_id: Index of the GPU, from 0.

        Raises:
            BackendNotAvailableError: There is no such GPU.
        """
        cupy = self._cupy
        if not 0 <= device_id < self._count:
            raise BackendNotAvailableError("CUDA", f"there is no GPU {device_id}; choose one from 0 to {self._count - 1}")
        self._device_id = device_id
        if device_id not in self._streams:
            with cupy.cuda.Device(device_id):
                self._streams[device_id] = cupy.cuda.Stream(non_blocking=True)

    @property
    def _stream(self) -> Any:
        return self._streams[self._device_id]

    @contextmanager
    def _on_device(self, operation: str) -> Iterator[None]:
        """Makes device, stream and pool current, and synchronizes the stream on exit. Errors name the operation."""
        # Finish work that other libraries started in this thread.
        wait_for_device_work()
        cuda = self._cupy.cuda
        try:
            with cuda.Device(self._device_id), cuda.using_allocator(self._pool.malloc), self._stream:
                yield
                self._stream.synchronize()
        except (cuda.runtime.CUDARuntimeError, cuda.memory.OutOfMemoryError) as error:
            raise CUDAError(f"{operation} on GPU {self._device_id} failed: {error}") from error

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[T] | type[T]) -> Any:
        """Allocates an uninitialized array on the GPU.

        Args:
            shape: Shape of the array.
            dtype: Element type.

        Returns:
            A CuPy array.

        Raises:
            CUDAError: Not enough memory, or a CUDA call failed.
        """
        with self._on_device(f"Allocating an array of shape {shape}"):
            return self._cupy.empty(shape, dtype=dtype)

    def allocate_zeros(self, shape: tuple[int, ...], dtype: np.dtype[T] | type[T]) -> Any:
        """Allocates an array of zeros on the GPU.

        Args:
            shape: Shape of the array.
            dtype: Element type.

        Returns:
            A CuPy array.

        Raises:
            CUDAError: Not enough memory, or a CUDA call failed.
        """
        with self._on_device(f"Allocating an array of shape {shape}"):
            return self._cupy.zeros(shape, dtype=dtype)

    def free(self, array: Any) -> None:
        """Does nothing: CuPy frees the memory with the last reference to the array.

        Args:
            array: The array.
        """

    def copy_to_device(self, host_array: NDArray[T]) -> Any:
        """Copies an array to the GPU.

        Args:
            host_array: A NumPy array.

        Returns:
            A new CuPy array.

        Raises:
            CUDAError: Not enough memory, or a CUDA call failed.
        """
        with self._on_device("Copying an array to the device"):
            return self._cupy.array(host_array)

    def copy_to_host(self, device_array: Any) -> NDArray[T]:
        """Copies an array from the GPU.

        Args:
            device_array: A CuPy or NumPy array.

        Returns:
            A new NumPy array.

        Raises:
            CUDAError: A CUDA call failed.
        """
        with self._on_device("Copying an array to the host"):
            return cast("NDArray[T]", self._cupy.asnumpy(device_array, stream=self._stream))

    def synchronize(self) -> None:
        """Waits for the backend's stream and for this thread's work on CuPy's current stream; does not wait for the device.

        Raises:
            CUDAError: The work failed.
        """
        with self._on_device("Waiting for earlier work"):
            pass

    def execute_kernel(
        self, kernel: Callable[..., Any], grid_size: tuple[int, ...], block_size: tuple[int, ...], *args: Any, **kwargs: Any
    ) -> KernelExecutionResult:
        """Runs a kernel, and waits for it.

        Args:
            kernel: A Numba or ``@gpu_kernel`` kernel, a CuPy ``RawKernel``, or a function over CuPy arrays.
            grid_size: Number of blocks in each dimension.
            block_size: Number of threads per block in each dimension.
            *args: Arguments of the kernel.
            **kwargs: Keyword arguments of the kernel; a ``RawKernel`` accepts none.

        Returns:
            The result. It holds an exception that the kernel raised.
        """

        def run() -> None:
            with self._on_device("Running a kernel"):
                target = launchable(kernel)
                if target is not None:
                    launch(target, grid_size, block_size, self._stream, 0, *args, **kwargs)
                elif isinstance(kernel, self._cupy.RawKernel):
                    kernel(grid_size, block_size, args, **kwargs)
                else:
                    kernel(*args, **kwargs)

        return timed(run)

    def compile_kernel(self, func: Callable[..., Any], signature: str | None = None) -> Callable[..., Any]:
        """Compiles a function to a GPU kernel with Numba.

        Args:
            func: The function; ``numba.cuda.grid`` gives it its index.
            signature: Numba signature of the function, for immediate compilation; ``None`` compiles at the first launch.

        Returns:
            The kernel.

        Raises:
            BackendNotAvailableError: numba-cuda is not installed.
            KernelCompilationError: The function does not compile for this signature.
        """
        cuda = import_numba_cuda()
        try:
            return cast(Callable[..., Any], cuda.jit(signature)(func) if signature else cuda.jit(func))
        except Exception as error:
            raise KernelCompilationError(getattr(func, "__name__", repr(func)), error) from error

    def get_memory_info(self) -> dict[str, int]:
        """Returns the memory of the current GPU.

        Returns:
            Bytes: ``free``, ``total`` and ``used``.

        Raises:
            CUDAError: The driver call failed.
        """
        free, total = cuda_devices()[self._device_id].memory_info()
        return {"free": free, "total": total, "used": total - free}

    def create_stream(self) -> Any:
        """Creates a non-blocking CuPy stream, which synchronizes with no other.

        Returns:
            The stream.
        """
        with self._cupy.cuda.Device(self._device_id):
            return self._cupy.cuda.Stream(non_blocking=True)

    def __repr__(self) -> str:
        if not self.is_available:
            return "CUDABackend(available=False)"
        free = self.get_memory_info()["free"] >> 20
        return f"CUDABackend(device={self._device_id}, devices={self._count}, memory_free={free}MB)"


def _numba_cuda() -> Any | None:
    """Returns Numba's compiler for GPUs; ``None`` if it or a GPU is missing."""
    try:
        cuda_devices()
        return import_numba_cuda()
    except BackendNotAvailableError:
        return None


def get_vector_add_kernel() -> Callable[..., Any] | None:
    """Returns a kernel that adds two arrays: ``kernel[grid, block](a, b, out)``, with one thread per element.

    Returns:
        The kernel; ``None`` without a GPU or Numba.
    """
    cuda = _numba_cuda()
    if cuda is None:
        return None

    def vector_add_kernel(a: Any, b: Any, out: Any) -> None:
        index = cuda.grid(1)
        if index < out.shape[0]:
            out[index] = a[index] + b[index]

    return cast(Callable[..., Any], cuda.jit(vector_add_kernel))


def get_matrix_multiply_kernel() -> Callable[..., Any] | None:
    """Returns a kernel that multiplies two matrices: ``kernel[grid, block](a, b, out)``, with one thread per element of ``out``.

    Returns:
        The kernel; ``None`` without a GPU or Numba.
    """
    cuda = _numba_cuda()
    if cuda is None:
        return None

    def matrix_multiply_kernel(a: Any, b: Any, out: Any) -> None:
        row, column = cuda.grid(2)
        if row < out.shape[0] and column < out.shape[1]:
            total = out.dtype.type(0)
            for k in range(a.shape[1]):
                total += a[row, k] * b[k, column]
            out[row, column] = total

    return cast(Callable[..., Any], cuda.jit(matrix_multiply_kernel))
