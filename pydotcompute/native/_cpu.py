"""Compiles handlers for the CPU, with Numba."""

from __future__ import annotations

import types
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from pydotcompute.compilation.code_cache import Artifact, CodeCache
from pydotcompute.compilation.fingerprint import Fingerprint, fingerprint
from pydotcompute.compilation.host_object import load_object, object_of
from pydotcompute.compilation.numba_settings import cpu_settings
from pydotcompute.exceptions import BackendNotAvailableError
from pydotcompute.native._diagnostics import check_returned, uncompilable
from pydotcompute.native._translate import constructor_source, entry_source, translate
from pydotcompute.native.handler import CONTEXT_DTYPE, HandlerDeclaration

__all__ = ["HostCode", "compile_for_host", "handler_fingerprint"]

# Increased when this package compiles handlers differently, so that older code on disk is not used.
_REVISION = 1


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


def compile_for_host(declared: HandlerDeclaration) -> HostCode:
    """Compiles a handler for this CPU, or returns what this or an earlier process compiled for an equal one.

    Division by zero follows NumPy (infinities and NaN, and 0 for integers), as on GPUs. An index out of bounds raises ``IndexError``.

    Args:
        declared: The handler.

    Returns:
        The machine code.

    Raises:
        BackendNotAvailableError: Numba is not installed.
        KernelCompilationError: The handler does not compile; the error names the line.
    """
    try:
        import numba  # noqa: F401
    except ImportError as error:
        raise BackendNotAvailableError(
            "native", f"compiling handlers needs Numba, which cannot be imported ({error}); pip install 'pydotcompute[fast]'"
        ) from error
    return _codes.get(declared.name, handler_fingerprint(declared, "cpu", *cpu_settings()), partial(_compile, declared))


def handler_fingerprint(declared: HandlerDeclaration, target: str, *settings: object) -> Fingerprint:
    """Returns the hash of everything that the machine code of a handler depends on. Its initial state is no part of it.

    Args:
        declared: The handler.
        target: What it is compiled for.
        settings: Further values that affect compilation for this target.
    """
    layouts = [None if layout is None else layout.dtype for layout in (declared.input, declared.output, declared.state)]
    replies = None if declared.output is None else constructor_source(declared.output)
    return fingerprint(
        declared.func, "native", _REVISION, target, CONTEXT_DTYPE, *layouts, replies, declared.literals_are_float32, *settings
    )


def _compile(declared: HandlerDeclaration) -> Artifact[HostCode]:
    import numba

    def jit(function: types.FunctionType) -> Any:
        # Python never calls the function, so it needs no wrappers.
        return numba.njit(function, error_model="numpy", boundscheck=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)

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
    data = object_of(compiled, compiled.fndesc.llvm_func_name)
    loaded = None if data is None else _load(data)
    if loaded is not None:
        return Artifact(loaded, data)
    address = compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)
    return Artifact(HostCode(address, _free(), (handler, entry, compiled)), None)


def _load(data: bytes) -> HostCode | None:
    loaded = load_object(data, {})
    return None if loaded is None else HostCode(loaded.address, _free(), loaded)


@cache
def _free() -> int:
    from numba.core.runtime import _nrt_python

    address: int = _nrt_python.c_helpers["Free"]
    return address


_codes: CodeCache[HostCode] = CodeCache(_load)
