"""Native ring kernels on the CPU."""

from __future__ import annotations

import asyncio
import ctypes
import math
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest

import native_handlers as handlers
from native_handlers import Best, Count, Hottest, Reading, Sequence, Smooth, Spectrum, Window
from pydotcompute.exceptions import (
    KernelCompilationError,
    KernelError,
    QueueTimeoutError,
)
from pydotcompute.native import HandlerContext, NativeKernel, NativeRuntime
from pydotcompute.native.handler import declare
from pydotcompute.ring_kernels.message import message

pytest.importorskip("numba")

MILLION = 1_000_000


# Replies, outputs and state


def test_replies_are_messages_and_the_state_persists() -> None:
    with NativeKernel(handlers.hottest, state=Best) as kernel:
        first = kernel.ask(Reading(7, 21.5))
        assert (type(first), first.sensor, first.celsius, first.seen) == (Hottest, 7, 21.5, 1)
        second = kernel.ask(Reading(8, 20.0))
        assert (second.sensor, second.celsius, second.seen) == (7, 21.5, 2)
        assert first.message_id != second.message_id
        assert pickle.loads(pickle.dumps(second)) == second
        assert Hottest.deserialize(second.serialize()) == second
        assert (kernel.state.sensor, kernel.state.seen, kernel.state.celsius) == (7, 2, 21.5)
        assert kernel.state == Best(sensor=7, seen=2, celsius=21.5)


def test_ask_with_a_timeout_returns_the_reply() -> None:
    with NativeKernel(handlers.hottest, state=Best) as kernel:
        assert kernel.ask(Reading(1, 5.0), timeout=30.0).celsius == 5.0
        assert kernel.ask(Reading(2, 6.0), timeout=30.0).sensor == 2


def test_an_initial_state_is_used() -> None:
    for initial in (
        Best(sensor=3, seen=5, celsius=99.0),
        np.array((3, 5, 99.0), [("sensor", "i8"), ("seen", "i8"), ("celsius", "f4")])[()],
    ):
        with NativeKernel(handlers.hottest, state=initial) as kernel:
            reply = kernel.ask(Reading(1, 1.0))
            assert (reply.sensor, reply.seen, reply.celsius) == (3, 6, 99.0)
            state = kernel.state
            assert (state.seen if isinstance(state, Best) else state["seen"]) == 6


def test_outputs_of_tells_come_in_order() -> None:
    with NativeKernel(handlers.picky, state=Sequence) as kernel:
        for value in range(10):
            kernel.tell(Count(value))
        assert [kernel.receive(timeout=30.0).value for _ in range(5)] == [0, 1, 2, 3, 4]
        with pytest.raises(QueueTimeoutError):
            kernel.receive(timeout=0.0)


def test_arrays_and_narrow_numbers_are_passed_both_ways() -> None:
    samples = np.linspace(-1, 1, 8, dtype=np.float32)
    expected = np.zeros((2, 4), np.float32)
    with NativeKernel(handlers.spectrum, state=Smooth) as kernel:
        for number in range(3):
            reply = kernel.ask(Window(samples, gain=2.0, flags=200, loud=number == 1))
            expected += np.float32(0.5) * (2 * samples.reshape(2, 4) - expected)
            assert isinstance(reply, Spectrum)
            assert reply.bins.dtype == np.float32
            np.testing.assert_allclose(reply.bins, expected, rtol=1e-6)
            assert reply.loud is (number == 1)
            assert reply.rms == pytest.approx(math.sqrt(np.mean((2 * samples) ** 2)), rel=1e-6)
        np.testing.assert_array_equal(kernel.state.mean, reply.bins)
        # A list is accepted as an array.
        assert kernel.ask(Window([0.0] * 8, 1.0)).rms == 0.0  # type: ignore[arg-type]


def test_literals_are_float32_where_the_fields_are() -> None:
    @message
    class Value:
        x: Annotated[float, np.float32]

    def third(ctx: HandlerContext, state: None, msg: Value) -> Value:
        return Value(msg.x * 0.1 - msg.x * 0.1)

    def tenth(ctx: HandlerContext, state: None, msg: Value) -> Value:
        return Value((msg.x + 0.1) - msg.x)

    with NativeKernel(third, input_type=Value, output_type=Value) as kernel:
        assert kernel.ask(Value(3.0)).x == 0.0
    with NativeKernel(tenth, input_type=Value, output_type=Value) as kernel:
        assert kernel.ask(Value(1.0)).x == float(np.float32(np.float32(1.0) + np.float32(0.1)) - np.float32(1.0))


