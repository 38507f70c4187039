"""Native ring kernels of a :class:`~pydotcompute.ring_kernels.runtime.RingKernelRuntime`, launched by ``@ring_kernel(device=...)``."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from pydotcompute.exceptions import KernelStateError, QueueTimeoutError
from pydotcompute.native._connections import Forwarder, NativeSink
from pydotcompute.native.handler import HandlerDeclaration, declare
from pydotcompute.native.kernel import NativeKernel
from pydotcompute.native.runtime import NativeRuntime
from pydotcompute.ring_kernels._routing import OutputRouter
from pydotcompute.ring_kernels._type_variables import TIn_contra, TOut_co
from pydotcompute.ring_kernels.lifecycle import DeadLetter, KernelState, RingKernelConfig

__all__ = ["NativeRingKernel"]

# A reply or output, for handlers that return `None` too.
_Message = TypeVar("_Message")


class NativeRingKernel(Generic[TIn_contra, TOut_co]):
    """A native ring kernel with the asyncio interface: the methods of ``RingKernel``, to be awaited.

    Args:
        kernel_id: Name of the ring kernel.
        handler: A plain function ``handler(ctx, state, msg)``.
        runtime: Native runtime that owns it.
        config: Settings.
        device: ``"cpu"`` or ``"cuda"``.
        state: Initial state.
        fast_math: As in :class:`NativeKernel`.
        input_type: Class of the messages, if the handler's annotation cannot be evaluated.
        output_type: Class of the replies, if the handler's annotation cannot be evaluated.

    Raises:
        TypeValidationError: The handler, its messages or its state are not supported by native ring kernels.
    """

    def __init__(
        self,
        kernel_id: str,
        handler: Callable[[Any, Any, TIn_contra], TOut_co],
        *,
        runtime: NativeRuntime,
        config: RingKernelConfig | None = None,
        device: str = "cpu",
        state: Any = None,
        fast_math: bool = False,
        input_type: type[Any] | None = None,
        output_type: type[Any] | None = None,
    ) -> None:
        self.kernel_id = kernel_id
        self._declared: HandlerDeclaration = declare(
            handler, state=state, input_type=input_type, output_type=output_type, fast_math=fast_math
        )
        self.input_type: type[Any] | None = self._declared.input.cls
        self.output_type: type[Any] | None = None if self._declared.output is None else self._declared.output.cls
        self._runtime = runtime
        self._config = config or RingKernelConfig(kernel_id=kernel_id)
        self._device = device
        self._native: NativeKernel[TIn_contra, TOut_co] | None = None
        self._router: OutputRouter | None = None
        self._forwarder: Forwarder | None = None
        self._dead_letters: deque[DeadLetter] = deque(maxlen=self._config.dead_letter_capacity)
        # Set once the ring kernel has left the state LAUNCHED.
        self._changed = asyncio.Event()

    @property
    def native(self) -> NativeKernel[TIn_contra, TOut_co]:
        """The underlying :class:`NativeKernel`, for use from threads and with arrays of messages.

        Raises:
            KernelStateError: The ring kernel is not launched.
        """
        if self._native is None:
            raise KernelStateError(self.kernel_id, KernelState.CREATED.name, "use")
        return self._native

    @property
    def state(self) -> KernelState:
        """Lifecycle state."""
        return KernelState.CREATED if self._native is None else KernelState[self._native.lifecycle_state]

    @property
    def config(self) -> RingKernelConfig:
        """Settings."""
        return self._config

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The most recent outputs that no connected ring kernel accepted.

        For messages that it did not handle itself, see :meth:`pydotcompute.native.NativeRuntime.dead_letters`.
        """
        return list(self._dead_letters)

    @property
    def unrouted(self) -> int:
        """Number of outputs that were dropped because every ring kernel that this one was connected to has ended."""
        return 0 if self._router is None else self._router.unrouted

    def _open_router(self) -> OutputRouter:
        if self._router is None:
            self._router = OutputRouter(self, self._route)
        return self._router

    def _open_sink(self) -> NativeSink:
        return NativeSink(self)

    def _add_dead_letter(self, letter: DeadLetter) -> None:
        self._dead_letters.append(letter)

    def _route(self, routing: bool) -> asyncio.Task[None] | None:
        """Makes the router deliver the outputs, or queues them again. Returns the task that ends."""
        if not routing:
            forwarder, self._forwarder = self._forwarder, None
            return None if forwarder is None else forwarder.stop()
        can_send = self.output_type is not None and self.state is not KernelState.LAUNCHED
        if can_send and self._router is not None and self._forwarder is None:
            self._forwarder = Forwarder(self, self._router)
        return None

    async def launch(self) -> None:
        """Compiles the handler and allocates the ring kernel's resources, without blocking the event loop.

        Raises:
            KernelStateError: The ring kernel is already launched.
            KernelCompilationError: The handler does not compile; the error names the line.
            BackendNotAvailableError: Numba, the GPU or its compiler is missing.
        """
        if self._native is not None:
            raise KernelStateError(self.kernel_id, self.state.name, "launch")
        self._native = await asyncio.to_thread(self._make)

    def _make(self) -> NativeKernel[TIn_contra, TOut_co]:
        config, supervision = self._config, self._config.supervision
        return NativeKernel(
            self._declared,
            self.kernel_id,
            device=self._device,
            queue_size=config.input_queue_size,
            output_queue_size=config.output_queue_size,
            backpressure=config.backpressure_strategy.lower(),
            on_error=(supervision.max_restarts, supervision.within, supervision.backoff),
            runtime=self._runtime,
        )

    async def activate(self) -> None:
        """Starts handling messages.

        Raises:
            KernelStateError: The ring kernel is not launched, or already activated.
        """
        self.native.activate()
        self._changed.set()
        if self._router is not None and self._router.is_routing:
            self._route(True)

    async def deactivate(self) -> None:
        """Pauses the ring kernel at its next message boundary. Messages stay queued.

        Raises:
            KernelStateError: The ring kernel is not active.
        """
        await asyncio.to_thread(self.native.deactivate)

    async def reactivate(self) -> None:
        """Continues after a pause.

        Raises:
            KernelStateError: The ring kernel is not deactivated.
        """
        self.native.reactivate()

    async def terminate(self, timeout: float = 5.0) -> None:
        """Terminates the ring kernel after it has handled the accepted messages.

        Args:
            timeout: Maximum time to wait, in seconds; then the kernel is aborted.

        Raises:
            KernelError: The ring kernel did not finish in time.
        """
        if self._native is None:
            return
        deadline = time.monotonic() + timeout
        try:
            await asyncio.to_thread(self._native.terminate, timeout)
        finally:
            self._changed.set()
            if self._forwarder is not None:
                await self._forwarder.finish(max(deadline - time.monotonic(), 0.0))
            elif self._router is not None:
                self._router.close()

    async def send(self, message: TIn_contra, timeout: float | None = None) -> None:
        """Sends a message without waiting for it to be handled.

        Args:
            message: A message of the handler's class. It is handed over: neither side changes it afterwards. The ring kernel gets a copy
                of its fields.
            timeout: Maximum time to wait for a free slot, in seconds.

        Raises:
            TypeValidationError: The message is of another class.
            MessageSerializationError: A value does not fit its field.
            QueueFullError: The queue is full, and the backpressure is ``"reject"``.
            QueueTimeoutError: The queue stayed full until the timeout. The message was not sent.
            KernelStateError: The ring kernel is not activated yet, or has ended.
        """
        await self.native.tell_async(message, timeout)

    async def receive(self: NativeRingKernel[Any, _Message | None], timeout: float | None = None) -> _Message:
        """Waits for the next output: the handler's return value for a message that was sent. There is none while it is connected.

        Args:
            timeout: Maximum time to wait, in seconds.

        Returns:
            The output.

        Raises:
            QueueTimeoutError: No output arrived before the timeout.
            KernelStateError: The ring kernel is not activated yet, or it has ended and all outputs were received.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        # A connected ring kernel has no outputs for this method.
        while (forwarder := self._forwarder) is not None:
            if not await forwarder.stopped(timeout):
                raise QueueTimeoutError(self.kernel_id, timeout or 0.0, "receive")
        return await self.native.receive_async(None if deadline is None else max(deadline - time.monotonic(), 0.0))

    async def ask(self: NativeRingKernel[TIn_contra, _Message | None], message: TIn_contra, timeout: float | None = None) -> _Message:
        """Sends a request and waits for the reply.

        Args:
            message: A message of the handler's class. It is handed over: neither side changes it afterwards. The ring kernel gets a copy
                of its fields.
            timeout: Maximum time to wait in total, in seconds.

        Returns:
            The return value of the handler.

        Raises:
            KernelError: The handler raised (the exception is ``__cause__``), or returned no reply.
            QueueTimeoutError: No reply arrived before the timeout.
            TypeValidationError: The message is of another class.
            MessageSerializationError: A value does not fit its field.
            QueueFullError: The queue is full, and the backpressure is ``"reject"``.
            KernelStateError: The ring kernel is not activated yet, or has ended.
        """
        return await self.native.ask_async(message, timeout)

    def __repr__(self) -> str:
        return f"NativeRingKernel({self.kernel_id!r}, device={self._device!r}, state={self.state.name})"
