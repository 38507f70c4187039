"""Native ring kernels: handlers written in Python, compiled, and run by Rust without the GIL.

Example:
    >>> from pydotcompute.native import NativeKernel, float32, state
    >>> from pydotcompute.ring_kernels.message import message
    >>> @message
    ... class Reading:
    ...     celsius: float32
    >>> @message
    ... class Mean:
    ...     celsius: float32
    ...     readings: int
    >>> @state
    ... class Sum:
    ...     celsius: float32
    ...     readings: int
    >>> def mean(ctx, state: Sum, msg: Reading) -> Mean:
    ...     state.celsius += msg.celsius
    ...     state.readings += 1
    ...     return Mean(state.celsius / np.float32(state.readings), state.readings)
    >>> with NativeKernel(mean, state=Sum) as kernel:
    ...     kernel.tell(Reading(20.0))
    ...     kernel.ask(Reading(22.0)).celsius
    21.0
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar
from weakref import WeakSet

import numpy as np

from pydotcompute import _core
from pydotcompute.exceptions import (
    ForkedProcessError,
    InvalidConfigurationError,
    KernelError,
    KernelStateError,
    QueueTimeoutError,
    TypeValidationError,
)
from pydotcompute.native._cpu import compile_for_host
from pydotcompute.native._cuda import compile_for_device, device_source, emulated_device_source, wheel_folders
from pydotcompute.native._event_loop import complete
from pydotcompute.native.handler import HandlerDeclaration, declare
from pydotcompute.native.runtime import NativeRuntime, runtimes, shared_runtime
from pydotcompute.native.stats import Latency, NativeStats
from pydotcompute.ring_kernels._type_variables import TIn_contra, TOut_co

__all__ = ["NativeKernel"]

# A reply or output, for handlers that return `None` too.
_Message = TypeVar("_Message")

# Time that interpreter shutdown waits for native ring kernels to reach a message boundary.
_EXIT_TIMEOUT_S = 2.0
# Time that reading the state of a ring kernel on a device waits for a message boundary.
_STATE_TIMEOUT_S = 5.0


@atexit.register
def _stop_all() -> None:
    """Stops everything that still runs: machine code must not run while the interpreter frees its memory."""
    for kernel in list(_kernels):
        with contextlib.suppress(KernelError):
            kernel._core.abort()
    for runtime in list(runtimes):
        with contextlib.suppress(KernelError):
            runtime.shutdown(_EXIT_TIMEOUT_S)


class NativeKernel(Generic[TIn_contra, TOut_co]):
    """A ring kernel whose handler is machine code: it handles messages without the GIL.

    The constructor launches it. It handles messages once it is active. As a context manager it is activated on entry and terminated
    on exit.

    The return value of the handler is the reply to an :meth:`ask`. For a message sent with :meth:`tell` it is an output, which
    :meth:`receive` returns. If the handler raises, the message becomes a dead letter, and ``on_error`` selects how the ring kernel
    continues. A waiting caller gets :class:`~pydotcompute.exceptions.KernelError` with the exception as its cause.

    It belongs to the process that launched it: in a forked child every method raises
    :class:`~pydotcompute.exceptions.ForkedProcessError`.

    Args:
        handler: A plain function ``handler(ctx, state, msg: Request) -> Reply``. See :mod:`pydotcompute.native`.
        name: Name in the runtime; by default the name of the handler, with a number if that name is in use.
        state: Initial state: a class decorated with ``@state``, an instance of one, or a NumPy structured scalar.
        device: ``"cpu"`` for a thread of this process, ``"cuda"`` for a resident kernel on a GPU, ``"emulated"`` for the emulated
            device, which runs on host threads (for tests; needs a C++ compiler).
        queue_size: Capacity of each of the four priority bands of the input queue; rounded up to a power of two.
        output_queue_size: Capacity of the output queue that :meth:`receive` reads; the ring kernel blocks while it is full.
        backpressure: What a full queue does to a sender: ``"block"``, ``"reject"`` (``QueueFullError``) or ``"drop_oldest"``.
        on_error: After an exception: ``"fail"``, ``"resume"`` with the state unchanged, or ``"restart"`` with the initial state. Also a
            restart limit, as ``(max restarts or None, window in seconds, seconds before the first restart)``.
        dedicated: Runs the kernel on a thread of its own instead of a pool thread of the runtime.
        spin: Spins instead of parking: the lowest latency, for a thread that has a core of its own. Implies ``dedicated``.
        time_one_in: Measures the times of one in this many messages; 0 for none.
        fast_math: Lets a GPU fuse and approximate floating-point arithmetic. Without it, CPU and GPU agree to the last bit.
        runtime: The runtime to launch in; by default the shared one.
        input_type: Class of the messages, if the handler's annotation cannot be evaluated.
        output_type: Class of the replies, if the handler's annotation cannot be evaluated.

    Raises:
        TypeValidationError: The handler, its messages or its state are not supported by native ring kernels.
        KernelCompilationError: The handler does not compile; the error names the user's file and line.
        KernelAlreadyExistsError: The name is in use.
        InvalidConfigurationError: An argument has an invalid value.
        BackendNotAvailableError: Numba is missing, or for ``device="cuda"`` a GPU or its compiler.
    """

    def __init__(
        self,
        handler: Callable[[Any, Any, TIn_contra], TOut_co] | HandlerDeclaration,
        name: str | None = None,
        *,
        state: Any = None,
        device: str = "cpu",
        queue_size: int = 1024,
        output_queue_size: int = 1024,
        backpressure: Literal["block", "reject", "drop_oldest"] | str = "block",
        on_error: Literal["fail", "resume", "restart"] | str | tuple[int | None, float, float] = "fail",
        dedicated: bool = False,
        spin: bool = False,
        time_one_in: int = 128,
        fast_math: bool = False,
        runtime: NativeRuntime | None = None,
        input_type: type[Any] | None = None,
        output_type: type[Any] | None = None,
    ) -> None:
        if not isinstance(handler, HandlerDeclaration):
            handler = declare(handler, state=state, input_type=input_type, output_type=output_type, fast_math=fast_math)
        self._declared = handler
        self._runtime = runtime or shared_runtime()
        for setting, value in (("queue_size", queue_size), ("output_queue_size", output_queue_size)):
            if not isinstance(value, int) or value < 1:
                raise InvalidConfigurationError(setting, value, "a queue needs a capacity of at least 1 message")
        options = {
            "queue_size": queue_size,
            "output_queue_size": output_queue_size,
            "backpressure": backpressure,
            "on_error": on_error,
            "dedicated": dedicated or spin,
            "spin": spin,
            "time_one_in": time_one_in,
        }
        self._core = self._launch(name or _default_name(handler.name), device, options)
        _kernels.add(self)

    def _launch(self, name: str, device: str, options: dict[str, Any]) -> _core.NativeKernel:
        declared = self._declared
        output = None if declared.output is None else declared.output.codec
        if device == "cpu":
            code = compile_for_host(declared)
            return self._runtime._core.launch_cpu(
                name, declared.input.codec, output, declared.initial, code.entry, code.free, code.keep_alive, options
            )
        if device not in ("cuda", "emulated"):
            raise InvalidConfigurationError("device", device, "choose 'cpu' or 'cuda', or 'emulated' for tests without a GPU")
        wheels = wheel_folders()
        if device == "cuda":
            # The GPU first: it determines the architecture to compile for, and must be opened before other libraries open it.
            handler = compile_for_device(declared, self._runtime._core.cuda_architecture(wheels))
            source, lto_ir, exception_of = device_source(declared), handler.lto_ir, handler.exception_of
        else:
            code = compile_for_host(declared)
            # The source contains the address of the machine code; this reference keeps that code in memory.
            source, lto_ir, exception_of = emulated_device_source(declared, code), b"", partial(_no_exception, code)
        return self._runtime._core.launch_device(
            device, name, declared.input.codec, output, declared.initial, source, lto_ir, exception_of, options, wheels, declared.fast_math
        )

    @property
    def name(self) -> str:
        """Name in the runtime."""
        return self._core.name

    @property
    def lifecycle_state(self) -> str:
        """Lifecycle state: ``LAUNCHED``, ``ACTIVE``, ``DEACTIVATED``, ``TERMINATING``, ``TERMINATED`` or ``FAILED``."""
        return self._core.lifecycle_state

    @property
    def state(self) -> Any:
        """Copy of the state at a message boundary: an instance of its class, or a NumPy structured scalar if it was declared as one.

        Raises:
            KernelError: The handler is stateless, or its device could not be read.
        """
        layout = self._declared.state
        if layout is None:
            raise KernelError(f"Kernel '{self.name}' has no state; declare one with state=")
        record = self._core.state_bytes(_STATE_TIMEOUT_S)
        return np.frombuffer(bytearray(record), layout.dtype)[0] if layout.cls is np.void else layout.codec.unpack(record)

    @property
    def stats(self) -> NativeStats:
        """Counters and latencies since launch."""
        counters = self._core.stats()
        queue_time, handle_time = Latency(*counters.pop("queue_time")), Latency(*counters.pop("handle_time"))
        return NativeStats(**counters, queue_time=queue_time, handle_time=handle_time)

    def tell(self, message: TIn_contra, timeout: float | None = None) -> None:
        """Sends a message without waiting for it to be handled.

        Args:
            message: A message of the handler's class. Its ``priority`` decides which queued messages it overtakes. It is handed over:
                neither side changes it afterwards. The ring kernel gets a copy of its fields.
            timeout: Maximum time to wait for a free slot, in seconds.

        Raises:
            TypeValidationError: The message is of another class.
            MessageSerializationError: A value does not fit its field.
            QueueFullError: The queue is full, and the backpressure is ``"reject"``.
            QueueTimeoutError: The queue stayed full until the timeout. The message was not sent.
            KernelStateError: The ring kernel is not activated yet, or has ended.
        """
        self._core.tell(message, timeout)

    def ask(self: NativeKernel[TIn_contra, _Message | None], message: TIn_contra, timeout: float | None = None) -> _Message:
        """Sends a message and waits for the reply.

        Without a timeout, an idle ring kernel handles the message on the calling thread, which avoids the round trip to another thread.
        The GIL is released meanwhile.

        Args:
            message: A message of the handler's class. It is handed over: neither side changes it afterwards. The ring kernel gets a copy
                of its fields.
            timeout: Maximum time to wait in total, in seconds. The message may still be handled afterwards.

        Returns:
            The return value of the handler.

        Raises:
            KernelError: The handler raised (the exception is ``__cause__``), or returned no reply.
            QueueTimeoutError: No reply arrived before the timeout.
            TypeValidationError: The message is of another class.
            MessageSerializationError: A value does not fit its field.
            QueueFullError: The queue is full, and the backpressure is ``"reject"``.
            KernelStateError: The ring kernel is not activated yet, or has ended.
        """
        reply: _Message = self._core.ask(message, timeout)
        return reply

    def receive(self: NativeKernel[Any, _Message | None], timeout: float | None = None) -> _Message:
        """Waits for the next output: the handler's return value for a message sent with :meth:`tell`.

        Args:
            timeout: Maximum time to wait, in seconds.

        Returns:
            The output.

        Raises:
            QueueTimeoutError: No output arrived before the timeout.
            KernelStateError: The ring kernel is not activated yet, or it has ended and all outputs were received.
        """
        output: _Message = self._core.receive(timeout)
        return output

    async def tell_async(self, message: TIn_contra, timeout: float | None = None) -> None:
        """Asynchronous :meth:`tell`: waits for a free slot without blocking the event loop.

        Args:
            message: A message of the handler's class. It is handed over: neither side changes it afterwards. The ring kernel gets a copy
                of its fields.
            timeout: Maximum time to wait for a free slot, in seconds.

        Raises:
            TypeValidationError: The message is of another class.
            MessageSerializationError: A value does not fit its field.
            QueueFullError: The queue is full, and the backpressure is ``"reject"``.
            QueueTimeoutError: The queue stayed full until the timeout. The message was not sent.
            KernelStateError: The ring kernel is not activated yet, or has ended.
        """
        try:
            await complete(self._core.begin_tell(message), timeout)
        except TimeoutError as error:
            raise QueueTimeoutError(self.name, timeout or 0.0, "send") from error

    async def ask_async(self: NativeKernel[TIn_contra, _Message | None], message: TIn_contra, timeout: float | None = None) -> _Message:
        """Asynchronous :meth:`ask`, which does not block the event loop. Without a timeout an idle ring kernel runs inline.

        Args:
            message: A message of the handler's class. It is handed over: neither side changes it afterwards. The ring kernel gets a copy
                of its fields.
            timeout: Maximum time to wait in total, in seconds.

        Returns:
            The return value of the handler.

        Raises:
            KernelError: The handler raised (the exception is ``__cause__``), or returned no reply.
            QueueTimeoutError: No reply arrived before the timeout.
            TypeValidationError: The message is of another class.
            MessageSerializationError: A value does not fit its field.
            QueueFullError: The queue is full, and the backpressure is ``"reject"``.
            KernelStateError: The ring kernel is not activated yet, or has ended.
        """
        try:
            reply: _Message = await complete(self._core.begin_ask(message, timeout is not None), timeout)
        except TimeoutError as error:
            raise QueueTimeoutError(self.name, timeout or 0.0, "receive") from error
        return reply

    async def receive_async(self: NativeKernel[Any, _Message | None], timeout: float | None = None) -> _Message:
        """Asynchronous :meth:`receive`, which does not block the event loop.

        Args:
            timeout: Maximum time to wait, in seconds.

        Returns:
            The output.

        Raises:
            QueueTimeoutError: No output arrived before the timeout.
            KernelStateError: The ring kernel is not activated yet, or it has ended and all outputs were received.
        """
        try:
            output: _Message = await complete(self._core.begin_receive(), timeout)
        except TimeoutError as error:
            raise QueueTimeoutError(self.name, timeout or 0.0, "receive") from error
        return output

    def tell_many(self, records: np.ndarray[Any, Any], timeout: float | None = None) -> int:
        """Sends each record of an array as a message, in order. Creates no Python object per message.

        Args:
            records: A structured array of :attr:`input_dtype`, or one that NumPy can convert to it. The call copies the records.
            timeout: Maximum time to wait for free slots in total, in seconds.

        Returns:
            The number of messages sent: all of them.

        Raises:
            KernelError: As :meth:`tell`; the error's attribute ``sent`` is the number of messages accepted before.
            TypeValidationError: The array has other fields.
        """
        sent, error = self._core.tell_records(self._as_input(records), timeout)
        if error is not None:
            error.sent = sent
            raise error
        return sent

    def ask_many(self, records: np.ndarray[Any, Any], timeout: float | None = None) -> np.ndarray[Any, Any]:
        """Sends each record of an array as a request, in order, and waits for all replies. Creates no Python object per message.

        Args:
            records: A structured array of :attr:`input_dtype`, or one that NumPy can convert to it. The call copies the records.
            timeout: Maximum time to wait in total, in seconds.

        Returns:
            The replies, in order: an array of :attr:`output_dtype`.

        Raises:
            KernelError: As :meth:`ask`; the error's attribute ``answers`` is the array of the replies before it.
            TypeValidationError: The array has other fields.
        """
        if self.output_dtype is None:
            raise KernelError(f"Kernel '{self.name}' sends no replies: its handler is not annotated to return a message; use tell_many()")
        reply_bytes, error = self._core.ask_records(self._as_input(records), timeout)
        replies = np.frombuffer(bytearray(reply_bytes), self.output_dtype)
        if error is not None:
            error.answers = replies
            raise error
        return replies

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """NumPy type of the message records."""
        return self._declared.input.dtype

    @property
    def output_dtype(self) -> np.dtype[Any] | None:
        """NumPy type of the reply records; ``None`` if the handler never replies."""
        return None if self._declared.output is None else self._declared.output.dtype

    def _as_input(self, records: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        expected = self.input_dtype
        if not isinstance(records, np.ndarray) or set(records.dtype.names or ()) != set(expected.names or ()):
            raise TypeValidationError(
                self._declared.input.cls, type(records), f"records for kernel '{self.name}', which takes structured arrays of {expected}"
            )
        return np.ascontiguousarray(records[list(expected.names or ())], expected)

    def launch(self) -> None:
        """No effect: the constructor has launched the ring kernel. For code that serves every tier.

        Raises:
            KernelStateError: The ring kernel was activated before, or has ended.
        """
        if self.lifecycle_state != "LAUNCHED":
            raise KernelStateError(self.name, self.lifecycle_state, "launch")

    def activate(self) -> None:
        """Starts handling messages.

        Raises:
            KernelStateError: The ring kernel is not ``LAUNCHED``.
        """
        self._core.activate()

    def deactivate(self, timeout: float = 5.0) -> None:
        """Pauses the ring kernel at its next message boundary, and waits until it is there. Keeps the state and the queued messages.

        Args:
            timeout: Maximum time to wait, in seconds.

        Raises:
            KernelStateError: The ring kernel is not ``ACTIVE``.
            KernelError: It did not reach a message boundary in time; it still pauses at the next one.
        """
        self._core.deactivate(timeout)

    def reactivate(self) -> None:
        """Continues after a pause.

        Raises:
            KernelStateError: The ring kernel is not ``DEACTIVATED``.
        """
        self._core.reactivate()

    def terminate(self, timeout: float = 5.0) -> None:
        """Terminates the ring kernel: it accepts no more messages and handles those accepted. No effect after it has ended.

        Args:
            timeout: Maximum time to wait, in seconds.

        Raises:
            KernelError: It did not finish in time and was aborted; messages not handled are dead letters.
        """
        self._core.terminate(timeout)

    def abort(self) -> None:
        """Ends the ring kernel at its next message boundary. Queued messages become dead letters, and waiting callers get an error.

        Raises:
            KernelError: The handler does not return; its thread is abandoned.
        """
        self._core.abort()

    def __enter__(self) -> Self:
        self.activate()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A forked child that leaves the block leaves the ring kernel to its parent.
        with contextlib.suppress(ForkedProcessError):
            self.terminate()

    def __repr__(self) -> str:
        try:
            return f"<NativeKernel {self.name!r}: {self.lifecycle_state}>"
        except ForkedProcessError as error:
            return f"<NativeKernel {self.name!r} of process {error.owner_pid}>"


def _no_exception(code: object, returned: int) -> None:
    """Exception lookup of the emulated device, which reports only that an exception was raised."""


_kernels: WeakSet[NativeKernel[Any, Any]] = WeakSet()
_names_lock = threading.Lock()
_names: dict[str, int] = {}


def _default_name(handler: str) -> str:
    """Returns the default name of a ring kernel: the name of the handler, with a number from the second kernel on."""
    with _names_lock:
        number = _names[handler] = _names.get(handler, 0) + 1
    return handler if number == 1 else f"{handler}-{number}"


def _forget_parent() -> None:
    """Leaves the ring kernels of the parent to it, in a forked child. The parent may have held the lock at the fork."""
    global _names_lock
    _names_lock = threading.Lock()
    _kernels.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
