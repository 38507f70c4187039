"""Every error that pydotcompute raises, as a class that carries what it is about.

All derive from :class:`PyDotComputeError`. A message says what was being done, to what, what went wrong and what to do next; the same facts
are attributes. All of them can be pickled, since errors cross processes.

Example:
    >>> from pydotcompute.exceptions import KernelNotFoundError
    >>> error = KernelNotFoundError("sensor", available=["pump"])
    >>> error.kernel_id, error.available
    ('sensor', ['pump'])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = [
    "BackendError",
    "BackendNotAvailableError",
    "BufferError",
    "BufferNotAllocatedError",
    "BufferSyncError",
    "CUDAError",
    "CompilationError",
    "InvalidConfigurationError",
    "KernelAlreadyExistsError",
    "KernelCompilationError",
    "KernelError",
    "KernelNotFoundError",
    "KernelStateError",
    "MSLCompilationError",
    "MessageDeserializationError",
    "MessageError",
    "MessageSerializationError",
    "MetalError",
    "PeerDiedError",
    "PyDotComputeError",
    "QueueClosedError",
    "QueueError",
    "QueueFullError",
    "QueueTimeoutError",
    "TypeValidationError",
    "ValidationError",
]


def _rebuild(cls: type[PyDotComputeError], args: tuple[Any, ...], state: dict[str, Any]) -> PyDotComputeError:
    """Makes an error of its text and attributes again, past ``__init__``, whose parameters are other ones."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class PyDotComputeError(Exception):
    """The base of all errors of this package."""

    def __reduce__(self) -> tuple[Callable[..., PyDotComputeError], tuple[Any, ...]]:
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


class KernelError(PyDotComputeError):
    """A ring kernel failed, or could not do what was asked of it.

    Whoever waits for a ring kernel that failed gets this error; ``__cause__`` is the exception that the ring kernel raised.
    """


class KernelNotFoundError(KernelError):
    """No ring kernel has this name.

    Attributes:
        kernel_id: The name that was asked for.
        available: The names that there are.
    """

    def __init__(self, kernel_id: str, available: list[str] | None = None) -> None:
        self.kernel_id = kernel_id
        self.available = list(available or [])
        there_are = f"there are: {', '.join(map(repr, self.available[:20]))}" if self.available else "there are none"
        super().__init__(
            f"Kernel '{kernel_id}' not found; {there_are}. "
            f"Launch it first, with runtime.launch('{kernel_id}', handler), or decorate its function with @ring_kernel."
        )


class KernelStateError(KernelError):
    """The ring kernel is in a state in which this cannot be done.

    Attributes:
        kernel_id: The ring kernel.
        current_state: Its state, as a name.
        operation: What was asked of it.
    """

    def __init__(self, kernel_id: str, current_state: str, operation: str) -> None:
        self.kernel_id = kernel_id
        self.current_state = current_state
        self.operation = operation
        hint = _STATE_HINTS.get(current_state.upper(), "")
        super().__init__(f"Cannot {operation} kernel '{kernel_id}' from state '{current_state}'{hint}")


_STATE_HINTS = {
    "CREATED": "; launch() and activate() it first",
    "LAUNCHED": "; activate() it first",
    "DEACTIVATED": "; reactivate() it first",
    "TERMINATED": "; it has ended, launch it again under this name or another",
    "FAILED": "; it raised an exception, which receive() gives, and has to be terminated and launched again",
}


class KernelAlreadyExistsError(KernelError):
    """A ring kernel of this name runs already.

    Attributes:
        kernel_id: The name.
    """

    def __init__(self, kernel_id: str) -> None:
        self.kernel_id = kernel_id
        super().__init__(f"Kernel '{kernel_id}' is already registered; terminate it first, or choose another name")


class MessageError(PyDotComputeError):
    """Something is wrong with a message."""


class MessageSerializationError(MessageError):
    """A message could not be turned into bytes.

    Attributes:
        message_type: Its class.
        cause: What went wrong, also ``__cause__``.
    """

    def __init__(self, message_type: type, cause: Exception) -> None:
        self.message_type = message_type
        self.cause = cause
        super().__init__(f"Failed to serialize message of type '{message_type.__name__}': {cause}")


class MessageDeserializationError(MessageError):
    """Bytes could not be turned into a message.

    Attributes:
        message_type: The class that was wanted.
        cause: What went wrong, also ``__cause__``.
    """

    def __init__(self, message_type: type, cause: Exception) -> None:
        self.message_type = message_type
        self.cause = cause
        super().__init__(f"Failed to deserialize message to type '{message_type.__name__}': {cause}")


class QueueError(PyDotComputeError):
    """Something is wrong with a queue."""


