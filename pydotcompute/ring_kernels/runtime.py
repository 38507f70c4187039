"""The runtime: ring kernels by name, from their launch to their end."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pydotcompute import _core
from pydotcompute.exceptions import KernelAlreadyExistsError, KernelNotFoundError, KernelStateError
from pydotcompute.ring_kernels._loop import get_loop_info, install_eager_task_factory, install_uvloop
from pydotcompute.ring_kernels.lifecycle import KernelContext, KernelState, RingKernel, RingKernelConfig
from pydotcompute.ring_kernels.telemetry import RingKernelTelemetry, TelemetryCollector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from types import TracebackType

    from pydotcompute.native.ring_kernel import NativeRingKernel
    from pydotcompute.native.runtime import NativeRuntime

__all__ = ["RingKernelRuntime", "get_registered_kernel", "register_ring_kernel"]

TIn = TypeVar("TIn")
TOut = TypeVar("TOut")

_kernel_registry: dict[str, dict[str, Any]] = {}

# The extension remembers which loop runs on a thread; in a forked child none does.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_core.clear_running_loop_cache)


def register_ring_kernel(
    kernel_id: str,
    func: Callable[..., Any],
    input_type: type | None = None,
    output_type: type | None = None,
    **config: Any,
) -> None:
    """Makes a function known to all runtimes under a name, as ``@ring_kernel`` does.

    Args:
        kernel_id: The name; one that is taken is given to the new function.
        func: The function.
        input_type: The class of its messages.
        output_type: The class of what it sends.
        **config: Settings, as for :class:`RingKernelConfig`.
    """
    _kernel_registry[kernel_id] = {"func": func, "input_type": input_type, "output_type": output_type, "config": config}


def get_registered_kernel(kernel_id: str) -> dict[str, Any] | None:
    """What is known under a name: ``func``, ``input_type``, ``output_type`` and ``config``; ``None`` if nothing is."""
    return _kernel_registry.get(kernel_id)


class RingKernelRuntime(_core.RuntimePort):
    """Owns ring kernels, routes messages to them by name, and ends them.

    Args:
        enable_telemetry: Whether messages and latencies are counted.
        use_uvloop: Whether uvloop is made the default loop, if it is there; for loops made after this.
        use_eager_tasks: Whether the loop's tasks begin at once (Python 3.12 and later).

    Example:
        >>> async def double(ctx):
        ...     while not ctx.should_terminate:
        ...         await ctx.send(2 * await ctx.receive())
        >>> async def main():
        ...     async with RingKernelRuntime() as runtime:
        ...         await runtime.launch("double", double)
        ...         await runtime.activate("double")
        ...         return await runtime.send_and_receive("double", 21, timeout=1.0)
        >>> asyncio.run(main())
        42
    """

    def __init__(self, *, enable_telemetry: bool = True, use_uvloop: bool = True, use_eager_tasks: bool = True) -> None:
        self._telemetry = TelemetryCollector() if enable_telemetry else None
        self._active = False
        self._closed = False
        self._native_runtime: NativeRuntime | None = None
        self._use_eager_tasks = use_eager_tasks
        self._eager_tasks_installed = False
        self._uvloop_installed = use_uvloop and install_uvloop()

    async def __aenter__(self) -> RingKernelRuntime:
        await self.start()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None) -> None:
        await self.shutdown()

    async def start(self) -> None:
        """Makes it ready, or ready again."""
        if self._use_eager_tasks:
            self._eager_tasks_installed = install_eager_task_factory()
        self._active, self._closed = True, False

    async def shutdown(self, timeout: float = 10.0) -> None:
        """Ends all ring kernels, at the same time, and the runtime.

        Args:
            timeout: How long to wait for all of them, in seconds; those that have not ended by then are cancelled.
        """
        outcomes = await asyncio.gather(*(kernel.terminate(timeout) for kernel in list(self._kernels.values())), return_exceptions=True)
        self._kernels.clear()
        self._active, self._closed = False, True
        if self._native_runtime is not None:
            native, self._native_runtime = self._native_runtime, None
            await asyncio.to_thread(native.shutdown, timeout)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    @property
    def is_active(self) -> bool:
        """Whether it was started and not shut down."""
        return self._active

    @property
    def kernel_ids(self) -> list[str]:
        """The names of its ring kernels."""
        return list(self._kernels)

    def _get_kernel(self, kernel_id: str) -> RingKernel[Any, Any]:
        kernel: RingKernel[Any, Any] | None = self._kernels.get(kernel_id)
        if kernel is None:
            raise KernelNotFoundError(kernel_id, self.kernel_ids)
        return kernel

    @overload
    async def launch(
        self,
        kernel_id: str,
        kernel_func: Callable[[KernelContext[TIn, TOut]], Any] | None = None,
        *,
        config: RingKernelConfig | None = None,
        input_type: type[TIn] | None = None,
        output_type: type[TOut] | None = None,
    ) -> RingKernel[TIn, TOut]: ...
    @overload
    async def launch(
        self,
        kernel_id: str,
        kernel_func: Callable[[Any, Any, Any], Any],
        *,
        config: RingKernelConfig | None = None,
        input_type: type[Any] | None = None,
        output_type: type[Any] | None = None,
    ) -> NativeRingKernel: ...
    async def launch(
        self,
        kernel_id: str,
        kernel_func: Callable[..., Any] | None = None,
        *,
        config: RingKernelConfig | None = None,
        input_type: type[Any] | None = None,
        output_type: type[Any] | None = None,
    ) -> RingKernel[Any, Any] | NativeRingKernel:
        """Launches a ring kernel: takes what it needs, and does not start it yet.

        A handler decorated with ``@ring_kernel(device=...)`` becomes a native one.

        Args:
            kernel_id: Its name.
            kernel_func: Its function; by default the one that is registered under the name.
            config: Its settings; by default those that were registered with the function.
            input_type: The class of its messages.
            output_type: The class of what it sends.

        Returns:
            The ring kernel.

        Raises:
            KernelAlreadyExistsError: There is one of this name.
            KernelNotFoundError: No function is given, and none is registered.
            KernelStateError: The runtime was shut down.
        """
        if self._closed:
            raise KernelStateError(kernel_id, "shut down (the runtime)", "launch")
        if kernel_id in self._kernels:
            raise KernelAlreadyExistsError(kernel_id)
        meta = getattr(kernel_func, "_ring_kernel_meta", None) if kernel_func is not None else get_registered_kernel(kernel_id)
        if kernel_func is None:
            if meta is None:
                raise KernelNotFoundError(kernel_id, list(_kernel_registry))
            kernel_func = meta["func"]
        if meta is not None:
            input_type = input_type or meta.get("input_type")
            output_type = output_type or meta.get("output_type")
            config = config or RingKernelConfig(kernel_id=kernel_id, **meta.get("config", {}))
        assert kernel_func is not None
        native = getattr(kernel_func, "_ring_kernel_meta", {}).get("native")
        if native is not None:
            return await self._launch_native(kernel_id, kernel_func, config, input_type, output_type, native)
        kernel: RingKernel[Any, Any] = RingKernel(kernel_id, kernel_func, config=config, input_type=input_type, output_type=output_type)
        if self._telemetry is not None:
            kernel._telemetry = self._telemetry.register_kernel(kernel_id)
        await kernel.launch()
        self._kernels[kernel_id] = kernel
        return kernel

    async def _launch_native(
        self,
        kernel_id: str,
        handler: Callable[..., Any],
        config: RingKernelConfig | None,
        input_type: type[Any] | None,
        output_type: type[Any] | None,
        native: dict[str, Any],
    ) -> NativeRingKernel:
        """Launches what ``@ring_kernel(device=...)`` has declared; Numba is imported here at the earliest."""
        from pydotcompute.native.ring_kernel import NativeRingKernel
        from pydotcompute.native.runtime import NativeRuntime

        if self._native_runtime is None:
            self._native_runtime = NativeRuntime()
        kernel = NativeRingKernel(
            kernel_id, handler, runtime=self._native_runtime, config=config, input_type=input_type, output_type=output_type, **native
        )
        await kernel.launch()
        self._kernels[kernel_id] = kernel
        return kernel

    async def activate(self, kernel_id: str) -> None:
        """Starts a ring kernel.

        Raises:
            KernelNotFoundError: There is none of this name.
            KernelStateError: It is not launched, or was activated before.
        """
        await self._get_kernel(kernel_id).activate()

    async def deactivate(self, kernel_id: str) -> None:
        """Pauses a ring kernel; its messages wait.

        Raises:
            KernelNotFoundError: There is none of this name.
            KernelStateError: It is not active.
        """
        await self._get_kernel(kernel_id).deactivate()

    async def reactivate(self, kernel_id: str) -> None:
        """Lets a paused ring kernel go on.

        Raises:
            KernelNotFoundError: There is none of this name.
            KernelStateError: It is not deactivated.
        """
        await self._get_kernel(kernel_id).reactivate()

    async def terminate(self, kernel_id: str, timeout: float = 5.0) -> None:
        """Ends a ring kernel and forgets it.

        Args:
            kernel_id: Its name.
            timeout: How long to wait for its function to return before it is cancelled, in seconds.

        Raises:
            KernelNotFoundError: There is none of this name.
        """
        kernel = self._get_kernel(kernel_id)
        await kernel.terminate(timeout=timeout)
        self._kernels.pop(kernel_id, None)
        if self._telemetry is not None:
            self._telemetry.unregister_kernel(kernel_id)

    if TYPE_CHECKING:

        def send(self, kernel_id: str, message: TIn, *, timeout: float | None = None) -> Coroutine[Any, Any, None]:
            """Sends a message to a ring kernel, waiting for room if there is none.

            Args:
                kernel_id: Its name.
                message: The message.
                timeout: How long to wait, in seconds; ``None`` for ever.

            Raises:
                KernelNotFoundError: There is none of this name.
                KernelStateError: It does not run.
                QueueFullError: There was no room in time.
                TypeValidationError: The message is not of its input type.
            """

        def receive(self, kernel_id: str, *, timeout: float | None = None) -> Coroutine[Any, Any, Any]:
            """Takes the next output of a ring kernel, waiting for one if there is none.

            Args:
                kernel_id: Its name.
                timeout: How long to wait, in seconds; ``None`` for ever.

            Returns:
                The output.

            Raises:
                KernelNotFoundError: There is none of this name.
                KernelStateError: It does not run.
                KernelError: It failed; the exception is the cause.
                QueueTimeoutError: There was none in time.
            """

        def send_and_receive(self, kernel_id: str, message: TIn, *, timeout: float | None = None) -> Coroutine[Any, Any, Any]:
            """Asks a ring kernel: sends a message and waits for the answer to it, see :meth:`RingKernel.ask`.

            Args:
                kernel_id: Its name.
                message: The question.
                timeout: How long to wait, in seconds; ``None`` for ever.

            Returns:
                The answer.

            Raises:
                KernelNotFoundError: There is none of this name.
                KernelStateError: It does not run.
                KernelError: It failed; the exception is the cause.
                QueueFullError: There was no room for the question in time.
                QueueTimeoutError: There was no answer in time.
            """

    def get_kernel_state(self, kernel_id: str) -> KernelState:
        """The state of a ring kernel.

        Raises:
            KernelNotFoundError: There is none of this name.
        """
        return self._get_kernel(kernel_id).state

    def get_telemetry(self, kernel_id: str) -> RingKernelTelemetry | None:
        """The telemetry of a ring kernel; ``None`` if there is none of this name, or nothing is counted."""
        return self._telemetry.get_kernel_telemetry(kernel_id) if self._telemetry is not None else None

    def get_all_telemetry(self) -> dict[str, RingKernelTelemetry]:
        """The telemetry of all ring kernels, by name."""
        return self._telemetry.get_all_telemetry() if self._telemetry is not None else {}

    def get_summary(self) -> dict[str, object]:
        """Sums over all ring kernels: ``kernel_count``, ``total_messages_processed`` and others."""
        if self._telemetry is not None:
            return self._telemetry.get_summary()
        return {
            "kernel_count": len(self._kernels),
            "total_messages_processed": 0,
            "total_messages_dropped": 0,
            "total_errors": 0,
        }

    @overload
    def kernel_scope(
        self, kernel_id: str, kernel_func: Callable[[KernelContext[TIn, TOut]], Any] | None = None, **kwargs: Any
    ) -> AbstractAsyncContextManager[RingKernel[TIn, TOut]]: ...
    @overload
    def kernel_scope(
        self, kernel_id: str, kernel_func: Callable[[Any, Any, Any], Any], **kwargs: Any
    ) -> AbstractAsyncContextManager[NativeRingKernel]: ...
    @asynccontextmanager
    async def kernel_scope(self, kernel_id: str, kernel_func: Callable[..., Any] | None = None, **kwargs: Any) -> AsyncIterator[Any]:
        """A ring kernel of this runtime that is active within an ``async with``, and terminated after it.

        Args:
            kernel_id: Its name.
            kernel_func: Its function; by default the registered one.
            **kwargs: What :meth:`launch` takes otherwise.

        Yields:
            The ring kernel.
        """
        kernel: Any = await self.launch(kernel_id, kernel_func, **kwargs)
        try:
            await self.activate(kernel_id)
            yield kernel
        finally:
            # It may have been terminated within.
            if self._kernels.get(kernel_id) is kernel:
                await self.terminate(kernel_id)

    def get_loop_info(self) -> dict[str, str | bool]:
        """The running loop's class, and what is installed; see :func:`pydotcompute.ring_kernels.get_loop_info`."""
        return get_loop_info() | {
            "runtime_uvloop_installed": self._uvloop_installed,
            "runtime_eager_tasks_installed": self._eager_tasks_installed,
        }

    def __repr__(self) -> str:
        counted = self._telemetry is not None
        return f"RingKernelRuntime(active={self._active}, kernels={len(self._kernels)}, telemetry={counted})"
