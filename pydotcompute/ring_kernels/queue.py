"""A queue strictly ordered by priority, with selectable backpressure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydotcompute import _core

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = ["BackpressureStrategy", "MessageQueue", "PriorityItem"]

T = TypeVar("T")


class BackpressureStrategy(Enum):
    """What a full queue does with a message."""

    BLOCK = auto()
    """The sender waits."""
    REJECT = auto()
    """The sender gets ``QueueFullError``."""
    DROP_OLDEST = auto()
    """The oldest of the least urgent messages is dropped, and counted as dropped."""


@dataclass(order=True)
class PriorityItem(Generic[T]):
    """A message with its position in the queue: ordered by priority (lower first), then by sequence number."""

    priority: int
    sequence: int
    message: T = field(compare=False)


class MessageQueue(_core.MessageQueue, Generic[T]):
    """A queue for coroutines.

    Args:
        maxsize: Capacity, in messages; 0 or less for no limit, as in ``asyncio.Queue``.
        backpressure: What happens if the queue is full.
        use_priority: Whether more urgent messages come first; otherwise the queue is FIFO.
        kernel_id: Ring kernel that the queue belongs to, for error texts.

    Example:
        >>> queue = MessageQueue(maxsize=1, backpressure=BackpressureStrategy.DROP_OLDEST)
        >>> queue.put_nowait("old"), queue.put_nowait("new"), queue.get_nowait()
        (True, True, 'new')
    """

    def __init__(
        self,
        maxsize: int = 4096,
        *,
        backpressure: BackpressureStrategy = BackpressureStrategy.BLOCK,
        use_priority: bool = True,
        kernel_id: str = "",
    ) -> None:
        self._configure(kernel_id, maxsize, "strict" if use_priority else "fifo", backpressure.name.lower(), "timeout")
        # Only for the tests of 0.2, which read these names; the queue has its own copies.
        self._backpressure = backpressure
        self._use_priority = use_priority

    if TYPE_CHECKING:

        def put(self, message: T, *, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
            """Adds a message; waits while the queue is full and its strategy is ``BLOCK``.

            Args:
                message: The message; without a ``priority`` attribute it has priority 128. It is handed over, not copied: neither side
                    changes it afterwards.
                timeout: Maximum time to wait for a free slot, in seconds; ``None`` for no limit.

            Returns:
                ``True``.

            Raises:
                QueueFullError: The queue is full, and the strategy is ``REJECT`` or the timeout is 0.
                QueueTimeoutError: The queue stayed full until the timeout.
                ForkedProcessError: The queue belongs to the process from which this one was forked.
            """

        def get(self, *, timeout: float | None = None) -> Coroutine[Any, Any, T]:
            """Removes and returns the next message; waits while the queue is empty.

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
                message: The message. It is handed over, not copied: neither side changes it afterwards.

            Returns:
                Whether it was added. ``False`` if the queue is full, unless the strategy is ``DROP_OLDEST``.

            Raises:
                ForkedProcessError: The queue belongs to the process from which this one was forked.
            """

        def get_nowait(self) -> T | None:
            """Removes and returns the next message without waiting.

            Returns:
                The message, or ``None`` if the queue is empty.

            Raises:
                ForkedProcessError: The queue belongs to the process from which this one was forked.
            """

        def get_stats(self) -> dict[str, Any]:
            """Returns the counters.

            Returns:
                ``current_size``, ``max_size``, ``peak_size``, ``total_enqueued``, ``total_dequeued``, ``total_dropped`` and
                ``never_awaited``; in a queue with priority bands also ``band_counts``, the number of messages by band.
            """

    def __repr__(self) -> str:
        return "MessageQueue(of the parent process)" if self._is_inherited else f"MessageQueue(size={self.qsize}/{self.maxsize})"
