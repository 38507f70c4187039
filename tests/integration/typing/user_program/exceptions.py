"""Every exception, created, and caught by its base class."""

from pydotcompute.exceptions import (
    BackendError,
    BackendNotAvailableError,
    BufferError,
    BufferNotAllocatedError,
    BufferSyncError,
    CompilationError,
    CUDAError,
    InvalidConfigurationError,
    KernelAlreadyExistsError,
    KernelCompilationError,
    KernelError,
    KernelNotFoundError,
    KernelStateError,
    MessageDeserializationError,
    MessageError,
    MessageSerializationError,
    MetalError,
    MSLCompilationError,
    PyDotComputeError,
    QueueError,
    QueueFullError,
    QueueTimeoutError,
    TypeValidationError,
    ValidationError,
)


def errors() -> list[PyDotComputeError]:
    cause = ValueError("cause")
    kernel: list[KernelError] = [
        KernelNotFoundError("a", available=["b"]),
        KernelStateError("a", "CREATED", "send"),
        KernelAlreadyExistsError("a"),
    ]
    message: list[MessageError] = [MessageSerializationError(int, cause), MessageDeserializationError(int, cause)]
    queue: list[QueueError] = [QueueFullError("a", 16), QueueTimeoutError("a", 0.5, "receive")]
    buffer: list[BufferError] = [BufferNotAllocatedError(), BufferSyncError("host to device", cause)]
    backend: list[BackendError] = [BackendNotAvailableError("cuda", "no GPU"), CUDAError("x"), MetalError("x")]
    metal: list[MetalError] = [MSLCompilationError("shader", "error")]
    compilation: list[CompilationError] = [KernelCompilationError("a", cause)]
    validation: list[ValidationError] = [
        InvalidConfigurationError("size", 0, "too small"),
        TypeValidationError(int, str, "argument"),
    ]
    return [*kernel, *message, *queue, *buffer, *backend, *metal, *compilation, *validation]


def use() -> str:
    try:
        raise errors()[0]
    except KernelNotFoundError as error:
        name: str = error.kernel_id
        available: list[str] = error.available
        return f"{name} {available}"
