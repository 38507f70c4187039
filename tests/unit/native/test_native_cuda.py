"""Native ring kernels on devices.

Without a GPU, handlers are compiled and linked to machine code for several architectures. Messages are exchanged with the emulated device,
which runs the handler compiled for the CPU. Tests marked ``cuda`` run on a GPU.
"""

from __future__ import annotations

import importlib.util
import shutil
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_native_errors import _line_of, _unknown_field, _wrong_call, _wrong_class

import native_handlers as handlers
from native_handlers import Best, Count, Hottest, Reading, Sequence, Smooth, Window, clamp
from pydotcompute.compilation import cache
from pydotcompute.compilation.cache import KernelCache
from pydotcompute.exceptions import (
    BackendNotAvailableError,
    KernelAlreadyExistsError,
    KernelCompilationError,
    KernelError,
    KernelStateError,
    QueueTimeoutError,
)
from pydotcompute.native import HandlerContext, NativeKernel, NativeRuntime, _cuda, compile_cubin, float32, state
from pydotcompute.native._cuda import compile_for_device
from pydotcompute.native.handler import declare
from pydotcompute.ring_kernels.message import message

pytest.importorskip("numba")

# Seconds, more than any step takes: a device that does not respond fails the test instead of blocking it.
TIMEOUT = 30.0

ARCHITECTURES = [(8, 0), (9, 0), (10, 0)]

HANDLERS: list[tuple[Callable[..., Any], Any]] = [
    (handlers.hottest, Best),
    (handlers.in_sequence, Sequence),
    (handlers.picky, Sequence),
    (handlers.spectrum, Smooth),
    (handlers.ratio, None),
]


def _missing_compiler() -> str | None:
    missing = [name for name in ("numba_cuda", "nvidia") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)} (pip install 'pydotcompute[cuda]')" if missing else None


compiles = pytest.mark.skipif(_missing_compiler() is not None, reason=str(_missing_compiler()))
emulates = pytest.mark.skipif(all(shutil.which(name) is None for name in ("c++", "g++", "clang++")), reason="no C++ compiler")

# Runs a test on the emulated device and on a GPU.
on_devices = pytest.mark.parametrize(
    "device", [pytest.param("emulated", marks=emulates), pytest.param("cuda", marks=[pytest.mark.cuda, compiles])]
)


# Compiling, without a GPU


@compiles
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: "sm_{}{}".format(*architecture))
@pytest.mark.parametrize(("handler", "declared_state"), HANDLERS, ids=[handler.__name__ for handler, _ in HANDLERS])
def test_handlers_link_into_the_resident_loop(handler: Callable[..., Any], declared_state: Any, architecture: tuple[int, int]) -> None:
    cubin = compile_cubin(handler, state=declared_state, architecture=architecture)
    assert cubin[:4] == b"\x7fELF"
    assert b"dc_ring_kernel" in cubin
    # The handler is inlined, so the cubin has no such symbol.
    assert b"dc_compiled_handler" not in cubin


@state
class Level:
    value: float32


def _fused(ctx: HandlerContext, state: Level, msg: Reading) -> None:
    state.value = state.value * msg.celsius + 0.7


def _opcodes(cubin: bytes) -> set[int]:
    """Returns the operations of the ring kernel's machine code: bits 0 to 8 of each 16-byte instruction (NVIDIA's encoding since sm_70)."""
    offset, size, count, names = (int.from_bytes(cubin[at : at + length], "little") for at, length in ((40, 8), (58, 2), (60, 2), (62, 2)))
    sections = [struct.unpack("<IIQQQQ", cubin[at : at + 40]) for at in range(offset, offset + size * count, size)]
    text = next(s for s in sections if cubin[sections[names][4] + s[0] :].startswith(b".text.dc_ring_kernel\0"))
    return {int.from_bytes(cubin[at : at + 2], "little") & 0x1FF for at in range(text[4], text[4] + text[5], 16)}


FUSED_MULTIPLY_ADDS = {0x023: "FFMA", 0x02B: "DFMA"}


@compiles
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: "sm_{}{}".format(*architecture))
def test_products_are_fused_with_sums_only_in_fast_math(architecture: tuple[int, int]) -> None:
    plain = _opcodes(compile_cubin(_fused, state=Level, architecture=architecture))
    fast = _opcodes(compile_cubin(_fused, state=Level, architecture=architecture, fast_math=True))
    assert not plain & FUSED_MULTIPLY_ADDS.keys()
    assert fast & FUSED_MULTIPLY_ADDS.keys(), "the test recognizes them"


@compiles
def test_handlers_without_a_reply_and_with_helpers_link() -> None:
    def swallow(ctx: HandlerContext, state: Sequence, msg: Count) -> None:
        state.next += int(clamp(msg.value * 0.5, 3.0))
        if ctx.wants_reply and ctx.priority > 200:
            state.broken += 1

    assert b"dc_ring_kernel" in compile_cubin(swallow, state=Sequence)


