"""Metal backend, based on MLX, which computes on the GPU on a Mac and on the CPU on Linux, with the same results.

Arrays are MLX arrays, and kernels are functions over them. MLX chooses the grid.
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

# Keys: the names that 0.2 uses.
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
    """State of an array's memory."""

    ALLOCATED = auto()
    FREED = auto()
    IN_USE = auto()


@dataclass
class MetalBufferInfo:
    """An array of a backend that is not freed yet.

    Attributes:
        array_id: Its ``id()``.
        size: Size, in bytes of the NumPy type.
        shape: Shape of the array.
        dtype: Requested NumPy type.
        state: State of the memory.
        created_at: Time of creation, from ``time.time()``.
        last_accessed: Time of the last use by a kernel or copy.
    """

    array_id: int
    size: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    state: MetalBufferState
    created_at: float = field(default_factory=time.time)
    last_accessed: float = field(default_factory=time.time)


class MetalBackend(Backend):
    """MLX: an Apple GPU on a Mac, otherwise the CPU. Thread-safe.

    Without MLX, ``is_available`` is false, and every use raises ``BackendNotAvailableError``.

    Args:
        device_id: Index of the device; always 0.

    Raises:
        BackendNotAvailableError: There is no such device.
    """

    def __init__(self, device_id: int = 0) -> None:
        self._module: Any = None
        self._unavailable: BackendNotAvailableError | None = None
        try:
            self._module = import_mlx()
        except BackendNotAvailableError as error:
            self._unavailable = error
        if device_id != 0:
            raise BackendNotAvailableError("Metal", f"there is no device {device_id}: MLX has one, number 0")
        self._device_id = device_id
        # Reentrant: the garbage collector may finalize an array, which takes this lock, while this thread holds it.
        self._lock = threading.RLock()
        self._buffer_registry: dict[int, MetalBufferInfo] = {}
        # Cached, so that compiling the same function again returns the same kernel.
        self._cached_kernel = lru_cache(maxsize=128)(self._make_kernel)

    @property
    def backend_type(self) -> BackendType:
        """``BackendType.METAL``."""
        return BackendType.METAL

    @property
    def _mlx(self) -> Any:
        """The module, or ``BackendNotAvailableError``."""
        if self._unavailable is not None:
            raise BackendNotAvailableError(self._unavailable.backend_name, self._unavailable.reason)
        return self._module

    @property
    def is_available(self) -> bool:
        """Whether MLX is installed."""
        return self._unavailable is None

    @property
    def uses_gpu(self) -> bool:
        """Whether it computes on a GPU, through Metal."""
        return self.is_available and bool(self._mlx.metal.is_available())

    @property
    def device_count(self) -> int:
        """1, or 0 without MLX."""
        return int(self.is_available)

    @property
    def device_id(self) -> int:
        """Index of the device: 0."""
        return self._device_id

    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[T] | type[T]) -> Any:
        """Allocates an array of zeros.

        Args:
            shape: Shape of the array.
            dtype: Element type. MLX has no 64-bit floats; they become 32-bit floats.

        Returns:
            An MLX array.

        Raises:
            MetalError: MLX does not support the type, or there is not enough memory.
        """
        requested = np.dtype(dtype)
        kind = mlx_dtype(self._mlx, requested)
        try:
            array = self._mlx.zeros(shape, dtype=kind)
            # Evaluated now, so that errors are raised here.
            self._mlx.eval(array)
        except (RuntimeError, ValueError, TypeError) as error:
            raise MetalError(f"Allocating an array of shape {shape} failed: {error}; allocate less, or call clear_cache()") from error
        return self._register(array, requested)

    def allocate_zeros(self, shape: tuple[int, ...], dtype: np.dtype[T] | type[T]) -> Any:
        """Allocates an array of zeros.

        Args:
            shape: Shape.
            dtype: Element type.

        Returns:
            An MLX array.

        Raises:
            BackendNotAvailableError: MLX is not installed.
            MetalError: MLX does not support the type, or there is not enough memory.
        """
        return self.allocate(shape, dtype)

    def _register(self, array: Any, dtype: np.dtype[Any]) -> Any:
        shape = tuple(array.shape)
        info = MetalBufferInfo(id(array), array.size * dtype.itemsize, shape, dtype, MetalBufferState.ALLOCATED)
        with self._lock:
            self._buffer_registry[info.array_id] = info
        # Callers need not free arrays, and a finalized array's id may be reused.
        weakref.finalize(array, _unregister, weakref.ref(self), info).atexit = False
        return array

    def free(self, array: Any) -> None:
        """Removes an array from the accounting. Its memory is freed with the last reference to it.

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
            host_array: A NumPy array; 64-bit floats become 32-bit floats.

        Returns:
            A new MLX array.

        Raises:
            MetalError: MLX does not support the type, or there is not enough memory.
        """
        host = np.asarray(host_array)
        kind = mlx_dtype(self._mlx, host.dtype)
        try:
            array = self._mlx.array(host, dtype=kind)
            self._mlx.eval(array)
        except (RuntimeError, ValueError, TypeError) as error:
            raise MetalError(f"Copying an array of shape {host.shape} to the device failed: {error}") from error
        return self._register(array, host.dtype)

    def copy_to_host(self, device_array: Any) -> NDArray[T]:
        """Evaluates an MLX array, and copies it to the host.

        Args:
            device_array: An MLX array.

        Returns:
            A new NumPy array.

        Raises:
            MetalError: The evaluation failed, or NumPy does not support the type.
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
        """Waits for all work that MLX has started."""
        self._mlx.synchronize()

    def execute_kernel(
        self, kernel: Callable[..., Any], grid_size: tuple[int, ...], block_size: tuple[int, ...], *args: Any, **kwargs: Any
    ) -> KernelExecutionResult:
        """Runs a kernel, and evaluates its results.

        Args:
            kernel: A function over MLX arrays.
            grid_size: Ignored.
            block_size: Ignored.
            *args: Arguments of the kernel.
            **kwargs: Keyword arguments of the kernel.

        Returns:
            The result. It holds an exception that the kernel raised.
        """

        def run() -> None:
            self._touch(*args, *kwargs.values())
            # `eval` ignores values that are not arrays.
            self._mlx.eval(kernel(*args, **kwargs))
            self._mlx.synchronize()

        return timed(run)

    def compile_kernel(self, func: Callable[..., Any], signature: str | None = None) -> Callable[..., Any]:
        """Makes a kernel of a function over MLX arrays. The kernel also accepts NumPy arrays, and evaluates its results.

        Args:
            func: The function.
            signature: Ignored: MLX compiles for the types of each call.

        Returns:
            The kernel.

        Raises:
            MSLCompilationError: ``func`` is Metal shader source, which does not declare its inputs and outputs.
            MetalError: ``func`` is not a function.
        """
        if isinstance(func, str):
            advice = "shader source declares no inputs and outputs: pass it to mlx.core.fast.metal_kernel, and give a function calling it"
            raise MSLCompilationError(signature or "kernel_main", advice)
        if not callable(func):
            raise MetalError(f"Cannot compile {func!r}: not a function; give a function over MLX arrays")

        return self._cached_kernel(func)

    def _make_kernel(self, func: Callable[..., Any]) -> Callable[..., Any]:
        def metal_kernel(*args: Any, **kwargs: Any) -> Any:
            result = func(*map(self._to_mlx, args), **{name: self._to_mlx(value) for name, value in kwargs.items()})
            self._mlx.eval(result)
            return result

        return metal_kernel

    def _to_mlx(self, value: Any) -> Any:
        return self._mlx.array(value, dtype=mlx_dtype(self._mlx, value.dtype)) if isinstance(value, np.ndarray) else value

    def get_memory_info(self) -> dict[str, int]:
        """Returns the memory use of this backend and of MLX.

        Returns:
            ``allocated``: bytes of this backend's live arrays; ``buffer_count``: number of these arrays; ``cache_memory``: bytes cached by
            MLX; ``peak_memory``: highest number of bytes in use by MLX.
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
        """Frees the memory that MLX caches."""
        self._mlx.clear_cache()

    def __repr__(self) -> str:
        if not self.is_available:
            return "MetalBackend(available=False)"
        info = self.get_memory_info()
        return (
            f"MetalBackend(device={self._device_id}, available=True, gpu={self.uses_gpu}, "
            f"buffers={info['buffer_count']}, cache={info['cache_memory'] // 1024}KB)"
        )


