"""MLX as a backend: on a Mac it computes on the GPU, by Metal; on Linux on the processor, with the same results.

There arrays are MLX's, kernels are functions over them, and the grid is MLX's own affair.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pydotcompute._optional import import_mlx
from pydotcompute.backends.base import Backend, BackendType, KernelExecutionResult, timed
from pydotcompute.core._metal_array import mlx_dtype
from pydotcompute.exceptions import BackendNotAvailableError, MetalError, MSLCompilationError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "MetalBackend",
    "MetalBufferInfo",
    "MetalBufferState",
    "get_elementwise_kernel",
    "get_matrix_multiply_kernel",
    "get_vector_add_kernel",
]

T = TypeVar("T", bound=np.generic)

# By 0.2's names.
_ELEMENTWISE = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "div": "divide",
    "sqrt": "sqrt",
    "exp": "exp",
    "log": "log",
    "sin": "sin",
    "cos": "cos",
    "abs": "abs",
    "square": "square",
    "negative": "negative",
}


class MetalBufferState(Enum):
    """What is done with an array's memory."""

    ALLOCATED = auto()
    FREED = auto()
    IN_USE = auto()


@dataclass
class MetalBufferInfo:
    """An array that a backend made and nobody has freed yet.

    Attributes:
        array_id: Its ``id()``.
        size: How many bytes it has, as NumPy counts them.
        shape: Its shape.
        dtype: The type of NumPy that was asked for.
        state: What is done with it.
        created_at: When it was made, by ``time.time()``.
        last_accessed: When a kernel or a copy last used it.
    """

    array_id: int
    size: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    state: MetalBufferState
    created_at: float = field(default_factory=time.time)
    last_accessed: float = field(default_factory=time.time)


