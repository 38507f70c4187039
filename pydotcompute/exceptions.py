"""Exceptions of pydotcompute. Each carries the facts of its message as attributes.

All derive from :class:`PyDotComputeError`, except for :class:`KernelStopped`, which is no error. A message states the operation, its
subject, what went wrong and what to do. All exceptions can be pickled, because errors cross process boundaries.

Example:
    >>> from pydotcompute.exceptions import KernelNotFoundError
    >>> error = KernelNotFoundError("sensor", available=["pump"])
    >>> error.kernel_id, error.available
    ('sensor', ['pump'])
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

__all__ = [
    "AmbiguousReplyError",
    "BackendError",
    "BackendNotAvailableError",
    "BufferError",
    "BufferNotAllocatedError",
    "BufferSyncError",
    "CUDAError",
    "CompilationError",
    "EventLoopError",
    "ForkedProcessError",
    "InvalidConfigurationError",
    "KernelAlreadyExistsError",
    "KernelCompilationError",
    "KernelConnectionError",
    "KernelEndedError",
    "KernelError",
    "KernelNotFoundError",
    "KernelStateError",
    "KernelStopped",
    "KernelStoppedInTime",
    "MSLCompilationError",
    "MessageDeserializationError",
    "MessageError",
    "MessageSerializationError",
    "MetalError",
    "NoPeerError",
    "NoReplyError",
    "PeerDiedError",
    "PyDotComputeError",
    "QueueClosedError",
    "QueueError",
    "QueueFullError",
    "QueueTimeoutError",
    "TypeValidationError",
    "ValidationError",
    "WaitCycleError",
]


def _rebuild(cls: type[PyDotComputeError], args: tuple[Any, ...], state: dict[str, Any]) -> PyDotComputeError:
    """Rebuilds an error from its message and attributes, without ``__init__``, whose parameters differ from ``args``."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class PyDotComputeError(Exception):
    """Base class of all exceptions of this package."""

    def __reduce__(self) -> tuple[Callable[..., PyDotComputeError], tuple[Any, ...]]:
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


class ForkedProcessError(PyDotComputeError):
    """A process used an object of its parent, which ``fork`` has copied without the threads and the event loop that serve it.

    Attributes:
        subject: The object.
        owner_pid: Id of the process that created it.
        pid: Id of the process that used it.
    """

    def __init__(self, subject: str, owner_pid: int) -> None:
        self.subject = subject
        self.owner_pid = owner_pid
        self.pid = os.getpid()
        super().__init__(
            f"Cannot use {subject} in process {self.pid}, which was forked from process {owner_pid}: this copy is not connected to the "
            "original. Create it after the fork, or exchange messages with the other process through a SharedQueue"
        )


class KernelError(PyDotComputeError):
    """A ring kernel failed, or an operation on it did.

    Raised in every caller that waits for a failed ring kernel; ``__cause__`` is the exception that the ring kernel raised.
    """


class KernelNotFoundError(KernelError):
    """No ring kernel has this name.

    Attributes:
        kernel_id: The unknown name.
        available: The existing names.
    """

    def __init__(self, kernel_id: str, available: list[str] | None = None) -> None:
        self.kernel_id = kernel_id
        self.available = list(available or [])
        existing = f"existing kernels: {', '.join(map(repr, self.available[:20]))}" if self.available else "no kernels exist"
        super().__init__(
            f"Kernel '{kernel_id}' not found; {existing}. "
            f"Launch it first, with runtime.launch('{kernel_id}', handler), or decorate its function with @ring_kernel."
        )


class KernelStateError(KernelError):
    """The current state of the ring kernel does not allow the operation.

    Attributes:
        kernel_id: Name of the ring kernel.
        current_state: Name of its state.
        operation: The rejected operation.
    """

    def __init__(self, kernel_id: str, current_state: str, operation: str) -> None:
        self.kernel_id, self.current_state, self.operation = kernel_id, current_state, operation
        hint = _STATE_HINTS.get(current_state.upper(), "")
        super().__init__(f"Cannot {operation} kernel '{kernel_id}' from state '{current_state}'{hint}")


