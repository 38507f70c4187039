"""Kernels that run once, beside ring kernels.

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

# So many launches are remembered.
_MOST_EXECUTIONS = 1000


@dataclass
class KernelLaunchConfig:
    """How a kernel is launched.

    Attributes:
        grid_size: Blocks in each dimension; a number is taken as one dimension.
        block_size: Threads of a block in each dimension; a number is taken as one dimension.
        shared_memory_bytes: Bytes that the threads of a block share, beside what the kernel declares.
        stream: The stream of CuPy's or Numba's to launch it on; None: one of the orchestrator's.
    """

    grid_size: tuple[int, ...] = (1,)
    block_size: tuple[int, ...] = (256,)
    shared_memory_bytes: int = 0
    stream: object | None = None

    def __post_init__(self) -> None:
        self.grid_size = _dimensions("grid_size", self.grid_size)
        self.block_size = _dimensions("block_size", self.block_size)
        if self.shared_memory_bytes < 0:
            raise InvalidConfigurationError("shared_memory_bytes", self.shared_memory_bytes, "a size is 0 or more, in bytes")


def _dimensions(name: str, size: Any) -> tuple[int, ...]:
    dimensions = (size,) if isinstance(size, int) else tuple(size)
    if not 1 <= len(dimensions) <= 3 or any(count < 1 for count in dimensions):
        raise InvalidConfigurationError(name, size, "one to three dimensions, each of 1 or more")
    return dimensions


@dataclass
class KernelExecution:
    """One launch of a kernel.

    Attributes:
        execution_id: Identifies it.
        kernel_name: The name that the kernel is registered under, or that of its function.
        config: How it was launched.
        start_time: When, by ``time.perf_counter()``, in seconds.
        end_time: When it had ended.
        success: Whether it ended without an error.
        error: What it raised.
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
        """How long it took, in milliseconds; of a kernel on a GPU with the time that it ran there."""
        return (self.end_time - self.start_time) * 1000


