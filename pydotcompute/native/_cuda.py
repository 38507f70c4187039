"""Compiling handlers for GPUs, with numba-cuda, and the CUDA C++ that calls them from the resident loop."""

from __future__ import annotations

import contextlib
import os
import site
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock
from weakref import WeakKeyDictionary

from pydotcompute.exceptions import BackendNotAvailableError, KernelCompilationError
from pydotcompute.native._cpu import HostCode, compile_for_host
from pydotcompute.native._diagnostics import check_returned, uncompilable
from pydotcompute.native._translate import entry_source, shape_text, translate
from pydotcompute.native.handler import CONTEXT_DTYPE, HandlerDeclaration

__all__ = ["DeviceHandler", "compile_for_device", "text_that_calls", "text_that_calls_host", "wheel_folders"]

# The name that compiled handlers are linked by.
_SYMBOL = "dc_compiled_handler"
# What the entry returns for an exception is its number in the handler's table, after those for "no reply" and "a reply".
_FIRST_EXCEPTION = 2


@dataclass(frozen=True)
class DeviceHandler:
    """A handler compiled for one architecture.

    Attributes:
        lto_ir: The code, for NVIDIA's linker.
        raised: The exceptions that it may raise, by what it returns then: class, arguments, and (function, file, line).
    """

    lto_ir: bytes
    raised: dict[int, tuple[type[BaseException], tuple[Any, ...], tuple[str, str, int] | None]]

    def exception_of(self, code: int) -> tuple[BaseException, str] | None:
        """The exception of what the handler has returned, and where it was raised; ``None`` for a number that stands for none."""
        known = self.raised.get(code)
        if known is None:
            return None
        cls, arguments, place = known
        return cls(*arguments), "somewhere in compiled code" if place is None else f"{os.path.basename(place[1])}:{place[2]}"


_compiled: WeakKeyDictionary[HandlerDeclaration, dict[tuple[int, int], DeviceHandler]] = WeakKeyDictionary()
_lock = threading.Lock()


def compile_for_device(declared: HandlerDeclaration, capability: tuple[int, int]) -> DeviceHandler:
    """Compiles a handler for GPUs of a compute capability. Needs no GPU. The same handler is compiled once for each.

    Args:
        declared: The handler.
        capability: For example ``(9, 0)``.

    Returns:
        Its code.

    Raises:
        BackendNotAvailableError: numba-cuda, or what it needs of NVIDIA, is not installed.
        KernelCompilationError: The handler does not compile; the error names the line.
    """
    with _lock:
        versions = _compiled.setdefault(declared, {})
        if capability not in versions:
            versions[capability] = _compile(declared, capability)
        return versions[capability]


def _compile(declared: HandlerDeclaration, capability: tuple[int, int]) -> DeviceHandler:
    try:
        import numba
        from numba import cuda
    except Exception as error:
        # Not only ImportError: it looks for libraries of NVIDIA's, and says in its own way that one is missing.
        raise BackendNotAvailableError(
            "cuda", f"handlers for GPUs are compiled by numba-cuda, which cannot be used ({error}); pip install 'pydotcompute[cuda]'"
        ) from error

    def jit(function: types.FunctionType) -> Any:
        return cuda.jit(device=True)(function)

    context = numba.from_dtype(CONTEXT_DTYPE)
    message = numba.from_dtype(declared.input.dtype)
    state = numba.types.none if declared.state is None else numba.from_dtype(declared.state.dtype)
    reply = message if declared.output is None else numba.from_dtype(declared.output.dtype)
    try:
        with _compiling_for(capability):
            handler = jit(translate(declared, jit))
            compiled = handler.compile_device((context, state, message))
            answers = check_returned(declared, compiled.signature.return_type)
            scope: dict[str, Any] = {"handler": _guarded(handler)}
            exec(compile(_guarded_source(declared, answers), f"<entry of {declared.name}>", "exec"), scope)
            arguments = (context, message if declared.state is None else state, message, reply)
            lto_ir, _ = cuda.compile(
                scope["entry"],
                numba.int32(*arguments),
                device=True,
                abi="c",
                abi_info={"abi_name": _SYMBOL},
                output="ltoir",
                cc=capability,
            )
    except Exception as error:
        raise _located(declared, error) from error
    raised = {
        _FIRST_EXCEPTION + number - 1: (cls, arguments or (), place)
        for number, (cls, arguments, place) in compiled.call_helper.exceptions.items()
    }
    for text, code in _shape_codes(declared).items():
        raised[code] = (ValueError, (text,), None)
    return DeviceHandler(bytes(lto_ir), raised)


def _located(declared: HandlerDeclaration, error: Exception) -> KernelCompilationError:
    """The error for a handler that does not compile for GPUs.

    The compiler for processors refuses most of what that for GPUs does, and names the user's line also where what is wrong is found in a
    function that the line calls.
    """
    try:
        compile_for_host(declared)
    except KernelCompilationError as better:
        return better
    return uncompilable(declared, error)


