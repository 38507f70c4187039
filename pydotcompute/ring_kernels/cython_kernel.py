"""Ring kernels on threads of their own, on the fastest queues.

The names are from when the queues were written in Cython; they are Rust now, and part of every installation. A
:class:`~pydotcompute.ring_kernels.threaded_kernel.ThreadedRingKernel` waits unless told otherwise; here, calls without a timeout do not.

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
    """Where a kernel is in its life."""

    CREATED = auto()
    RUNNING = auto()
    STOPPING = auto()
    STOPPED = auto()
    FAILED = auto()


@dataclass
class CythonKernelConfig:
    """How a kernel is to be run.

    Attributes:
        kernel_id: Its name.
        input_queue_size: Messages the input queue has room for; rounded up to a power of two.
        output_queue_size: Messages the output queue has room for; rounded up to a power of two.
        spin_wait_ns: Accepted for programs written for 0.2. A waiting thread spins for some microseconds and then sleeps until it is
            woken.
        thread_name: The thread's name; by default made of `kernel_id`.
        daemon: Whether the process may end while the kernel runs. If not, the kernel is asked to stop when the main thread has ended.

    Raises:
        ValueError: A size is less than 1.
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
    """What a kernel's function is given.

    Attributes:
        kernel_id: The kernel's name.
        input_queue: What is sent to the kernel; a `FastSPSCQueue`.
        output_queue: What the kernel sends; a `FastSPSCQueue`.
    """

    kernel_id: str
    input_queue: Any
    output_queue: Any
    _shutdown_event: threading.Event = field(default_factory=threading.Event)
    # What the function is working at, as far as can be known.
    _received: TIn | None = None

    @property
    def should_terminate(self) -> bool:
        """Whether the kernel has been asked to end."""
        return self._shutdown_event.is_set()

    def receive(self, timeout: float | None = None) -> TIn | None:
        """Takes the next message, waiting for it.

        Args:
            timeout: How long to wait, in seconds; one second if None.

        Returns:
            The message, or None at the timeout and when the kernel has been asked to end and nothing is left.
        """
        message: TIn | None = self.input_queue.get_wait(1.0 if timeout is None else timeout)
        self._received = message
        return message

    def receive_nowait(self) -> TIn | None:
        """Takes the next message if there is one this moment."""
        message: TIn | None = self.input_queue.get()
        self._received = message
        return message

    def send(self, message: TOut, timeout: float | None = None) -> bool:
        """Puts a message out.

        Args:
            message: What to send.
            timeout: How long to wait for room, in seconds. None does not wait.

        Returns:
            Whether the message was taken: there was room, in time.
        """
        taken: bool = self.output_queue.put(message) if timeout is None else self.output_queue.put_wait(message, timeout)
        return taken

    def send_nowait(self, message: TOut) -> bool:
        """Puts a message out if there is room this moment."""
        taken: bool = self.output_queue.put(message)
        return taken


class CythonRingKernel(ThreadKernel[TIn, TOut, CythonKernelState]):
    """A ring kernel that runs on a thread of its own, for one sender and one receiver at a time.

    If its function raises, the state becomes ``FAILED``, the exception is in :attr:`error`, and every `receive`, also one that waits
    already, raises :class:`KernelError` with it as the cause, once what the kernel had sent has been received.

    Args:
        kernel_id: The kernel's name.
        kernel_func: What to run. It is given a :class:`CythonKernelContext` and is to return soon after its `should_terminate` is true.
        config: How to run it; by default with queues for 4096 messages.
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
        """Whether the queues are compiled: always."""
        return CYTHON_AVAILABLE

    def _make_context(self, stop_requested: threading.Event) -> CythonKernelContext[TIn, TOut]:
        self._input = self._inbox = FastSPSCQueue(self._config.input_queue_size)
        self._output = self._outbox = FastSPSCQueue(self._config.output_queue_size)
        return CythonKernelContext(self.kernel_id, self._input, self._output, stop_requested)

    def send(self, message: TIn, timeout: float | None = None) -> bool:
        """Sends a message to the kernel.

        Args:
            message: What to send.
            timeout: How long to wait for room, in seconds. None does not wait.

        Returns:
            Whether the message was taken: there was room, in time.

        Raises:
            KernelStateError: The kernel is not running, or was stopped meanwhile.
            KernelError: The kernel failed while this waited for room; the cause is what its function raised.
        """
        queue = self._input
        if queue is None or self._state is not self._running:
            raise self._refusal("send message to")
        if queue.put(message) if timeout is None else queue.put_wait(message, timeout):
            return True
        if self._state is self._running:
            return False
        self._raise_failure("send message to")
        raise self._refusal("send message to")

    def send_nowait(self, message: TIn) -> bool:
        """Sends a message if there is room this moment.

        Returns:
            Whether the message was taken. False also if the kernel is not running.
        """
        return self._input is not None and self._input.put(message)

    def receive(self, timeout: float | None = None) -> TOut | None:
        """Receives a message from the kernel.

        Args:
            timeout: How long to wait, in seconds. None does not wait.

        Returns:
            The message, or None if there was none in time.

        Raises:
            KernelError: The kernel has failed, and all that it sent has been received; the cause is what its function raised.
        """
        queue = self._output
        if queue is None:
            return None
        message = queue.get() if timeout is None else queue.get_wait(timeout)
        if message is None and self._error is not None and queue.empty:
            self._raise_failure("receive message from")
        return message

    def receive_nowait(self) -> TOut | None:
        """Receives a message if there is one this moment.

        Returns:
            The message, or None.

        Raises:
            KernelError: As for :meth:`receive`.
        """
        return self.receive()

    def __repr__(self) -> str:
        return f"CythonRingKernel(id={self.kernel_id!r}, state={self._state.name}, cython={self.using_cython})"


def is_cython_kernel_available() -> bool:
    """Whether :class:`CythonRingKernel` has its compiled queues.

    Returns:
        Always ``True``.
    """
    return CYTHON_AVAILABLE
