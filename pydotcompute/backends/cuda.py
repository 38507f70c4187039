"""A GPU as a backend: CuPy's arrays, Numba's and CuPy's kernels.

All is done on a stream of the backend's own, which waits for no other, and memory comes from a pool in the order of that stream: so nothing
here waits for the whole device, on which a ring kernel may be resident.
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
    """A GPU with CUDA.

    Args:
        device_id: The number of the GPU, from 0.

    Raises:
        BackendNotAvailableError: There is no driver, no such GPU, or no CuPy; the error says which, and what to do.
    """

    def __init__(self, device_id: int = 0) -> None:
        # Asked first: it says what is missing, which CuPy does not.
        self._count = len(cuda_devices())
        self._cupy = import_cupy()
        self._pool = stream_ordered_pool(self._cupy)
        self._streams: dict[int, Any] = {}
        self.set_device(device_id)

    @property
    def backend_type(self) -> BackendType:
        """``BackendType.CUDA``."""
        return BackendType.CUDA

    @property
    def is_available(self) -> bool:
        """Always: without what it needs there is no such object."""
        return True

    @property
    def device_count(self) -> int:
        """How many GPUs this process may use."""
        return self._count

    @property
    def device_id(self) -> int:
        """The number of its GPU."""
        return self._device_id

    def set_device(self, device_id: int) -> None:
        """Chooses the GPU that is used from now on.

        Args:
            device_id: Its number, from 0.

        Raises:
            BackendNotAvailableError: There is no such GPU.
        """
        if not 0 <= device_id < self._count:
            raise BackendNotAvailableError("CUDA", f"there is no GPU {device_id}; choose one from 0 to {self._count - 1}")
        self._device_id = device_id
        if device_id not in self._streams:
            with self._cupy.cuda.Device(device_id):
                self._streams[device_id] = self._cupy.cuda.Stream(non_blocking=True)

    @property
    def _stream(self) -> Any:
        return self._streams[self._device_id]

    @contextmanager
    def _on_device(self, doing: str) -> Iterator[None]:
        """Makes device, stream and pool current, and waits for the stream at the end; errors say what was being done."""
        # What was made elsewhere in this thread is there when this begins.
        wait_for_device_work()
        cuda = self._cupy.cuda
        try:
            with cuda.Device(self._device_id), cuda.using_allocator(self._pool.malloc), self._stream:
                yield
                self._stream.synchronize()
        except (cuda.runtime.CUDARuntimeError, cuda.memory.OutOfMemoryError) as error:
            raise CUDAError(f"{doing} on GPU {self._device_id} failed: {error}") from error

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[T] | type[T]) -> Any:
        """Makes an array on the GPU, with any content.

        Args:
            shape: Its shape.
            dtype: The type of its elements.

        Returns:
            An array of CuPy's.

        Raises:
            CUDAError: There is not so much memory, or the GPU refused.
        """
        with self._on_device(f"Allocating an array of shape {shape}"):
            return self._cupy.empty(shape, dtype=dtype)

    def allocate_zeros(self, shape: tuple[int, ...], dtype: np.dtype[T] | type[T]) -> Any:
        """Makes an array of zeros on the GPU.

        Args:
            shape: Its shape.
            dtype: The type of its elements.

        Returns:
            An array of CuPy's.

        Raises:
            CUDAError: There is not so much memory, or the GPU refused.
        """
        with self._on_device(f"Allocating an array of shape {shape}"):
            return self._cupy.zeros(shape, dtype=dtype)

    def free(self, array: Any) -> None:
        """Nothing: CuPy gives the memory back when nobody refers to the array."""

    def copy_to_device(self, host_array: NDArray[T]) -> Any:
        """Copies an array to the GPU.

        Args:
            host_array: An array of NumPy's.

        Returns:
            A new array of CuPy's.

        Raises:
            CUDAError: There is not so much memory, or the GPU refused.
        """
        with self._on_device("Copying an array to the device"):
            return self._cupy.array(host_array)

    def copy_to_host(self, device_array: Any) -> NDArray[T]:
        """Copies an array from the GPU.

        Args:
            device_array: An array of CuPy's, or of NumPy's.

        Returns:
            A new array of NumPy's.

        Raises:
            CUDAError: The GPU refused.
        """
        with self._on_device("Copying an array to the host"):
            return cast("NDArray[T]", self._cupy.asnumpy(device_array, stream=self._stream))

    def synchronize(self) -> None:
        """Waits for what this backend has started, and for what this thread has started on CuPy's current stream; not for the device.

        Raises:
            CUDAError: Something that was started failed.
        """
        with self._on_device("Waiting for what was started"):
            pass

    def execute_kernel(
        self, kernel: Callable[..., Any], grid_size: tuple[int, ...], block_size: tuple[int, ...], *args: Any, **kwargs: Any
    ) -> KernelExecutionResult:
        """Runs a kernel, and waits for its end.

        Args:
            kernel: A kernel of Numba's or of ``@gpu_kernel``, a ``RawKernel`` of CuPy's, or a function over arrays of CuPy's.
            grid_size: Blocks in each dimension.
            block_size: Threads of a block in each dimension.
            *args: Its arguments.
            **kwargs: Its arguments by name; a ``RawKernel`` has none.

        Returns:
            How that ended. What went wrong is there.
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
        """Has Numba make a kernel of a function.

        Args:
            func: The function; it finds its place in the grid with ``numba.cuda.grid``.
            signature: The types of its arguments, as Numba writes them: it is compiled at once then. None: when it is first launched.

        Returns:
            The kernel.

        Raises:
            BackendNotAvailableError: There is no Numba for GPUs.
            KernelCompilationError: It cannot be compiled for this signature.
        """
        cuda = import_numba_cuda()
        try:
            return cast(Callable[..., Any], cuda.jit(signature)(func) if signature else cuda.jit(func))
        except Exception as error:
            raise KernelCompilationError(getattr(func, "__name__", repr(func)), error) from error

    def get_memory_info(self) -> dict[str, int]:
        """The memory of its GPU.

        Returns:
            Bytes: ``free``, ``total`` and ``used``.

        Raises:
            CUDAError: The driver did not tell.
        """
        free, total = cuda_devices()[self._device_id].memory_info()
        return {"free": free, "total": total, "used": total - free}

    def create_stream(self) -> Any:
        """Makes a stream of CuPy's that waits for no other.

        Returns:
            The stream.
        """
        with self._cupy.cuda.Device(self._device_id):
            return self._cupy.cuda.Stream(non_blocking=True)

    def __repr__(self) -> str:
        free = self.get_memory_info()["free"] >> 20
        return f"CUDABackend(device={self._device_id}, devices={self._count}, memory_free={free}MB)"


def _numba_cuda() -> Any | None:
    """Numba's compiler for GPUs; None where it or a GPU is missing."""
    try:
        cuda_devices()
        return import_numba_cuda()
    except BackendNotAvailableError:
        return None


def get_vector_add_kernel() -> Callable[..., Any] | None:
    """A kernel that adds two arrays: ``kernel[grid, block](a, b, out)``, one thread for each element.

    Returns:
        The kernel; None where there is no GPU or no Numba.
    """
    cuda = _numba_cuda()
    if cuda is None:
        return None

    def vector_add_kernel(a: Any, b: Any, out: Any) -> None:
        at = cuda.grid(1)
        if at < out.shape[0]:
            out[at] = a[at] + b[at]

    return cast(Callable[..., Any], cuda.jit(vector_add_kernel))


def get_matrix_multiply_kernel() -> Callable[..., Any] | None:
    """A kernel that multiplies two matrices: ``kernel[grid, block](a, b, out)``, one thread for each element of ``out``.

    Returns:
        The kernel; None where there is no GPU or no Numba.
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