@contextlib.contextmanager
def _compiling_for(capability: tuple[int, int]) -> Iterator[None]:
    """Lets Numba compile what it otherwise would not.

    Functions that call others compile without a GPU, where Numba would ask the current device what to compile them for. Exceptions whose
    arguments are known only at run time can be raised, which its convention for GPUs has no way to hand over: without these arguments.
    """
    from numba.cuda.core.callconv import MinimalCallConv

    device = types.SimpleNamespace(compute_capability=capability)
    with (
        mock.patch("numba.cuda.dispatcher.get_current_device", lambda: device),
        mock.patch.object(MinimalCallConv, "return_dynamic_user_exc", _raise_without_values, create=True),
    ):
        yield


def _raise_without_values(
    convention: Any, builder: Any, cls: Any, arguments: Any, _types: Any, loc: Any = None, func_name: str | None = None
) -> None:
    """Compiles the raising of an exception, with a text in the place of each argument that is only known at run time."""
    from llvmlite import ir  # type: ignore[import-untyped]

    known = tuple("<a value on the GPU>" if isinstance(argument, ir.Value) else argument for argument in arguments)
    convention.return_user_exc(builder, cls, known, loc=loc, func_name=func_name)


def _guarded(handler: Any) -> Any:
    """A function for the entry that calls the handler and gives its result with the number of its exception, 0 if it raised none.

    A function compiled for a GPU returns that number to its caller, who as a rule passes it on and whose C interface drops it.
    """
    import numba.core.types
    from numba.cuda.core import imputils
    from numba.cuda.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def guarded(typing_context: Any, context: Any, state: Any, message: Any) -> Any:
        arguments = (context, state, message)
        compiled = handler.compile_device(arguments)
        inner = compiled.signature
        numba_types: Any = numba.core.types
        outer = numba_types.Tuple((numba_types.int32, inner.return_type))(*arguments)

        def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
            # By the handler's own convention: that of the caller, which is C's, has no place for the number.
            convention = compiled.fndesc.call_conv
            status, value = convention.call_internal_no_propagate(builder, compiled.fndesc, inner, values)
            target.active_code_library.add_linking_library(compiled.library)
            value = imputils.fix_returning_optional(target, builder, inner, status, value)
            number = builder.select(status.is_error, status.code, status.code.type(0))
            return target.make_tuple(builder, signature.return_type, (number, value))

        return outer, generate

    return guarded


def _guarded_source(declared: HandlerDeclaration, answers: bool) -> str:
    """The entry's text, with the exception's number asked for first."""
    lines = entry_source(declared, answers, lambda text: f"return {_shape_codes(declared)[text]}").splitlines()
    call = lines[1].strip().removeprefix("value = ")
    lines[1:2] = [f"    raised, value = {call}", "    if raised != 0:", f"        return raised + {_FIRST_EXCEPTION - 1}"]
    return "\n".join([*lines, ""])


def _shape_codes(declared: HandlerDeclaration) -> dict[str, int]:
    """What the entry returns where the array for a field has another shape: it cannot raise, having C's convention."""
    fields = () if declared.output is None else declared.output.fields
    return {shape_text(declared, f): -1 - number for number, f in enumerate(fields) if f.shape}


def text_that_calls(declared: HandlerDeclaration) -> str:
    """The CUDA C++ of a ring kernel whose handler is linked to it."""
    state = _state_type(declared)
    return f"""{_state_struct(declared)}
extern "C" __device__ int32_t {_SYMBOL}(Ctx *, {state} *, const Question *, Answer *);
extern "C" __device__ int32_t handle(Ctx *ctx, {state} *state, const Question *message, Answer *answer) {{
    int32_t code = {_SYMBOL}(ctx, state, message, answer);
    if (code != 1) return code;
    ctx->reply(answer);
    return 0;
}}
"""


def text_that_calls_host(declared: HandlerDeclaration, code: HostCode) -> str:
    """The text of a ring kernel for the emulated device: it calls a handler that was compiled for the processor, by its address."""
    state = _state_type(declared)
    return f"""{_state_struct(declared)}
extern "C" __device__ int32_t handle(Ctx *ctx, {state} *state, const Question *message, Answer *answer) {{
    using Entry = int32_t (*)(int32_t *, const void **, const Ctx *, {state} *, const Question *, Answer *);
    int32_t result = 0;
    const void *raised = nullptr;
    int32_t status = reinterpret_cast<Entry>({code.entry}ull)(&result, &raised, ctx, state, message, answer);
    if (status != 0) return {_FIRST_EXCEPTION};
    if (result == 1) ctx->reply(answer);
    return 0;
}}
"""


def _state_type(declared: HandlerDeclaration) -> str:
    return "void" if declared.state is None else "State"


def _state_struct(declared: HandlerDeclaration) -> str:
    if declared.state is None:
        return ""
    return f"struct State {{ alignas(8) unsigned char bytes[{declared.state.dtype.itemsize}]; }};"


def wheel_folders() -> list[str]:
    """Where NVIDIA's wheels may be: the site-packages folders of this interpreter."""
    folders = [*site.getsitepackages(), site.getusersitepackages(), *(path for path in sys.path if path.endswith("-packages"))]
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]
