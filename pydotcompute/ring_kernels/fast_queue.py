"""Queues for coroutines, with four priority bands or without priorities.

In other queues waiting costs a pass through the event loop. Here the ``put`` that delivers a message resumes the waiting coroutine
directly; after some dozens of such resumes in a row the event loop runs. ``put_nowait`` does not await and therefore resumes nothing
directly: the event loop resumes the coroutine that waits for its message.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydotcompute import _core

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["FastMessageQueue", "PriorityBand", "QueueStats", "RingBuffer", "get_priority_band"]

T = TypeVar("T")


class PriorityBand(IntEnum):
    """The four priority bands; lower numbers are received first. Messages of one band are FIFO."""

    SYSTEM = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


def get_priority_band(priority: int) -> PriorityBand:
    """Returns the band of a priority.

    Args:
        priority: 0 to 255, higher is more urgent.

    Returns:
        ``SYSTEM`` from 224, ``HIGH`` from 160, ``NORMAL`` from 64, else ``LOW``.
    """
    if priority >= 224:
        return PriorityBand.SYSTEM
    if priority >= 160:
        return PriorityBand.HIGH
    if priority >= 64:
        return PriorityBand.NORMAL
    return PriorityBand.LOW


@dataclass
class QueueStats:
    """Counters of a queue.

    Attributes:
        total_enqueued: Messages accepted.
        total_dequeued: Messages received.
        total_dropped: Messages dropped to make space for newer ones.
        current_size: Messages in the queue.
        peak_size: Highest number of messages in the queue so far.
        band_counts: Messages in the queue, by band.
    """

    total_enqueued: int = 0
    total_dequeued: int = 0
    total_dropped: int = 0
    current_size: int = 0
    peak_size: int = 0
    band_counts: dict[str, int] | None = None


class FastMessageQueue(_core.FastMessageQueue, Generic[T]):
    """A queue with four priority bands, for coroutines.

    Args:
        maxsize: Capacity, in messages; 0 or less for no limit, as in ``asyncio.Queue``.
        kernel_id: Ring kernel that the queue belongs to, for error texts.
        serialize: Whether messages are stored in serialized form. By default the objects are stored.

    Example:
        >>> import asyncio
        >>> async def main():
        ...     queue = FastMessageQueue(maxsize=16)
        ...     await queue.put("a message")
        ...     return await queue.get(timeout=1.0)
        >>> asyncio.run(main())
        'a message'
    """

    def __init__(self, maxsize: int = 4096, *, kernel_id: str = "", serialize: bool = False) -> None:
        self._configure(kernel_id, maxsize, "bands", "block", "full")
        self._serialize = serialize
        if serialize:
            # Set on the instance, so that queues that store objects, the usual case, pay nothing.
            self.put = self._put_bytes  # type: ignore[method-assign]
            self.put_nowait = self._put_bytes_nowait  # type: ignore[method-assign]
            self.put_batch = self._put_batch_bytes  # type: ignore[method-assign]

    if TYPE_CHECKING:

        def put(self, message: T, *, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
            """Adds a message; waits while the queue is full.

            Args:
                message: The message; without a ``priority`` attribute it has normal priority. It is handed over, not copied, unless
                    `serialize` is set: neither side changes it afterwards.
                timeout: Maximum time to wait, in seconds; ``0`` does not wait, ``None`` waits without limit.

            Returns:
                ``True``.

            Raises:
                QueueFullError: The queue stayed full until the timeout. The message was not added.
                ForkedProcessError: The queue belongs to the process from which this one was forked.
            """

        def get(self, *, timeout: float | None = None) -> Coroutine[Any, Any, T]:
            """Removes and returns the next message of the first band that is not empty; waits while the queue is empty.

            Args:
                timeout: Maximum time to wait, in seconds; ``None`` for no limit.

            Returns:
                The message.

            Raises:
                QueueTimeoutError: The queue stayed empty until the timeout.
                ForkedProcessError: The queue belongs to the process from which this one was forked.
            """

        def put_nowait(self, message: T) -> bool:
            """Adds a message without waiting.

            Args:
                message: The message. It is handed over, not copied, unless `serialize` is set: neither side changes it afterwards.

            Returns:
                Whether it was added. ``False`` if the queue is full.

            Raises:
                ForkedProcessError: The queue belongs to the process from which this one was forked.
            """

        def get_nowait(self) -> T | None:
            """Removes and returns the next message of the first band that is not empty, without waiting.

            Returns:
                The message, or ``None`` if the queue is empty.

            Raises:
                ForkedProcessError: The queue belongs to the process from which this one was forked.
            """

        def put_batch(self, messages: list[T]) -> int:
            """Adds messages in order, without waiting, until the queue is full.

            Args:
                messages: The messages. They are handed over, not copied, unless `serialize` is set: neither side changes them afterwards.

            Returns:
                Number of messages added.
            """

        def get_batch(self, max_count: int) -> list[T]:
            """Removes and returns queued messages, without waiting.

            Args:
                max_count: Maximum number of messages.

            Returns:
                The messages, in the order in which `get` returns them.
            """

    def _put_bytes(self, message: Any, *, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
        return super().put(_Serialized.of(message), timeout=timeout)

    def _put_bytes_nowait(self, message: Any) -> bool:
        return super().put_nowait(_Serialized.of(message))

    def _put_batch_bytes(self, messages: list[Any]) -> int:
        return super().put_batch([_Serialized.of(message) for message in messages])

    def __repr__(self) -> str:
        return "FastMessageQueue(of the parent process)" if self._is_inherited else f"FastMessageQueue(size={self.qsize}/{self.maxsize})"


class _Serialized(bytes):
    """A serialized message that keeps its priority."""

    priority: int

    @classmethod
    def of(cls, message: Any) -> Any:
        serialize = getattr(message, "serialize", None)
        if serialize is None:
            return message
        data = cls(serialize())
        data.priority = getattr(message, "priority", 128)
        return data


class RingBuffer(_core.RingBuffer, Generic[T]):
    """A bounded queue without priorities, for coroutines.

    Args:
        capacity: Capacity, in items; rounded up to a power of two.

    Example:
        >>> buffer = RingBuffer(3)
        >>> buffer.capacity, buffer.put_nowait("a"), buffer.get_nowait(), buffer.get_nowait()
        (4, True, 'a', None)
    """

    def __init__(self, capacity: int = 4096) -> None:
        self._configure("", 1 << max(capacity - 1, 0).bit_length(), "fifo", "block", "return")

    @property
    def capacity(self) -> int:
        """Capacity, in items."""
        return self.maxsize

    @property
    def size(self) -> int:
        """Number of items in the queue."""
        return self.qsize

    if TYPE_CHECKING:

        def put(self, item: T, *, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
            """Adds an item; waits while the queue is full.

            Args:
                item: The item. It is handed over, not copied: neither side changes it afterwards.
                timeout: Maximum time to wait, in seconds; ``None`` for no limit.

            Returns:
                Whether it was added. ``False`` if the queue stayed full until the timeout.

            Raises:
                ForkedProcessError: The queue belongs to the process from which this one was forked.
            """

        def put_nowait(self, item: T) -> bool:
            """Adds an item without waiting.

            Args:
                item: The item. It is handed over, not copied: neither side changes it afterwards.

            Returns:
                Whether it was added. ``False`` if the queue is full.

            Raises:
                ForkedProcessError: The queue belongs to the process from which this one was forked.
            """

        def get(self, *, timeout: float | None = None) -> Coroutine[Any, Any, T | None]:
            """Removes and returns the oldest item; waits while the queue is empty.

            Args:
                timeout: Maximum time to wait, in seconds; ``None`` for no limit.

            Returns:
                The item, or ``None`` if the queue stayed empty until the timeout.

            Raises:
                ForkedProcessError: The queue belongs to the process from which this one was forked.
            """

        def get_nowait(self) -> T | None:
            """Removes and returns the oldest item without waiting.

            Returns:
                The item, or ``None`` if the queue is empty.

            Raises:
                ForkedProcessError: The queue belongs to the process from which this one was forked.
            """

    def __repr__(self) -> str:
        return "RingBuffer(of the parent process)" if self._is_inherited else f"RingBuffer(size={self.size}/{self.capacity})"
