"""Machine code of a native ring kernel for a GPU, without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydotcompute import _core
from pydotcompute.native._cuda import compile_for_device, device_source, wheel_folders
from pydotcompute.native.handler import HandlerDeclaration, declare

__all__ = ["compile_cubin"]


def compile_cubin(
    handler: Callable[..., Any], *, state: Any = None, architecture: tuple[int, int] = (9, 0), fast_math: bool = False
) -> bytes:
    """Compiles a handler and links it into the resident loop, as a launch on a GPU does. Needs no GPU: for builds and tests.

    Args:
        handler: As in :class:`NativeKernel`.
        state: As in :class:`NativeKernel`.
        architecture: Compute capability to compile for.
        fast_math: As in :class:`NativeKernel`.

    Returns:
        The machine code, a cubin.

    Raises:
        BackendNotAvailableError: numba-cuda, or NVIDIA's compiler or linker, is not installed.
        KernelCompilationError: The handler does not compile; the error names the user's file and line.
        CompilationError: The compiled code does not link.
    """
    declared = handler if isinstance(handler, HandlerDeclaration) else declare(handler, state=state, fast_math=fast_math)
    compiled = compile_for_device(declared, architecture)
    input_dtype, output_dtype = declared.input.dtype, None if declared.output is None else declared.output.dtype
    cubin, _log = _core.link_cubin(
        declared.name,
        device_source(declared),
        compiled.lto_ir,
        (input_dtype.itemsize, input_dtype.alignment),
        None if output_dtype is None else (output_dtype.itemsize, output_dtype.alignment),
        declared.initial.tobytes(),
        architecture,
        wheel_folders(),
        declared.fast_math,
    )
    return cubin
