"""What every backend can do."""

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
    """The kind of a backend."""

    CPU = auto()
    CUDA = auto()
    METAL = auto()


@dataclass
class KernelExecutionResult:
    """How a kernel's run ended.

    Attributes:
        success: Whether it ended without an error.
        execution_time_ms: How long it took, in milliseconds.
        error: What it raised.
    """

    success: bool
    execution_time_ms: float
    error: Exception | None = None


class Backend(ABC):
    """Where kernels run and their arrays live."""

    @property
    @abstractmethod
    def backend_type(self) -> BackendType:
        """Its kind."""

    @property
    @abstractmethod
    def is_available(self) -> bool:
        """Whether this machine has what it needs."""

    @property
    @abstractmethod
    def device_count(self) -> int:
        """How many devices it has."""

    @abstractmethod
    def allocate(self, shape: tuple[int, ...], dtype: np.dtype[T]) -> NDArray[T]:
        """Makes an array on the device, with any content.

        Args:
            shape: Its shape.
            dtype: The type of its elements.

        Returns:
            The array.
        """

    @abstractmethod
    def free(self, array: NDArray[T]) -> None:
        """Says that an array is not needed any more. Its memory is given back when nobody refers to it.

        Args:
            array: The array.
        """

    @abstractmethod
    def copy_to_device(self, host_array: NDArray[T]) -> NDArray[T]:
        """Copies an array to the device.

        Args:
            host_array: An array of NumPy's.

        Returns:
            A new array on the device.
        """

    @abstractmethod
    def copy_to_host(self, device_array: NDArray[T]) -> NDArray[T]:
        """Copies an array from the device.

        Args:
            device_array: An array on the device.

        Returns:
            A new array of NumPy's.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Waits for all that this backend has started."""

    @abstractmethod
    def execute_kernel(
        self, kernel: Callable[..., Any], grid_size: tuple[int, ...], block_size: tuple[int, ...], *args: Any, **kwargs: Any
    ) -> KernelExecutionResult:
        """Runs a kernel, and waits for its end.

        Args:
            kernel: The kernel.
            grid_size: Blocks in each dimension.
            block_size: Threads of a block in each dimension.
            *args: The kernel's arguments.
            **kwargs: The kernel's arguments by name.

        Returns:
            How that ended. What the kernel raised is there, and is not raised here.
        """

    @abstractmethod
    def compile_kernel(self, func: Callable[..., Any], signature: str | None = None) -> Callable[..., Any]:
        """Makes a kernel of a function.

        Args:
            func: The function.
            signature: The types of its arguments, as Numba writes them; None: those that it is first called with.

        Returns:
            The kernel.
        """


class BackendArray(Generic[T]):
    """An array with the backend that it lives on.

    Args:
        data: The array.
        backend: The backend.
        owns_data: Whether it is freed with this object.
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
        """Its backend."""
        return self._backend

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return self._data.shape

    @property
    def dtype(self) -> np.dtype[T]:
        """The type of its elements."""
        return self._data.dtype

    @property
    def nbytes(self) -> int:
        """How many bytes it has."""
        return self._data.nbytes

    def to_host(self) -> NDArray[T]:
        """Copies it from the device.

        Returns:
            A new array of NumPy's.
        """
        return self._backend.copy_to_host(self._data)

    def synchronize(self) -> None:
        """Waits for all that its backend has started."""
        self._backend.synchronize()

    def __del__(self) -> None:
        # There is none if the constructor was given too little.
        if getattr(self, "_owns_data", False):
            self._backend.free(self._data)

    def __repr__(self) -> str:
        return f"BackendArray(shape={self.shape}, dtype={self.dtype}, backend={self._backend.backend_type.name})"


def timed(run: Callable[[], Any]) -> KernelExecutionResult:
    """Runs something and takes the time.

    Args:
        run: What to run.

    Returns:
        How it ended; what it raised is there.
    """
    start = time.perf_counter()
    failure: Exception | None = None
    try:
        run()
    except Exception as error:
        failure = error
    return KernelExecutionResult(failure is None, (time.perf_counter() - start) * 1000, failure)
