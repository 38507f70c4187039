"""Compiles handlers for the CPU, with Numba."""

from __future__ import annotations

import types
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from pydotcompute.exceptions import BackendNotAvailableError
from pydotcompute.native._diagnostics import check_returned, uncompilable
from pydotcompute.native._translate import entry_source, translate
from pydotcompute.native.handler import CONTEXT_DTYPE, HandlerDeclaration

__all__ = ["HostCode", "compile_for_host"]


@dataclass(frozen=True)
class HostCode:
    """A compiled handler.

    Attributes:
        entry: Address of the entry, to be called by Numba's CPU calling convention.
        free: Address of the function that frees memory allocated by Numba's runtime.
        keep_alive: References that keep the machine code in memory.
    """

    entry: int
    free: int
    keep_alive: object


_compiled: WeakKeyDictionary[HandlerDeclaration, HostCode] = WeakKeyDictionary()


def compile_for_host(declared: HandlerDeclaration) -> HostCode:
    """Compiles a handler for this CPU. The result is cached per handler.

    Division by zero follows NumPy (infinities and NaN, and 0 for integers), as on GPUs. An index out of bounds raises ``IndexError``.

    Args:
        declared: The handler.

    Returns:
        The machine code.

    Raises:
        BackendNotAvailableError: Numba is not installed.
        KernelCompilationError: The handler does not compile; the error names the line.
    """
    cached = _compiled.get(declared)
    if cached is None:
        cached = _compiled[declared] = _compile(declared)
    return cached


def _compile(declared: HandlerDeclaration) -> HostCode:
    try:
        import numba
        from numba.core.runtime import _nrt_python
    except ImportError as error:
        raise BackendNotAvailableError(
            "native", f"compiling handlers needs Numba, which cannot be imported ({error}); pip install 'pydotcompute[fast]'"
        ) from error

    def jit(function: types.FunctionType) -> Any:
        return numba.njit(function, error_model="numpy", boundscheck=True)

    def record(layout: Any) -> Any:
        return numba.from_dtype(layout.dtype)

    context = numba.from_dtype(CONTEXT_DTYPE)
    message = record(declared.input)
    state = numba.types.none if declared.state is None else record(declared.state)
    try:
        handler = jit(translate(declared, jit))
        handler.compile((context, state, message))
        returned = handler.overloads[(context, state, message)].signature.return_type
        replies = check_returned(declared, returned)
        scope: dict[str, Any] = {"handler": handler}
        exec(compile(entry_source(declared, replies), f"<entry of {declared.name}>", "exec"), scope)
        reply = record(declared.output) if declared.output is not None else message
        # A stateless handler never reads the state argument, so any record type will do.
        arguments = (context, message if declared.state is None else state, message, reply)
        entry = jit(scope["entry"])
        entry.compile(numba.int32(*arguments))
    except Exception as error:
        raise uncompilable(declared, error) from error
    compiled = entry.overloads[arguments]
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    return HostCode(address, _nrt_python.c_helpers["Free"], (handler, entry, compiled))
