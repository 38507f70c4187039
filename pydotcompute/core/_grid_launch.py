"""Distinguishes kernels that are launched over a grid from those that are called, and launches the former."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from pydotcompute._optional import import_numba_cuda

__all__ = ["launch", "launchable"]


def launchable(kernel: Any) -> Any | None:
    """Returns the object to launch with ``kernel[grid, block](...)``: a Numba GPU kernel, or the compiled form of ``@kernel``.

    Args:
        kernel: Any kernel. One decorated with ``@kernel`` or ``@gpu_kernel`` is compiled first.

    Returns:
        The object to launch; ``None`` if the kernel is called instead.

    Raises:
        KernelCompilationError: The kernel does not compile.
    """
    compile_now = getattr(kernel, "compile_now", None)
    target = kernel if compile_now is None else compile_now().kernel
    return target if hasattr(type(target), "__getitem__") else None


def launch(
    target: Any, grid: tuple[int, ...], block: tuple[int, ...], stream: Any, shared_memory_bytes: int, *args: Any, **kwargs: Any
) -> None:
    """Launches a result of :func:`launchable`, without waiting for it.

    Args:
        target: The object to launch.
        grid: Number of blocks in each dimension.
        block: Number of threads per block in each dimension.
        stream: A CuPy or Numba stream; ``None`` for the current one.
        shared_memory_bytes: Dynamic shared memory per block, in bytes.
        *args: Arguments of the kernel.
        **kwargs: Keyword arguments of the kernel.
    """
    # Numba accepts the pointer of a CuPy stream. CuPy kernels use the current stream, so the stream is made current too.
    is_cupy_stream = hasattr(stream, "ptr")
    numba_stream = import_numba_cuda().external_stream(stream.ptr) if is_cupy_stream else stream or 0
    with stream if is_cupy_stream else nullcontext():
        target[grid, block, numba_stream, shared_memory_bytes](*args, **kwargs)
