"""Ring kernels on threads of their own, without asyncio.

The kernel is a function that receives and sends until it is asked to end. Whoever waits, on either side, waits in Rust with the
interpreter released and is woken by the queue.

Example:
    >>> from pydotcompute.ring_kernels.threaded_kernel import ThreadedRingKernel
    >>> def double(ctx):
    ...     while not ctx.should_terminate:
    ...         number = ctx.receive()
    ...         if number is not None:
    ...             ctx.send(2 * number)
    >>> with ThreadedRingKernel("double", double) as kernel:
    ...     kernel.send(21)
    ...     kernel.receive()
    True
    42
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any, Generic, TypeVar

from pydotcompute.exceptions import KernelError, QueueFullError, QueueTimeoutError, TypeValidationError
from pydotcompute.ring_kernels._thread_kernel import ThreadKernel
from pydotcompute.ring_kernels.lifecycle import DeadLetter
from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue

__all__ = [
    "ThreadedKernelConfig",
    "ThreadedKernelContext",
    "ThreadedKernelPool",
    "ThreadedKernelState",
    "ThreadedRingKernel",
]

TIn = TypeVar("TIn")
TOut = TypeVar("TOut")


class ThreadedKernelState(Enum):
    """Where a kernel on a thread is in its life."""

    CREATED = auto()
    RUNNING = auto()
    STOPPING = auto()
    STOPPED = auto()
    FAILED = auto()


@dataclass
class ThreadedKernelConfig:
    """How a kernel on a thread is to be run.

    Attributes:
        kernel_id: Its name.
        input_queue_size: Messages the input queue has room for.
        output_queue_size: Messages the output queue has room for.
        use_spsc: Whether the queues are for one sender and one receiver at a time, which is faster. Their sizes are rounded up to a
            power of two. Otherwise any number of threads may send and receive.
        thread_name: The thread's name; by default made of `kernel_id`.
        daemon: Whether the process may end while the kernel runs. If not, the kernel is asked to stop when the main thread has ended.

    Raises:
        ValueError: A size is less than 1.
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
    """What a kernel's function is given.

    Attributes:
        kernel_id: The kernel's name.
        input_queue: What is sent to the kernel.
        output_queue: What the kernel sends.
    """

    kernel_id: str
    input_queue: SyncQueue[TIn] | SPSCQueue[TIn]
    output_queue: SyncQueue[TOut] | SPSCQueue[TOut]
    _shutdown_event: threading.Event = field(default_factory=threading.Event)
    _output_type: type[TOut] | None = None
    # What the function is working at, as far as can be known.
    _received: TIn | None = None

    @property
    def should_terminate(self) -> bool:
        """Whether the kernel has been asked to end."""
        return self._shutdown_event.is_set()

    def receive(self, timeout: float | None = None) -> TIn | None:
        """Takes the next message, waiting for it.

        Args:
            timeout: How long to wait, in seconds. None waits until there is a message or the kernel is asked to end.

        Returns:
            The message, or None at the timeout and when the kernel has been asked to end and nothing is left.
        """
        try:
            message = self._received = self.input_queue.get(timeout)
        except (QueueTimeoutError, RuntimeError):
            message = self._received = None
        return message

    def send(self, message: TOut, timeout: float | None = None) -> bool:
        """Puts a message out, waiting for room.

        Args:
            message: What to send.
            timeout: How long to wait, in seconds. None waits until there is room or the kernel is asked to end.

        Returns:
            Whether the message was taken. False if there was no room in time, or before the kernel was asked to end.

        Raises:
            QueueFullError: There was no room in time, and the queue is a `SyncQueue` (``use_spsc=False``).
            TypeValidationError: The kernel has an `output_type`, and the message is none.
        """
        _check_type(message, self._output_type, self.kernel_id, "output")
        try:
            return self.output_queue.put(message, timeout)
        except (QueueFullError, RuntimeError) as error:
            if self._shutdown_event.is_set():
                return False
            if isinstance(error, QueueFullError):
                raise QueueFullError(self.kernel_id, error.queue_size) from None
            raise

    def wait_shutdown(self, timeout: float | None = None) -> bool:
        """Waits until the kernel is asked to end.

        Args:
            timeout: How long, in seconds. None waits for ever.

        Returns:
            Whether it has been asked to.
        """
        return self._shutdown_event.wait(timeout)