# What to do, in words that fit every tier: each object with a lifecycle has these methods.
_STATE_HINTS = {
    "CREATED": "; launch() and activate() it first",
    "LAUNCHED": "; activate() it first",
    "DEACTIVATED": "; it is paused: reactivate() it",
    "STOPPED": "; it has ended: launch a new one",
    "TERMINATED": "; it has ended: launch a new one",
    "FAILED": "; it raised an exception: terminate() it and launch a new one",
}


class EventLoopError(KernelStateError):
    """A ring kernel was used from another event loop than its own, which does not run, so that no call would ever end.

    Attributes:
        kernel_loop: The event loop of the ring kernel, as text.
        calling_loop: The event loop of the caller, as text; ``"none"`` outside of a loop.
    """

    def __init__(self, kernel_id: str, current_state: str, operation: str, kernel_loop: object, calling_loop: object) -> None:
        super().__init__(kernel_id, current_state, operation)
        self.kernel_loop = str(kernel_loop)
        self.calling_loop = "none" if calling_loop is None else str(calling_loop)
        self.args = (
            f"Cannot {operation} kernel '{kernel_id}' from event loop {self.calling_loop}: it belongs to {self.kernel_loop}, "
            f"which does not run (the kernel's state is '{current_state}'); "
            "use a runtime within one asyncio.run(), or launch the kernel again in this loop",
        )


class KernelAlreadyExistsError(KernelError):
    """The name of the ring kernel is in use.

    Attributes:
        kernel_id: The name.
    """

    def __init__(self, kernel_id: str) -> None:
        self.kernel_id = kernel_id
        super().__init__(f"Kernel '{kernel_id}' is already registered; terminate it first, or choose another name")


class KernelConnectionError(KernelError):
    """Two ring kernels cannot be connected, or are not connected.

    Attributes:
        source: Name of the ring kernel that sends.
        target: Name of the ring kernel that would receive.
    """

    def __init__(self, operation: str, source: str, target: str, reason: str) -> None:
        self.source, self.target = source, target
        super().__init__(f"Cannot {operation} kernel '{source}' {'to' if operation == 'connect' else 'from'} kernel '{target}': {reason}")


class NoReplyError(KernelError):
    """There will be no reply to a request: the ring kernel skipped it, or its full queue dropped it.

    Attributes:
        kernel_id: Name of the ring kernel.
        reason: Why there is no reply.
    """

    def __init__(self, kernel_id: str, reason: str) -> None:
        self.kernel_id = kernel_id
        self.reason = reason
        super().__init__(f"Kernel '{kernel_id}' will not reply: {reason}")


class KernelEndedError(KernelStateError, NoReplyError):
    """There will be no reply to a request: the ring kernel ended before it replied. Received and queued requests end alike."""

    def __init__(self, kernel_id: str, current_state: str) -> None:
        NoReplyError.__init__(self, kernel_id, f"it has ended (state '{current_state}'); launch a new one")
        self.current_state = current_state
        self.operation = "get a reply from"


class AmbiguousReplyError(KernelError):
    """A ring kernel sent a message that may be the reply to one of several requests, or to an earlier one.

    Raised in the ring kernel. The callers of the requests that it has received get it as the cause of their ``KernelError``.

    Attributes:
        kernel_id: Name of the ring kernel.
        open_requests: Number of requests that it has received, and neither replied to nor skipped.
    """

    def __init__(self, kernel_id: str, open_requests: int) -> None:
        self.kernel_id = kernel_id
        self.open_requests = open_requests
        requests = "1 request has" if open_requests == 1 else f"{open_requests} requests have"
        super().__init__(
            f"Kernel '{kernel_id}' sent a message, and it is unclear which message it answers: {requests} no reply yet. "
            "Name the request with ctx.reply(request, answer) or with the answer's correlation_id; "
            "end each request that gets no answer with ctx.skip(request); send other outputs with ctx.output_queue.put(output)"
        )