def _unregister(backend: weakref.ref[MetalBackend], info: MetalBufferInfo) -> None:
    """Removes a finalized array from the accounting."""
    owner = backend()
    if owner is None:
        return
    with owner._lock:
        # Another array may have the same id now.
        if owner._buffer_registry.get(info.array_id) is info:
            del owner._buffer_registry[info.array_id]
            info.state = MetalBufferState.FREED


def _mlx_function(name: str) -> Callable[..., Any] | None:
    try:
        function: Callable[..., Any] = getattr(import_mlx(), name)
    except BackendNotAvailableError:
        return None
    return function


def get_vector_add_kernel() -> Callable[..., Any] | None:
    """Returns the MLX function that adds two arrays.

    Returns:
        The function; ``None`` without MLX.
    """
    return _mlx_function("add")


def get_matrix_multiply_kernel() -> Callable[..., Any] | None:
    """Returns the MLX function that multiplies two matrices.

    Returns:
        The function; ``None`` without MLX.
    """
    return _mlx_function("matmul")


def get_elementwise_kernel(operation: str) -> Callable[..., Any] | None:
    """Returns the MLX function of an elementwise operation.

    Args:
        operation: One of ``add``, ``sub``, ``mul``, ``div``, ``sqrt``, ``exp``, ``log``, ``sin``, ``cos``, ``abs``, ``square`` and
            ``negative``.

    Returns:
        The function; ``None`` without MLX, or for an unknown operation.
    """
    name = _ELEMENTWISE.get(operation)
    return None if name is None else _mlx_function(name)
