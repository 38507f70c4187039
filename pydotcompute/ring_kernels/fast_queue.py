"""Queues at which coroutines wait: with four bands of priority, or with none.

Waiting costs a trip through the event loop in other queues. Here the ``put`` that brings a message resumes the coroutine that waits for
it; after some dozens of that in a row the event loop has its turn. ``put_nowait`` is no ``await``, and lets nobody else run: who waits
for its message is resumed by the event loop.
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
    """The four bands; lower numbers are taken first. Within a band messages come out as they came in."""

    SYSTEM = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3


def get_priority_band(priority: int) -> PriorityBand:
    """The band of a priority.

    Args:
        priority: 0 to 255, higher is more urgent.

    Returns:
        ``SYSTEM`` from 224 on, ``HIGH`` from 160 on, ``NORMAL`` from 64 on, else ``LOW``.
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
    """What has gone through a queue.

    Attributes:
        total_enqueued: Messages that were accepted.
        total_dequeued: Messages that were taken.
        total_dropped: Messages that were thrown away for newer ones.
        current_size: Messages in it now.
        peak_size: The most there ever were.
        band_counts: Messages in it now, by band.
    """

    total_enqueued: int = 0
    total_dequeued: int = 0
    total_dropped: int = 0
    current_size: int = 0
    peak_size: int = 0
    band_counts: dict[str, int] | None = None


class FastMessageQueue(_core.Mailbox, Generic[T]):
    """A bounded queue with four bands of priority, for coroutines.

    Args:
        maxsize: How many messages it holds at the most.
        kernel_id: The ring kernel it belongs to, for errors.
        serialize: Whether messages are put in as bytes. They are passed as they are otherwise.

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
            # As attributes of the instance, so that queues that pass objects, nearly all, pay nothing.
            self.put = self._put_bytes  # type: ignore[method-assign]
            self.put_nowait = self._put_bytes_nowait  # type: ignore[method-assign]
            self.put_batch = self._put_batch_bytes  # type: ignore[method-assign]

    if TYPE_CHECKING:

        def put(self, message: T, *, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
            """Puts a message in, waiting for room if there is none.

            Args:
                message: The message; without a ``priority`` it is normal.
                timeout: How long to wait, in seconds; ``0`` not at all, ``None`` for ever.

            Returns:
                ``True``.

            Raises:
                QueueFullError: There was no room in time. The message was not taken.
            """

        def get(self, *, timeout: float | None = None) -> Coroutine[Any, Any, T]:
            """Takes the next message of the first band that has one, waiting for one if there is none.

            Args:
                timeout: How long to wait, in seconds; ``None`` for ever.

            Returns:
                The message.

            Raises:
                QueueTimeoutError: There was none in time.
            """

        def put_nowait(self, message: T) -> bool:
            """Puts a message in if there is room; returns whether there was."""

        def get_nowait(self) -> T | None:
            """Takes the next message, or ``None`` if there is none."""

        def put_batch(self, messages: list[T]) -> int:
            """Puts messages in as long as there is room; returns how many."""

        def get_batch(self, max_count: int) -> list[T]:
            """Takes up to so many messages, those of higher bands first."""

    def _put_bytes(self, message: Any, *, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
        return _core.Mailbox.put(self, _Serialized.of(message), timeout=timeout)

    def _put_bytes_nowait(self, message: Any) -> bool:
        return _core.Mailbox.put_nowait(self, _Serialized.of(message))

    def _put_batch_bytes(self, messages: list[Any]) -> int:
        return _core.Mailbox.put_batch(self, [_Serialized.of(message) for message in messages])

    def __repr__(self) -> str:
        return f"FastMessageQueue(size={self.qsize}/{self.maxsize})"


class _Serialized(bytes):
    """A message as bytes that still know their priority."""

    priority: int

    @classmethod
    def of(cls, message: Any) -> Any:
        serialize = getattr(message, "serialize", None)
        if serialize is None:
            return message
        data = cls(serialize())
        data.priority = getattr(message, "priority", 128)
        return data


class RingBuffer(_core.Mailbox, Generic[T]):
    """A bounded queue without priorities, for coroutines.

    Args:
        capacity: How many items it holds at the most; made a power of two.

    Example:
        >>> buffer = RingBuffer(3)
        >>> buffer.capacity, buffer.put_nowait("a"), buffer.get_nowait(), buffer.get_nowait()
        (4, True, 'a', None)
    """

    def __init__(self, capacity: int = 4096) -> None:
        self._configure("", 1 << max(capacity - 1, 0).bit_length(), "fifo", "block", "return")

    @property
    def capacity(self) -> int:
        """How many items it holds at the most."""
        return self.maxsize

    @property
    def size(self) -> int:
        """How many items it holds."""
        return self.qsize

    if TYPE_CHECKING:

        def put(self, item: T, *, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
            """Puts an item in, waiting for room; ``False`` if there was none in time (seconds)."""

        def put_nowait(self, item: T) -> bool:
            """Puts an item in if there is room; returns whether there was."""

        def get(self, *, timeout: float | None = None) -> Coroutine[Any, Any, T | None]:
            """Takes the oldest item, waiting for one; ``None`` if there was none in time (seconds)."""

        def get_nowait(self) -> T | None:
            """Takes the oldest item, or ``None`` if there is none."""
    else:
        # The base calls what it takes a message.
        put = _core.Mailbox._put_item
        put_nowait = _core.Mailbox._put_item_nowait

    def __repr__(self) -> str:
        return f"RingBuffer(size={self.size}/{self.capacity})"
