"""Ring kernels as coroutines: their context, their states, and what happens when they fail."""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydotcompute import _core
from pydotcompute.exceptions import KernelStateError
from pydotcompute.ring_kernels.fast_queue import FastMessageQueue
from pydotcompute.ring_kernels.queue import BackpressureStrategy, MessageQueue

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Coroutine

    from pydotcompute.ring_kernels.telemetry import RingKernelTelemetry

__all__ = ["DeadLetter", "KernelContext", "KernelState", "RingKernel", "RingKernelConfig", "Supervision", "managed_kernel"]

TIn = TypeVar("TIn")
TOut = TypeVar("TOut")

_log = logging.getLogger("pydotcompute")

# Dead letters that are kept for each ring kernel; all are counted.
_DEAD_LETTERS = 1000


class KernelState(Enum):
    """Where a ring kernel is in its life."""

    CREATED = auto()
    LAUNCHED = auto()
    ACTIVE = auto()
    DEACTIVATED = auto()
    TERMINATING = auto()
    TERMINATED = auto()
    FAILED = auto()
    """Its function raised an exception, and its supervision does not start it again."""


@dataclass(frozen=True)
class Supervision:
    """What happens after an exception in a ring kernel's function.

    In any case the message it was at becomes a dead letter, its asker gets ``KernelError``, and the exception is logged.

    Attributes:
        max_restarts: How often within ``within`` its function is started again, on the messages that wait; 0 for never, ``None`` for
            always.
        within: Seconds.
        backoff: Seconds to wait before the first restart; doubled with each further one.

    Example:
        >>> RingKernelConfig("sensor", supervision=Supervision(max_restarts=3, within=60.0)).supervision.max_restarts
        3
    """

    max_restarts: int | None = 0
    within: float = 60.0
    backoff: float = 0.0


@dataclass(frozen=True)
class DeadLetter:
    """A message that will never be handled.

    Attributes:
        message: The message.
        reason: ``"failed"``, the ring kernel raised while it had the message; ``"unhandled"``, it ended before.
        cause: The exception, if there was one.
    """

    message: Any
    reason: str
    cause: BaseException | None = None


