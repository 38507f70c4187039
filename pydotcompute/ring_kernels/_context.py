"""The context of an asyncio ring kernel's function."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Self

from pydotcompute import _core
from pydotcompute.exceptions import KernelStopped
from pydotcompute.ring_kernels._type_variables import TIn, TOut
from pydotcompute.ring_kernels.fast_queue import FastMessageQueue
from pydotcompute.ring_kernels.queue import MessageQueue

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["KernelContext"]


@dataclass
class KernelContext(_core.KernelContext, Generic[TIn, TOut]):
    """Context of a ring kernel's function: receives messages and sends replies and outputs.

    Attributes:
        kernel_id: Name of the ring kernel.
        input_queue: Queue of incoming messages.
        output_queue: Queue of outgoing messages.

    Example:
        >>> async def double(ctx):
        ...     async for number in ctx:
        ...         await ctx.send(2 * number)
        ...     print("every message is handled, and the ring kernel terminates")
    """

    kernel_id: str
    input_queue: MessageQueue[TIn] | FastMessageQueue[TIn]
    output_queue: MessageQueue[TOut] | FastMessageQueue[TOut]
    _active: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    def __post_init__(self) -> None:
        self._bind(self.input_queue, self.output_queue)

    @property
    def is_active(self) -> bool:
        """Whether the ring kernel is active: neither paused nor ended."""
        return self._active.is_set()

    async def wait_active(self) -> None:
        """Waits until the ring kernel is active."""
        await self._active.wait()

    async def _next_of_queue(self) -> TIn:
        """A step of ``async for`` for a queue of another class than the package's own."""
        try:
            return await self.receive()
        except KernelStopped:
            raise StopAsyncIteration from None

    if TYPE_CHECKING:

        @property
        def should_terminate(self) -> bool:
            """Whether the ring kernel was asked to terminate."""

        def receive(self, timeout: float | None = None) -> Coroutine[Any, Any, TIn]:
            """Receives the next message; waits while the input queue is empty.

            Args:
                timeout: Maximum time to wait, in seconds; ``None`` for no limit.

            Returns:
                The message. It was handed over, not copied: neither side changes it.

            Raises:
                QueueTimeoutError: No message arrived before the timeout.
                KernelStopped: The ring kernel was asked to terminate, and the queue is empty. Also a ``CancelledError``, and with a timeout
                    also a ``QueueTimeoutError``. A function that does not catch it ends gracefully.
            """

        def __aiter__(self) -> Self:
            """Iterates over the messages, until the ring kernel was asked to terminate and the queue is empty."""

        def __anext__(self) -> Coroutine[Any, Any, TIn]:
            """Receives the next message."""

        def send(self, message: TOut) -> Coroutine[Any, Any, bool]:
            """Sends the reply to the request received last, or an output; waits while the output queue is full.

            With a ``correlation_id``, the message is the reply to the request with that id, or an output if there is none. Otherwise it
            is the reply to the request if that was received last and is the only one without a reply. It is an output if no request
            waits for a reply. A function that receives further messages before it replies, or replies from tasks that it creates, uses
            :meth:`reply`.

            Args:
                message: The reply or output. It is handed over, not copied: neither side changes it afterwards.

            Returns:
                ``True``.

            Raises:
                AmbiguousReplyError: The message may be the reply to another request. The callers of all requests received get it too, as
                    the cause of their ``KernelError``.
            """

        def reply(self, message: TIn, answer: TOut) -> Coroutine[Any, Any, bool]:
            """Sends the reply to a request; waits while the output queue is full, if the message was no request.

            The request is named by the object that :meth:`receive` returned. Of several requests with this object, the first one is meant
            whose caller waits. If the caller has given up, the reply is dropped. A reply to a message that is no request, or has its
            reply, is an output.

            Args:
                message: The message that was received.
                answer: The reply. It is handed over, not copied: neither side changes it afterwards.

            Returns:
                ``True``.

            Example:
                >>> async def pairs(ctx):
                ...     while not ctx.should_terminate:
                ...         first, second = await ctx.receive(), await ctx.receive()
                ...         await ctx.reply(second, first)
                ...         await ctx.reply(first, second)
            """

        def skip(self, message: TIn) -> Coroutine[Any, Any, bool]:
            """Tells the caller of a request that there will be no reply: it gets ``NoReplyError`` at once.

            No effect on other messages. The effect does not depend on whether the call is awaited.

            Args:
                message: The message that was received.

            Returns:
                ``True``.
            """
