"""Asyncio ring kernels: lifecycle and supervision."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Generic

from pydotcompute import _core
from pydotcompute.exceptions import EventLoopError, KernelStateError, KernelStopped
from pydotcompute.ring_kernels._context import KernelContext
from pydotcompute.ring_kernels._kernel_function import check_function
from pydotcompute.ring_kernels._loop import start_task
from pydotcompute.ring_kernels._routing import MailboxSink, OutputRouter
from pydotcompute.ring_kernels._settings import DeadLetter, KernelState, RingKernelConfig, Supervision
from pydotcompute.ring_kernels._type_variables import TIn, TOut
from pydotcompute.ring_kernels.fast_queue import FastMessageQueue
from pydotcompute.ring_kernels.queue import BackpressureStrategy, MessageQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

    from pydotcompute.ring_kernels.telemetry import RingKernelTelemetry

__all__ = ["DeadLetter", "Kernel", "KernelContext", "KernelState", "RingKernel", "RingKernelConfig", "Supervision", "managed_kernel"]

_log = logging.getLogger(__name__)

# The run of a ring kernel's function that the current task belongs to: tasks inherit it from those that create them.
_run_of_task: ContextVar[object | None] = ContextVar("pydotcompute_run_of_task", default=None)


class RingKernel(_core.RingKernel, Generic[TIn, TOut]):
    """A ring kernel that runs as a coroutine of the running event loop.

    It starts in two phases: :meth:`launch` allocates resources and can fail, :meth:`activate` starts the function.

    Args:
        kernel_id: Name of the ring kernel.
        kernel_func: Function that receives a :class:`KernelContext`.
        config: Settings.
        input_type: Class of the messages; others are rejected with ``TypeValidationError``. Not checked by default.
        output_type: Class of replies and outputs.

    Example:
        >>> async def double(ctx):
        ...     while not ctx.should_terminate:
        ...         await ctx.send(2 * await ctx.receive())
        >>> async def main():
        ...     async with managed_kernel("double", double) as kernel:
        ...         return await kernel.ask(21)
        >>> asyncio.run(main())
        42
    """

    def __init__(
        self,
        kernel_id: str,
        kernel_func: Callable[[KernelContext[TIn, TOut]], Any],
        *,
        config: RingKernelConfig | None = None,
        input_type: type[TIn] | None = None,
        output_type: type[TOut] | None = None,
    ) -> None:
        self.kernel_id = kernel_id
        self.input_type = input_type
        self.output_type = output_type
        self._kernel_func = kernel_func
        self._config = config or RingKernelConfig(kernel_id=kernel_id)
        self._task: asyncio.Task[None] | None = None
        self._context: KernelContext[TIn, TOut] | None = None
        self._telemetry: RingKernelTelemetry | None = None
        self._dead_letters: deque[DeadLetter] = deque(maxlen=self._config.dead_letter_capacity)
        self._dropped: deque[TIn] = deque(maxlen=self._config.dead_letter_capacity)
        self._restarts: deque[float] = deque()
        self._starts_eagerly = False
        self._router: OutputRouter | None = None
        self.error: BaseException | None = None

    @property
    def state(self) -> KernelState:
        """Lifecycle state."""
        return KernelState(self._state_number)

    @property
    def config(self) -> RingKernelConfig:
        """Settings."""
        return self._config

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The most recent messages that will never be handled, with the reason: first those that the full input queue dropped."""
        return [*(DeadLetter(message, "dropped") for message in self._dropped), *self._dead_letters]

    @property
    def unrouted(self) -> int:
        """Number of outputs that were dropped because every ring kernel that this one was connected to has ended."""
        return 0 if self._router is None else self._router.unrouted

    def _open_router(self) -> OutputRouter:
        if self._router is None:
            self._router = OutputRouter(self, self._route)
        return self._router

    def _route(self, routing: bool) -> None:
        """Makes the router deliver the outputs, or queues them again."""
        if self._context is not None:
            self._context.output_queue._set_router(self._router if routing else None)

    def _open_sink(self) -> MailboxSink:
        context = self._context
        assert context is not None, "connect() checks the state"
        return MailboxSink(self, context.input_queue)

    def _add_dead_letter(self, letter: DeadLetter) -> None:
        self._dead_letters.append(letter)

    def _close_router(self) -> None:
        """Ends the connections to other ring kernels, because this one has ended."""
        if self._router is not None:
            self._router.close()

    if TYPE_CHECKING:

        def send(self, message: TIn, timeout: float | None = None) -> Coroutine[Any, Any, None]:
            """Sends a message; waits while the input queue is full.

            Args:
                message: The message. It is handed over, not copied: neither side changes it afterwards.
                timeout: Maximum time to wait, in seconds; ``None`` for no limit.

            Raises:
                KernelStateError: The ring kernel is not running.
                KernelError: The ring kernel failed during the call.
                QueueFullError: The queue stayed full until the timeout; the message was not sent.
                TypeValidationError: The message is not of the kernel's input type.
            """

        def receive(self, timeout: float | None = None) -> Coroutine[Any, Any, TOut]:
            """Receives the next output; waits while there is none.

            Args:
                timeout: Maximum time to wait, in seconds; ``None`` for no limit.

            Returns:
                The output. It was handed over, not copied: neither side changes it.

            Raises:
                KernelStateError: The ring kernel is not running.
                KernelError: The ring kernel failed; the exception is the cause. Outputs sent before the failure are received first.
                QueueTimeoutError: No output arrived before the timeout.
            """

        def ask(self, message: TIn, timeout: float | None = None) -> Coroutine[Any, Any, TOut]:
            """Sends a request and waits for its reply.

            Any number of callers may wait at the same time. :meth:`KernelContext.send` and :meth:`KernelContext.reply` document how replies
            are matched to requests. Other messages that the ring kernel sends stay queued for :meth:`receive`.

            Args:
                message: The request. It is handed over, not copied: neither side changes it afterwards.
                timeout: Maximum time to wait for a free slot and the reply, in seconds; ``None`` for no limit.

            Returns:
                The reply.

            Raises:
                KernelStateError: The ring kernel is not running.
                KernelError: The ring kernel failed; the exception is the cause.
                NoReplyError: The ring kernel skipped the request, or its full queue dropped it.
                QueueFullError: The queue stayed full until the timeout.
                QueueTimeoutError: No reply arrived before the timeout.
                TypeValidationError: The message is not of the kernel's input type.
            """

    def _require(self, state: KernelState, operation: str) -> KernelContext[TIn, TOut] | None:
        if self.state is not state:
            raise KernelStateError(self.kernel_id, self.state.name, operation)
        return self._context

    async def launch(self) -> None:
        """Creates the queues and the context.

        Raises:
            KernelStateError: The ring kernel is already launched.
            InvalidConfigurationError: The function is not an ``async def`` function with one parameter, the context.
        """
        self._require(KernelState.CREATED, "launch")
        check_function(self._kernel_func)
        config = self._config
        context: KernelContext[TIn, TOut] = KernelContext(
            kernel_id=self.kernel_id,
            input_queue=self._queue(config.input_queue_size, config.backpressure_strategy),
            output_queue=self._queue(config.output_queue_size, "block"),
        )
        context.input_queue._set_output(context.output_queue)
        context.input_queue._set_dropped(self._dropped.append)
        self._bind(self.kernel_id, context.input_queue, context.output_queue, self.input_type)
        self._context = context
        self._set_state(KernelState.LAUNCHED.value)
        _log.debug("kernel '%s' launched", self.kernel_id)

    def _queue(self, size: int, backpressure: str) -> MessageQueue[Any] | FastMessageQueue[Any]:
        if not self._config.use_fast_queue:
            return MessageQueue(size, backpressure=BackpressureStrategy[backpressure.upper()], kernel_id=self.kernel_id)
        queue: FastMessageQueue[Any] = FastMessageQueue(size, kernel_id=self.kernel_id)
        queue._configure(self.kernel_id, size, "bands", backpressure.lower(), "full")
        return queue

    async def activate(self) -> None:
        """Starts the function.

        Raises:
            KernelStateError: The ring kernel is not launched, or already activated.
        """
        context = self._require(KernelState.LAUNCHED, "activate")
        assert context is not None
        for queue in (context.input_queue, context.output_queue):
            queue._set_event_loop(asyncio.get_running_loop())
        context._active.set()
        self._set_state(KernelState.ACTIVE.value)
        if self._telemetry is not None:
            self._telemetry._watch(context.input_queue, context.output_queue)
            self._telemetry.start_clock()
        self._task = start_task(self._run(context), name=f"ring_kernel_{self.kernel_id}", eager=self._starts_eagerly)
        self._task.add_done_callback(functools.partial(self._task_ended, context))
        _log.info("kernel '%s' activated", self.kernel_id)

    async def deactivate(self) -> None:
        """Pauses the ring kernel: it receives no messages, which stay queued.

        Raises:
            KernelStateError: The ring kernel is not active.
        """
        context = self._require(KernelState.ACTIVE, "deactivate")
        assert context is not None
        context._active.clear()
        context.input_queue._set_paused(True)
        self._set_state(KernelState.DEACTIVATED.value)
        _log.info("kernel '%s' deactivated", self.kernel_id)

    async def reactivate(self) -> None:
        """Continues after a pause.

        Raises:
            KernelStateError: The ring kernel is not deactivated.
        """
        context = self._require(KernelState.DEACTIVATED, "reactivate")
        assert context is not None
        context._active.set()
        self._set_state(KernelState.ACTIVE.value)
        context.input_queue._set_paused(False)
        _log.info("kernel '%s' reactivated", self.kernel_id)

    async def terminate(self, timeout: float = 5.0) -> None:
        """Terminates the ring kernel: sets ``ctx.should_terminate``, waits for the function, and cancels it at the timeout.

        A function that waits for a message ends its ``async for``, or gets ``KernelStopped``, once it has received all queued messages.
        Unhandled messages become dead letters, and their number is logged. Waiting callers get ``KernelStateError``.

        Args:
            timeout: Maximum time to wait for the function to return, in seconds.

        Raises:
            EventLoopError: The ring kernel belongs to another event loop, which does not run.
        """
        context, task = self._context, self._task
        if self.state is KernelState.TERMINATED and context is None:
            return
        if task is not None and not task.done():
            own, calling = task.get_loop(), asyncio.get_running_loop()
            if own is not calling and not own.is_running():
                raise EventLoopError(self.kernel_id, self.state.name, "terminate", own, calling)
        failed = self.state is KernelState.FAILED
        self._set_state(KernelState.TERMINATING.value)
        if context is not None:
            context._request_stop()
            context._active.set()
            context.input_queue._set_paused(False)
            context.input_queue._end_getters()
        cancelled = False
        if task is not None and not task.done() and task is not asyncio.current_task():
            cancelled = await self._join(task, timeout)
        if context is not None:
            # Fail waiting requests first: they get the same error whether their message is still queued or not.
            terminated = KernelStateError(self.kernel_id, KernelState.TERMINATED.name, "receive message from")
            context.output_queue._fail(terminated)
            if cancelled:
                self._dead_letter_current(context, "unhandled", None)
            self._dead_letter_queued(context, "unhandled", self.error if failed else None)
            context.input_queue._fail(terminated)
            self._close_router()
        self._context = self._task = None
        self._set_state(KernelState.TERMINATED.value)
        _log.info("kernel '%s' terminated", self.kernel_id)

    async def _join(self, task: asyncio.Task[None], timeout: float) -> bool:
        """Waits for the function to return; cancels it at the timeout. Returns whether it was cancelled."""
        await asyncio.wait({task}, timeout=timeout)
        if task.done():
            return False
        _log.debug("terminating kernel '%s': cancelling its function after %s s", self.kernel_id, timeout)
        task.cancel(f"kernel '{self.kernel_id}' did not end within {timeout} s")
        await asyncio.wait({task}, timeout=max(timeout, 1.0))
        if not task.done():
            _log.error("terminating kernel '%s': its function was cancelled and is still running", self.kernel_id)
        return True

    async def _run(self, context: KernelContext[TIn, TOut]) -> None:
        """Runs the function, and restarts it after exceptions as long as supervision allows."""
        context.output_queue._set_task(asyncio.current_task(), context.input_queue)
        try:
            while not await self._run_once(context):
                pass
        except asyncio.CancelledError:
            if not context.should_terminate:
                # Not a termination: the event loop is shutting down, or other code cancelled the task.
                self._fail(context, asyncio.CancelledError(f"the task of kernel '{self.kernel_id}' was cancelled"))
            raise
        except BaseException as error:
            # Not an `Exception`, such as `KeyboardInterrupt`: supervision does not apply.
            self._fail(context, error)
            raise
        finally:
            context.output_queue._set_task(None, context.input_queue)
        if self.state is not KernelState.FAILED and not context.should_terminate:
            self._finish(context)

    def _task_ended(self, context: KernelContext[TIn, TOut], task: asyncio.Task[None]) -> None:
        """Marks the kernel as failed if its task was cancelled before its first step, in which ``_run`` would have noticed."""
        if task.cancelled() and self.state in (KernelState.ACTIVE, KernelState.DEACTIVATED):
            self._fail(context, asyncio.CancelledError(f"the task of kernel '{self.kernel_id}' was cancelled before it began"))

    async def _run_once(self, context: KernelContext[TIn, TOut]) -> bool:
        """Runs the function once. Returns whether that was the last run."""
        run = object()
        _run_of_task.set(run)
        context.output_queue._begin_run(run)
        try:
            result = self._kernel_func(context)
            if not inspect.isawaitable(result):
                raise TypeError(f"the function of kernel '{self.kernel_id}' returned {result!r}, which cannot be awaited")
            await result
        except KernelStopped:
            # The function left it to this method.
            if not context.should_terminate:
                raise
        except Exception as error:
            _log.error("kernel '%s' raised %s", self.kernel_id, type(error).__name__, exc_info=error)
            if self._telemetry is not None:
                self._telemetry.record_error(f"{type(error).__name__}: {error}")
            delay = self._restart_delay()
            if delay is None or context.should_terminate:
                self._fail(context, error)
                return True
            self._dead_letter_current(context, "failed", error)
            context.output_queue._fail_open_asks(error)
            _log.warning("restarting kernel '%s' in %s s", self.kernel_id, delay)
            await asyncio.sleep(delay)
            return False
        return True

    def _restart_delay(self) -> float | None:
        """Returns the delay before the function is restarted, in seconds; ``None`` if it is not restarted."""
        policy = self._config.supervision
        now = time.monotonic()
        while self._restarts and self._restarts[0] < now - policy.within:
            self._restarts.popleft()
        if policy.max_restarts is not None and len(self._restarts) >= policy.max_restarts:
            return None
        # The exponent is bounded: 40 doublings exceed any program's run time, and more would overflow a float.
        delay = policy.backoff * 2.0 ** min(len(self._restarts), 40)
        self._restarts.append(now)
        return delay

    def _dead_letter_current(self, context: KernelContext[TIn, TOut], reason: str, cause: BaseException | None) -> None:
        """Turns the message that the function was handling into a dead letter."""
        message = context.input_queue._take_current()
        if message is not None:
            self._dead_letters.append(DeadLetter(message[0], reason, cause))
            if reason == "unhandled":
                _log.warning("kernel '%s' was cancelled while it handled a message; see its dead_letters", self.kernel_id)

    def _fail(self, context: KernelContext[TIn, TOut], error: BaseException) -> None:
        """Marks the kernel as failed. Waiting and later callers get the error."""
        self.error = error
        self._set_state(KernelState.FAILED.value)
        _log.info("kernel '%s' failed: %s: %s", self.kernel_id, type(error).__name__, error)
        context._active.clear()
        self._dead_letter_current(context, "failed", error)
        # Fail waiting requests first, so that callers get the cause even if their message is still queued.
        context.output_queue._fail(error)
        self._dead_letter_queued(context, "failed", error)
        context.input_queue._fail(error)
        self._close_router()

    def _finish(self, context: KernelContext[TIn, TOut]) -> None:
        """Handles a function that returned without a termination request: its outputs stay receivable, and it accepts no messages."""
        self._set_state(KernelState.TERMINATED.value)
        context._active.clear()
        ended = KernelStateError(self.kernel_id, KernelState.TERMINATED.name, "receive message from")
        context.output_queue._fail(ended)
        self._dead_letter_queued(context, "unhandled", None)
        context.input_queue._fail(ended)
        self._close_router()
        _log.info("kernel '%s' ended: its function returned", self.kernel_id)

    def _dead_letter_queued(self, context: KernelContext[TIn, TOut], reason: str, cause: BaseException | None) -> None:
        """Turns the queued messages into dead letters, and logs how many, and how many outputs are left."""
        messages = context.input_queue._drain()
        self._dead_letters.extend(DeadLetter(message, reason, cause) for message in messages)
        if messages:
            _log.warning("kernel '%s' ended before it handled %d queued messages; see its dead_letters", self.kernel_id, len(messages))
        if outputs := context.output_queue.qsize:
            _log.info("kernel '%s' ended with %d outputs that were not received", self.kernel_id, outputs)

    def __repr__(self) -> str:
        inherited = self._context is not None and self._context.input_queue._is_inherited
        return f"RingKernel(id={self.kernel_id!r}, {'of the parent process' if inherited else f'state={self.state.name}'})"


#: The handle that a launch returns, as `Kernel[In, Out]`.
Kernel = RingKernel


@asynccontextmanager
async def managed_kernel(
    kernel_id: str, kernel_func: Callable[[KernelContext[TIn, TOut]], Any], **kwargs: Any
) -> AsyncIterator[RingKernel[TIn, TOut]]:
    """Yields a ring kernel that is active for the duration of an ``async with`` block, and terminates it afterwards.

    Args:
        kernel_id: Name of the ring kernel.
        kernel_func: Its function.
        **kwargs: Further arguments of :class:`RingKernel`.
    """
    kernel: RingKernel[TIn, TOut] = RingKernel(kernel_id, kernel_func, **kwargs)
    await kernel.launch()
    try:
        await kernel.activate()
        yield kernel
    finally:
        await kernel.terminate()
