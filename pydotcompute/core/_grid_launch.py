"""Which kernels are launched over a grid, and which are called."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from pydotcompute._optional import import_numba_cuda

__all__ = ["launch", "launchable"]


def launchable(kernel: Any) -> Any | None:
    """What is launched by ``kernel[grid, block](...)``: a kernel of Numba's for a GPU, or one of ``@gpu_kernel`` and ``@kernel`` there.

    Args:
        kernel: Anything that may be a kernel. One of ``@kernel`` is compiled for this.

    Returns:
        What to launch; None if it is to be called.

    Raises:
        KernelCompilationError: It does not compile.
    """
    compile_now = getattr(kernel, "compile_now", None)
    target = kernel if compile_now is None else compile_now().kernel
    return target if hasattr(type(target), "__getitem__") else None


def launch(
    target: Any, grid: tuple[int, ...], block: tuple[int, ...], stream: Any, shared_memory_bytes: int, *args: Any, **kwargs: Any
) -> None:
    """Launches what :func:`launchable` gave. It may still run when this returns.

    Args:
        target: What to launch.
        grid: Blocks in each dimension.
        block: Threads of a block in each dimension.
        stream: A stream of CuPy's or Numba's; None: the current one.
        shared_memory_bytes: Bytes that the threads of a block share, beside what the kernel declares.
        *args: Its arguments.
        **kwargs: Its arguments by name.
    """
    # CuPy's streams have a number that Numba takes; CuPy's own kernels take the current one.
    numbered = hasattr(stream, "ptr")
    own = import_numba_cuda().external_stream(stream.ptr) if numbered else stream or 0
    with stream if numbered else nullcontext():
        target[grid, block, own, shared_memory_bytes](*args, **kwargs)