def _check_type(message: object, expected: type[Any] | None, kernel_id: str, side: str) -> None:
    if expected is not None and not isinstance(message, expected):
        raise TypeValidationError(expected, type(message), f"{side} of kernel '{kernel_id}'")


class ThreadedRingKernel(ThreadKernel[TIn, TOut, ThreadedKernelState]):
    """A ring kernel that runs on a thread of its own.

    If its function raises, the state becomes ``FAILED``, the exception is in :attr:`error`, and every `receive`, also one that waits
    already, raises :class:`KernelError` with it as the cause, once what the kernel had sent has been received.

    Args:
        kernel_id: The kernel's name.
        kernel_func: What to run. It is given a :class:`ThreadedKernelContext` and is to return soon after its `should_terminate` is true.
        config: How to run it; by default with queues for 4096 messages.
        input_type: If given, anything else that is sent raises :class:`TypeValidationError`.
        output_type: The same for what the kernel sends, which raises in its function.
    """

    _thread_prefix = "threaded_kernel"

    def __init__(
        self,
        kernel_id: str,
        kernel_func: Callable[[ThreadedKernelContext[TIn, TOut]], Any],
        *,
        config: ThreadedKernelConfig | None = None,
        input_type: type[TIn] | None = None,
        output_type: type[TOut] | None = None,
    ) -> None:
        self._config = config or ThreadedKernelConfig(kernel_id=kernel_id)
        super().__init__(kernel_id, kernel_func, ThreadedKernelState, self._config)
        self._input_type = input_type
        self._output_type = output_type
        self._input: SyncQueue[TIn] | SPSCQueue[TIn] | None = None
        self._output: SyncQueue[TOut] | SPSCQueue[TOut] | None = None

    @property
    def config(self) -> ThreadedKernelConfig:
        """The configuration."""
        return self._config

    def _make_context(self, stop_requested: threading.Event) -> ThreadedKernelContext[TIn, TOut]:
        kind = SPSCQueue if self._config.use_spsc else SyncQueue
        self._input = self._inbox = kind(self._config.input_queue_size)
        self._output = self._make_output()
        return ThreadedKernelContext(self.kernel_id, self._input, self._output, stop_requested, self._output_type)

    def _make_output(self) -> SyncQueue[TOut] | SPSCQueue[TOut]:
        kind = SPSCQueue if self._config.use_spsc else SyncQueue
        queue: SyncQueue[TOut] | SPSCQueue[TOut] = kind(self._config.output_queue_size)
        self._outbox = queue
        return queue

    def send(self, message: TIn, timeout: float | None = None) -> bool:
        """Sends a message to the kernel, waiting for room.

        Args:
            message: What to send.
            timeout: How long to wait, in seconds. None waits until there is room or the kernel ends.

        Returns:
            Whether the message was taken: always true with ``use_spsc=False``. False at the timeout.

        Raises:
            KernelStateError: The kernel is not running, or was stopped meanwhile.
            KernelError: The kernel failed while this waited for room; the cause is what its function raised.
            QueueFullError: There was no room in time, and ``use_spsc`` is false.
            TypeValidationError: The message is not of the kernel's `input_type`.
        """
        queue = self._input
        if queue is None or self._state is not self._running:
            raise self._refusal("send message to")
        if self._input_type is not None:
            _check_type(message, self._input_type, self.kernel_id, "input")
        try:
            if queue.put(message, timeout):
                return True
        except QueueFullError as error:
            if self._state is self._running:
                raise QueueFullError(self.kernel_id, error.queue_size) from None
        except RuntimeError:
            pass  # Shut down meanwhile: the state says why.
        if self._state is self._running:
            return False
        self._raise_failure("send message to")
        raise self._refusal("send message to")

    def receive(self, timeout: float | None = None) -> TOut | None:
        """Receives a message from the kernel, waiting for it.

        Args:
            timeout: How long to wait, in seconds. None waits until there is a message or the kernel ends.

        Returns:
            The message. None at the timeout, and if the kernel was stopped while this waited.

        Raises:
            KernelError: The kernel has failed, and all that it sent has been received; the cause is what its function raised.
            KernelStateError: The kernel was not started, or has ended and all that it sent has been received.
        """
        queue = self._output
        if queue is None or (self._state is not self._running and self._error is None and queue.empty and not self._is_stopping()):
            raise self._refusal("receive message from")
        try:
            message = queue.get(timeout)
        except (QueueTimeoutError, RuntimeError):
            message = None
        if message is None and self._error is not None and queue.empty:
            self._raise_failure("receive message from")
        return message

    def _is_stopping(self) -> bool:
        return self._state is ThreadedKernelState.STOPPING

    def send_nowait(self, message: TIn) -> bool:
        """Sends a message if there is room this moment.

        Returns:
            Whether the message was taken. False also if the kernel is not running.

        Raises:
            TypeValidationError: The message is not of the kernel's `input_type`.
        """
        _check_type(message, self._input_type, self.kernel_id, "input")
        return self._input is not None and self._input.put_nowait(message)

    def receive_nowait(self) -> TOut | None:
        """Receives a message if there is one this moment.

        Returns:
            The message, or None.

        Raises:
            KernelError: The kernel has failed, and all that it sent has been received; the cause is what its function raised.
        """
        if self._output is None:
            return None
        message = self._output.get_nowait()
        if message is None and self._error is not None and self._output.empty:
            self._raise_failure("receive message from")
        return message

    def __repr__(self) -> str:
        return f"ThreadedRingKernel(id={self.kernel_id!r}, state={self._state.name}, spsc={self._config.use_spsc})"


