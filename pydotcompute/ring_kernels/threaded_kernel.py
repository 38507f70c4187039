"""Ring kernels on dedicated threads, without asyncio.

The kernel is a function that receives and sends until it is asked to stop. Blocking calls on both sides wait in Rust with the GIL
released, and the queue wakes them.

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
from dataclasses import dataclass
from typing import Any, TypeVar

from pydotcompute.exceptions import KernelError, QueueFullError, QueueTimeoutError
from pydotcompute.ring_kernels._thread_kernel import ThreadKernel
from pydotcompute.ring_kernels._threaded_context import ThreadedKernelConfig, ThreadedKernelContext, ThreadedKernelState, check_type
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


class ThreadedRingKernel(ThreadKernel[TIn, TOut, ThreadedKernelState]):
    """A ring kernel that runs on a dedicated thread.

    If the function raises, the state becomes ``FAILED`` and :attr:`error` holds the exception. Every `receive`, including those already
    waiting, then raises :class:`KernelError` with the exception as its cause, after the kernel's outputs have been received.

    Args:
        kernel_id: Name of the kernel.
        kernel_func: Function to run. It receives a :class:`ThreadedKernelContext`, and returns soon after `should_terminate` is true.
        config: Settings; by default queues for 4096 messages.
        input_type: Class of the messages; sending any other raises :class:`TypeValidationError`. Not checked by default.
        output_type: Class of the outputs; sending any other raises in the kernel's function. Not checked by default.
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
        """Settings."""
        return self._config

    def _make_context(self, stop_requested: threading.Event) -> ThreadedKernelContext[TIn, TOut]:
        queue_type = SPSCQueue if self._config.use_spsc else SyncQueue
        inputs: SyncQueue[TIn] | SPSCQueue[TIn] = queue_type(self._config.input_queue_size)
        self._inbox = inputs
        return ThreadedKernelContext(self.kernel_id, inputs, self._make_output(), stop_requested, self._output_type)

    def _open_queues(self, context: ThreadedKernelContext[TIn, TOut]) -> None:
        self._input, self._output = context.input_queue, context.output_queue

    def _make_output(self) -> SyncQueue[TOut] | SPSCQueue[TOut]:
        queue_type = SPSCQueue if self._config.use_spsc else SyncQueue
        queue: SyncQueue[TOut] | SPSCQueue[TOut] = queue_type(self._config.output_queue_size)
        self._outbox = queue
        return queue

    def send(self, message: TIn, timeout: float | None = None) -> bool:
        """Sends a message to the kernel; waits while the input queue is full.

        Args:
            message: The message. It is handed over, not copied: neither side changes it afterwards.
            timeout: Maximum time to wait, in seconds. ``None`` waits until a slot is free or the kernel ends.

        Returns:
            Whether the queue accepted the message: always true with ``use_spsc=False``. ``False`` at the timeout.

        Raises:
            KernelStateError: The kernel is not running, or was stopped during the call.
            KernelError: The kernel failed during the call; the cause is the exception of its function.
            QueueFullError: The queue stayed full until the timeout, and ``use_spsc`` is false.
            TypeValidationError: The message is not of the kernel's `input_type`.
        """
        queue = self._input
        if queue is None or self._state is not self._running:
            raise self._state_error("send message to")
        if self._input_type is not None:
            check_type(message, self._input_type, self.kernel_id, "input")
        try:
            if queue.put(message, timeout):
                return True
        except QueueFullError as error:
            if self._state is self._running:
                raise QueueFullError(self.kernel_id, error.queue_size) from None
        except RuntimeError:
            pass  # Shut down during the call: the state says why.
        if self._state is self._running:
            return False
        self._raise_failure("send message to")
        raise self._state_error("send message to")

    def receive(self, timeout: float | None = None) -> TOut | None:
        """Receives an output of the kernel; waits while there is none.

        Args:
            timeout: Maximum time to wait, in seconds. ``None`` waits until an output arrives or the kernel ends.

        Returns:
            The output. ``None`` at the timeout, and if the kernel was stopped during the call.

        Raises:
            KernelError: The kernel failed and all its outputs were received; the cause is the exception of its function.
            KernelStateError: The kernel was not started, or has ended and all its outputs were received.
        """
        queue = self._output
        if queue is None or (self._state is not self._running and self._error is None and queue.empty and not self._is_stopping()):
            raise self._state_error("receive message from")
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
        """Sends a message without waiting.

        Args:
            message: The message. It is handed over, not copied: neither side changes it afterwards.

        Returns:
            Whether the queue accepted the message. ``False`` if it is full or the kernel is not running.

        Raises:
            TypeValidationError: The message is not of the kernel's `input_type`.
        """
        check_type(message, self._input_type, self.kernel_id, "input")
        return self._input is not None and self._input.put_nowait(message)

    def receive_nowait(self) -> TOut | None:
        """Receives an output without waiting.

        Returns:
            The output, or ``None``.

        Raises:
            KernelError: The kernel failed and all its outputs were received; the cause is the exception of its function.
        """
        if self._output is None:
            return None
        message = self._output.get_nowait()
        if message is None and self._error is not None and self._output.empty:
            self._raise_failure("receive message from")
        return message

    def __repr__(self) -> str:
        return f"ThreadedRingKernel(id={self.kernel_id!r}, state={self._shown_state().name}, spsc={self._config.use_spsc})"