class QueueFullError(QueueError):
    """A queue has no room for the message, which is still the caller's.

    Attributes:
        kernel_id: The ring kernel whose queue it is; empty for a queue of one's own.
        queue_size: How many messages it holds at the most.
    """

    def __init__(self, kernel_id: str, queue_size: int) -> None:
        self.kernel_id = kernel_id
        self.queue_size = queue_size
        super().__init__(
            f"Queue for kernel '{kernel_id}' is full (size: {queue_size}); "
            "the message was not taken: wait (timeout=None), retry later, or make the queue larger"
        )


class QueueTimeoutError(QueueError):
    """The time was over before there was a message, or room for one.

    Attributes:
        kernel_id: The ring kernel whose queue it is; empty for a queue of one's own.
        timeout: How long was waited, in seconds.
        operation: ``"receive"`` or ``"send"``.
    """

    def __init__(self, kernel_id: str, timeout: float, operation: str) -> None:
        self.kernel_id = kernel_id
        self.timeout = timeout
        self.operation = operation
        super().__init__(f"Timeout ({timeout}s) waiting to {operation} message for kernel '{kernel_id}'")


class QueueClosedError(QueueError):
    """A queue between processes has been closed, here or by the other side, and there is nothing left to take."""


class PeerDiedError(QueueError):
    """The process at the other end of a queue has ended without closing it. All that it had put in has been received before this is raised.

    Attributes:
        queue: The queue's name.
        pid: The process that ended.
        side: Which end it had: ``"producer"`` or ``"consumer"``.
    """

    def __init__(self, queue: str, pid: int, side: str) -> None:
        self.queue = queue
        self.pid = pid
        self.side = side
        super().__init__(
            f"Process {pid}, the {side} of queue '{queue}', has ended without closing it; "
            f"start another {side}, which goes on where this one was, or close the queue"
        )


class BufferError(PyDotComputeError):
    """Something is wrong with a buffer."""


class BufferNotAllocatedError(BufferError):
    """A buffer was used before it had memory, or after it was freed."""

    def __init__(self) -> None:
        super().__init__("Buffer has not been allocated. Call allocate() first.")


class BufferSyncError(BufferError):
    """Copying between host and device failed.

    Attributes:
        direction: Which way, for example ``"host to device"``.
        cause: What went wrong, also ``__cause__``.
    """

    def __init__(self, direction: str, cause: Exception) -> None:
        self.direction = direction
        self.cause = cause
        super().__init__(f"Failed to sync buffer {direction}: {cause}")


class BackendError(PyDotComputeError):
    """Something is wrong with a backend."""


class BackendNotAvailableError(BackendError):
    """This machine does not have what a backend needs.

    Attributes:
        backend_name: The backend.
        reason: What is missing, and how to get it.
    """

    def __init__(self, backend_name: str, reason: str) -> None:
        self.backend_name = backend_name
        self.reason = reason
        super().__init__(f"Backend '{backend_name}' is not available: {reason}")


class CUDAError(BackendError):
    """A call of CUDA failed."""


class MetalError(BackendError):
    """A call of Metal (MLX) failed."""


class MSLCompilationError(MetalError):
    """A shader in Metal's language does not compile.

    Attributes:
        shader_name: Its name.
        error_message: What the compiler said.
    """

    def __init__(self, shader_name: str, error_message: str) -> None:
        self.shader_name = shader_name
        self.error_message = error_message
        super().__init__(f"Failed to compile MSL shader '{shader_name}': {error_message}")


class CompilationError(PyDotComputeError):
    """Something could not be compiled."""


class KernelCompilationError(CompilationError):
    """A kernel does not compile.

    Attributes:
        kernel_name: Its name.
        cause: What the compiler said, also ``__cause__``.
    """

    def __init__(self, kernel_name: str, cause: Exception) -> None:
        self.kernel_name = kernel_name
        self.cause = cause
        super().__init__(f"Failed to compile kernel '{kernel_name}': {cause}")


class ValidationError(PyDotComputeError):
    """A value or a type is not what it has to be."""


class InvalidConfigurationError(ValidationError):
    """A setting has a value that it cannot have.

    Attributes:
        parameter: The setting.
        value: What it was given.
        reason: Why that cannot be, and what can.
    """

    def __init__(self, parameter: str, value: object, reason: str) -> None:
        self.parameter = parameter
        self.value = value
        self.reason = reason
        super().__init__(f"Invalid configuration: {parameter}={value!r} - {reason}")


class TypeValidationError(ValidationError):
    """A value has another type than was declared.

    Attributes:
        expected: The declared type, or a union of types.
        actual: The type of the value.
        context: Where.
    """

    def __init__(self, expected: type, actual: type, context: str) -> None:
        self.expected = expected
        self.actual = actual
        self.context = context
        # A union of types has no name.
        names = [getattr(one, "__name__", None) or str(one) for one in (expected, actual)]
        super().__init__(f"Type mismatch in {context}: expected {names[0]}, got {names[1]}")