@dataclass(frozen=True)
class _Failed:
    """Lies among a pool's answers where a worker has failed."""

    kernel_id: str
    error: Exception


class _PoolWorker(ThreadedRingKernel[Any, Any]):
    """A kernel that sends to a queue which it shares with others, and says there when it fails."""

    def __init__(
        self, kernel_func: Callable[[ThreadedKernelContext[Any, Any]], Any], config: ThreadedKernelConfig, outputs: SyncQueue[Any]
    ) -> None:
        super().__init__(config.kernel_id, kernel_func, config=config)
        self._outputs = outputs
        # Of the input queue, which may be for one sender at a time.
        self.sending = threading.Lock()

    def _make_output(self) -> SyncQueue[Any]:
        # Not its outbox: the end of one worker is not the end of the queue.
        return self._outputs

    def _end(self, error: Exception | None) -> None:
        super()._end(error)
        if error is not None:
            # They say that the pool is being stopped, and nobody receives any more; the failure was logged.
            with contextlib.suppress(QueueFullError, RuntimeError):
                self._outputs.put(_Failed(self.kernel_id, error))


class ThreadedKernelPool:
    """Kernels that run the same function side by side, each on a thread of its own, and answer through one queue.

    A worker that fails is passed over from then on; one `receive_any` raises its failure.

    Args:
        kernel_id_prefix: Workers are named ``<prefix>_0``, ``<prefix>_1``, and so on.
        kernel_func: What each worker runs; see :class:`ThreadedRingKernel`.
        num_workers: How many workers.
        **config_kwargs: The rest of :class:`ThreadedKernelConfig`.

    Raises:
        ValueError: There is no worker, or a queue's size is less than 1.

    Example:
        >>> def square(ctx):
        ...     while not ctx.should_terminate:
        ...         number = ctx.receive()
        ...         if number is not None:
        ...             ctx.send(number * number)
        >>> with ThreadedKernelPool("square", square, num_workers=2) as pool:
        ...     sent = [pool.send(number) for number in range(4)]
        ...     sorted(pool.receive_any(timeout=1.0) for _ in sent)
        [0, 1, 4, 9]
    """

    def __init__(
        self,
        kernel_id_prefix: str,
        kernel_func: Callable[[ThreadedKernelContext[Any, Any]], Any],
        num_workers: int = 4,
        **config_kwargs: Any,
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"Cannot make pool '{kernel_id_prefix}' of {num_workers} workers; it needs at least 1")
        configs = [ThreadedKernelConfig(kernel_id=f"{kernel_id_prefix}_{i}", **config_kwargs) for i in range(num_workers)]
        self._kernel_id_prefix = kernel_id_prefix
        self._outputs: SyncQueue[Any] = SyncQueue(sum(config.output_queue_size for config in configs))
        self._kernels = [_PoolWorker(kernel_func, config, self._outputs) for config in configs]
        self._next_kernel = 0
        self._choosing = threading.Lock()

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """What was sent to workers that have ended, and will never be handled."""
        return [letter for kernel in self._kernels for letter in kernel.dead_letters]

    def start_all(self) -> None:
        """Starts every worker.

        Raises:
            KernelStateError: They were started before.
        """
        for kernel in self._kernels:
            kernel.start()

    def stop_all(self, timeout: float = 5.0) -> None:
        """Asks all workers to end, and waits until they have; what they sent can still be received.

        Args:
            timeout: How long to wait for all of them together, in seconds.
        """
        deadline = time.monotonic() + timeout
        for kernel in self._kernels:
            kernel._request_stop()
        self._outputs._stop_blocking_puts()
        for kernel in self._kernels:
            kernel._join(max(0.0, deadline - time.monotonic()))
        self._outputs.shutdown()

    def send(self, message: Any, timeout: float | None = None) -> bool:
        """Sends a message to the next worker, in turn.

        Args:
            message: What to send.
            timeout: How long to wait for room, in seconds. None waits until there is room or the worker ends.

        Returns:
            Whether the message was taken.

        Raises:
            KernelStateError: No worker is running.
            KernelError: The worker failed while this waited for room.
            QueueFullError: There was no room in time, and ``use_spsc`` is false.
        """
        worker = self._choose_worker()
        deadline = None if timeout is None else time.monotonic() + timeout
        if not worker.sending.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return False
        try:
            return worker.send(message, None if deadline is None else max(0.0, deadline - time.monotonic()))
        finally:
            worker.sending.release()

    def _choose_worker(self) -> _PoolWorker:
        """The next worker that runs; any, if none does."""
        with self._choosing:
            for _ in self._kernels:
                worker = self._kernels[self._next_kernel]
                self._next_kernel = (self._next_kernel + 1) % len(self._kernels)
                if worker.is_running:
                    break
            return worker

    def receive_any(self, timeout: float | None = None) -> Any | None:
        """Receives the next message of any worker, waiting for it.

        Args:
            timeout: How long to wait, in seconds. None waits until there is a message or the pool is stopped.

        Returns:
            The message. None at the timeout, and if the pool was stopped while this waited.

        Raises:
            KernelError: A worker failed; the cause is what its function raised. Raised once for each.
            KernelStateError: The pool was not started, or has been stopped and all that was sent has been received.
        """
        if self._outputs.empty and not any(kernel._thread is not None and kernel._thread.is_alive() for kernel in self._kernels):
            raise self._kernels[0]._refusal("receive message from")
        try:
            message = self._outputs.get(timeout)
        except (QueueTimeoutError, RuntimeError):
            return None
        if isinstance(message, _Failed):
            raise KernelError(f"Kernel '{message.kernel_id}' of pool '{self._kernel_id_prefix}' failed: {message.error}") from message.error
        return message

    def __enter__(self) -> ThreadedKernelPool:
        self.start_all()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: object) -> None:
        self.stop_all()

    def __len__(self) -> int:
        return len(self._kernels)