@dataclass(frozen=True)
class _Failed:
    """Entry in a pool's output queue that reports a failed worker."""

    kernel_id: str
    error: Exception


class _PoolWorker(ThreadedRingKernel[Any, Any]):
    """A kernel that shares its output queue with other workers and reports its failure there."""

    def __init__(
        self, kernel_func: Callable[[ThreadedKernelContext[Any, Any]], Any], config: ThreadedKernelConfig, outputs: SyncQueue[Any]
    ) -> None:
        super().__init__(config.kernel_id, kernel_func, config=config)
        self._outputs = outputs
        # Guards the input queue, which may be restricted to one sender at a time.
        self.send_lock = threading.Lock()

    def _make_output(self) -> SyncQueue[Any]:
        # Not registered as `_outbox`: the queue outlives a single worker.
        return self._outputs

    def _end(self, error: Exception | None) -> None:
        super()._end(error)
        if error is not None:
            # Suppressed errors mean that the pool is stopping and has no receivers; the failure is logged already.
            with contextlib.suppress(QueueFullError, RuntimeError):
                self._outputs.put(_Failed(self.kernel_id, error))


class ThreadedKernelPool:
    """Kernels that run the same function in parallel, each on a dedicated thread, with one shared output queue.

    After a worker has failed, the pool sends it no more messages. One `receive_any` call raises its failure.

    Args:
        kernel_id_prefix: Workers are named ``<prefix>_0``, ``<prefix>_1``, and so on.
        kernel_func: Function of each worker; see :class:`ThreadedRingKernel`.
        num_workers: Number of workers.
        **config_kwargs: Further fields of :class:`ThreadedKernelConfig`.

    Raises:
        ValueError: `num_workers` or a queue size is less than 1.

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
            raise ValueError(f"Cannot create pool '{kernel_id_prefix}' of {num_workers} workers; it needs at least 1")
        configs = [ThreadedKernelConfig(kernel_id=f"{kernel_id_prefix}_{i}", **config_kwargs) for i in range(num_workers)]
        self._kernel_id_prefix = kernel_id_prefix
        self._outputs: SyncQueue[Any] = SyncQueue(sum(config.output_queue_size for config in configs))
        self._kernels = [_PoolWorker(kernel_func, config, self._outputs) for config in configs]
        self._next_kernel = 0
        self._next_lock = threading.Lock()

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """Messages that were sent to workers that have ended, and will never be handled."""
        return [letter for kernel in self._kernels for letter in kernel.dead_letters]

    def launch(self) -> None:
        """Creates the queues of every worker, without starting one.

        Raises:
            KernelStateError: The workers were launched before.
        """
        for kernel in self._kernels:
            kernel.launch()

    def activate(self) -> None:
        """Starts every worker.

        Raises:
            KernelStateError: The workers are not launched, or already activated.
        """
        for kernel in self._kernels:
            kernel.activate()

    def deactivate(self) -> None:
        """Pauses every running worker: they receive no messages, which stay queued.

        Raises:
            KernelStateError: No worker is running, or they are deactivated already.
        """
        for kernel in self._running_workers() or self._kernels[:1]:
            kernel.deactivate()

    def reactivate(self) -> None:
        """Continues after a pause.

        Raises:
            KernelStateError: The workers are not deactivated.
        """
        for kernel in self._running_workers() or self._kernels[:1]:
            kernel.reactivate()

    def _running_workers(self) -> list[_PoolWorker]:
        return [kernel for kernel in self._kernels if kernel.is_running]

    def terminate(self, timeout: float = 5.0) -> None:
        """Asks all workers to end, and waits until they have. Their outputs can still be received.

        Args:
            timeout: Maximum time to wait for all workers together, in seconds.
        """
        deadline = time.monotonic() + timeout
        for kernel in self._kernels:
            kernel._request_stop()
        self._outputs._stop_blocking_puts()
        for kernel in self._kernels:
            kernel._join(max(0.0, deadline - time.monotonic()))
        self._outputs.shutdown()

    def start_all(self) -> None:
        """Launches and activates every worker: the name of 0.2 for :meth:`launch` and :meth:`activate` in one call.

        Raises:
            KernelStateError: The workers were started before.
        """
        for kernel in self._kernels:
            kernel.start()

    def stop_all(self, timeout: float = 5.0) -> None:
        """Terminates all workers: the name of 0.2 for :meth:`terminate`.

        Args:
            timeout: As for :meth:`terminate`, in seconds.
        """
        self.terminate(timeout)

    def send(self, message: Any, timeout: float | None = None) -> bool:
        """Sends a message to the next worker, round-robin.

        Args:
            message: The message. It is handed over, not copied: neither side changes it afterwards.
            timeout: Maximum time to wait for a free slot, in seconds. ``None`` waits until a slot is free or the worker ends.

        Returns:
            Whether the queue accepted the message.

        Raises:
            KernelStateError: No worker is running.
            KernelError: The worker failed during the call.
            QueueFullError: The queue stayed full until the timeout, and ``use_spsc`` is false.
        """
        worker = self._next_worker()
        deadline = None if timeout is None else time.monotonic() + timeout
        if not worker.send_lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            return False
        try:
            return worker.send(message, None if deadline is None else max(0.0, deadline - time.monotonic()))
        finally:
            worker.send_lock.release()

    def _next_worker(self) -> _PoolWorker:
        """Returns the next running worker; any worker if none is running."""
        with self._next_lock:
            for _ in self._kernels:
                worker = self._kernels[self._next_kernel]
                self._next_kernel = (self._next_kernel + 1) % len(self._kernels)
                if worker.is_running:
                    break
            return worker

    def receive_any(self, timeout: float | None = None) -> Any | None:
        """Receives the next output of any worker; waits while there is none.

        Args:
            timeout: Maximum time to wait, in seconds. ``None`` waits until an output arrives or the pool is stopped.

        Returns:
            The output. ``None`` at the timeout, and if the pool was stopped during the call.

        Raises:
            KernelError: A worker failed; the cause is the exception of its function. Raised once per failed worker.
            KernelStateError: The pool was not started, or has been stopped and all outputs were received.
        """
        if self._outputs.empty and not any(kernel._thread is not None and kernel._thread.is_alive() for kernel in self._kernels):
            raise self._kernels[0]._state_error("receive message from")
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