class ComputeOrchestrator:
    """Runs kernels by name, and keeps a record of that: the last thousand launches.

    A kernel is a kernel of Numba's for a GPU, a coroutine function, or any callable.
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
        """Looks for devices, and enables the memory pool. Does nothing if that was done."""
        if self._active:
            return
        self._accelerator = get_accelerator()
        self._memory_pool = get_memory_pool()
        self._memory_pool.enable()
        self._active = True

    async def shutdown(self) -> None:
        """Waits for its streams, and gives back what the memory pool keeps. Does nothing if that was done.

        Raises:
            Exception: What a kernel on one of the streams did wrong and nobody has seen yet.
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
        """Whether it is between :meth:`initialize` and :meth:`shutdown`."""
        return self._active

    @property
    def accelerator(self) -> Accelerator | None:
        """The devices; None before :meth:`initialize`."""
        return self._accelerator

    @property
    def memory_pool(self) -> MemoryPool | None:
        """The memory pool; None before :meth:`initialize`."""
        return self._memory_pool

    def register_kernel(self, name: str, kernel_func: Callable[..., Any]) -> None:
        """Gives a kernel a name, in the place of another of that name.

        Args:
            name: The name.
            kernel_func: The kernel.

        Raises:
            InvalidConfigurationError: It cannot be called or launched.
        """
        if not callable(kernel_func) and not hasattr(type(kernel_func), "__getitem__"):
            raise InvalidConfigurationError("kernel_func", kernel_func, f"kernel '{name}' has to be a function")
        self._registered_kernels[name] = kernel_func

    def get_kernel(self, name: str) -> Callable[..., Any] | None:
        """The kernel of a name.

        Args:
            name: The name.

        Returns:
            The kernel; None if there is none.
        """
        return self._registered_kernels.get(name)

    async def launch_kernel(
        self, kernel: Callable[..., Any] | str, config: KernelLaunchConfig, *args: Any, **kwargs: Any
    ) -> KernelExecution:
        """Runs a kernel, and waits for its end; while it runs on a GPU, the event loop goes on.

        Args:
            kernel: The kernel, or its name.
            config: How to launch it. Only a kernel on a GPU makes use of that.
            *args: Its arguments.
            **kwargs: Its arguments by name.

        Returns:
            The record of the launch, which is in the history too.

        Raises:
            ValueError: No kernel has this name.
            Exception: What the kernel raised. It is in the record too.
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
            del self._execution_history[:-_MOST_EXECUTIONS]
        return execution

    def _resolve(self, kernel: Callable[..., Any] | str) -> tuple[str, Callable[..., Any]]:
        if not isinstance(kernel, str):
            return getattr(kernel, "__name__", type(kernel).__name__), kernel
        kernel_func = self._registered_kernels.get(kernel)
        if kernel_func is None:
            there_are = ", ".join(map(repr, sorted(self._registered_kernels))) or "none"
            raise ValueError(f"Kernel '{kernel}' not registered; there are: {there_are}. Register it with register_kernel() first")
        return kernel, kernel_func

    async def _launch(self, target: Any, config: KernelLaunchConfig, *args: Any, **kwargs: Any) -> None:
        given: Any = config.stream
        async with self.stream_context() if given is None else nullcontext(given) as stream:
            launch(target, config.grid_size, config.block_size, stream, config.shared_memory_bytes, *args, **kwargs)
            if stream is not None:
                await asyncio.to_thread(stream.synchronize)

    def create_stream(self) -> object | None:
        """Makes a stream of CuPy's that waits for no other, and which :meth:`shutdown` waits for.

        Returns:
            The stream; None where there is no GPU or no CuPy.
        """
        if self._accelerator is None or not self._accelerator.cuda_available:
            return None
        try:
            cupy = import_cupy()
        except BackendNotAvailableError:
            return None
        # Not the legacy default stream: whoever waits for that waits for resident ring kernels to give way.
        stream: object = cupy.cuda.Stream(non_blocking=True)
        self._streams.append(stream)
        return stream

    def synchronize(self) -> None:
        """Waits for all its streams, and for what this thread has started on the current device."""
        for stream in self._streams:
            stream.synchronize()
        if self._accelerator is not None:
            self._accelerator.synchronize()

    def get_execution_history(self, limit: int | None = None, kernel_name: str | None = None) -> list[KernelExecution]:
        """The last launches, the oldest first.

        Args:
            limit: The most that are wanted; None: all that are remembered.
            kernel_name: Only those of this kernel; None: of all.

        Returns:
            Their records.

        Raises:
            InvalidConfigurationError: ``limit`` is negative.
        """
        if limit is not None and limit < 0:
            raise InvalidConfigurationError("limit", limit, "a number of launches is 0 or more")
        history = [execution for execution in self._execution_history if kernel_name in (None, execution.kernel_name)]
        return history if limit is None else history[max(len(history) - limit, 0) :]

    def clear_execution_history(self) -> None:
        """Forgets all launches."""
        self._execution_history.clear()

    @asynccontextmanager
    async def stream_context(self) -> AsyncIterator[Any | None]:
        """A stream for the time of an ``async with``, which waits for the stream at its end.

        It is not made CuPy's current stream, as other tasks run in this thread too: give it to :class:`KernelLaunchConfig`, or write
        ``with stream:`` around what does not await.

        Yields:
            The stream; None where there is no GPU or no CuPy.
        """
        stream: Any = self.create_stream()
        try:
            yield stream
        finally:
            if stream is not None:
                await asyncio.to_thread(stream.synchronize)
                # Not if shutdown() came first.
                if stream in self._streams:
                    self._streams.remove(stream)

    def __repr__(self) -> str:
        return (
            f"ComputeOrchestrator(active={self._active}, kernels={len(self._registered_kernels)}, "
            f"executions={len(self._execution_history)})"
        )