class MetalBackend(Backend):
    """MLX: a GPU of Apple's on a Mac, else the processor. Any number of threads may use it.

    Args:
        device_id: The device's number; there is one, 0.

    Raises:
        BackendNotAvailableError: There is no MLX, or no such device.
    """

    def __init__(self, device_id: int = 0) -> None:
        self._mlx = import_mlx()
        if device_id != 0:
            raise BackendNotAvailableError("Metal", f"there is no device {device_id}: MLX has one, number 0")
        self._device_id = device_id
        # The garbage collector may end an array, and so take this lock, while this thread has it.
        self._lock = threading.RLock()
        self._buffer_registry: dict[int, MetalBufferInfo] = {}
        # A kernel that is asked for again is the same one.
        self._kernel_of = lru_cache(maxsize=128)(self._make_kernel)

    @property
    def backend_type(self) -> BackendType:
        """``BackendType.METAL``."""
        return BackendType.METAL

    @property
    def is_available(self) -> bool:
        """Always: without MLX there is no such object."""
        return True

    @property
    def uses_gpu(self) -> bool:
        """Whether it computes on a GPU, by Metal."""
        return bool(self._mlx.metal.is_available())

    @property
    def device_count(self) -> int:
        """One."""
        return 1

    @property
    def device_id(self) -> int:
        """Its device's number: 0."""
        return self._device_id

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[T] | type[T]) -> Any:
        """Makes an array, of zeros.

        Args:
            shape: Its shape.
            dtype: The type of its elements; of 64-bit floats there are none, and 32-bit ones are taken.

        Returns:
            An array of MLX's.

        Raises:
            MetalError: MLX has no such type, or not so much memory.
        """
        wanted = np.dtype(dtype)
        kind = mlx_dtype(self._mlx, wanted)
        try:
            array = self._mlx.zeros(shape, dtype=kind)
            # Now, so that what is wrong is said here.
            self._mlx.eval(array)
        except (RuntimeError, ValueError, TypeError) as error:
            raise MetalError(f"Allocating an array of shape {shape} failed: {error}; ask for less, or clear_cache()") from error
        return self._registered(array, wanted)

    def allocate_zeros(self, shape: tuple[int, ...], dtype: np.dtype[T] | type[T]) -> Any:
        """Makes an array of zeros: as :meth:`allocate`."""
        return self.allocate(shape, dtype)

    def _registered(self, array: Any, dtype: np.dtype[Any]) -> Any:
        shape = tuple(array.shape)
        info = MetalBufferInfo(id(array), array.size * dtype.itemsize, shape, dtype, MetalBufferState.ALLOCATED)
        with self._lock:
            self._buffer_registry[info.array_id] = info
        # Nobody has to free an array, and its id may be another's after its end.
        weakref.finalize(array, _forget, weakref.ref(self), info).atexit = False
        return array

    def free(self, array: Any) -> None:
        """Takes an array off the books. Its memory is given back when nobody refers to it.

        Args:
            array: The array.
        """
        with self._lock:
            info = self._buffer_registry.pop(id(array), None)
        if info is not None:
            info.state = MetalBufferState.FREED

    def copy_to_device(self, host_array: NDArray[T]) -> Any:
        """Copies an array to MLX.

        Args:
            host_array: An array of NumPy's; 64-bit floats become 32-bit ones.

        Returns:
            A new array of MLX's.

        Raises:
            MetalError: MLX has no such type, or not so much memory.
        """
        host = np.asarray(host_array)
        kind = mlx_dtype(self._mlx, host.dtype)
        try:
            array = self._mlx.array(host, dtype=kind)
            self._mlx.eval(array)
        except (RuntimeError, ValueError, TypeError) as error:
            raise MetalError(f"Copying an array of shape {host.shape} to the device failed: {error}") from error
        return self._registered(array, host.dtype)

    def copy_to_host(self, device_array: Any) -> NDArray[T]:
        """Copies an array from MLX, after what makes it has been computed.

        Args:
            device_array: An array of MLX's.

        Returns:
            A new array of NumPy's.

        Raises:
            MetalError: It could not be computed, or NumPy has no such type.
        """
        self._touch(device_array)
        try:
            return np.array(device_array)
        except (RuntimeError, ValueError, TypeError) as error:
            raise MetalError(f"Copying an array to the host failed: {error}") from error

    def _touch(self, *arrays: Any) -> None:
        now = time.time()
        with self._lock:
            for array in arrays:
                info = self._buffer_registry.get(id(array))
                if info is not None:
                    info.last_accessed = now

    def synchronize(self) -> None:
        """Waits for all that MLX has started."""
        self._mlx.synchronize()

    def execute_kernel(
        self, kernel: Callable[..., Any], grid_size: tuple[int, ...], block_size: tuple[int, ...], *args: Any, **kwargs: Any
    ) -> KernelExecutionResult:
        """Runs a kernel, and computes what it returns.

        Args:
            kernel: A function over arrays of MLX's.
            grid_size: Without effect.
            block_size: Without effect.
            *args: Its arguments.
            **kwargs: Its arguments by name.

        Returns:
            How that ended. What went wrong is there.
        """

        def run() -> None:
            self._touch(*args, *kwargs.values())
            # It passes over what is no array.
            self._mlx.eval(kernel(*args, **kwargs))
            self._mlx.synchronize()

        return timed(run)

    def compile_kernel(self, func: Callable[..., Any], signature: str | None = None) -> Callable[..., Any]:
        """Makes a kernel of a function over arrays of MLX's: one that takes NumPy's too, and computes what it returns.

        Args:
            func: The function.
            signature: Without effect: MLX compiles for the types that come.

        Returns:
            The kernel.

        Raises:
            MSLCompilationError: ``func`` is text in Metal's language, which needs to be told what goes in and comes out.
            MetalError: It is no function.
        """
        if isinstance(func, str):
            advice = (
                "text alone does not say what goes in and out: give it to mlx.core.fast.metal_kernel, and pass a function that calls it"
            )
            raise MSLCompilationError(signature or "kernel_main", advice)
        if not callable(func):
            raise MetalError(f"Cannot make a kernel of {func!r}: give a function over arrays of MLX's")

        return self._kernel_of(func)

    def _make_kernel(self, func: Callable[..., Any]) -> Callable[..., Any]:
        def metal_kernel(*args: Any, **kwargs: Any) -> Any:
            result = func(*map(self._taken, args), **{name: self._taken(value) for name, value in kwargs.items()})
            self._mlx.eval(result)
            return result

        return metal_kernel

    def _taken(self, value: Any) -> Any:
        return self._mlx.array(value, dtype=mlx_dtype(self._mlx, value.dtype)) if isinstance(value, np.ndarray) else value

    def get_memory_info(self) -> dict[str, int]:
        """The memory of this backend and of MLX.

        Returns:
            ``allocated``, bytes of the arrays that this backend made and that are still there; ``buffer_count``, how many these are;
            ``cache_memory``, bytes that MLX keeps for later; ``peak_memory``, the most that it had in use at once.
        """
        with self._lock:
            infos = list(self._buffer_registry.values())
        return {
            "allocated": sum(info.size for info in infos),
            "buffer_count": len(infos),
            "cache_memory": self._mlx.get_cache_memory(),
            "peak_memory": self._mlx.get_peak_memory(),
        }

    def clear_cache(self) -> None:
        """Has MLX give back what it keeps for later."""
        self._mlx.clear_cache()

    def __repr__(self) -> str:
        info = self.get_memory_info()
        return (
            f"MetalBackend(device={self._device_id}, available=True, gpu={self.uses_gpu}, "
            f"buffers={info['buffer_count']}, cache={info['cache_memory'] // 1024}KB)"
        )


def _forget(backend: weakref.ref[MetalBackend], info: MetalBufferInfo) -> None:
    """Takes an array that has ended off the books."""
    there = backend()
    if there is None:
        return
    with there._lock:
        # Another array may have the same id by now.
        if there._buffer_registry.get(info.array_id) is info:
            del there._buffer_registry[info.array_id]
            info.state = MetalBufferState.FREED


def _mlx_function(name: str) -> Callable[..., Any] | None:
    try:
        function: Callable[..., Any] = getattr(import_mlx(), name)
    except BackendNotAvailableError:
        return None
    return function


def get_vector_add_kernel() -> Callable[..., Any] | None:
    """The function that adds two arrays of MLX's.

    Returns:
        The function; None without MLX.
    """
    return _mlx_function("add")


def get_matrix_multiply_kernel() -> Callable[..., Any] | None:
    """The function that multiplies two matrices of MLX's.

    Returns:
        The function; None without MLX.
    """
    return _mlx_function("matmul")


def get_elementwise_kernel(operation: str) -> Callable[..., Any] | None:
    """The function of MLX's for an operation on each element.

    Args:
        operation: One of ``add``, ``sub``, ``mul``, ``div``, ``sqrt``, ``exp``, ``log``, ``sin``, ``cos``, ``abs``, ``square`` and
            ``negative``.

    Returns:
        The function; None without MLX, or if there is no such operation.
    """
    name = _ELEMENTWISE.get(operation)
    return None if name is None else _mlx_function(name)
