"""States, settings and the context of a ring kernel on a thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Generic, TypeVar

from pydotcompute.exceptions import QueueFullError, QueueTimeoutError, TypeValidationError
from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue

__all__ = ["ThreadedKernelConfig", "ThreadedKernelContext", "ThreadedKernelState", "check_type"]

TIn = TypeVar("TIn")
TOut = TypeVar("TOut")


class ThreadedKernelState(Enum):
    """State of a kernel on a thread.

    ``ACTIVE``, ``TERMINATING`` and ``TERMINATED``, the words of :class:`~pydotcompute.ring_kernels.lifecycle.KernelState`, are other names
    of ``RUNNING``, ``STOPPING`` and ``STOPPED``.
    """

    CREATED = auto()
    RUNNING = auto()
    STOPPING = auto()
    STOPPED = auto()
    FAILED = auto()
    LAUNCHED = auto()
    DEACTIVATED = auto()
    ACTIVE = RUNNING
    TERMINATING = STOPPING
    TERMINATED = STOPPED


@dataclass
class ThreadedKernelConfig:
    """Settings of a kernel on a thread.

    Attributes:
        kernel_id: Name of the kernel.
        input_queue_size: Capacity of the input queue, in messages.
        output_queue_size: Capacity of the output queue, in messages.
        use_spsc: Whether the queues serve one sender and one receiver at a time, which is faster. Their capacities are rounded up to a
            power of two. Otherwise any number of threads may send and receive.
        thread_name: Name of the thread; by default derived from `kernel_id`.
        daemon: Whether the process may exit while the kernel runs. Otherwise the kernel is asked to stop when the main thread ends.

    Raises:
        ValueError: A queue size is less than 1.
    """

    kernel_id: str
    input_queue_size: int = 4096
    output_queue_size: int = 4096
    use_spsc: bool = True
    thread_name: str | None = None
    daemon: bool = True

    def __post_init__(self) -> None:
        for name in ("input_queue_size", "output_queue_size"):
            size = getattr(self, name)
            if size < 1:
                raise ValueError(f"Cannot configure kernel '{self.kernel_id}': {name} must be >= 1, got {size}")


@dataclass
class ThreadedKernelContext(Generic[TIn, TOut]):
    """Context of a kernel's function: receives messages and sends outputs.

    Attributes:
        kernel_id: Name of the kernel.
        input_queue: Queue of incoming messages.
        output_queue: Queue of outgoing messages.
    """

    kernel_id: str
    input_queue: SyncQueue[TIn] | SPSCQueue[TIn]
    output_queue: SyncQueue[TOut] | SPSCQueue[TOut]
    _shutdown_event: threading.Event = field(default_factory=threading.Event)
    _output_type: type[TOut] | None = None
    # The message that the function is handling: the last one received.
    _received: TIn | None = None

    @property
    def should_terminate(self) -> bool:
        """Whether the kernel was asked to stop."""
        return self._shutdown_event.is_set()

    def receive(self, timeout: float | None = None) -> TIn | None:
        """Receives the next message; waits while the input queue is empty.

        Args:
            timeout: Maximum time to wait, in seconds. ``None`` waits until a message arrives or the kernel is asked to stop.

        Returns:
            The message. ``None`` at the timeout, and if the kernel was asked to stop and the queue is empty.
        """
        try:
            message = self._received = self.input_queue.get(timeout)
        except (QueueTimeoutError, RuntimeError):
            message = self._received = None
        return message

    def send(self, message: TOut, timeout: float | None = None) -> bool:
        """Sends an output; waits while the output queue is full.

        Args:
            message: The output. It is handed over, not copied: neither side changes it afterwards.
            timeout: Maximum time to wait, in seconds. ``None`` waits until a slot is free or the kernel is asked to stop.

        Returns:
            Whether the queue accepted the message. ``False`` at the timeout, and if the kernel was asked to stop meanwhile.

        Raises:
            QueueFullError: The queue stayed full until the timeout, and it is a `SyncQueue` (``use_spsc=False``).
            TypeValidationError: The message is not of the kernel's `output_type`.
        """
        check_type(message, self._output_type, self.kernel_id, "output")
        try:
            return self.output_queue.put(message, timeout)
        except (QueueFullError, RuntimeError) as error:
            if self._shutdown_event.is_set():
                return False
            if isinstance(error, QueueFullError):
                raise QueueFullError(self.kernel_id, error.queue_size) from None
            raise

    def wait_shutdown(self, timeout: float | None = None) -> bool:
        """Waits until the kernel is asked to stop.

        Args:
            timeout: Maximum time to wait, in seconds. ``None`` for no limit.

        Returns:
            Whether the kernel was asked to stop.
        """
        return self._shutdown_event.wait(timeout)


def check_type(message: object, expected: type[Any] | None, kernel_id: str, side: str) -> None:
    """Raises ``TypeValidationError`` if a message is not of the class that a kernel declares for one side."""
    if expected is not None and not isinstance(message, expected):
        raise TypeValidationError(expected, type(message), f"{side} of kernel '{kernel_id}'")
