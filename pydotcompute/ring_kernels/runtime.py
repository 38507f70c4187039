"""The runtime: launches ring kernels, addresses them by name, and terminates them."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Unpack, overload

from pydotcompute import _core
from pydotcompute.exceptions import (
    EventLoopError,
    InvalidConfigurationError,
    KernelAlreadyExistsError,
    KernelNotFoundError,
    KernelStateError,
)
from pydotcompute.ring_kernels import _pipeline
from pydotcompute.ring_kernels._kernel_registry import get_registered_kernel, register_ring_kernel
from pydotcompute.ring_kernels._kernel_registry import kernel_registry as _kernel_registry
from pydotcompute.ring_kernels._launching import KernelFunction, LaunchSettings, NativeHandler, name_of
from pydotcompute.ring_kernels._loop import get_loop_info, install_at_import
from pydotcompute.ring_kernels._type_variables import TIn, TOut
from pydotcompute.ring_kernels.connection import Connection
from pydotcompute.ring_kernels.lifecycle import KernelState, RingKernel, RingKernelConfig
from pydotcompute.ring_kernels.telemetry import RingKernelTelemetry, TelemetryCollector

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from types import TracebackType

    from pydotcompute.native.ring_kernel import NativeRingKernel
    from pydotcompute.native.runtime import NativeRuntime

__all__ = ["RingKernelRuntime", "get_registered_kernel", "register_ring_kernel"]

_log = logging.getLogger(__name__)

# The extension caches the running loop of each thread; a forked child has none.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_core.clear_running_loop_cache)


class RingKernelRuntime(_core.RingKernelRuntime):
    """Owns ring kernels, routes messages to them by name, and terminates them.

    Args:
        enable_telemetry: Whether messages and latencies are telemetry.
        use_uvloop: Whether to make uvloop the default for event loops created afterwards, under the conditions of the package's import.
        use_eager_tasks: Whether ring kernels run until their first wait within :meth:`activate` (Python 3.12 and later).

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
        self._uvloop_installed = use_uvloop and install_at_import()

    async def __aenter__(self) -> RingKernelRuntime:
        await self.start()
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None) -> None:
        await self.shutdown()

    async def start(self) -> None:
        """Prepares the runtime for launches. Also reopens a runtime that was shut down."""
        self._active, self._closed = True, False
        _log.debug("runtime started")

    async def shutdown(self, timeout: float = 10.0) -> None:
        """Terminates all ring kernels concurrently, but each after those whose outputs it gets, and shuts the runtime down.

        Args:
            timeout: Maximum time to wait for all ring kernels, in seconds; those that have not ended by then are cancelled.

        Raises:
            EventLoopError: A ring kernel belongs to another event loop, which does not run. The runtime stays as it is.
        """
        deadline = time.monotonic() + timeout
        outcomes: list[BaseException | None] = []
        for kernels in _pipeline.order_of_ending(self._kernels.values()):
            remaining = max(deadline - time.monotonic(), 0.0) if outcomes else timeout
            outcomes += await _pipeline.terminate_all(kernels, remaining)
            for outcome in outcomes:
                if isinstance(outcome, EventLoopError):
                    raise outcome
        _log.info("runtime shut down, with %d ring kernels", len(self._kernels))
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
        """Whether the runtime was started and not shut down."""
        return self._active

    @property
    def kernel_ids(self) -> list[str]:
        """Names of the ring kernels."""
        return list(self._kernels)

    def _get_kernel(self, kernel_id: str) -> RingKernel[Any, Any]:
        kernel: RingKernel[Any, Any] | None = self._kernels.get(kernel_id)
        if kernel is None:
            raise KernelNotFoundError(kernel_id, self.kernel_ids)
        return kernel

    @overload
    async def launch(
        self, kernel_id: str, kernel_func: KernelFunction[TIn, TOut], **settings: Unpack[LaunchSettings[TIn, TOut]]
    ) -> RingKernel[TIn, TOut]: ...
    @overload
    async def launch(
        self, kernel_id: str, kernel_func: NativeHandler[TIn, TOut], **settings: Unpack[LaunchSettings[Any, Any]]
    ) -> NativeRingKernel[TIn, TOut]: ...
    @overload
    async def launch(
        self, kernel_id: str, kernel_func: None = None, **settings: Unpack[LaunchSettings[TIn, TOut]]
    ) -> RingKernel[TIn, TOut]: ...
    @overload
    async def launch(
        self, kernel_id: KernelFunction[TIn, TOut], **settings: Unpack[LaunchSettings[TIn, TOut]]
    ) -> RingKernel[TIn, TOut]: ...
    @overload
    async def launch(
        self, kernel_id: NativeHandler[TIn, TOut], **settings: Unpack[LaunchSettings[Any, Any]]
    ) -> NativeRingKernel[TIn, TOut]: ...
    async def launch(
        self,
        kernel_id: str | Callable[..., Any],
        kernel_func: Callable[..., Any] | None = None,
        *,
        config: RingKernelConfig | None = None,
        input_type: type[Any] | None = None,
        output_type: type[Any] | None = None,
    ) -> RingKernel[Any, Any] | NativeRingKernel[Any, Any]:
        """Launches a ring kernel: allocates its resources, without starting it.

        A handler decorated with ``@ring_kernel(device=...)`` becomes a native ring kernel.

        Args:
            kernel_id: Name of the ring kernel; or its function, which then is the only argument without a keyword and gives the name.
            kernel_func: Its function; by default the one registered under the name.
            config: Settings; by default those registered with the function.
            input_type: Class of the messages.
            output_type: Class of replies and outputs.

        Returns:
            The ring kernel.

        Raises:
            KernelAlreadyExistsError: The name is in use.
            KernelNotFoundError: No function is given, and none is registered.
            InvalidConfigurationError: The function is not an ``async def`` function with one parameter, the context, or has no name.
            KernelStateError: The runtime was shut down.
        """
        if not isinstance(kernel_id, str):
            if kernel_func is not None:
                raise InvalidConfigurationError("kernel_id", kernel_id, "it is no name; pass the name first, as launch('name', function)")
            kernel_func, kernel_id = kernel_id, name_of(kernel_id)
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
        kernel._starts_eagerly = self._use_eager_tasks
        await kernel.launch()
        if self._telemetry is not None:
            kernel._telemetry = self._telemetry.register_kernel(kernel_id)
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
    ) -> NativeRingKernel[Any, Any]:
        """Launches a handler declared with ``@ring_kernel(device=...)``. Imports Numba only now."""
        from pydotcompute.native.ring_kernel import NativeRingKernel
        from pydotcompute.native.runtime import NativeRuntime

        if self._native_runtime is None:
            self._native_runtime = NativeRuntime()
        kernel: NativeRingKernel[Any, Any] = NativeRingKernel(
            kernel_id, handler, runtime=self._native_runtime, config=config, input_type=input_type, output_type=output_type, **native
        )
        await kernel.launch()
        self._kernels[kernel_id] = kernel
        return kernel

    async def activate(self, kernel_id: str) -> None:
        """Starts a ring kernel.

        Args:
            kernel_id: Name of the ring kernel.

        Raises:
            KernelNotFoundError: No ring kernel has this name.
            KernelStateError: The ring kernel is not launched, or already activated.
        """
        await self._get_kernel(kernel_id).activate()

    async def deactivate(self, kernel_id: str) -> None:
        """Pauses a ring kernel; its messages stay queued.

        Args:
            kernel_id: Name of the ring kernel.

        Raises:
            KernelNotFoundError: No ring kernel has this name.
            KernelStateError: The ring kernel is not active.
        """
        await self._get_kernel(kernel_id).deactivate()

    async def reactivate(self, kernel_id: str) -> None:
        """Continues a paused ring kernel.

        Args:
            kernel_id: Name of the ring kernel.

        Raises:
            KernelNotFoundError: No ring kernel has this name.
            KernelStateError: The ring kernel is not deactivated.
        """
        await self._get_kernel(kernel_id).reactivate()

    async def terminate(self, kernel_id: str, timeout: float = 5.0) -> None:
        """Terminates a ring kernel and removes it from the runtime.

        Args:
            kernel_id: Name of the ring kernel.
            timeout: Maximum time to wait for its function to return, in seconds; then the function is cancelled.

        Raises:
            KernelNotFoundError: No ring kernel has this name.
        """
        kernel = self._get_kernel(kernel_id)
        await kernel.terminate(timeout=timeout)
        self._kernels.pop(kernel_id, None)
        if self._telemetry is not None:
            self._telemetry.unregister_kernel(kernel_id)

    def connect(self, source: str, target: str) -> Connection:
        """Delivers the outputs of one ring kernel to another, as messages, from now on. Both may be of any tier that a runtime launches.

        Outputs are what the source sends that is no reply to a request. A ring kernel that is connected to several others sends each output
        to all of them, the same object (fan-out); several may be connected to one (fan-in); two connections between the same ring kernels
        deliver each output twice. Circles are allowed. While a target is full, or is not activated yet, the source waits in ``ctx.send``;
        a target that rejects or drops the oldest applies that.

        ``receive`` gets no outputs of a connected ring kernel, except those that it had sent before; the first connection of a native ring
        kernel takes these too. After the last :meth:`disconnect` outputs are queued for ``receive`` again.

        A connection ends with either of its ring kernels. An output that finds a failed target becomes a dead letter of the source.
        Once every target has ended, outputs are dropped and counted as ``unrouted`` of the source.

        Args:
            source: Name of the ring kernel that sends.
            target: Name of the ring kernel that receives.

        Returns:
            The connection, which is also a context manager.

        Raises:
            KernelNotFoundError: No ring kernel has one of these names.
            KernelConnectionError: Both names are the same.
            KernelStateError: One of the ring kernels has ended.
            TypeValidationError: The target does not take the outputs of the source.
        """
        return _pipeline.connect(self._get_kernel(source), self._get_kernel(target))

    def disconnect(self, source: str, target: str) -> Connection:
        """Ends every connection from one ring kernel to another; see :meth:`Connection.disconnect`.

        Args:
            source: Name of the ring kernel that sends.
            target: Name of the ring kernel that receives.

        Returns:
            The connection that has ended, and of several the last one.

        Raises:
            KernelNotFoundError: No ring kernel has one of these names.
            KernelConnectionError: They are not connected.
        """
        return [one.disconnect() for one in _pipeline.connections_between(self._get_kernel(source), self._get_kernel(target))][-1]

    @property
    def connections(self) -> list[Connection]:
        """The connections between the ring kernels."""
        routers = [kernel._router for kernel in self._kernels.values() if kernel._router is not None]
        return [connection for router in routers for connection in router.connections if connection.is_connected]

    if TYPE_CHECKING:

        def send(self, kernel_id: str, message: TIn, *, timeout: float | None = None) -> Coroutine[Any, Any, None]:
            """Sends a message to a ring kernel; waits while its input queue is full.

            Args:
                kernel_id: Name of the ring kernel.
                message: The message. It is handed over, not copied: neither side changes it afterwards. A native ring kernel gets a copy.
                timeout: Maximum time to wait, in seconds; ``None`` for no limit.

            Raises:
                KernelNotFoundError: No ring kernel has this name.
                KernelStateError: The ring kernel is not running.
                KernelError: The ring kernel failed during the call.
                QueueFullError: The queue stayed full until the timeout.
                TypeValidationError: The message is not of the kernel's input type.
            """

        def receive(self, kernel_id: str, *, timeout: float | None = None) -> Coroutine[Any, Any, Any]:
            """Receives the next output of a ring kernel; waits while there is none.

            Args:
                kernel_id: Name of the ring kernel.
                timeout: Maximum time to wait, in seconds; ``None`` for no limit.

            Returns:
                The output. It was handed over, not copied: neither side changes it.

            Raises:
                KernelNotFoundError: No ring kernel has this name.
                KernelStateError: The ring kernel is not running.
                KernelError: The ring kernel failed; the exception is the cause.
                QueueTimeoutError: No output arrived before the timeout.
            """

        def send_and_receive(self, kernel_id: str, message: TIn, *, timeout: float | None = None) -> Coroutine[Any, Any, Any]:
            """Sends a request to a ring kernel and waits for its reply, as :meth:`RingKernel.ask`.

            Args:
                kernel_id: Name of the ring kernel.
                message: The request. It is handed over, not copied: neither side changes it afterwards. A native ring kernel gets a copy.
                timeout: Maximum time to wait, in seconds; ``None`` for no limit.

            Returns:
                The reply.

            Raises:
                KernelNotFoundError: No ring kernel has this name.
                KernelStateError: The ring kernel is not running.
                KernelError: The ring kernel failed; the exception is the cause.
                NoReplyError: The ring kernel skipped the request, or its full queue dropped it.
                QueueFullError: The queue stayed full until the timeout.
                QueueTimeoutError: No reply arrived before the timeout.
                TypeValidationError: The message is not of the kernel's input type.
            """

    def get_kernel_state(self, kernel_id: str) -> KernelState:
        """Returns the lifecycle state of a ring kernel.

        Args:
            kernel_id: Name of the ring kernel.

        Raises:
            KernelNotFoundError: No ring kernel has this name.
        """
        return self._get_kernel(kernel_id).state

    def get_telemetry(self, kernel_id: str) -> RingKernelTelemetry | None:
        """Returns the telemetry of a ring kernel; ``None`` if no kernel has this name or telemetry is off.

        Args:
            kernel_id: Name of the ring kernel.
        """
        return self._telemetry.get_kernel_telemetry(kernel_id) if self._telemetry is not None else None

    def get_all_telemetry(self) -> dict[str, RingKernelTelemetry]:
        """Returns the telemetry of all ring kernels, by name."""
        return self._telemetry.get_all_telemetry() if self._telemetry is not None else {}

    def get_summary(self) -> dict[str, object]:
        """Returns totals over all ring kernels: ``kernel_count``, ``total_messages_processed`` and others."""
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
        self, kernel_id: str, kernel_func: KernelFunction[TIn, TOut], **kwargs: Unpack[LaunchSettings[TIn, TOut]]
    ) -> AbstractAsyncContextManager[RingKernel[TIn, TOut]]: ...
    @overload
    def kernel_scope(
        self, kernel_id: str, kernel_func: NativeHandler[TIn, TOut], **kwargs: Unpack[LaunchSettings[Any, Any]]
    ) -> AbstractAsyncContextManager[NativeRingKernel[TIn, TOut]]: ...
    @overload
    def kernel_scope(
        self, kernel_id: str, kernel_func: None = None, **kwargs: Unpack[LaunchSettings[TIn, TOut]]
    ) -> AbstractAsyncContextManager[RingKernel[TIn, TOut]]: ...
    @overload
    def kernel_scope(
        self, kernel_id: KernelFunction[TIn, TOut], **kwargs: Unpack[LaunchSettings[TIn, TOut]]
    ) -> AbstractAsyncContextManager[RingKernel[TIn, TOut]]: ...
    @overload
    def kernel_scope(
        self, kernel_id: NativeHandler[TIn, TOut], **kwargs: Unpack[LaunchSettings[Any, Any]]
    ) -> AbstractAsyncContextManager[NativeRingKernel[TIn, TOut]]: ...
    @asynccontextmanager
    async def kernel_scope(
        self, kernel_id: str | Callable[..., Any], kernel_func: Callable[..., Any] | None = None, **kwargs: Any
    ) -> AsyncIterator[Any]:
        """Launches and activates a ring kernel for the duration of an ``async with`` block, and terminates it afterwards.

        Args:
            kernel_id: Name of the ring kernel, or its function.
            kernel_func: Its function; by default the registered one.
            **kwargs: Further arguments of :meth:`launch`.

        Yields:
            The ring kernel.
        """
        launch: Any = self.launch
        kernel = await launch(kernel_id, kernel_func, **kwargs)
        name: str = kernel.kernel_id
        try:
            await kernel.activate()
            yield kernel
        finally:
            # The block may have terminated it already.
            if self._kernels.get(name) is kernel:
                await self.terminate(name)

    def get_loop_info(self) -> dict[str, str | bool]:
        """Returns the running loop's class and the installed optimisations; see :func:`pydotcompute.ring_kernels.get_loop_info`."""
        return get_loop_info() | {
            "runtime_uvloop_installed": self._uvloop_installed,
            "runtime_eager_tasks_installed": self._use_eager_tasks and sys.version_info >= (3, 12),
        }

    def __repr__(self) -> str:
        telemetry = self._telemetry is not None
        return f"RingKernelRuntime(active={self._active}, kernels={len(self._kernels)}, telemetry={telemetry})"
