"""A queue with a strict order of priorities and a choice of what happens when it is full."""

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
    """What happens to a message for which there is no room."""

    BLOCK = auto()
    """Its sender waits."""
    REJECT = auto()
    """Its sender gets ``QueueFullError``."""
    DROP_OLDEST = auto()
    """It takes the place of the oldest of the least urgent messages, which is counted as dropped."""


@dataclass(order=True)
class PriorityItem(Generic[T]):
    """A message with its place in an order: by priority (lower first), then by sequence."""

    priority: int
    sequence: int
    message: T = field(compare=False)


class MessageQueue(_core.Mailbox, Generic[T]):
    """A bounded queue for coroutines.

    Args:
        maxsize: How many messages it holds at the most.
        backpressure: What happens to a message for which there is no room.
        use_priority: Whether more urgent messages come first; else they come out as they came in.
        kernel_id: The ring kernel it belongs to, for errors.

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

    if TYPE_CHECKING:

        def put(self, message: T, *, timeout: float | None = None) -> Coroutine[Any, Any, bool]:
            """Puts a message in.

            Args:
                message: The message; without a ``priority`` it has 128.
                timeout: How long to wait for room, in seconds; ``None`` for ever.

            Returns:
                ``True``.

            Raises:
                QueueFullError: There is no room, and the strategy is ``REJECT`` or the time-out 0.
                QueueTimeoutError: There was no room in time.
            """

        def get(self, *, timeout: float | None = None) -> Coroutine[Any, Any, T]:
            """Takes the next message, waiting for one if there is none.

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

        def get_stats(self) -> dict[str, Any]:
            """What has gone in and out: current_size, max_size, total_enqueued, total_dequeued, total_dropped."""

    def __repr__(self) -> str:
        return f"MessageQueue(size={self.qsize}/{self.maxsize})"
