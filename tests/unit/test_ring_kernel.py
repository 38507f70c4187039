"""Ring kernels of the event loop: their life, asking them, and what happens when they fail."""

import asyncio
import gc
import logging
import subprocess
import sys
import textwrap
from typing import Any
from uuid import uuid4

import pytest

from pydotcompute.decorators.ring_kernel import RingKernelBuilder, get_ring_kernel_meta, is_ring_kernel, ring_kernel
from pydotcompute.exceptions import (
    KernelAlreadyExistsError,
    KernelError,
    KernelNotFoundError,
    KernelStateError,
    QueueFullError,
    QueueTimeoutError,
    TypeValidationError,
)
from pydotcompute.ring_kernels.lifecycle import (
    KernelContext,
    KernelState,
    RingKernel,
    RingKernelConfig,
    Supervision,
    managed_kernel,
)
from pydotcompute.ring_kernels.message import RingKernelMessage, message
from pydotcompute.ring_kernels.runtime import RingKernelRuntime, get_registered_kernel
from pydotcompute.ring_kernels.telemetry import GPUMonitor, RingKernelTelemetry, TelemetryCollector


@message
class Question(RingKernelMessage):
    value: int


@message
class Answer(RingKernelMessage):
    value: int


async def double(ctx: KernelContext[Question, Answer]) -> None:
    while not ctx.should_terminate:
        question = await ctx.receive()
        if question.value < 0:
            raise ValueError(f"negative: {question.value}")
        await ctx.send(Answer(2 * question.value))


async def double_with_timeout(ctx: KernelContext[Question, Answer]) -> None:
    while not ctx.should_terminate:
        try:
            question = await ctx.receive(timeout=0.05)
        except QueueTimeoutError:
            continue
        await ctx.send(Answer(2 * question.value))


@pytest.fixture(autouse=True)
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, "pydotcompute")


