"""Compiles handlers for GPUs with numba-cuda, and generates the CUDA C++ that calls them from the resident loop."""

from __future__ import annotations

import contextlib
import os
import pickle
import site
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

from pydotcompute.compilation.code_cache import Artifact, CodeCache
from pydotcompute.compilation.numba_settings import cuda_settings
from pydotcompute.exceptions import BackendNotAvailableError, KernelCompilationError
from pydotcompute.native._cpu import HostCode, compile_for_host, handler_fingerprint
from pydotcompute.native._diagnostics import check_returned, uncompilable
from pydotcompute.native._translate import entry_source, shape_error, translate
from pydotcompute.native.handler import CONTEXT_DTYPE, HandlerDeclaration

__all__ = ["DeviceHandler", "compile_for_device", "device_source", "emulated_device_source", "wheel_folders"]

# Symbol under which the linker finds the compiled handler.
_SYMBOL = "dc_compiled_handler"
# Return codes of the entry: 0 is no reply, 1 is a reply; the exceptions of the handler's table follow.
_FIRST_EXCEPTION = 2


@dataclass(frozen=True)
class DeviceHandler:
    """A handler compiled for one architecture.

    Attributes:
        lto_ir: LTO-IR of the handler, for NVIDIA's linker.
        exceptions: Exceptions that the handler may raise, by return code: class, arguments, and (function, file, line).
    """

    lto_ir: bytes
    exceptions: dict[int, tuple[type[BaseException], tuple[Any, ...], tuple[str, str, int] | None]]

    def exception_of(self, code: int) -> tuple[BaseException, str] | None:
        """Returns the exception for a return code and the source location that raised it; ``None`` for any other code."""
        entry = self.exceptions.get(code)
        if entry is None:
            return None
        cls, arguments, location = entry
        return cls(*arguments), "somewhere in compiled code" if location is None else f"{os.path.basename(location[1])}:{location[2]}"


def compile_for_device(declared: HandlerDeclaration, capability: tuple[int, int]) -> DeviceHandler:
    """Compiles a handler for GPUs of one compute capability, or returns what this or an earlier process compiled. Needs no GPU.

    Args:
        declared: The handler.
        capability: For example ``(9, 0)``.

    Returns:
        The compiled handler.

    Raises:
        BackendNotAvailableError: numba-cuda, or an NVIDIA library that it needs, is not installed.
        KernelCompilationError: The handler does not compile; the error names the line.
    """
    try:
        from numba import cuda  # noqa: F401

        settings = cuda_settings()
    except Exception as error:
        # Not only ImportError: numba-cuda searches for NVIDIA libraries and raises other errors if one is missing.
        raise BackendNotAvailableError(
            "cuda", f"compiling handlers for GPUs needs numba-cuda, which does not load ({error}); pip install 'pydotcompute[cuda]'"
        ) from error
    fingerprint = handler_fingerprint(declared, "cuda", *capability, *settings, declared.fast_math)
    return _codes.get(declared.name, fingerprint, partial(_compile, declared, capability))


def _compile(declared: HandlerDeclaration, capability: tuple[int, int]) -> Artifact[DeviceHandler]:
    import numba
    from numba import cuda

    def jit(function: types.FunctionType) -> Any:
        return cuda.jit(device=True, fastmath=declared.fast_math)(function)

    context = numba.from_dtype(CONTEXT_DTYPE)
    message = numba.from_dtype(declared.input.dtype)
    state = numba.types.none if declared.state is None else numba.from_dtype(declared.state.dtype)
    reply = message if declared.output is None else numba.from_dtype(declared.output.dtype)
    try:
        with _compiling_for(capability):
            handler = jit(translate(declared, jit))
            compiled = handler.compile_device((context, state, message))
            replies = check_returned(declared, compiled.signature.return_type)
            scope: dict[str, Any] = {"handler": _with_exception_code(handler)}
            exec(compile(_device_entry_source(declared, replies), f"<entry of {declared.name}>", "exec"), scope)
            arguments = (context, message if declared.state is None else state, message, reply)
            lto_ir, _ = cuda.compile(
                scope["entry"],
                numba.int32(*arguments),
                device=True,
                abi="c",
                abi_info={"abi_name": _SYMBOL},
                output="ltoir",
                # Products are not fused with sums because the linker is told so: numba-cuda itself has no option for it.
                fastmath=declared.fast_math,
                cc=capability,
            )
    except Exception as error:
        raise _compilation_error(declared, error) from error
    exceptions = {
        _FIRST_EXCEPTION + number - 1: (cls, arguments or (), location)
        for number, (cls, arguments, location) in compiled.call_helper.exceptions.items()
    }
    for text, code in _shape_codes(declared).items():
        exceptions[code] = (ValueError, (text,), None)
    compiled_handler = DeviceHandler(bytes(lto_ir), exceptions)
    try:
        return Artifact(compiled_handler, pickle.dumps(compiled_handler))
    except Exception:
        # An exception of a class, or with an argument, that only this process has.
        return Artifact(compiled_handler, None)