@dataclass
class RingKernelConfig:
    """The settings of a ring kernel.

    Attributes:
        kernel_id: Its name.
        grid_size: Blocks, on a GPU.
        block_size: Threads of a block, on a GPU.
        input_queue_size: How many messages wait for it at the most.
        output_queue_size: How many of its outputs wait at the most.
        backpressure_strategy: What happens to a message for which there is no room: ``"block"``, ``"reject"`` or ``"drop_oldest"``.
        use_fast_queue: Four bands of priority; else a strict order.
        supervision: What happens after an exception.
    """

    kernel_id: str
    grid_size: int = 1
    block_size: int = 256
    input_queue_size: int = 4096
    output_queue_size: int = 4096
    backpressure_strategy: str = "block"
    use_fast_queue: bool = True
    supervision: Supervision = field(default_factory=Supervision)

    def __post_init__(self) -> None:
        for name in ("grid_size", "block_size", "input_queue_size", "output_queue_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.backpressure_strategy.upper() not in BackpressureStrategy.__members__:
            known = ", ".join(name.lower() for name in BackpressureStrategy.__members__)
            raise ValueError(f"backpressure_strategy must be one of {known}, got {self.backpressure_strategy!r}")


@dataclass
class KernelContext(_core.ContextPort, Generic[TIn, TOut]):
    """What a ring kernel's function is given.

    Attributes:
        kernel_id: The ring kernel's name.
        input_queue: Where its messages wait.
        output_queue: Where what it sends waits.

    Example:
        >>> async def double(ctx):
        ...     while not ctx.should_terminate:
        ...         number = await ctx.receive()
        ...         await ctx.send(2 * number)
    """

    kernel_id: str
    input_queue: MessageQueue[TIn] | FastMessageQueue[TIn]
    output_queue: MessageQueue[TOut] | FastMessageQueue[TOut]
    _active: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def __post_init__(self) -> None:
        self._bind(self.input_queue, self.output_queue)

    @property
    def is_active(self) -> bool:
        """Whether the ring kernel is active: not paused, and not ended."""
        return self._active.is_set()

    async def wait_active(self) -> None:
        """Waits until the ring kernel is active."""
        await self._active.wait()

    if TYPE_CHECKING:

        @property
        def should_terminate(self) -> bool:
            """Whether the ring kernel has been told to end."""

        def receive(self, timeout: float | None = None) -> Coroutine[Any, Any, TIn]:
            """Takes the next message, waiting for one if there is none.

            When the ring kernel is told to end and there are no more messages, this raises ``QueueTimeoutError`` at once if there is a
            time-out, and ``asyncio.CancelledError`` if there is none.

            Args:
                timeout: How long to wait, in seconds; ``None`` for ever.

            Returns:
                The message.

            Raises:
                QueueTimeoutError: There was none in time.
            """

        def send(self, message: TOut) -> Coroutine[Any, Any, bool]:
            """Sends an answer, or an output, waiting for room if there is none.

            Args:
                message: What is sent. If its ``correlation_id`` is a question's id it goes to whoever asked that; without one, to the
                    oldest question that was taken and not answered; else to whoever receives. A function that leaves some questions
                    without an answer, or answers them in another order, has to give the ``correlation_id``.
            """


class RingKernel(_core.KernelPort, Generic[TIn, TOut]):
    """A ring kernel in a coroutine of this event loop.

    It starts in two phases: :meth:`launch` takes what it needs and can fail, :meth:`activate` starts it.

    Args:
        kernel_id: Its name.
        kernel_func: Its function, given a :class:`KernelContext`.
        config: Its settings.
        input_type: The class of its messages; others are refused with ``TypeValidationError``. Not checked by default.
        output_type: The class of what it sends.

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
        self._dead_letters: deque[DeadLetter] = deque(maxlen=_DEAD_LETTERS)
        self._restarts: deque[float] = deque()
        self.error: BaseException | None = None

    @property
    def state(self) -> KernelState:
        """Where it is in its life."""
        return KernelState(self._state_number)

    @property
    def config(self) -> RingKernelConfig:
        """Its settings."""
        return self._config

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The last messages that will never be handled, with the reason; up to 1,000."""
        return list(self._dead_letters)

    if TYPE_CHECKING:

        def send(self, message: TIn, timeout: float | None = None) -> Coroutine[Any, Any, None]:
            """Sends it a message, waiting for room if there is none.

            Args:
                message: The message.
                timeout: How long to wait, in seconds; ``None`` for ever.

            Raises:
                KernelStateError: It does not run.
                KernelError: It failed while this waited.
                QueueFullError: There was no room in time; the message is the caller's still.
                TypeValidationError: The message is not of its input type.
            """

        def receive(self, timeout: float | None = None) -> Coroutine[Any, Any, TOut]:
            """Takes the next of its outputs, waiting for one if there is none.

            Args:
                timeout: How long to wait, in seconds; ``None`` for ever.

            Returns:
                The output.

            Raises:
                KernelStateError: It does not run.
                KernelError: It failed; the exception is the cause. What it had sent before is received first.
                QueueTimeoutError: There was none in time.
            """

        def ask(self, message: TIn, timeout: float | None = None) -> Coroutine[Any, Any, TOut]:
            """Sends it a message and waits for the answer to it.

            Any number of askers may wait at once: each gets its own answer. See :meth:`KernelContext.send` for which that is.

            Args:
                message: The question.
                timeout: How long to wait, in seconds; ``None`` for ever.

            Returns:
                The answer.

            Raises:
                KernelStateError: It does not run.
                KernelError: It failed; the exception is the cause.
                QueueFullError: There was no room for the question in time.
                QueueTimeoutError: There was no answer in time.
                TypeValidationError: The message is not of its input type.
            """

    def _require(self, state: KernelState, operation: str) -> KernelContext[TIn, TOut] | None:
        if self.state is not state:
            raise KernelStateError(self.kernel_id, self.state.name, operation)
        return self._context

    async def launch(self) -> None:
        """Takes what it needs: its queues and its context.

        Raises:
            KernelStateError: It was launched before.
        """
        self._require(KernelState.CREATED, "launch")
        config = self._config
        context: KernelContext[TIn, TOut] = KernelContext(
            kernel_id=self.kernel_id,
            input_queue=self._queue(config.input_queue_size, config.backpressure_strategy),
            output_queue=self._queue(config.output_queue_size, "block"),
        )
        context.input_queue._set_output(context.output_queue)
        self._bind(self.kernel_id, context.input_queue, context.output_queue, self.input_type)
        self._context = context
        self._set_state(KernelState.LAUNCHED.value)

    def _queue(self, size: int, backpressure: str) -> MessageQueue[Any] | FastMessageQueue[Any]:
        if not self._config.use_fast_queue:
            return MessageQueue(size, backpressure=BackpressureStrategy[backpressure.upper()], kernel_id=self.kernel_id)
        queue: FastMessageQueue[Any] = FastMessageQueue(size, kernel_id=self.kernel_id)
        queue._configure(self.kernel_id, size, "bands", backpressure.lower(), "full")
        return queue

    async def activate(self) -> None:
        """Starts its function.

        Raises:
            KernelStateError: It is not launched, or was activated before.
        """
        context = self._require(KernelState.LAUNCHED, "activate")
        assert context is not None
        context._active.set()
        self._set_state(KernelState.ACTIVE.value)
        if self._telemetry is not None:
            self._telemetry._watch(context.input_queue)
            self._telemetry.start_clock()
        self._task = asyncio.create_task(self._run(context), name=f"ring_kernel_{self.kernel_id}")

    async def deactivate(self) -> None:
        """Pauses it: it is given no messages, which wait.

        Raises:
            KernelStateError: It is not active.
        """
        context = self._require(KernelState.ACTIVE, "deactivate")
        assert context is not None
        context._active.clear()
        context.input_queue._set_paused(True)
        self._set_state(KernelState.DEACTIVATED.value)

    async def reactivate(self) -> None:
        """Lets it go on.

        Raises:
            KernelStateError: It is not deactivated.
        """
        context = self._require(KernelState.DEACTIVATED, "reactivate")
        assert context is not None
        context._active.set()
        self._set_state(KernelState.ACTIVE.value)
        context.input_queue._set_paused(False)

    async def terminate(self, timeout: float = 5.0) -> None:
        """Ends it. It is told (``ctx.should_terminate``), given time, and cancelled if it does not end in time.

        Messages that it has not handled become dead letters. Whoever waits for it is told.

        Args:
            timeout: How long to wait for its function to return, in seconds.
        """
        context, task = self._context, self._task
        if self.state is KernelState.TERMINATED and context is None:
            return
        failed = self.state is KernelState.FAILED
        self._set_state(KernelState.TERMINATING.value)
        if context is not None:
            context._request_stop()
            context._active.set()
            context.input_queue._set_paused(False)
            context.input_queue._end_getters()
        if task is not None and not task.done() and task is not asyncio.current_task():
            await self._join(task, timeout)
        if context is not None:
            self._bury(context, "unhandled", self.error if failed else None)
            gone = KernelStateError(self.kernel_id, KernelState.TERMINATED.name, "receive message from")
            context.output_queue._fail(gone)
            context.input_queue._fail(gone)
        self._context = self._task = None
        self._set_state(KernelState.TERMINATED.value)

    async def _join(self, task: asyncio.Task[None], timeout: float) -> None:
        """Waits for the function to return, and cancels it if it does not."""
        await asyncio.wait({task}, timeout=timeout)
        if not task.done():
            task.cancel(f"kernel '{self.kernel_id}' did not end within {timeout} s")
            await asyncio.wait({task}, timeout=max(timeout, 1.0))
        if not task.done():
            _log.error("kernel '%s' does not end: it was cancelled and goes on", self.kernel_id)

    async def _run(self, context: KernelContext[TIn, TOut]) -> None:
        """Runs the function, again if it fails and its supervision says so."""
        try:
            while not await self._returns(context):
                pass
        except asyncio.CancelledError:
            if not context.should_terminate:
                # Nobody told it to end: the loop is shut down, or somebody has cancelled the task.
                self._fail(context, asyncio.CancelledError(f"the task of kernel '{self.kernel_id}' was cancelled"))
            raise
        except BaseException as error:
            # Not of `Exception`, such as what ends the program or a test: its supervision has no say in it.
            self._fail(context, error)
            raise
        if self.state is not KernelState.FAILED and not context.should_terminate:
            self._retire(context)

    async def _returns(self, context: KernelContext[TIn, TOut]) -> bool:
        """Runs the function once. Returns whether that was the last time."""
        try:
            result = self._kernel_func(context)
            if inspect.isawaitable(result):
                await result
        except Exception as error:
            _log.error("kernel '%s' raised %s", self.kernel_id, type(error).__name__, exc_info=error)
            if self._telemetry is not None:
                self._telemetry.record_error(f"{type(error).__name__}: {error}")
            pause = self._next_restart()
            if pause is None or context.should_terminate:
                self._fail(context, error)
                return True
            self._lose_message(context, error)
            context.output_queue._fail_taken_asks(error)
            await asyncio.sleep(pause)
            return False
        return True

    def _next_restart(self) -> float | None:
        """How long to wait before the function is started again; ``None`` if it is not."""
        policy = self._config.supervision
        now = time.monotonic()
        while self._restarts and self._restarts[0] < now - policy.within:
            self._restarts.popleft()
        if policy.max_restarts is not None and len(self._restarts) >= policy.max_restarts:
            return None
        # Doubled more often it would be longer than any program runs, and at last not be a number.
        pause = policy.backoff * 2.0 ** min(len(self._restarts), 40)
        self._restarts.append(now)
        return pause

    def _lose_message(self, context: KernelContext[TIn, TOut], error: BaseException) -> None:
        """The message that the function had when it failed becomes a dead letter."""
        message = context.input_queue._take_current()
        if message is not None:
            self._dead_letters.append(DeadLetter(message[0], "failed", error))

    def _fail(self, context: KernelContext[TIn, TOut], error: BaseException) -> None:
        """It will not go on: whoever waits for it, or will, is told."""
        self.error = error
        self._set_state(KernelState.FAILED.value)
        context._active.clear()
        self._lose_message(context, error)
        # First those who wait for answers: they are told the cause, also where their message is still in the queue.
        context.output_queue._fail(error)
        self._bury(context, "failed", error)
        context.input_queue._fail(error)

    def _retire(self, context: KernelContext[TIn, TOut]) -> None:
        """Its function has returned without being told to: what it sent can be received, and no more comes."""
        self._set_state(KernelState.TERMINATED.value)
        context._active.clear()
        self._bury(context, "unhandled", None)
        ended = KernelStateError(self.kernel_id, KernelState.TERMINATED.name, "receive message from")
        context.output_queue._fail(ended)
        context.input_queue._fail(ended)

    def _bury(self, context: KernelContext[TIn, TOut], reason: str, cause: BaseException | None) -> None:
        """The messages that wait become dead letters."""
        self._dead_letters.extend(DeadLetter(message, reason, cause) for message in context.input_queue._drain())

    def __repr__(self) -> str:
        return f"RingKernel(id={self.kernel_id!r}, state={self.state.name})"


async def _ask_after_put(room: Awaitable[bool], answer: Awaitable[Any]) -> Any:
    """What an ask is where the input was full."""
    await room
    return await answer


@asynccontextmanager
async def managed_kernel(
    kernel_id: str, kernel_func: Callable[[KernelContext[TIn, TOut]], Any], **kwargs: Any
) -> AsyncIterator[RingKernel[TIn, TOut]]:
    """A ring kernel that is launched and active within an ``async with``, and terminated after it.

    Args:
        kernel_id: Its name.
        kernel_func: Its function.
        **kwargs: What :class:`RingKernel` takes otherwise.

    Yields:
        The ring kernel.
    """
    kernel: RingKernel[TIn, TOut] = RingKernel(kernel_id, kernel_func, **kwargs)
    await kernel.launch()
    try:
        await kernel.activate()
        yield kernel
    finally:
        await kernel.terminate()