@compiles
@pytest.mark.parametrize(
    ("handler", "text"), [(_unknown_field, "state.nxet"), (_wrong_call, 'Count("seven")'), (_wrong_class, "_wrong_class")]
)
def test_compile_errors_name_the_line(handler: Callable[..., Any], text: str) -> None:
    with pytest.raises(KernelCompilationError) as caught:
        compile_cubin(handler, state=Sequence)
    assert f"test_native_errors.py:{_line_of(handler, text)}" in str(caught.value)


@compiles
def test_exceptions_raised_on_a_gpu_are_described() -> None:
    compiled = compile_for_device(declare(handlers.picky, state=Sequence), (9, 0))
    exceptions = {code: compiled.exception_of(code) for code in compiled.exceptions}
    assert all(code not in (0, 1) for code in exceptions)
    described = {(type(known[0]), known[0].args, known[1]) for known in exceptions.values() if known is not None}
    line = _line_of(handlers.picky, 'raise ValueError("negative")')
    assert (ValueError, ("negative",), f"native_handlers.py:{line}") in described
    assert (KeyError, ("far below", "<a value on the GPU>"), f"native_handlers.py:{line + 2}") in described
    assert compiled.exception_of(1) is None


@compiles
def test_code_for_a_gpu_is_compiled_once_and_kept_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_global_cache", KernelCache(tmp_path))
    _cuda._codes.clear()
    compiled: list[tuple[int, int]] = []
    compile_handler = _cuda._compile

    def counting(declared: Any, capability: tuple[int, int]) -> Any:
        compiled.append(capability)
        return compile_handler(declared, capability)

    monkeypatch.setattr(_cuda, "_compile", counting)
    first = [compile_for_device(declare(handlers.picky, state=Sequence), capability) for capability in ARCHITECTURES]
    for _ in range(2):
        again = [compile_for_device(declare(handlers.picky, state=Sequence), capability) for capability in ARCHITECTURES]
        assert again == first
        _cuda._codes.clear()
    assert compiled == ARCHITECTURES


@compiles
def test_arrays_of_another_shape_are_errors_on_a_gpu_too() -> None:
    def spectrum_of(ctx: HandlerContext, state: Smooth, msg: Window) -> handlers.Spectrum:
        return handlers.Spectrum(msg.samples, 0.0, False)

    with pytest.raises(KernelCompilationError):
        compile_cubin(spectrum_of, state=Smooth)
    compiled = compile_for_device(declare(handlers.spectrum, state=Smooth), (9, 0))
    exception, _ = compiled.exception_of(-1) or (None, "")
    assert isinstance(exception, ValueError)


@compiles
def test_compilation_restores_the_patched_parts_of_numba() -> None:
    from numba.cuda import api, dispatcher
    from numba.cuda.core.callconv import MinimalCallConv

    compile_cubin(handlers.ratio)
    assert dispatcher.get_current_device is api.get_current_device
    assert not hasattr(MinimalCallConv, "return_dynamic_user_exc")


@compiles
def test_literals_are_float32_on_a_gpu_too() -> None:
    from numba import cuda, from_dtype, types

    from pydotcompute.native._cuda import _compiling_for
    from pydotcompute.native._translate import translate
    from pydotcompute.native.handler import CONTEXT_DTYPE

    declared = declare(handlers.spectrum, state=Smooth)
    assert declared.output is not None
    assert declared.state is not None
    arguments = tuple(from_dtype(dtype) for dtype in (CONTEXT_DTYPE, declared.state.dtype, declared.input.dtype))

    def power(ctx, state, msg):  # type: ignore[no-untyped-def]
        return msg.gain * 0.5

    narrowed = translate(declare(power, input_type=Window), cuda.jit(device=True))
    with _compiling_for((9, 0)):
        assert cuda.jit(device=True)(narrowed).compile_device(arguments).signature.return_type == types.float32


def test_the_error_without_a_gpu_names_what_is_missing() -> None:
    if any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg")):
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendNotAvailableError) as caught:
        NativeKernel(handlers.ratio, device="cuda")
    assert caught.value.backend_name == "cuda"
    assert "driver" in str(caught.value) or "install" in str(caught.value)


# Running


def _requests(cls: type[Any]) -> list[Any]:
    values = [3, 4, 1, 1, 5, 9, 2, 6, 5, 3, 5]
    if cls is Reading:
        return [Reading(number, value * 1.5) for number, value in enumerate(values)]
    if cls is Window:
        return [Window(np.arange(8, dtype=np.float32) * value, 0.25, flags=value, loud=value > 4) for value in values]
    if cls is Hottest:
        return [Hottest(value, value * 3.0, seen=17) for value in values]
    return [Count(value * 2) for value in values]


def _field_values(reply: Any) -> dict[str, Any]:
    fields = {name: value for name, value in vars(reply).items() if name not in ("message_id", "_message_id", "priority", "correlation_id")}
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in fields.items()}


