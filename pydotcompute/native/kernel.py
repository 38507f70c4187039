"""Native ring kernels: handlers written in Python, compiled, and run by Rust without the interpreter.

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
import threading
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Literal
from weakref import WeakSet

import numpy as np

from pydotcompute import _core
from pydotcompute.exceptions import InvalidConfigurationError, KernelError, QueueTimeoutError, TypeValidationError
from pydotcompute.native._cpu import compile_for_host
from pydotcompute.native._cuda import compile_for_device, text_that_calls, text_that_calls_host, wheel_folders
from pydotcompute.native._event_loop import complete
from pydotcompute.native.handler import HandlerDeclaration, declare
from pydotcompute.native.runtime import NativeRuntime, runtimes, shared_runtime
from pydotcompute.native.stats import Latency, NativeStats

__all__ = ["NativeKernel", "compile_cubin"]

# How long the end of a program waits for native ring kernels to come to a message boundary.
_EXIT_TIMEOUT_S = 2.0
# How long reading the state of a ring kernel on a device waits for a message boundary.
_STATE_TIMEOUT_S = 5.0


@atexit.register
def _end_all() -> None:
    """Ends what still runs: machine code must not run on while the interpreter takes its memory apart."""
    for kernel in list(_kernels):
        with contextlib.suppress(KernelError):
            kernel._core.abort()
    for runtime in list(runtimes):
        with contextlib.suppress(KernelError):
            runtime.shutdown(_EXIT_TIMEOUT_S)


class NativeKernel:
    """A ring kernel whose handler is machine code: while it handles messages, no interpreter is involved.

    Launched when made, it handles messages once it is activated; as a context manager it is activated, and terminated at the end.

    What the handler returns is the answer to an :meth:`ask`; for a message that was told, it is an output for :meth:`receive`. If the
    handler raises, the message becomes a dead letter, an asker gets :class:`~pydotcompute.exceptions.KernelError` with the exception as
    its cause, and ``on_error`` says how the ring kernel goes on.

    Args:
        handler: A plain function ``handler(ctx, state, msg: Question) -> Answer``. See :mod:`pydotcompute.native`.
        name: Its name in the runtime; by default the handler's name, with a number where that is taken.
        state: What the state begins as: a class made by ``@state``, an instance of one, or a NumPy structured scalar.
        device: ``"cpu"`` for a thread of this process, ``"cuda"`` for a resident kernel on a GPU, ``"emulated"`` for one on threads that
            stand for a GPU's (for tests; takes a C++ compiler).
        queue_size: Messages that each of the four priority bands of the input queue holds; a power of two, or rounded up to one.
        output_queue_size: Outputs that wait for :meth:`receive`; when there are that many, the ring kernel waits.
        backpressure: What a sender meets at a full queue: ``"block"``, ``"reject"`` (``QueueFullError``) or ``"drop_oldest"``.
        on_error: After an exception: ``"fail"``, ``"resume"`` with the state as it is, or ``"restart"`` with a new state; or how often it
            is restarted, as ``(times or None, within seconds, seconds before the first)``.
        dedicated: Gives it a thread of its own, rather than one of the runtime's.
        spin: Never sleeps: the lowest latency, for a thread that has a core of its own.
        time_one_in: One message in so many has its times measured; 0 for none.
        runtime: The runtime to launch it in; by default one that all share.
        input_type: The class of its messages, where the handler's annotation cannot be read.
        output_type: The class of its answers, where the handler's annotation cannot be read.

    Raises:
        TypeValidationError: The handler, its messages or its state are not such as a native ring kernel can have.
        KernelCompilationError: The handler does not compile; the error names the user's file and line.
        KernelAlreadyExistsError: The name is taken.
        InvalidConfigurationError: A setting has a value that it cannot have.
        BackendNotAvailableError: Numba, or for ``device="cuda"`` a GPU or its compiler, is missing.
    """

    def __init__(
        self,
        handler: Callable[..., Any] | HandlerDeclaration,
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
        runtime: NativeRuntime | None = None,
        input_type: type[Any] | None = None,
        output_type: type[Any] | None = None,
    ) -> None:
        if not isinstance(handler, HandlerDeclaration):
            handler = declare(handler, state=state, input_type=input_type, output_type=output_type)
        self._declared = handler
        self._runtime = runtime or shared_runtime()
        for setting, value in (("queue_size", queue_size), ("output_queue_size", output_queue_size)):
            if not isinstance(value, int) or value < 1:
                raise InvalidConfigurationError(setting, value, "a queue holds at least 1 message")
        options = {
            "queue_size": queue_size,
            "output_queue_size": output_queue_size,
            "backpressure": backpressure,
            "on_error": on_error,
            "dedicated": dedicated or spin,
            "spin": spin,
            "time_one_in": time_one_in,
        }
        self._core = self._launch(name or _free_name(handler.name), device, options)
        _kernels.add(self)

    def _launch(self, name: str, device: str, options: dict[str, Any]) -> _core.NativeKernel:
        declared = self._declared
        output = None if declared.output is None else declared.output.codec
        if device == "cpu":
            code = compile_for_host(declared)
            return self._runtime._core.launch_cpu(
                name, declared.input.codec, output, declared.initial, code.entry, code.free, code.keeps, options
            )
        if device not in ("cuda", "emulated"):
            raise InvalidConfigurationError("device", device, "choose 'cpu' or 'cuda', or 'emulated' for tests without a GPU")
        wheels = wheel_folders()
        if device == "cuda":
            # The GPU first: it says what to compile for, and has to be opened before others do.
            handler = compile_for_device(declared, self._runtime._core.cuda_architecture(wheels))
            text, lto_ir, exception_of = text_that_calls(declared), handler.lto_ir, handler.exception_of
        else:
            code = compile_for_host(declared)
            # The address is in the text; the function keeps what is there.
            text, lto_ir, exception_of = text_that_calls_host(declared, code), b"", partial(_no_exception, code)
        return self._runtime._core.launch_device(
            device, name, declared.input.codec, output, declared.initial, text, lto_ir, exception_of, options, wheels
        )

    @property
    def name(self) -> str:
        """Its name."""
        return self._core.name

    @property
    def lifecycle_state(self) -> str:
        """Where it is in its life: ``LAUNCHED``, ``ACTIVE``, ``DEACTIVATED``, ``TERMINATING``, ``TERMINATED`` or ``FAILED``."""
        return self._core.lifecycle_state

    @property
    def state(self) -> Any:
        """The state as it is between two messages, a copy: an instance of its class, or a NumPy structured scalar if it was given as one.

        Raises:
            KernelError: It keeps no state, or its device could not be asked.
        """
        layout = self._declared.state
        if layout is None:
            raise KernelError(f"Kernel '{self.name}' keeps no state; declare one with state=")
        record = self._core.state_bytes(_STATE_TIMEOUT_S)
        return np.frombuffer(bytearray(record), layout.dtype)[0] if layout.cls is np.void else layout.codec.unpack(record)

    @property
    def stats(self) -> NativeStats:
        """What has happened in it so far."""
        counted = self._core.stats()
        queue_time, handle_time = Latency(*counted.pop("queue_time")), Latency(*counted.pop("handle_time"))
        return NativeStats(**counted, queue_time=queue_time, handle_time=handle_time)

    def tell(self, message: Any, timeout: float | None = None) -> None:
        """Sends a message and does not wait for it to be handled.

        Args:
            message: A message of the class that the handler takes. Its ``priority`` says which waiting messages it overtakes.
            timeout: How long to wait for room, in seconds.

        Raises:
            TypeValidationError: It is of another class.
            MessageSerializationError: A field's value is not one that the field can hold.
            QueueFullError: There is no room, and the backpressure is ``"reject"``.
            QueueTimeoutError: There was no room in time. The message was not sent.
            KernelStateError: The ring kernel was not activated, or has ended.
        """
        self._core.tell(message, timeout)

    def ask(self, message: Any, timeout: float | None = None) -> Any:
        """Sends a message and waits for its answer.

        Without a timeout, a ring kernel that is idle handles the message on the calling thread, which saves the way to another thread and
        back. The interpreter is free meanwhile.

        Args:
            message: A message of the class that the handler takes.
            timeout: How long to wait in all, in seconds. The message may still be handled afterwards.

        Returns:
            What the handler returned.

        Raises:
            KernelError: The handler raised (``__cause__`` is what), or gave no answer.
            QueueTimeoutError: There was no answer in time.
            TypeValidationError: The message is of another class.
            MessageSerializationError: A field's value is not one that the field can hold.
            QueueFullError: There is no room, and the backpressure is ``"reject"``.
            KernelStateError: The ring kernel was not activated, or has ended.
        """
        return self._core.ask(message, timeout)

    def receive(self, timeout: float | None = None) -> Any:
        """Waits for the next output: what the handler returned for a message that was told.

        Args:
            timeout: How long to wait, in seconds.

        Returns:
            The output.

        Raises:
            QueueTimeoutError: There was none in time.
            KernelStateError: The ring kernel was not activated; or it has ended, and there are no more.
        """
        return self._core.receive(timeout)

    async def tell_async(self, message: Any, timeout: float | None = None) -> None:
        """As :meth:`tell`, for an event loop, which goes on while this waits for room."""
        try:
            await complete(self._core.begin_tell(message), timeout)
        except TimeoutError as error:
            raise QueueTimeoutError(self.name, timeout or 0.0, "send") from error

    async def ask_async(self, message: Any, timeout: float | None = None) -> Any:
        """As :meth:`ask`, for an event loop, which goes on while this waits. Without a timeout an idle ring kernel answers at once."""
        try:
            return await complete(self._core.begin_ask(message, timeout is not None), timeout)
        except TimeoutError as error:
            raise QueueTimeoutError(self.name, timeout or 0.0, "receive") from error

    async def receive_async(self, timeout: float | None = None) -> Any:
        """As :meth:`receive`, for an event loop, which goes on while this waits."""
        try:
            return await complete(self._core.begin_receive(), timeout)
        except TimeoutError as error:
            raise QueueTimeoutError(self.name, timeout or 0.0, "receive") from error

    def tell_many(self, records: np.ndarray[Any, Any], timeout: float | None = None) -> int:
        """Sends each record of an array as a message, in order. Nothing is made in Python for each.

        Args:
            records: A structured array of :attr:`input_dtype`, or one that NumPy can convert to it.
            timeout: How long to wait for room in all, in seconds.

        Returns:
            How many were sent: all of them.

        Raises:
            KernelError: As for :meth:`tell`; the error's ``sent`` says how many were accepted before.
            TypeValidationError: The array is of other records.
        """
        sent, error = self._core.tell_records(self._as_input(records), timeout)
        if error is not None:
            error.sent = sent
            raise error
        return sent

    def ask_many(self, records: np.ndarray[Any, Any], timeout: float | None = None) -> np.ndarray[Any, Any]:
        """Asks with each record of an array, in order, and waits for all answers. Nothing is made in Python for each.

        Args:
            records: A structured array of :attr:`input_dtype`, or one that NumPy can convert to it.
            timeout: How long to wait in all, in seconds.

        Returns:
            The answers, in order: an array of :attr:`output_dtype`.

        Raises:
            KernelError: As for :meth:`ask`; the error's ``answers`` are those before it.
            TypeValidationError: The array is of other records.
        """
        if self.output_dtype is None:
            raise KernelError(f"Kernel '{self.name}' gives no answers: its handler is not annotated to return a message; use tell_many()")
        answers, error = self._core.ask_records(self._as_input(records), timeout)
        answered = np.frombuffer(bytearray(answers), self.output_dtype)
        if error is not None:
            error.answers = answered
            raise error
        return answered

    @property
    def input_dtype(self) -> np.dtype[Any]:
        """The NumPy type of its messages' records."""
        return self._declared.input.dtype

    @property
    def output_dtype(self) -> np.dtype[Any] | None:
        """The NumPy type of its answers' records; ``None`` if it gives none."""
        return None if self._declared.output is None else self._declared.output.dtype

    def _as_input(self, records: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        wanted = self.input_dtype
        if not isinstance(records, np.ndarray) or set(records.dtype.names or ()) != set(wanted.names or ()):
            raise TypeValidationError(
                self._declared.input.cls, type(records), f"records for kernel '{self.name}', which takes structured arrays of {wanted}"
            )
        return np.ascontiguousarray(records[list(wanted.names or ())], wanted)

    def activate(self) -> None:
        """Starts handling messages.

        Raises:
            KernelStateError: It is not ``LAUNCHED``.
        """
        self._core.activate()

    def deactivate(self, timeout: float = 5.0) -> None:
        """Pauses it at its next message boundary, and waits for that. State and waiting messages are kept.

        Args:
            timeout: How long to wait, in seconds.

        Raises:
            KernelStateError: It is not ``ACTIVE``.
            KernelError: It did not come to a message boundary in time; it will pause there.
        """
        self._core.deactivate(timeout)

    def reactivate(self) -> None:
        """Goes on after a pause.

        Raises:
            KernelStateError: It is not ``DEACTIVATED``.
        """
        self._core.reactivate()

    def terminate(self, timeout: float = 5.0) -> None:
        """Ends it: nothing more is accepted, what was accepted is handled. Does nothing to one that has ended.

        Args:
            timeout: How long to wait, in seconds.

        Raises:
            KernelError: It took longer; it was aborted, and what it had not handled is among the dead letters.
        """
        self._core.terminate(timeout)

    def abort(self) -> None:
        """Ends it at its next message boundary. What waits becomes dead letters, and whoever waits for answers gets an error.

        Raises:
            KernelError: The handler does not return. The ring kernel is given up.
        """
        self._core.abort()

    def __enter__(self) -> NativeKernel:
        self.activate()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.terminate()

    def __repr__(self) -> str:
        return f"<NativeKernel {self.name!r}: {self.lifecycle_state}>"


def _no_exception(code: object, returned: int) -> None:
    """On the emulated device an exception is only known to have been raised."""


def compile_cubin(handler: Callable[..., Any], *, state: Any = None, architecture: tuple[int, int] = (9, 0)) -> bytes:
    """Compiles a handler and links it into the resident loop, as a launch on a GPU does. Needs no GPU: for builds and tests without one.

    Args:
        handler: As for :class:`NativeKernel`.
        state: As for :class:`NativeKernel`.
        architecture: The compute capability to compile for.

    Returns:
        The machine code, a cubin.

    Raises:
        BackendNotAvailableError: numba-cuda, or NVIDIA's compiler or linker, is not installed.
        KernelCompilationError: The handler does not compile; the error names the user's file and line.
        CompilationError: Its code does not link.
    """
    declared = handler if isinstance(handler, HandlerDeclaration) else declare(handler, state=state)
    compiled = compile_for_device(declared, architecture)
    taken, given = declared.input.dtype, None if declared.output is None else declared.output.dtype
    cubin, _log = _core.link_cubin(
        declared.name,
        text_that_calls(declared),
        compiled.lto_ir,
        (taken.itemsize, taken.alignment),
        None if given is None else (given.itemsize, given.alignment),
        declared.initial.tobytes(),
        architecture,
        wheel_folders(),
    )
    return cubin


_kernels: WeakSet[NativeKernel] = WeakSet()
_names_lock = threading.Lock()
_names: dict[str, int] = {}


def _free_name(handler: str) -> str:
    """A name for a ring kernel that was given none: the handler's, with a number from the second on."""
    with _names_lock:
        number = _names[handler] = _names.get(handler, 0) + 1
    return handler if number == 1 else f"{handler}-{number}"