class WaitCycleError(KernelError):
    """Ring kernels wait for each other in a cycle, so that none of them would ever go on.

    Raised in the ring kernel whose call would close the cycle. The message of the call is withdrawn, unless the other ring kernel has
    taken it.

    Attributes:
        kernel_id: The ring kernel that the call would wait for.
        cycle: Names of the ring kernels of which each waits for the next. The last is the first again.
    """

    def __init__(self, kernel_id: str, cycle: list[str]) -> None:
        self.kernel_id = kernel_id
        self.cycle = list(cycle)
        super().__init__(
            f"Waiting for kernel '{kernel_id}' would never end: kernels wait for each other in a cycle, {' → '.join(self.cycle)}; "
            "send without waiting for a reply, reply before asking, or ask from another task while the kernel receives"
        )


class MessageError(PyDotComputeError):
    """Base class of message errors."""


class MessageSerializationError(MessageError):
    """A message could not be serialized.

    Attributes:
        message_type: Class of the message.
        cause: The reason, also ``__cause__``.
    """

    def __init__(self, message_type: type, cause: Exception) -> None:
        self.message_type = message_type
        self.cause = cause
        super().__init__(f"Failed to serialize message of type '{message_type.__name__}': {cause}")


class MessageDeserializationError(MessageError):
    """Bytes could not be deserialized.

    Attributes:
        message_type: Expected class of the message.
        cause: The reason, also ``__cause__``.
    """

    def __init__(self, message_type: type, cause: Exception) -> None:
        self.message_type = message_type
        self.cause = cause
        super().__init__(f"Failed to deserialize message to type '{message_type.__name__}': {cause}")


class QueueError(PyDotComputeError):
    """Base class of queue errors."""


class QueueFullError(QueueError):
    """A queue is full. It did not accept the message, and the caller keeps it.

    Attributes:
        kernel_id: Ring kernel that the queue belongs to; empty for a stand-alone queue.
        queue_size: Capacity of the queue.
    """

    def __init__(self, kernel_id: str, queue_size: int) -> None:
        self.kernel_id = kernel_id
        self.queue_size = queue_size
        super().__init__(
            f"Queue for kernel '{kernel_id}' is full (size: {queue_size}); "
            "the message was not accepted: wait (timeout=None), retry later, or use a larger queue"
        )


class QueueTimeoutError(QueueError):
    """The timeout expired before a message arrived or a slot became free.

    Attributes:
        kernel_id: Ring kernel that the queue belongs to; empty for a stand-alone queue.
        timeout: The timeout, in seconds.
        operation: ``"receive"`` or ``"send"``.
    """

    def __init__(self, kernel_id: str, timeout: float, operation: str) -> None:
        self.kernel_id, self.timeout, self.operation = kernel_id, timeout, operation
        super().__init__(f"Timeout ({timeout}s) waiting to {operation} message for kernel '{kernel_id}'")


class KernelStopped(asyncio.CancelledError):
    """The ring kernel terminates, and its input queue is empty: raised by ``ctx.receive()`` in its function.

    It is a ``CancelledError``, not an error: a function that does not catch it ends gracefully. One that received with a timeout gets it as
    :class:`KernelStoppedInTime`. ``async for message in ctx`` ends instead.

    Attributes:
        kernel_id: Name of the ring kernel.
    """

    def __init__(self, kernel_id: str) -> None:
        self.kernel_id = kernel_id
        super().__init__(f"Kernel '{kernel_id}' terminates")


class KernelStoppedInTime(KernelStopped, QueueTimeoutError):
    """The ring kernel terminates before a message arrived and before the timeout: raised by ``ctx.receive(timeout=...)`` in its function.

    It is a ``QueueTimeoutError`` too, so that a loop that goes on after timeouts reads ``ctx.should_terminate`` next.
    """

    def __init__(self, kernel_id: str, timeout: float) -> None:
        QueueTimeoutError.__init__(self, kernel_id, timeout, "receive")


class QueueClosedError(QueueError):
    """A queue between processes was closed by this process or its peer, and has no messages left."""


class NoPeerError(QueueTimeoutError):
    """No process became the other end of a queue until the timeout.

    Attributes:
        queue: Name of the queue.
        side: Endpoint that has no owner: ``"producer"`` or ``"consumer"``.
        timeout: The timeout, in seconds.
    """

    def __init__(self, queue: str, side: str, timeout: float) -> None:
        super().__init__(queue, timeout, "receive")
        self.queue, self.side = queue, side
        call = "put" if side == "producer" else "get"
        self.args = (f"Queue '{queue}' had no running {side} within {timeout} s; start the process that calls {call}, or wait longer",)