def test_division_by_zero_follows_numpy_and_does_not_hang() -> None:
    with NativeKernel(handlers.ratio) as kernel:
        reply = kernel.ask(Hottest(0, celsius=1.0, seen=5), timeout=30.0)
        assert (reply.sensor, reply.celsius) == (0, math.inf)
        assert math.isnan(kernel.ask(Hottest(0, celsius=0.0, seen=5), timeout=30.0).celsius)
        assert kernel.ask(Hottest(2, celsius=3.0, seen=5)).sensor == 2


def test_the_context_describes_the_message() -> None:
    @message
    class Clashing:
        wants_reply: int
        priority: int
        sequence: int

    def clashing(ctx: HandlerContext, state: None, msg: Count) -> Clashing:
        return Clashing(ctx.wants_reply, ctx.priority, ctx.sequence)

    # `priority` is a field of the message header, which records do not have.
    with pytest.raises(KernelCompilationError), NativeKernel(clashing, output_type=Clashing):
        pass

    @message
    class Context:
        wants_reply: int
        urgency: int
        sequence: int

    def describe(ctx: HandlerContext, state: None, msg: Count) -> Context:
        return Context(ctx.wants_reply, ctx.priority, ctx.sequence)

    with NativeKernel(describe, output_type=Context) as kernel:
        reply = kernel.ask(Count(1, priority=200))
        assert (reply.wants_reply, reply.urgency, reply.sequence) == (1, 200, 0)
        kernel.tell(Count(1))
        output = kernel.receive(timeout=30.0)
        assert (output.wants_reply, output.urgency, output.sequence) == (0, 128, 1)


def test_higher_priorities_are_handled_first() -> None:
    with NativeKernel(handlers.in_sequence, state=Sequence) as kernel:
        kernel.deactivate()
        kernel.tell(Count(1, priority=10))
        kernel.tell(Count(0, priority=250))
        kernel.reactivate()
        assert [kernel.receive(timeout=30.0).value for _ in range(2)] == [0, 0]


# Many messages, callers and kernels


@pytest.mark.parametrize("settings", [{}, {"dedicated": True}], ids=["pool", "dedicated"])
def test_a_million_messages_arrive_in_order(settings: dict[str, Any]) -> None:
    with NativeKernel(handlers.in_sequence, state=Sequence, **settings) as kernel:
        records = np.zeros(MILLION, kernel.input_dtype)
        records["value"] = np.arange(MILLION)
        received = 0

        def drain() -> None:
            nonlocal received
            for _ in range(MILLION):
                assert kernel.receive(timeout=60.0).value == 0
                received += 1

        reader = threading.Thread(target=drain)
        reader.start()
        assert kernel.tell_many(records) == MILLION
        reader.join()
        assert received == MILLION
        assert (kernel.state.next, kernel.state.broken) == (MILLION, 0)
        stats = kernel.stats
        assert (stats.sent, stats.handled, stats.emitted, stats.dead_letters) == (MILLION, MILLION, MILLION, 0)


def test_a_million_asks_in_one_call() -> None:
    with NativeKernel(handlers.in_sequence, state=Sequence) as kernel:
        records = np.zeros(MILLION, kernel.input_dtype)
        records["value"] = np.arange(MILLION)
        replies = kernel.ask_many(records)
        assert replies.dtype == kernel.output_dtype
        assert len(replies) == MILLION
        assert not replies["value"].any()
        assert kernel.state.next == MILLION


def test_ask_many_returns_the_replies_before_an_error() -> None:
    with NativeKernel(handlers.picky, state=Sequence, on_error="resume") as kernel:
        records = np.zeros(5, kernel.input_dtype)
        records["value"] = [2, 4, -1, 6, 8]
        with pytest.raises(KernelError, match="negative") as caught:
            kernel.ask_many(records)
        np.testing.assert_array_equal(caught.value.answers["value"], [1, 2])  # type: ignore[attr-defined]