def _compilation_error(declared: HandlerDeclaration, error: Exception) -> KernelCompilationError:
    """Returns the error for a handler that does not compile for GPUs.

    Numba's CPU compiler rejects most of what the GPU compiler rejects. It also names the user's line if the error is inside a function
    that the line calls.
    """
    try:
        compile_for_host(declared)
    except KernelCompilationError as host_error:
        return host_error
    return uncompilable(declared, error)


@contextlib.contextmanager
def _compiling_for(capability: tuple[int, int]) -> Iterator[None]:
    """Patches numba-cuda while a handler is compiled.

    - Functions that call others compile without a GPU; numba-cuda would query the current device for the compute capability.
    - Exceptions with run-time arguments compile, without these arguments; the GPU calling convention cannot pass them.
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
    """Generates code that raises an exception, with a placeholder text for each argument entry only at run time."""
    from llvmlite import ir  # type: ignore[import-untyped]

    constants = tuple("<a value on the GPU>" if isinstance(argument, ir.Value) else argument for argument in arguments)
    convention.return_user_exc(builder, cls, constants, loc=loc, func_name=func_name)


def _with_exception_code(handler: Any) -> Any:
    """Returns a function that calls the handler and returns its exception code (0 for none) with its result.

    A function compiled for a GPU returns that code to its caller. Callers normally propagate it, but the C ABI drops it.
    """
    import numba.core.types
    from numba.cuda.core import imputils
    from numba.cuda.extending import intrinsic

    @intrinsic  # type: ignore[untyped-decorator]
    def call_handler(typing_context: Any, context: Any, state: Any, message: Any) -> Any:
        arguments = (context, state, message)
        compiled = handler.compile_device(arguments)
        inner = compiled.signature
        numba_types: Any = numba.core.types
        outer = numba_types.Tuple((numba_types.int32, inner.return_type))(*arguments)

        def generate(target: Any, builder: Any, signature: Any, values: Any) -> Any:
            # Use the handler's own calling convention: the caller's C ABI has no status code.
            convention = compiled.fndesc.call_conv
            status, value = convention.call_internal_no_propagate(builder, compiled.fndesc, inner, values)
            target.active_code_library.add_linking_library(compiled.library)
            value = imputils.fix_returning_optional(target, builder, inner, status, value)
            number = builder.select(status.is_error, status.code, status.code.type(0))
            return target.make_tuple(builder, signature.return_type, (number, value))

        return outer, generate

    return call_handler


def _device_entry_source(declared: HandlerDeclaration, replies: bool) -> str:
    """Returns the source of the entry that checks the exception code first."""
    lines = entry_source(declared, replies, lambda text: f"return {_shape_codes(declared)[text]}").splitlines()
    call = lines[1].strip().removeprefix("value = ")
    lines[1:2] = [f"    raised, value = {call}", "    if raised != 0:", f"        return raised + {_FIRST_EXCEPTION - 1}"]
    return "\n".join([*lines, ""])


def _shape_codes(declared: HandlerDeclaration) -> dict[str, int]:
    """Returns the code for each field whose array has the wrong shape. The entry returns it, since the C ABI cannot raise."""
    fields = () if declared.output is None else declared.output.fields
    return {shape_error(declared, f): -1 - number for number, f in enumerate(fields) if f.shape}


_codes: CodeCache[DeviceHandler] = CodeCache(pickle.loads)


def device_source(declared: HandlerDeclaration) -> str:
    """Returns the CUDA C++ of a ring kernel that the compiled handler is linked to."""
    state = _state_type(declared)
    return f"""{_state_struct(declared)}
extern "C" __device__ int32_t {_SYMBOL}(Ctx *, {state} *, const Request *, Reply *);
extern "C" __device__ int32_t handle(Ctx *ctx, {state} *state, const Request *message, Reply *reply) {{
    int32_t code = {_SYMBOL}(ctx, state, message, reply);
    if (code != 1) return code;
    if (ctx->wants_reply) ctx->reply(reply);
    else ctx->send(reply);
    return 0;
}}
"""


def emulated_device_source(declared: HandlerDeclaration, code: HostCode) -> str:
    """Returns the source of a ring kernel for the emulated device. It calls a handler compiled for the host by its address."""
    state = _state_type(declared)
    return f"""{_state_struct(declared)}
extern "C" __device__ int32_t handle(Ctx *ctx, {state} *state, const Request *message, Reply *reply) {{
    using Entry = int32_t (*)(int32_t *, const void **, const Ctx *, {state} *, const Request *, Reply *);
    int32_t result = 0;
    const void *raised = nullptr;
    int32_t status = reinterpret_cast<Entry>({code.entry}ull)(&result, &raised, ctx, state, message, reply);
    if (status != 0) return {_FIRST_EXCEPTION};
    if (result == 1 && ctx->wants_reply) ctx->reply(reply);
    else if (result == 1) ctx->send(reply);
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
    """Returns the folders that may hold NVIDIA's wheels: the site-packages folders of this interpreter."""
    folders = [*site.getsitepackages(), site.getusersitepackages(), *(path for path in sys.path if path.endswith("-packages"))]
    return [folder for folder in dict.fromkeys(folders) if os.path.isdir(folder)]