class PeerDiedError(QueueError):
    """The peer process of a queue ended without closing it. Raised only after all messages that it published were received.

    Attributes:
        queue: Name of the queue.
        pid: Process id of the peer.
        side: Endpoint that the peer held: ``"producer"`` or ``"consumer"``.
    """

    def __init__(self, queue: str, pid: int, side: str) -> None:
        self.queue, self.pid, self.side = queue, pid, side
        super().__init__(
            f"Process {pid}, the {side} of queue '{queue}', has ended without closing it; "
            f"start another {side}, which continues at the same position, or close the queue"
        )


class BufferError(PyDotComputeError):
    """Base class of buffer errors."""


class BufferNotAllocatedError(BufferError):
    """A buffer was used before it was allocated, or after it was freed."""

    def __init__(self) -> None:
        super().__init__("Buffer has not been allocated. Call allocate() first.")


class BufferSyncError(BufferError):
    """Copying between host and device failed.

    Attributes:
        direction: Direction of the copy, for example ``"host to device"``.
        cause: The reason, also ``__cause__``.
    """

    def __init__(self, direction: str, cause: Exception) -> None:
        self.direction = direction
        self.cause = cause
        super().__init__(f"Failed to sync buffer {direction}: {cause}")


class BackendError(PyDotComputeError):
    """Base class of backend errors."""


class BackendNotAvailableError(BackendError):
    """This machine lacks what a backend requires.

    Attributes:
        backend_name: Name of the backend.
        reason: What is missing, and how to get it.
    """

    def __init__(self, backend_name: str, reason: str) -> None:
        self.backend_name = backend_name
        self.reason = reason
        super().__init__(f"Backend '{backend_name}' is not available: {reason}")


class CUDAError(BackendError):
    """A CUDA call failed."""


class MetalError(BackendError):
    """A Metal (MLX) call failed."""


class MSLCompilationError(MetalError):
    """A shader in the Metal shading language does not compile.

    Attributes:
        shader_name: Name of the shader.
        error_message: Message of the compiler.
    """

    def __init__(self, shader_name: str, error_message: str) -> None:
        self.shader_name = shader_name
        self.error_message = error_message
        super().__init__(f"Failed to compile MSL shader '{shader_name}': {error_message}")


class CompilationError(PyDotComputeError):
    """Base class of compilation errors."""


class KernelCompilationError(CompilationError):
    """A kernel does not compile.

    Attributes:
        kernel_name: Name of the kernel.
        cause: The compiler's error, also ``__cause__``.
    """

    def __init__(self, kernel_name: str, cause: Exception) -> None:
        self.kernel_name = kernel_name
        self.cause = cause
        super().__init__(f"Failed to compile kernel '{kernel_name}': {cause}")


class ValidationError(PyDotComputeError):
    """Base class of validation errors: a value or a type is invalid."""


class InvalidConfigurationError(ValidationError):
    """A parameter has an invalid value.

    Attributes:
        parameter: Name of the parameter.
        value: The invalid value.
        reason: Why it is invalid, and which values are valid.
    """

    def __init__(self, parameter: str, value: object, reason: str) -> None:
        self.parameter = parameter
        self.value = value
        self.reason = reason
        super().__init__(f"Invalid configuration: {parameter}={value!r} - {reason}")


class TypeValidationError(ValidationError):
    """A value is not of the declared type.

    Attributes:
        expected: The declared type, or a union of types.
        actual: Type of the value.
        context: Where the mismatch occurred.
    """

    def __init__(self, expected: type, actual: type, context: str) -> None:
        self.expected = expected
        self.actual = actual
        self.context = context
        # A union of types has no `__name__`.
        names = [getattr(one, "__name__", None) or str(one) for one in (expected, actual)]
        super().__init__(f"Type mismatch in {context}: expected {names[0]}, got {names[1]}")
