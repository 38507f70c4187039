"""Ring kernels on dedicated threads with the fastest queues.

The names date from 0.2, where the queues were written in Cython. They are written in Rust now and part of every installation. Calls
without a timeout do not wait, unlike those of :class:`~pydotcompute.ring_kernels.threaded_kernel.ThreadedRingKernel`.

Example:
    >>> from pydotcompute.ring_kernels.cython_kernel import CythonRingKernel
    >>> def double(ctx):
    ...     while not ctx.should_terminate:
    ...         number = ctx.receive(timeout=1.0)
    ...         if number is not None:
    ...             ctx.send(2 * number)
    >>> with CythonRingKernel("double", double) as kernel:
    ...     kernel.send(21)
    ...     kernel.receive(timeout=1.0)
    True
    42
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Generic, TypeVar

from pydotcompute.ring_kernels._cython import CYTHON_AVAILABLE, FastSPSCQueue
from pydotcompute.ring_kernels._thread_kernel import ThreadKernel

__all__ = [
    "CythonKernelConfig",
    "CythonKernelContext",
    "CythonKernelState",
    "CythonRingKernel",
    "is_cython_kernel_available",
]

TIn = TypeVar("TIn")
TOut = TypeVar("TOut")


class CythonKernelState(Enum):
    """State of a kernel.

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
class CythonKernelConfig:
    """Settings of a kernel.

    Attributes:
        kernel_id: Name of the kernel.
        input_queue_size: Capacity of the input queue, in messages; rounded up to a power of two.
        output_queue_size: Capacity of the output queue, in messages; rounded up to a power of two.
        spin_wait_ns: Accepted for compatibility with 0.2, without effect. A waiting thread spins for a few microseconds and then parks
            until it is woken.
        thread_name: Name of the thread; by default derived from `kernel_id`.
        daemon: Whether the process may exit while the kernel runs. Otherwise the kernel is asked to stop when the main thread ends.

    Raises:
        ValueError: A queue size is less than 1.
    """

    kernel_id: str
    input_queue_size: int = 4096
    output_queue_size: int = 4096
    spin_wait_ns: int = 100
    thread_name: str | None = None
    daemon: bool = True

    def __post_init__(self) -> None:
        for name in ("input_queue_size", "output_queue_size"):
            size = getattr(self, name)
            if size < 1:
                raise ValueError(f"Cannot configure kernel '{self.kernel_id}': {name} must be >= 1, got {size}")


@dataclass
class CythonKernelContext(Generic[TIn, TOut]):
    """Context of a kernel's function: receives messages and sends outputs.

    Attributes:
        kernel_id: Name of the kernel.
        input_queue: Queue of incoming messages; a `FastSPSCQueue`.
        output_queue: Queue of outgoing messages; a `FastSPSCQueue`.
    """

    kernel_id: str
    input_queue: Any
    output_queue: Any
    _shutdown_event: threading.Event = field(default_factory=threading.Event)
    # The message that the function is handling: the last one received.
    _received: TIn | None = None

    @property
    def should_terminate(self) -> bool:
        """Whether the kernel was asked to stop."""
        return self._shutdown_event.is_set()

    def receive(self, timeout: float | None = None) -> TIn | None:
        """Receives the next message; waits while the input queue is empty.

        Args:
            timeout: Maximum time to wait, in seconds; ``None`` means one second.

        Returns:
            The message. ``None`` at the timeout, and if the kernel was asked to stop and the queue is empty.
        """
        message: TIn | None = self.input_queue.get_wait(1.0 if timeout is None else timeout)
        self._received = message
        return message

    def receive_nowait(self) -> TIn | None:
        """Receives the next message without waiting; ``None`` if the input queue is empty."""
        message: TIn | None = self.input_queue.get()
        self._received = message
        return message

    def send(self, message: TOut, timeout: float | None = None) -> bool:
        """Sends an output.

        Args:
            message: The output. It is handed over, not copied: neither side changes it afterwards.
            timeout: Maximum time to wait for a free slot, in seconds. ``None`` does not wait.

        Returns:
            Whether the queue accepted the message before the timeout.
        """
        accepted: bool = self.output_queue.put(message) if timeout is None else self.output_queue.put_wait(message, timeout)
        return accepted

    def send_nowait(self, message: TOut) -> bool:
        """Sends an output without waiting. Returns whether the queue accepted it.

        Args:
            message: The output. It is handed over, not copied: neither side changes it afterwards.
        """
        accepted: bool = self.output_queue.put(message)
        return accepted