@on_devices
@pytest.mark.parametrize(("handler", "declared_state"), HANDLERS, ids=[handler.__name__ for handler, _ in HANDLERS])
def test_a_device_and_the_cpu_send_equal_replies(handler: Callable[..., Any], declared_state: Any, device: str) -> None:
    requests = _requests(declare(handler, state=declared_state).input.cls)
    with (
        NativeKernel(handler, state=declared_state) as on_cpu,
        NativeKernel(handler, state=declared_state, device=device) as on_device,
    ):
        for request in requests:
            expected, reply = _field_values(on_cpu.ask(request)), _field_values(on_device.ask(request, timeout=TIMEOUT))
            assert expected.keys() == reply.keys()
            for name, value in expected.items():
                # A GPU contracts multiply and add to a fused multiply-add, which rounds once.
                np.testing.assert_allclose(reply[name], value, rtol=1e-5)
        if declared_state is not None:
            for name, value in _field_values(on_cpu.state).items():
                np.testing.assert_allclose(_field_values(on_device.state)[name], value, rtol=1e-5)
        stats = on_device.stats
        assert (stats.sent, stats.handled, stats.replied) == (len(requests),) * 3


@on_devices
def test_exceptions_on_a_device_reach_the_caller(device: str) -> None:
    with NativeKernel(handlers.picky, state=Sequence, device=device, on_error="resume") as kernel:
        with pytest.raises(KernelError, match="did not handle a Count") as caught:
            kernel.ask(Count(-1), timeout=TIMEOUT)
        if device == "cuda":
            assert isinstance(caught.value.__cause__, ValueError)
            assert "native_handlers.py" in str(caught.value)
        assert kernel.ask(Count(8), timeout=TIMEOUT).value == 4
        with pytest.raises(KernelError, match="no reply"):
            kernel.ask(Count(7), timeout=TIMEOUT)
        assert kernel.stats.dead_letters == 1


@on_devices
def test_restart_on_a_device_recreates_the_state(device: str) -> None:
    with NativeKernel(handlers.picky, state=Sequence(next=10, broken=0), device=device, on_error="restart") as kernel:
        kernel.ask(Count(2), timeout=TIMEOUT)
        assert kernel.state.next == 11
        with pytest.raises(KernelError):
            kernel.ask(Count(-1), timeout=TIMEOUT)
        kernel.ask(Count(2), timeout=TIMEOUT)
        assert (kernel.state.next, kernel.stats.restarts) == (11, 1)


@on_devices
def test_many_messages_arrive_on_a_device_in_order(device: str) -> None:
    many = 1_000_000 if device == "cuda" else 100_000
    with NativeKernel(handlers.in_sequence, state=Sequence, device=device) as kernel:
        records = np.zeros(many, kernel.input_dtype)
        records["value"] = np.arange(many)
        broken: list[int] = []

        def drain() -> None:
            broken.extend(value for _ in range(many) if (value := kernel.receive(timeout=TIMEOUT).value) != 0)

        reader = threading.Thread(target=drain)
        reader.start()
        assert kernel.tell_many(records, timeout=4 * TIMEOUT) == many
        reader.join()
        assert broken == []
        assert (kernel.state.next, kernel.state.broken, kernel.stats.handled) == (many, 0, many)


@on_devices
def test_a_device_kernel_is_deactivated_and_terminated(device: str) -> None:
    with NativeRuntime() as runtime:
        kernel = NativeKernel(handlers.in_sequence, "sequence", state=Sequence, device=device, runtime=runtime)
        with pytest.raises(KernelAlreadyExistsError):
            NativeKernel(handlers.in_sequence, "sequence", state=Sequence, device=device, runtime=runtime)
        with pytest.raises(KernelStateError):
            kernel.tell(Count(0))
        kernel.activate()
        assert kernel.ask(Count(0), timeout=TIMEOUT).value == 0
        kernel.deactivate(TIMEOUT)
        assert kernel.state.next == 1
        with pytest.raises(QueueTimeoutError):
            kernel.ask(Count(1), timeout=0.05)
        kernel.reactivate()
        assert kernel.ask(Count(2), timeout=TIMEOUT).value == 0
        kernel.terminate(TIMEOUT)
        assert kernel.lifecycle_state == "TERMINATED"
        with pytest.raises(KernelStateError):
            kernel.ask(Count(3), timeout=TIMEOUT)


@on_devices
def test_large_and_small_records_cross_to_a_device(device: str) -> None:
    @message
    class Tiny:
        flag: bool

    @state
    class Large:
        table: handlers.Annotated[handlers.NDArray[np.float64], (64, 16)]
        sum: float

    def fill(ctx: HandlerContext, state: Large, msg: Tiny) -> None:
        for i in range(64):
            for j in range(16):
                state.table[i, j] += 1.0 if msg.flag else 2.0
                state.sum += state.table[i, j]

    with NativeKernel(fill, state=Large, input_type=Tiny, device=device) as kernel:
        for flag in (True, False, True):
            kernel.tell(Tiny(flag))
        with pytest.raises(KernelError, match="no reply"):
            kernel.ask(Tiny(False), timeout=TIMEOUT)
        reached = kernel.state
        assert (reached.table == 6.0).all()
        assert reached.sum == 1024 * (1 + 3 + 4 + 6)
