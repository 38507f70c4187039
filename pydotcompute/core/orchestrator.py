"""Runs one-shot kernels beside ring kernels.

Example:
    >>> import asyncio
    >>> import numpy as np
    >>> from pydotcompute import ComputeOrchestrator
    >>> from pydotcompute.core.orchestrator import KernelLaunchConfig
    >>> async def main() -> bool:
    ...     async with ComputeOrchestrator() as orchestrator:
    ...         orchestrator.register_kernel("double", lambda array: np.multiply(array, 2, out=array))
    ...         return (await orchestrator.launch_kernel("double", KernelLaunchConfig(), np.ones(3))).success
    >>> asyncio.run(main())
    True
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any
from uuid import UUID, uuid4

from pydotcompute._optional import import_cupy
from pydotcompute.core._grid_launch import launch, launchable
from pydotcompute.core.accelerator import Accelerator, get_accelerator
from pydotcompute.core.memory_pool import MemoryPool, get_memory_pool
from pydotcompute.exceptions import BackendNotAvailableError, InvalidConfigurationError

__all__ = ["ComputeOrchestrator", "KernelExecution", "KernelLaunchConfig"]

# Number of launches in the history.
_MAX_EXECUTIONS = 1000


@dataclass
class KernelLaunchConfig:
    """Launch settings of a kernel.

    Attributes:
        grid_size: Number of blocks in each dimension; a number is one dimension.
        block_size: Number of threads per block in each dimension; a number is one dimension.
        shared_memory_bytes: Dynamic shared memory per block, in bytes.
        stream: CuPy or Numba stream to launch on; ``None`` for a new stream of the orchestrator.
    """

    grid_size: tuple[int, ...] = (1,)
    block_size: tuple[int, ...] = (256,)
    shared_memory_bytes: int = 0
    stream: object | None = None

    def __post_init__(self) -> None:
        self.grid_size = _dimensions("grid_size", self.grid_size)
        self.block_size = _dimensions("block_size", self.block_size)
        if self.shared_memory_bytes < 0:
            raise InvalidConfigurationError("shared_memory_bytes", self.shared_memory_bytes, "a size must be 0 or more, in bytes")


def _dimensions(name: str, size: Any) -> tuple[int, ...]:
    dimensions = (size,) if isinstance(size, int) else tuple(size)
    if not 1 <= len(dimensions) <= 3 or any(count < 1 for count in dimensions):
        raise InvalidConfigurationError(name, size, "expected one to three dimensions, each at least 1")
    return dimensions


@dataclass
class KernelExecution:
    """One launch of a kernel.

    Attributes:
        execution_id: Id of the launch.
        kernel_name: Registered name of the kernel, or the name of its function.
        config: Launch settings.
        start_time: Start, from ``time.perf_counter()``, in seconds.
        end_time: End, from ``time.perf_counter()``, in seconds.
        success: Whether it finished without an error.
        error: The exception that it raised, if any.
    """

    execution_id: UUID = field(default_factory=uuid4)
    kernel_name: str = ""
    config: KernelLaunchConfig = field(default_factory=KernelLaunchConfig)
    start_time: float = 0.0
    end_time: float = 0.0
    success: bool = False
    error: Exception | None = None

    @property
    def duration_ms(self) -> float:
        """Duration, in milliseconds; for a GPU kernel including its run time on the GPU."""
        return (self.end_time - self.start_time) * 1000


class ComputeOrchestrator:
    """Runs kernels by name, and keeps a history of the last 1,000 launches.

    A kernel is a Numba GPU kernel, a coroutine function, or any other callable.
    """

    def __init__(self) -> None:
        self._accelerator: Accelerator | None = None
        self._memory_pool: MemoryPool | None = None
        self._registered_kernels: dict[str, Callable[..., Any]] = {}
        self._execution_history: list[KernelExecution] = []
        self._streams: list[Any] = []
        self._active = False

    async def __aenter__(self) -> ComputeOrchestrator:
        await self.initialize()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.shutdown()

    async def initialize(self) -> None:
        """Discovers devices, and enables the memory pool. No effect if already done."""
        if self._active:
            return
        self._accelerator = get_accelerator()
        self._memory_pool = get_memory_pool()
        self._memory_pool.enable()
        self._active = True

    async def shutdown(self) -> None:
        """Waits for all streams, and frees the cached memory of the memory pool. No effect if already done.

        Raises:
            Exception: An error of a kernel on one of the streams that was not reported before.
        """
        if not self._active:
            return
        self._active = False
        streams, self._streams = self._streams, []
        try:
            for stream in streams:
                await asyncio.to_thread(stream.synchronize)
        finally:
            if self._memory_pool is not None:
                await asyncio.to_thread(self._memory_pool.free_all_blocks)

    @property
    def is_active(self) -> bool:
        """Whether the orchestrator is initialized and not shut down."""
        return self._active

    @property
    def accelerator(self) -> Accelerator | None:
        """The devices; ``None`` before :meth:`initialize`."""
        return self._accelerator

    @property
    def memory_pool(self) -> MemoryPool | None:
        """The memory pool; ``None`` before :meth:`initialize`."""
        return self._memory_pool

    def register_kernel(self, name: str, kernel_func: Callable[..., Any]) -> None:
        """Registers a kernel under a name. Replaces an earlier kernel of the same name.

        Args:
            name: The name.
            kernel_func: The kernel.

        Raises:
            InvalidConfigurationError: The object can be neither called nor launched.
        """
        if not callable(kernel_func) and not hasattr(type(kernel_func), "__getitem__"):
            raise InvalidConfigurationError("kernel_func", kernel_func, f"kernel '{name}' must be a function")
        self._registered_kernels[name] = kernel_func

    def get_kernel(self, name: str) -> Callable[..., Any] | None:
        """Returns the kernel of a name.

        Args:
            name: The name.

        Returns:
            The kernel; ``None`` if there is none.
        """
        return self._registered_kernels.get(name)

    async def launch_kernel(
        self, kernel: Callable[..., Any] | str, config: KernelLaunchConfig, *args: Any, **kwargs: Any
    ) -> KernelExecution:
        """Runs a kernel, and waits for it. While it runs on a GPU, the event loop is not blocked.

        Args:
            kernel: The kernel, or its name.
            config: Launch settings. Only GPU kernels use them.
            *args: Arguments of the kernel.
            **kwargs: Keyword arguments of the kernel.

        Returns:
            The record of the launch, which is also in the history.

        Raises:
            ValueError: No kernel has this name.
            Exception: The exception that the kernel raised, which is also in the record.
        """
        name, kernel_func = self._resolve(kernel)
        execution = KernelExecution(kernel_name=name, config=config, start_time=time.perf_counter())
        try:
            target = launchable(kernel_func)
            if target is not None:
                await self._launch(target, config, *args, **kwargs)
            else:
                result = kernel_func(*args, **kwargs)
                if inspect.isawaitable(result):
                    await result
            execution.success = True
        except Exception as error:
            execution.error = error
            raise
        finally:
            execution.end_time = time.perf_counter()
            self._execution_history.append(execution)
            del self._execution_history[:-_MAX_EXECUTIONS]
        return execution

    def _resolve(self, kernel: Callable[..., Any] | str) -> tuple[str, Callable[..., Any]]:
        if not isinstance(kernel, str):
            return getattr(kernel, "__name__", type(kernel).__name__), kernel
        kernel_func = self._registered_kernels.get(kernel)
        if kernel_func is None:
            existing = ", ".join(map(repr, sorted(self._registered_kernels))) or "none"
            raise ValueError(f"Kernel '{kernel}' not registered; existing kernels: {existing}. Register it with register_kernel() first")
        return kernel, kernel_func

    async def _launch(self, target: Any, config: KernelLaunchConfig, *args: Any, **kwargs: Any) -> None:
        requested: Any = config.stream
        async with self.stream_context() if requested is None else nullcontext(requested) as stream:
            launch(target, config.grid_size, config.block_size, stream, config.shared_memory_bytes, *args, **kwargs)
            if stream is not None:
                await asyncio.to_thread(stream.synchronize)

    def create_stream(self) -> object | None:
        """Creates a non-blocking CuPy stream, which :meth:`shutdown` waits for.

        Returns:
            The stream; ``None`` without a GPU or CuPy.
        """
        if self._accelerator is None or not self._accelerator.cuda_available:
            return None
        try:
            cupy = import_cupy()
        except BackendNotAvailableError:
            return None
        # Not the legacy default stream: synchronizing it waits until resident ring kernels leave the device.
        stream: object = cupy.cuda.Stream(non_blocking=True)
        self._streams.append(stream)
        return stream

    def synchronize(self) -> None:
        """Waits for all streams, and for this thread's work on the current device."""
        for stream in self._streams:
            stream.synchronize()
        if self._accelerator is not None:
            self._accelerator.synchronize()

    def get_execution_history(self, limit: int | None = None, kernel_name: str | None = None) -> list[KernelExecution]:
        """Returns the last launches, oldest first.

        Args:
            limit: Maximum number of launches; ``None`` for no limit.
            kernel_name: Only launches of this kernel; ``None`` for all kernels.

        Returns:
            The records of the launches.

        Raises:
            InvalidConfigurationError: ``limit`` is negative.
        """
        if limit is not None and limit < 0:
            raise InvalidConfigurationError("limit", limit, "a number of launches must be 0 or more")
        history = [execution for execution in self._execution_history if kernel_name in (None, execution.kernel_name)]
        return history if limit is None else history[max(len(history) - limit, 0) :]

    def clear_execution_history(self) -> None:
        """Clears the history."""
        self._execution_history.clear()

    @asynccontextmanager
    async def stream_context(self) -> AsyncIterator[Any | None]:
        """Yields a stream for the duration of an ``async with`` block, and synchronizes it at the end.

        The stream is not made CuPy's current stream, because other tasks run on this thread too. Pass it to :class:`KernelLaunchConfig`, or
        wrap code that does not await in ``with stream:``.

        Yields:
            The stream; ``None`` without a GPU or CuPy.
        """
        stream: Any = self.create_stream()
        try:
            yield stream
        finally:
            if stream is not None:
                await asyncio.to_thread(stream.synchronize)
                # shutdown() may have removed it already.
                if stream in self._streams:
                    self._streams.remove(stream)

    def __repr__(self) -> str:
        return (
            f"ComputeOrchestrator(active={self._active}, kernels={len(self._registered_kernels)}, "
            f"executions={len(self._execution_history)})"
        )