class CythonRingKernel(ThreadKernel[TIn, TOut, CythonKernelState]):
    """A ring kernel that runs on a dedicated thread, for one sender and one receiver at a time.

    If the function raises, the state becomes ``FAILED`` and :attr:`error` holds the exception. Every `receive`, including those already
    waiting, then raises :class:`KernelError` with the exception as its cause, after the kernel's outputs have been received.

    Args:
        kernel_id: Name of the kernel.
        kernel_func: Function to run. It receives a :class:`CythonKernelContext`, and returns soon after `should_terminate` is true.
        config: Settings; by default queues for 4096 messages.
    """

    _thread_prefix = "cython_kernel"

    def __init__(
        self,
        kernel_id: str,
        kernel_func: Callable[[CythonKernelContext[TIn, TOut]], Any],
        *,
        config: CythonKernelConfig | None = None,
    ) -> None:
        self._config = config or CythonKernelConfig(kernel_id=kernel_id)
        super().__init__(kernel_id, kernel_func, CythonKernelState, self._config)
        self._input: FastSPSCQueue[TIn] | None = None
        self._output: FastSPSCQueue[TOut] | None = None

    @property
    def using_cython(self) -> bool:
        """Whether the queues are compiled: always true."""
        return CYTHON_AVAILABLE

    def _make_context(self, stop_requested: threading.Event) -> CythonKernelContext[TIn, TOut]:
        inputs: FastSPSCQueue[TIn] = FastSPSCQueue(self._config.input_queue_size)
        outputs: FastSPSCQueue[TOut] = FastSPSCQueue(self._config.output_queue_size)
        self._inbox, self._outbox = inputs, outputs
        return CythonKernelContext(self.kernel_id, inputs, outputs, stop_requested)

    def _open_queues(self, context: CythonKernelContext[TIn, TOut]) -> None:
        self._input, self._output = context.input_queue, context.output_queue

    def send(self, message: TIn, timeout: float | None = None) -> bool:
        """Sends a message to the kernel.

        Args:
            message: The message. It is handed over, not copied: neither side changes it afterwards.
            timeout: Maximum time to wait for a free slot, in seconds. ``None`` does not wait.

        Returns:
            Whether the queue accepted the message before the timeout.

        Raises:
            KernelStateError: The kernel is not running, or was stopped during the call.
            KernelError: The kernel failed during the call; the cause is the exception of its function.
        """
        queue = self._input
        if queue is None or self._state is not self._running:
            raise self._state_error("send message to")
        if queue.put(message) if timeout is None else queue.put_wait(message, timeout):
            return True
        if self._state is self._running:
            return False
        self._raise_failure("send message to")
        raise self._state_error("send message to")

    def send_nowait(self, message: TIn) -> bool:
        """Sends a message without waiting.

        Args:
            message: The message. It is handed over, not copied: neither side changes it afterwards.

        Returns:
            Whether the queue accepted the message. ``False`` if it is full or the kernel is not running.
        """
        return self._input is not None and self._input.put(message)

    def receive(self, timeout: float | None = None) -> TOut | None:
        """Receives an output of the kernel.

        Args:
            timeout: Maximum time to wait, in seconds. ``None`` does not wait.

        Returns:
            The output, or ``None`` if none arrived before the timeout.

        Raises:
            KernelError: The kernel failed and all its outputs were received; the cause is the exception of its function.
        """
        queue = self._output
        if queue is None:
            return None
        message = queue.get() if timeout is None else queue.get_wait(timeout)
        if message is None and self._error is not None and queue.empty:
            self._raise_failure("receive message from")
        return message

    def receive_nowait(self) -> TOut | None:
        """Receives an output without waiting.

        Returns:
            The output, or ``None``.

        Raises:
            KernelError: As :meth:`receive`.
        """
        return self.receive()

    def __repr__(self) -> str:
        return f"CythonRingKernel(id={self.kernel_id!r}, state={self._shown_state().name}, cython={self.using_cython})"


def is_cython_kernel_available() -> bool:
    """Whether the compiled queues of :class:`CythonRingKernel` are available.

    Returns:
        Always ``True``.
    """
    return CYTHON_AVAILABLE