def test_callers_on_many_threads_all_get_replies() -> None:
    def double(ctx: HandlerContext, state: Sequence, msg: Count) -> Count:
        state.next += 1
        return Count(msg.value * 2)

    with NativeKernel(double, state=Sequence) as kernel:
        wrong: list[int] = []

        def ask(start: int) -> None:
            wrong.extend(value for value in range(start, start + 5_000) if kernel.ask(Count(value)).value != value * 2)

        threads = [threading.Thread(target=ask, args=(number * 10_000,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert kernel.state.next == 20_000


def test_thousands_of_kernels_share_a_compiled_handler() -> None:
    from pydotcompute.native.handler import declare

    declared = declare(handlers.in_sequence, state=Sequence)
    with NativeRuntime() as runtime:
        kernels = [NativeKernel(declared, f"sequence-{number}", runtime=runtime, queue_size=8) for number in range(2_000)]
        for kernel in kernels:
            kernel.activate()
        assert sum(kernel.ask(Count(number)).value for number, kernel in enumerate(kernels)) == len(kernels) - 1


# Independence of the GIL


def test_messages_are_handled_while_another_thread_holds_the_gil() -> None:
    """`PyDLL` calls hold the GIL; messages sent before are handled meanwhile."""
    libc = ctypes.PyDLL(None)
    with NativeKernel(handlers.in_sequence, state=Sequence, queue_size=1 << 18, output_queue_size=1 << 18, dedicated=True) as kernel:
        records = np.zeros(200_000, kernel.input_dtype)
        records["value"] = np.arange(200_000)
        kernel.deactivate()
        kernel.tell_many(records)
        kernel.reactivate()
        handled = 0
        for _ in range(600):
            libc.usleep(100_000)
            handled = kernel.stats.handled
            if handled == 200_000:
                break
        assert handled == 200_000


def test_a_long_ask_does_not_block_other_threads() -> None:
    def slow(ctx: HandlerContext, state: Sequence, msg: Count) -> Count:
        total = 0
        for number in range(msg.value):
            total = (total * 31 + number) % 1_000_003
        return Count(total)

    with NativeKernel(slow, state=Sequence) as kernel:
        done = threading.Event()

        def ask() -> None:
            kernel.ask(Count(100_000_000))
            done.set()

        caller = threading.Thread(target=ask)
        caller.start()
        iterations = 0
        while not done.is_set():
            iterations += 1
        caller.join()
        assert iterations > 100


# Termination


_PROGRAM = """
import sys
sys.path.insert(0, {folder!r})
import native_handlers as handlers
from native_handlers import Count, Sequence
from pydotcompute.native import NativeKernel
kernels = [NativeKernel(handlers.in_sequence, state=Sequence, dedicated=number % 2 == 0) for number in range(6)]
for kernel in kernels:
    kernel.activate()
    kernel.tell(Count(1))
{end}
"""


@pytest.mark.parametrize(
    ("end", "status"), [("", 0), ("raise RuntimeError('end')", 1), ("import os, signal; os.kill(os.getpid(), signal.SIGINT)", -2)]
)
def test_programs_end_with_kernels_active(end: str, status: int) -> None:
    program = _PROGRAM.format(folder=str(Path(__file__).parents[2]), end=end)
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=100)
    assert ended.returncode == status, ended.stderr
    assert "panicked" not in ended.stderr


def test_ctrl_c_ends_a_wait() -> None:
    end = """
import _thread, threading
threading.Timer(0.3, _thread.interrupt_main).start()
for wait in (kernels[0].receive, kernels[0].receive):
    try:
        kernels[0].receive() and wait()
    except KeyboardInterrupt:
        print("interrupted")
        break
"""
    program = _PROGRAM.format(folder=str(Path(__file__).parents[2]), end=end)
    ended = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr


def test_a_dropped_kernel_handles_its_queued_messages() -> None:
    with NativeRuntime(workers=1) as runtime:
        kernel = NativeKernel(handlers.in_sequence, "dropped", state=Sequence, runtime=runtime)
        kernel.activate()
        kernel.tell(Count(0))
        del kernel
        other = NativeKernel(handlers.in_sequence, "other", state=Sequence, runtime=runtime)
        other.activate()
        assert other.ask(Count(0), timeout=30.0).value == 0


async def test_asks_work_beside_an_event_loop() -> None:
    with NativeKernel(handlers.picky, state=Sequence) as kernel:
        replies = await asyncio.gather(*(asyncio.to_thread(kernel.ask, Count(2 * number)) for number in range(20)))
        assert [reply.value for reply in replies] == list(range(20))


def test_launches_and_runtime_queries_on_many_threads_do_not_deadlock() -> None:
    with NativeRuntime(workers=1) as runtime:
        counts: list[int] = []

        def launch(first: int) -> None:
            # Each thread compiles once.
            declared = declare(handlers.in_sequence, state=Sequence)
            for number in range(first, first + 50):
                kernel = NativeKernel(declared, f"sequence-{number}", runtime=runtime, dedicated=True)
                counts.append(runtime.dead_letter_count)
                kernel.activate()
                kernel.terminate()

        threads = [threading.Thread(target=launch, args=(number * 100,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60.0)
        assert not any(thread.is_alive() for thread in threads)
        assert counts == [0] * 200