class TestLife:
    async def test_from_launch_to_end(self) -> None:
        kernel: RingKernel[Question, Answer] = RingKernel("k", double)
        assert kernel.state is KernelState.CREATED
        await kernel.launch()
        assert kernel.state is KernelState.LAUNCHED
        await kernel.activate()
        assert kernel.state is KernelState.ACTIVE
        await kernel.send(Question(21))
        assert (await kernel.receive(timeout=5)).value == 42
        await kernel.deactivate()
        assert kernel.state is KernelState.DEACTIVATED
        await kernel.reactivate()
        await kernel.terminate()
        assert kernel.state is KernelState.TERMINATED
        await kernel.terminate()

    async def test_calls_in_the_wrong_state_name_kernel_state_and_call(self) -> None:
        kernel: RingKernel[Question, Answer] = RingKernel("k", double)
        for call in (kernel.activate, kernel.deactivate, kernel.reactivate, kernel.receive):
            with pytest.raises(KernelStateError) as wrong:
                await call()
            assert wrong.value.current_state == "CREATED"
        await kernel.launch()
        with pytest.raises(KernelStateError, match="LAUNCHED"):
            await kernel.launch()
        with pytest.raises(KernelStateError, match=r"'k' from state 'LAUNCHED'; activate\(\) it first"):
            await kernel.send(Question(1))
        await kernel.activate()
        with pytest.raises(KernelStateError, match="ACTIVE"):
            await kernel.reactivate()
        await kernel.terminate()
        with pytest.raises(KernelStateError, match="TERMINATED"):
            await kernel.ask(Question(1))

    async def test_errors_come_when_awaited_so_that_gather_can_return_them(self) -> None:
        kernel: RingKernel[Question, Answer] = RingKernel("k", double)
        outcomes = await asyncio.gather(kernel.send(Question(1)), kernel.receive(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [KernelStateError, KernelStateError]

    async def test_messages_wait_while_it_is_deactivated(self) -> None:
        async with managed_kernel("k", double) as kernel:
            await asyncio.sleep(0)
            await kernel.deactivate()
            await kernel.send(Question(1))
            with pytest.raises(QueueTimeoutError):
                await kernel.receive(timeout=0.02)
            asking = asyncio.create_task(kernel.ask(Question(2)))
            await asyncio.sleep(0.01)
            assert not asking.done()
            await kernel.reactivate()
            assert (await kernel.receive(timeout=5)).value == 2
            assert (await asking).value == 4

    @pytest.mark.parametrize("function", [double, double_with_timeout])
    async def test_it_ends_at_once_when_it_waits_for_a_message(self, function: Any) -> None:
        async with managed_kernel("k", function) as kernel:
            await asyncio.sleep(0.01)
            begun = asyncio.get_running_loop().time()
            await kernel.terminate(timeout=30)
            assert asyncio.get_running_loop().time() - begun < 10

    async def test_a_kernel_that_does_not_look_at_should_terminate_is_cancelled(self) -> None:
        cleaned = []

        async def stubborn(ctx: KernelContext[Any, Any]) -> None:
            try:
                while True:
                    try:
                        await ctx.receive(timeout=0.01)
                    except QueueTimeoutError:
                        continue
            finally:
                cleaned.append(True)

        async with managed_kernel("k", stubborn) as kernel:
            await kernel.terminate(timeout=0.05)
        assert cleaned == [True]

    async def test_what_was_not_handled_becomes_dead_letters(self) -> None:
        gate = asyncio.Event()

        async def slow(ctx: KernelContext[Question, Answer]) -> None:
            while not ctx.should_terminate:
                await ctx.receive()
                await gate.wait()

        async with managed_kernel("k", slow) as kernel:
            for value in range(5):
                await kernel.send(Question(value))
            asking = asyncio.create_task(kernel.ask(Question(5)))
            await asyncio.sleep(0.01)
            ending = asyncio.create_task(kernel.terminate())
            await asyncio.sleep(0)
            gate.set()
            await ending
            assert [letter.message.value for letter in kernel.dead_letters] == [1, 2, 3, 4, 5]
            assert {letter.reason for letter in kernel.dead_letters} == {"unhandled"}
            with pytest.raises(KernelError, match="will not reply"):
                await asking

    async def test_whoever_waits_is_told_when_it_is_terminated(self) -> None:
        async def silent(ctx: KernelContext[Question, Answer]) -> None:
            while not ctx.should_terminate:
                await ctx.receive()

        async with managed_kernel("k", silent) as kernel:
            waiting = [asyncio.create_task(kernel.receive()), asyncio.create_task(kernel.ask(Question(1)))]
            await asyncio.sleep(0.01)
            await kernel.terminate()
            for outcome in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(outcome, KernelStateError) and outcome.current_state == "TERMINATED"

    async def test_a_function_that_returns_early(self) -> None:
        async def three(ctx: KernelContext[Question, Answer]) -> None:
            for value in range(3):
                await ctx.send(Answer(value))

        async with managed_kernel("k", three) as kernel:
            assert [(await kernel.receive(timeout=5)).value for _ in range(3)] == [0, 1, 2]
            with pytest.raises(KernelStateError, match="TERMINATED"):
                await kernel.receive(timeout=5)
            with pytest.raises(KernelStateError, match="TERMINATED"):
                await kernel.send(Question(1))

    async def test_a_function_that_is_not_async(self) -> None:
        def once(ctx: KernelContext[Question, Answer]) -> None:
            ctx.output_queue.put_nowait(Answer(7))

        async with managed_kernel("k", once) as kernel:
            assert (await kernel.receive(timeout=5)).value == 7

    async def test_it_may_terminate_itself(self) -> None:
        async with RingKernelRuntime() as runtime:

            async def suicidal(ctx: KernelContext[Question, Answer]) -> None:
                await ctx.receive()
                await runtime.terminate("k")

            await runtime.launch("k", suicidal)
            await runtime.activate("k")
            await runtime.send("k", Question(1))
            await asyncio.sleep(0.05)
            assert runtime.kernel_ids == []

    async def test_a_function_can_be_tested_with_queues_of_ones_own(self) -> None:
        given: asyncio.Queue[Any] = asyncio.Queue()

        class Own:
            async def get(self, *, timeout: float | None = None) -> Any:
                return await given.get()

            async def put(self, item: Any) -> bool:
                await given.put(item)
                return True

        ctx: KernelContext[Any, Any] = KernelContext("k", Own(), Own())  # type: ignore[arg-type]
        await ctx.send(5)
        assert await ctx.receive() == 5 and not ctx.should_terminate and not ctx.is_active

    @pytest.mark.parametrize("setting", ["grid_size", "block_size", "input_queue_size", "output_queue_size"])
    def test_settings_are_checked(self, setting: str) -> None:
        with pytest.raises(ValueError, match=setting):
            RingKernelConfig("k", **{setting: 0})
        with pytest.raises(ValueError, match="backpressure"):
            RingKernelConfig("k", backpressure_strategy="hope")


class TestAsking:
    async def test_each_asker_gets_its_own_answer(self) -> None:
        async with managed_kernel("k", double) as kernel:
            answers = await asyncio.gather(*(kernel.ask(Question(value)) for value in range(500)))
            assert [answer.value for answer in answers] == [2 * value for value in range(500)]

    async def test_an_answer_with_a_correlation_goes_to_its_asker_whatever_the_order(self) -> None:
        async def backwards(ctx: KernelContext[Question, Answer]) -> None:
            taken = [await ctx.receive() for _ in range(10)]
            for question in reversed(taken):
                await ctx.send(Answer(question.value, correlation_id=question.message_id))

        async with managed_kernel("k", backwards) as kernel:
            answers = await asyncio.gather(*(kernel.ask(Question(value)) for value in range(10)))
            assert [answer.value for answer in answers] == list(range(10))

    async def test_what_answers_nobody_is_received(self) -> None:
        async def also(ctx: KernelContext[Question, Answer]) -> None:
            while not ctx.should_terminate:
                question = await ctx.receive()
                await ctx.send(Answer(-1, correlation_id=uuid4()))
                await ctx.send(Answer(question.value, correlation_id=question.message_id))
                await ctx.send(Answer(-2))

        async with managed_kernel("k", also) as kernel:
            assert (await kernel.ask(Question(1))).value == 1
            assert [(await kernel.receive()).value for _ in range(2)] == [-1, -2]

    async def test_outputs_of_tells_are_not_taken_for_answers(self) -> None:
        async with managed_kernel("k", double) as kernel:
            for value in range(5):
                await kernel.send(Question(value))
            assert (await kernel.ask(Question(50))).value == 100
            assert [(await kernel.receive()).value for _ in range(5)] == [0, 2, 4, 6, 8]

    async def test_an_answer_that_comes_too_late_is_not_given_to_the_next(self) -> None:
        gate = asyncio.Event()

        async def late(ctx: KernelContext[Question, Answer]) -> None:
            while not ctx.should_terminate:
                question = await ctx.receive()
                await gate.wait()
                await ctx.send(Answer(question.value))

        async with managed_kernel("k", late) as kernel:
            with pytest.raises(QueueTimeoutError):
                await kernel.ask(Question(1), timeout=0.02)
            cancelled = asyncio.create_task(kernel.ask(Question(2)))
            await asyncio.sleep(0.01)
            cancelled.cancel()
            asking = asyncio.create_task(kernel.ask(Question(3)))
            await asyncio.sleep(0.01)
            gate.set()
            assert (await asking).value == 3
            with pytest.raises(QueueTimeoutError):
                await kernel.receive(timeout=0.01)

    async def test_asking_where_there_is_no_room_yet(self) -> None:
        config = RingKernelConfig("k", input_queue_size=2)
        async with managed_kernel("k", double, config=config) as kernel:
            await kernel.deactivate()
            asking = [asyncio.create_task(kernel.ask(Question(value))) for value in range(20)]
            await asyncio.sleep(0.01)
            await kernel.reactivate()
            assert [answer.value for answer in await asyncio.gather(*asking)] == [2 * value for value in range(20)]

    async def test_no_room_in_time(self) -> None:
        config = RingKernelConfig("k", input_queue_size=1)
        async with managed_kernel("k", double, config=config) as kernel:
            await kernel.deactivate()
            await kernel.send(Question(1))
            for call in (kernel.send, kernel.ask):
                with pytest.raises(QueueFullError):
                    await call(Question(2), timeout=0.01)

    async def test_a_question_that_is_dropped_for_a_newer_one(self) -> None:
        config = RingKernelConfig("k", input_queue_size=1, backpressure_strategy="drop_oldest")
        async with managed_kernel("k", double, config=config) as kernel:
            await kernel.deactivate()
            first = asyncio.create_task(kernel.ask(Question(1)))
            await asyncio.sleep(0)
            second = asyncio.create_task(kernel.ask(Question(2)))
            await asyncio.sleep(0.01)
            await kernel.reactivate()
            with pytest.raises(KernelError, match="dropped"):
                await first
            assert (await second).value == 4

    async def test_rejecting(self) -> None:
        config = RingKernelConfig("k", input_queue_size=1, backpressure_strategy="reject")
        async with managed_kernel("k", double, config=config) as kernel:
            await kernel.deactivate()
            await kernel.send(Question(1))
            with pytest.raises(QueueFullError) as full:
                await kernel.send(Question(2))
            assert full.value.kernel_id == "k"

    async def test_a_message_of_another_type_is_refused(self) -> None:
        async with managed_kernel("k", double, input_type=Question) as kernel:
            for call in (kernel.send, kernel.ask):
                with pytest.raises(TypeValidationError) as wrong:
                    await call(Answer(1))  # type: ignore[arg-type]
                assert (wrong.value.expected, wrong.value.actual) == (Question, Answer)

            class Special(Question):
                pass

            assert (await kernel.ask(Special(4))).value == 8

    async def test_kernels_that_ask_kernels(self) -> None:
        async with RingKernelRuntime() as runtime:

            async def relay(ctx: KernelContext[Any, Any]) -> None:
                index = int(ctx.kernel_id)
                while not ctx.should_terminate:
                    value = await ctx.receive()
                    await ctx.send(await runtime.send_and_receive(str(index + 1), value + 1) if index < 40 else value)

            for index in range(41):
                await runtime.launch(str(index), relay)
                await runtime.activate(str(index))
            for value in range(20):
                assert await runtime.send_and_receive("0", value, timeout=10) == value + 40


class TestFailure:
    async def test_whoever_waits_gets_the_error_with_its_cause(self) -> None:
        async with managed_kernel("k", double) as kernel:
            receiving = asyncio.create_task(kernel.receive())
            await asyncio.sleep(0)
            with pytest.raises(KernelError, match="'k' failed: ValueError: negative: -1") as asked:
                await kernel.ask(Question(-1))
            assert isinstance(asked.value.__cause__, ValueError)
            with pytest.raises(KernelError) as received:
                await receiving
            assert received.value.__cause__ is asked.value.__cause__ is kernel.error
            assert kernel.state is KernelState.FAILED
            with pytest.raises(KernelError):
                await kernel.receive()
            with pytest.raises(KernelStateError, match="FAILED"):
                await kernel.send(Question(1))

    async def test_what_it_sent_before_is_received_first(self) -> None:
        async with managed_kernel("k", double) as kernel:
            await kernel.send(Question(1))
            await kernel.send(Question(-1))
            assert (await kernel.receive()).value == 2
            with pytest.raises(KernelError):
                await kernel.receive()

    async def test_messages_become_dead_letters_with_the_cause(self) -> None:
        async with managed_kernel("k", double) as kernel:
            await kernel.deactivate()
            for value in (-1, 2, 3):
                await kernel.send(Question(value))
            await kernel.reactivate()
            with pytest.raises(KernelError):
                await kernel.receive(timeout=5)
            assert [letter.message.value for letter in kernel.dead_letters] == [-1, 2, 3]
            assert all(isinstance(letter.cause, ValueError) for letter in kernel.dead_letters)

    async def test_putters_that_wait_are_told(self) -> None:
        config = RingKernelConfig("k", input_queue_size=1)
        gate = asyncio.Event()

        async def failing(ctx: KernelContext[Any, Any]) -> None:
            await gate.wait()
            raise RuntimeError("no")

        async with managed_kernel("k", failing, config=config) as kernel:
            await kernel.send(1)
            waiting = asyncio.create_task(kernel.send(2))
            await asyncio.sleep(0.01)
            gate.set()
            outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
            # Room is made when the messages before it become dead letters; then it is one itself.
            assert outcome is True or isinstance(outcome, KernelError)

    async def test_it_is_started_again_as_its_supervision_says(self) -> None:
        config = RingKernelConfig("k", supervision=Supervision(max_restarts=2, within=60))
        async with managed_kernel("k", double, config=config) as kernel:
            for _ in range(2):
                with pytest.raises(KernelError, match="negative"):
                    await kernel.ask(Question(-1))
                assert (await kernel.ask(Question(3), timeout=5)).value == 6
            with pytest.raises(KernelError):
                await kernel.ask(Question(-1))
            assert kernel.state is KernelState.FAILED
            assert [letter.reason for letter in kernel.dead_letters] == ["failed"] * 3

    async def test_messages_survive_a_restart(self) -> None:
        config = RingKernelConfig("k", supervision=Supervision(max_restarts=None))
        async with managed_kernel("k", double, config=config) as kernel:
            await kernel.deactivate()
            asking = [asyncio.create_task(kernel.ask(Question(value))) for value in (1, -1, 2, -1, 3)]
            await asyncio.sleep(0.01)
            await kernel.reactivate()
            outcomes = await asyncio.gather(*asking, return_exceptions=True)
            assert [o.value if isinstance(o, Answer) else type(o) for o in outcomes] == [2, KernelError, 4, KernelError, 6]

    async def test_an_error_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.ERROR, "pydotcompute")
        async with managed_kernel("k", double) as kernel:
            await kernel.send(Question(-1))
            await asyncio.sleep(0.01)
        assert "kernel 'k' raised ValueError" in caplog.text and "negative: -1" in caplog.text

    async def test_somebody_cancels_its_task(self) -> None:
        async with managed_kernel("k", double) as kernel:
            receiving = asyncio.create_task(kernel.receive())
            await asyncio.sleep(0)
            assert kernel._task is not None
            kernel._task.cancel()
            with pytest.raises(KernelError, match="cancelled"):
                await receiving


class TestRuntime:
    async def test_by_name(self) -> None:
        async with RingKernelRuntime() as runtime:
            assert runtime.is_active
            await runtime.launch("k", double)
            assert runtime.get_kernel_state("k") is KernelState.LAUNCHED
            await runtime.activate("k")
            await runtime.send("k", Question(1))
            assert (await runtime.receive("k")).value == 2
            assert (await runtime.send_and_receive("k", Question(2), timeout=1)).value == 4
            await runtime.deactivate("k")
            await runtime.reactivate("k")
            assert runtime.kernel_ids == ["k"]
            await runtime.terminate("k")
            assert runtime.kernel_ids == []
        assert not runtime.is_active

    async def test_an_unknown_kernel(self) -> None:
        async with RingKernelRuntime() as runtime:
            await runtime.launch("there", double)
            for call in (runtime.activate, runtime.deactivate, runtime.reactivate, runtime.terminate, runtime.receive):
                with pytest.raises(KernelNotFoundError) as unknown:
                    await call("nowhere")
                assert unknown.value.available == ["there"]
            for send in (runtime.send, runtime.send_and_receive):
                with pytest.raises(KernelNotFoundError, match=r"launch\('nowhere'"):
                    await send("nowhere", Question(1))
            with pytest.raises(KernelNotFoundError):
                runtime.get_kernel_state("nowhere")
            with pytest.raises(KernelNotFoundError):
                await runtime.launch("nowhere")

    async def test_a_name_that_is_taken(self) -> None:
        async with RingKernelRuntime() as runtime:
            await runtime.launch("k", double)
            with pytest.raises(KernelAlreadyExistsError):
                await runtime.launch("k", double)

    async def test_a_runtime_that_was_shut_down(self) -> None:
        async with RingKernelRuntime() as runtime:
            kernel = await runtime.launch("k", double)
            await runtime.activate("k")
        assert kernel.state is KernelState.TERMINATED
        with pytest.raises(KernelStateError, match="shut down"):
            await runtime.launch("k", double)
        with pytest.raises(KernelNotFoundError):
            await runtime.send("k", Question(1))
        await runtime.shutdown()
        await runtime.start()
        await runtime.launch("k", double)
        await runtime.shutdown()

    async def test_kernel_scope(self) -> None:
        async with RingKernelRuntime() as runtime:
            async with runtime.kernel_scope("k", double) as kernel:
                assert (await kernel.ask(Question(5))).value == 10
            assert runtime.kernel_ids == []
            with pytest.raises(ZeroDivisionError):
                async with runtime.kernel_scope("k", double):
                    raise ZeroDivisionError
            assert runtime.kernel_ids == []

    async def test_registered_functions(self) -> None:
        @ring_kernel(kernel_id="registered", input_type=Question, output_type=Answer, queue_size=7, backpressure="reject")
        async def registered(ctx: KernelContext[Question, Answer]) -> None:
            await double(ctx)

        assert is_ring_kernel(registered) and not is_ring_kernel(double)
        meta = get_ring_kernel_meta(registered)
        assert meta is not None and meta["kernel_id"] == "registered" and meta["input_type"] is Question
        known = get_registered_kernel("registered")
        assert known is not None and known["config"]["input_queue_size"] == 7
        async with RingKernelRuntime() as runtime:
            kernel = await runtime.launch("registered")
            assert (kernel.config.input_queue_size, kernel.config.backpressure_strategy) == (7, "reject")
            await runtime.activate("registered")
            assert (await runtime.send_and_receive("registered", Question(4))).value == 8
            with pytest.raises(TypeValidationError):
                await runtime.send("registered", Answer(4))

    async def test_the_builder(self) -> None:
        builder = RingKernelBuilder("built").with_input_type(Question).with_output_type(Answer).with_queue_size(9)
        with pytest.raises(ValueError, match="with_handler"):
            builder.build()
        built = builder.with_output_queue_size(3).with_grid_size(2).with_block_size(64).with_backpressure("block")
        function = built.with_handler(double).build()
        meta = get_ring_kernel_meta(function)
        assert meta is not None
        assert meta["config"] == {
            "input_queue_size": 9,
            "output_queue_size": 3,
            "grid_size": 2,
            "block_size": 64,
            "backpressure_strategy": "block",
        }

    async def test_ten_thousand_kernels(self) -> None:
        async with RingKernelRuntime() as runtime:
            for number in range(10_000):
                await runtime.launch(str(number), double if number % 2 else double_with_timeout)
                await runtime.activate(str(number))
            for number in range(0, 10_000, 7):
                assert (await runtime.send_and_receive(str(number), Question(number), timeout=30)).value == 2 * number
        gc.collect()

    async def test_a_million_messages(self) -> None:
        async with RingKernelRuntime() as runtime:
            await runtime.launch("k", double_with_timeout)
            await runtime.activate("k")
            for value in range(500_000):
                if (await runtime.send_and_receive("k", Question(value), timeout=60)).value != 2 * value:
                    pytest.fail(f"wrong answer to {value}")
            telemetry = runtime.get_telemetry("k")
            assert telemetry is not None and telemetry.messages_processed >= 499_999


class TestTelemetry:
    async def test_it_counts_by_itself(self) -> None:
        async with RingKernelRuntime() as runtime:
            await runtime.launch("k", double)
            await runtime.activate("k")
            for value in range(10):
                await runtime.send_and_receive("k", Question(value))
            await asyncio.sleep(0)
            telemetry = runtime.get_telemetry("k")
            assert telemetry is not None
            assert (telemetry.messages_processed, telemetry.messages_dropped, telemetry.error_count) == (10, 0, 0)
            assert 0 < telemetry.min_latency_ns <= telemetry.avg_latency_ns <= telemetry.max_latency_ns
            assert telemetry.uptime_seconds > 0 and telemetry.throughput > 0
            await runtime.deactivate("k")
            await runtime.send("k", Question(-1))
            await runtime.send("k", Question(1))
            assert telemetry.queue_depth == 2
            await runtime.reactivate("k")
            await asyncio.sleep(0.01)
            assert (telemetry.messages_processed, telemetry.messages_dropped, telemetry.error_count) == (10, 2, 1)
            assert telemetry.last_error == "ValueError: negative: -1"
            summary = runtime.get_summary()
            assert (summary["kernel_count"], summary["total_messages_processed"], summary["total_errors"]) == (1, 10, 1)
            assert set(runtime.get_all_telemetry()) == {"k"}

    async def test_none(self) -> None:
        async with RingKernelRuntime(enable_telemetry=False) as runtime:
            await runtime.launch("k", double)
            assert runtime.get_telemetry("k") is None and runtime.get_all_telemetry() == {}
            assert runtime.get_summary()["kernel_count"] == 1

    def test_by_hand(self) -> None:
        telemetry = RingKernelTelemetry("k", messages_processed=1, total_latency_ns=500, uptime_seconds=2.0)
        telemetry.record_message(1_500)
        telemetry.record_drop()
        telemetry.record_error("no")
        assert telemetry.avg_latency_ns == 1000 and telemetry.avg_latency_ms == 0.001 and telemetry.throughput == 1.0
        assert telemetry.to_dict()["last_error"] == "no"
        telemetry.reset()
        assert telemetry.to_dict() == RingKernelTelemetry("k").to_dict()

    def test_the_collector(self) -> None:
        collector = TelemetryCollector()
        collector.register_kernel("a").record_message(2_000_000)
        collector.register_kernel("b").record_drop()
        summary = collector.get_summary()
        assert (summary["kernel_count"], summary["total_messages_processed"], summary["total_messages_dropped"]) == (2, 1, 1)
        collector.reset_all()
        collector.unregister_kernel("a")
        collector.unregister_kernel("nobody")
        assert collector.get_kernel_telemetry("a") is None and list(collector.get_all_telemetry()) == ["b"]

    def test_gpus(self) -> None:
        monitor = GPUMonitor()
        assert monitor.is_available == (monitor.device_count > 0)
        assert len(monitor.get_all_gpu_info()) == monitor.device_count
        assert monitor.is_available or monitor.unavailable_reason
        monitor.shutdown()
        monitor.shutdown()


PROGRAM = """
import asyncio, os, signal, sys
from pydotcompute import RingKernelRuntime

async def waits(ctx):
    while not ctx.should_terminate:
        await ctx.receive()

async def main():
    runtime = await RingKernelRuntime().__aenter__()
    for number in range(100):
        await runtime.launch(str(number), waits)
        await runtime.activate(str(number))
        await runtime.send(str(number), number)
    {ending}

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("ending", "status", "said"),
    [
        ("return", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("os.kill(os.getpid(), signal.SIGINT); await asyncio.sleep(60)", None, "KeyboardInterrupt"),
    ],
)
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_programs_end_cleanly_with_kernels_still_active(ending: str, status: int | None, said: str, loop: str) -> None:
    import os

    environment = dict(os.environ)
    environment.pop("PYDOTCOMPUTE_NO_UVLOOP", None)
    if loop == "asyncio":
        environment["PYDOTCOMPUTE_NO_UVLOOP"] = "1"
    program = textwrap.dedent(PROGRAM).replace("{ending}", ending)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert run.returncode != 0 if status is None else run.returncode == status, run.stderr
    assert said in run.stderr
    assert ("panicked" not in run.stderr and "Traceback" not in run.stderr.replace(said and "Traceback", "", 1)) or said
