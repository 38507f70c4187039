"""Errors of native ring kernels: in handlers, at compilation, and in calls."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import native_handlers as handlers
from native_handlers import Count, Reading, Sequence, Smooth, Window
from pydotcompute.exceptions import (
    InvalidConfigurationError,
    KernelAlreadyExistsError,
    KernelCompilationError,
    KernelError,
    KernelStateError,
    MessageSerializationError,
    QueueFullError,
    QueueTimeoutError,
    TypeValidationError,
)
from pydotcompute.native import HandlerContext, NativeKernel, NativeRuntime, state, uint16
from pydotcompute.ring_kernels.message import message

pytest.importorskip("numba")


# Errors in handlers


def test_an_exception_reaches_the_caller_with_its_line() -> None:
    with NativeKernel(handlers.picky, state=Sequence, on_error="resume") as kernel:
        with pytest.raises(KernelError, match="ValueError: negative") as caught:
            kernel.ask(Count(-1))
        line = _line_of(handlers.picky, 'raise ValueError("negative")')
        assert f"native_handlers.py:{line}" in str(caught.value)
        assert isinstance(caught.value.__cause__, ValueError)
        assert caught.value.__cause__.args == ("negative",)
        # The arguments of this exception are known only when it is raised.
        with pytest.raises(KernelError, match="KeyError") as caught:
            kernel.ask(Count(-7), timeout=30.0)
        assert caught.value.__cause__ is not None
        assert caught.value.__cause__.args == ("far below", -7)
        assert kernel.ask(Count(8)).value == 4
        stats = kernel.stats
        assert (stats.sent, stats.handled, stats.dead_letters) == (3, 1, 2)
        assert kernel.state.next == 3


def test_an_exception_without_resume_is_a_failure() -> None:
    kernel = NativeKernel(handlers.picky, state=Sequence)
    kernel.activate()
    kernel.tell(Count(-1))
    assert kernel._core.wait_ended(30.0)
    assert kernel.lifecycle_state == "FAILED"
    with pytest.raises(KernelStateError) as caught:
        kernel.ask(Count(2))
    assert (caught.value.current_state, caught.value.operation) == ("FAILED", "ask")


def test_restart_recreates_the_state() -> None:
    with NativeKernel(handlers.picky, state=Sequence(next=10, broken=0), on_error="restart") as kernel:
        kernel.ask(Count(2))
        assert kernel.state.next == 11
        with pytest.raises(KernelError):
            kernel.ask(Count(-1))
        assert kernel.ask(Count(2), timeout=30.0).value == 1
        assert (kernel.state.next, kernel.stats.restarts) == (11, 1)


def test_exceptions_of_tells_retain_nothing() -> None:
    with NativeKernel(handlers.picky, state=Sequence, on_error="resume", queue_size=4096) as kernel:
        records = np.zeros(50_000, kernel.input_dtype)
        records["value"] = -5
        kernel.tell_many(records)
        with pytest.raises(KernelError, match="far below"):
            kernel.ask(Count(-6))
        assert kernel.stats.dead_letters == 50_001


def test_an_index_beyond_an_array_is_an_exception() -> None:
    def reach(ctx: HandlerContext, state: Smooth, msg: Count) -> Count:
        return Count(int(state.mean[0, msg.value]))

    with NativeKernel(reach, state=Smooth, on_error="resume") as kernel:
        assert kernel.ask(Count(3)).value == 0
        with pytest.raises(KernelError) as caught:
            kernel.ask(Count(4))
        assert isinstance(caught.value.__cause__, IndexError)


def test_ask_raises_if_the_handler_sends_no_reply() -> None:
    with NativeKernel(handlers.picky, state=Sequence) as kernel:
        with pytest.raises(KernelError, match="no reply to a Count"):
            kernel.ask(Count(3))
        assert kernel.ask(Count(4)).value == 2


def test_a_handler_without_an_output_type_sends_no_replies() -> None:
    def swallow(ctx: HandlerContext, state: Sequence, msg: Count) -> None:
        state.next += msg.value

    with NativeKernel(swallow, state=Sequence) as kernel:
        for _ in range(100):
            kernel.tell(Count(2))
        kernel.terminate()
        assert kernel.state.next == 200
        with pytest.raises(KernelError, match="sends no replies"):
            kernel.ask_many(np.zeros(1, kernel.input_dtype))


# Errors at compilation


def _line_of(func: Callable[..., Any], text: str) -> int:
    lines, first = inspect.getsourcelines(func)
    return first + next(number for number, line in enumerate(lines) if text in line)


def _unknown_field(ctx: HandlerContext, state: Sequence, msg: Count) -> Count:
    state.next += 1
    state.nxet += 1  # type: ignore[attr-defined]
    return Count(1)


def _wrong_call(ctx: HandlerContext, state: Sequence, msg: Count) -> Count:
    state.next += 1
    return Count("seven")  # type: ignore[arg-type]


def _wrong_class(ctx: HandlerContext, state: Sequence, msg: Reading) -> Count:
    return msg  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("handler", "text"), [(_unknown_field, "state.nxet"), (_wrong_call, 'Count("seven")'), (_wrong_class, "_wrong_class")]
)
def test_compile_errors_name_the_line(handler: Callable[..., Any], text: str) -> None:
    with pytest.raises(KernelCompilationError) as caught:
        NativeKernel(handler, state=Sequence)
    assert f"{Path(__file__).name}:{_line_of(handler, text)}" in str(caught.value)
    assert caught.value.__cause__ is not None


def test_functions_that_are_not_handlers_raise() -> None:
    async def waits(ctx: Any, state: Any, msg: Count) -> None: ...

    def two(ctx: Any, msg: Count) -> None: ...

    def unannotated(ctx: Any, state: Any, msg): ...  # type: ignore[no-untyped-def]

    def number(ctx: Any, state: Any, msg: int) -> None: ...

    for handler in (waits, two, unannotated, number):
        with pytest.raises(TypeValidationError):
            NativeKernel(handler)


def test_errors_name_fields_that_records_do_not_support() -> None:
    @message
    class Named:
        name: str

    def handler(ctx: HandlerContext, state: None, msg: Named) -> None: ...

    with pytest.raises(TypeValidationError, match=r"Named\.name"):
        NativeKernel(handler, input_type=Named)
    with pytest.raises(TypeValidationError, match=r"sizes"):

        @state
        class Bad:
            sizes: list[int]

    @dataclasses.dataclass
    class Open:
        samples: NDArray[np.float32]

    with pytest.raises(TypeValidationError, match=r"Open\.samples"):
        NativeKernel(handler, input_type=Open)


# Invalid messages, states and settings


def test_invalid_messages_raise_and_are_not_sent() -> None:
    with NativeKernel(handlers.spectrum, state=Smooth) as kernel:
        with pytest.raises(TypeValidationError):
            kernel.ask(Count(1))
        good = np.zeros(8, np.float32)
        for field, window in {
            "samples": Window(np.zeros(7, np.float32), 1.0),
            "gain": Window(good, "loud"),  # type: ignore[arg-type]
            "flags": Window(good, 1.0, flags=256),
            "loud": Window(good, 1.0, loud=[]),  # type: ignore[arg-type]
        }.items():
            with pytest.raises(MessageSerializationError, match=f"field '{field}'"):
                kernel.tell(window)
        with pytest.raises(TypeValidationError):
            kernel.tell_many(np.zeros(3))
        assert kernel.stats.sent == 0


def test_narrow_integers_are_checked() -> None:
    @message
    class Small:
        value: uint16

    def echo(ctx: HandlerContext, state: None, msg: Small) -> Small:
        return msg

    with NativeKernel(echo, input_type=Small, output_type=Small) as kernel:
        assert [kernel.ask(Small(value)).value for value in (0, 65535)] == [0, 65535]
        for value in (-1, 65536, 1 << 70, 1.5):
            with pytest.raises(MessageSerializationError):
                kernel.ask(Small(value))  # type: ignore[arg-type]


def test_errors_of_calls_in_the_wrong_state_name_the_state() -> None:
    kernel = NativeKernel(handlers.picky, state=Sequence)
    assert kernel.lifecycle_state == "LAUNCHED"
    for call in (lambda: kernel.tell(Count(1)), lambda: kernel.ask(Count(1)), kernel.reactivate, lambda: kernel.receive(0.01)):
        with pytest.raises(KernelStateError) as caught:
            call()
        assert caught.value.current_state == "LAUNCHED"
    kernel.activate()
    kernel.terminate()
    kernel.terminate()
    for call in (lambda: kernel.tell(Count(1)), lambda: kernel.ask(Count(1), timeout=1.0), kernel.activate, kernel.receive):
        with pytest.raises(KernelStateError) as caught:
            call()
        assert caught.value.current_state == "TERMINATED"


def test_names_are_unique_in_a_runtime() -> None:
    with NativeRuntime(workers=1) as runtime:
        one = NativeKernel(handlers.picky, "one", state=Sequence, runtime=runtime)
        with pytest.raises(KernelAlreadyExistsError):
            NativeKernel(handlers.picky, "one", state=Sequence, runtime=runtime)
        one.activate()
        one.terminate()
        NativeKernel(handlers.picky, "one", state=Sequence, runtime=runtime)


def test_settings_are_checked() -> None:
    for settings in ({"backpressure": "wait"}, {"on_error": "retry"}, {"queue_size": 0}, {"device": "tpu"}):
        with pytest.raises(InvalidConfigurationError):
            NativeKernel(handlers.picky, state=Sequence, **settings)  # type: ignore[arg-type]
    with NativeKernel(handlers.picky, state=Sequence) as kernel, pytest.raises(InvalidConfigurationError):
        kernel.ask(Count(1), timeout=-1.0)


def test_a_full_queue_rejects_or_times_out_or_drops() -> None:
    with NativeKernel(handlers.picky, state=Sequence, queue_size=4, backpressure="reject") as kernel:
        kernel.deactivate()
        for value in range(4):
            kernel.tell(Count(value))
        with pytest.raises(QueueFullError):
            kernel.tell(Count(4))
        kernel.reactivate()
    with NativeKernel(handlers.picky, state=Sequence, queue_size=4) as kernel:
        kernel.deactivate()
        with pytest.raises(QueueTimeoutError) as caught:
            kernel.tell_many(np.zeros(9, kernel.input_dtype), timeout=0.05)
        assert caught.value.sent == 4  # type: ignore[attr-defined]
        with pytest.raises(QueueTimeoutError):
            kernel.ask(Count(4), timeout=0.05)
        kernel.reactivate()
    with NativeRuntime(workers=1) as runtime:
        kernel = NativeKernel(handlers.picky, state=Sequence, queue_size=4, backpressure="drop_oldest", runtime=runtime)
        kernel.activate()
        kernel.deactivate()
        for value in range(6):
            kernel.tell(Count(value * 2))
        kernel.reactivate()
        assert [kernel.receive(timeout=30.0).value for _ in range(4)] == [2, 3, 4, 5]
        assert runtime.dead_letter_count == 2
        assert [name for name, _ in runtime.dead_letters()] == [kernel.name] * 2


def test_ask_times_out_without_a_reply() -> None:
    with NativeKernel(handlers.picky, state=Sequence) as kernel:
        kernel.deactivate()
        with pytest.raises(QueueTimeoutError) as caught:
            kernel.ask(Count(2), timeout=0.05)
        assert caught.value.timeout == 0.05
        kernel.reactivate()
        # The request that timed out was handled anyway.
        assert kernel.ask(Count(2)).value == 1
        assert kernel.state.next == 2
