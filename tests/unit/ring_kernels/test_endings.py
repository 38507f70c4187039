"""How ring kernels end: the function's last steps, waiting callers, unhandled messages, and the log."""

from __future__ import annotations

import asyncio
import logging
import pickle
from typing import Any

import pytest

from async_handlers import active, never, outcomes, yield_to_loop
from pydotcompute.exceptions import KernelEndedError, KernelStateError, KernelStopped, KernelStoppedInTime, NoReplyError, QueueTimeoutError
from pydotcompute.ring_kernels.fast_queue import FastMessageQueue
from pydotcompute.ring_kernels.lifecycle import DeadLetter, KernelContext, KernelState, RingKernelConfig
from pydotcompute.ring_kernels.runtime import RingKernelRuntime
from pydotcompute.ring_kernels.threaded_kernel import ThreadedKernelContext, ThreadedRingKernel

Context = KernelContext[Any, Any]

LIMIT = 20.0


class TestStructuredEnd:
    @pytest.mark.parametrize("queued", [0, 3])
    async def test_async_for_handles_the_queued_messages_and_then_ends(self, queued: int) -> None:
        steps: list[Any] = []

        async def loop(ctx: Context) -> None:
            async for message in ctx:
                steps.append(message)
                await yield_to_loop()
            steps.append(("after", ctx.should_terminate))

        kernel = await active(loop)
        await yield_to_loop()
        for number in range(queued):
            await kernel.send(number)
        await asyncio.wait_for(kernel.terminate(1000.0), LIMIT)
        assert steps == [*range(queued), ("after", True)]
        assert (kernel.state, kernel.dead_letters) == (KernelState.TERMINATED, [])

    async def test_async_for_replies_like_any_loop(self) -> None:
        async def loop(ctx: Context) -> None:
            async for number in ctx:
                await ctx.send(2 * number)

        async with RingKernelRuntime() as runtime, runtime.kernel_scope("loop", loop) as kernel:
            assert await asyncio.gather(*(kernel.ask(number) for number in range(10))) == list(range(0, 20, 2))

    async def test_async_for_over_a_queue_of_another_class(self) -> None:
        class Loud(FastMessageQueue[Any]):
            async def get(self, *, timeout: float | None = None) -> Any:
                return "heard", await super().get(timeout=timeout)

        context: Context = KernelContext("test", Loud(), Loud())
        context.input_queue.put_nowait(1)
        heard = []

        async def iterate() -> None:
            heard.extend([message async for message in context])

        task = asyncio.ensure_future(iterate())
        await yield_to_loop()
        context.input_queue._end_getters()
        await asyncio.wait_for(task, LIMIT)
        assert heard == [("heard", 1)]

    @pytest.mark.parametrize("timeout", [None, 1000.0])
    async def test_receive_raises_kernel_stopped(self, timeout: float | None) -> None:
        seen: list[KernelStopped] = []

        async def loop(ctx: Context) -> None:
            try:
                while not ctx.should_terminate:
                    await ctx.receive(timeout=timeout)
            except KernelStopped as stopped:
                seen.append(stopped)

        kernel = await active(loop)
        await yield_to_loop()
        await asyncio.wait_for(kernel.terminate(1000.0), LIMIT)
        (stopped,) = seen
        assert stopped.kernel_id == "kernel"
        assert isinstance(stopped, asyncio.CancelledError)
        assert isinstance(stopped, QueueTimeoutError) is (timeout is not None)

    async def test_a_loop_that_goes_on_after_timeouts_runs_its_last_steps(self) -> None:
        steps = []

        async def loop(ctx: Context) -> None:
            while not ctx.should_terminate:
                try:
                    await ctx.receive(timeout=1000.0)
                except QueueTimeoutError:
                    continue
            steps.append("after")

        kernel = await active(loop)
        await yield_to_loop()
        await asyncio.wait_for(kernel.terminate(1000.0), LIMIT)
        assert steps == ["after"]

    async def test_a_function_that_does_not_catch_it_ends_gracefully(self, caplog: pytest.LogCaptureFixture) -> None:
        finished = []

        async def loop(ctx: Context) -> None:
            try:
                while True:
                    await ctx.receive(timeout=1000.0)
            finally:
                finished.append(True)

        kernel = await active(loop)
        await yield_to_loop()
        task = kernel._task
        assert task is not None
        await asyncio.wait_for(kernel.terminate(1000.0), LIMIT)
        assert (finished, task.cancelled(), task.exception(), kernel.error) == ([True], False, None, None)
        assert not [record for record in caplog.records if record.levelno > logging.INFO]

    async def test_errors_can_be_pickled(self) -> None:
        timed = KernelStoppedInTime("k", 1.5)
        copy = pickle.loads(pickle.dumps(timed))
        assert (type(copy), copy.kernel_id, copy.timeout) == (KernelStoppedInTime, "k", 1.5)
        assert pickle.loads(pickle.dumps(KernelStopped("k"))).kernel_id == "k"
        ended = KernelEndedError("k", "TERMINATED")
        copy = pickle.loads(pickle.dumps(ended))
        assert (str(copy), vars(copy)) == (str(ended), vars(ended))


class TestCallers:
    async def test_all_waiting_callers_get_the_same_error(self) -> None:
        """Their request was received, is queued, or waits for a free slot; or they wait for an output."""

        async def receives_one(ctx: Context) -> None:
            await ctx.receive()
            await asyncio.Event().wait()

        kernel = await active(receives_one, input_queue_size=1)
        await yield_to_loop()
        callers = []
        for number in range(3):
            callers.append(asyncio.ensure_future(kernel.ask(number)))
            await yield_to_loop()
        callers += [asyncio.ensure_future(kernel.send(3)), asyncio.ensure_future(kernel.receive())]
        await yield_to_loop()
        await kernel.terminate(0.0)
        results = await outcomes(callers)
        assert all(isinstance(result, KernelStateError) and result.current_state == "TERMINATED" for result in results)
        assert [type(result) for result in results] == [KernelEndedError] * 3 + [KernelStateError] * 2
        assert isinstance(results[0], NoReplyError)
        assert str(results[0]) == str(results[1])
        assert kernel.dead_letters == [DeadLetter(0, "unhandled"), DeadLetter(1, "unhandled")]

    async def test_a_function_that_returns_ends_queued_and_received_requests_alike(self) -> None:
        async def returns(ctx: Context) -> None:
            await ctx.receive()

        kernel = await active(returns)
        results = await outcomes([asyncio.ensure_future(kernel.ask(number)) for number in range(3)])
        assert {type(result) for result in results} == {KernelEndedError}
        await kernel.terminate()


class TestDeadLetters:
    async def test_dropped_messages_are_dead_letters(self) -> None:
        kernel = await active(never, input_queue_size=2, backpressure_strategy="drop_oldest")
        asked = asyncio.ensure_future(kernel.ask(0))
        await yield_to_loop()
        for number in range(1, 5):
            await kernel.send(number)
        (result,) = await outcomes([asked])
        assert isinstance(result, NoReplyError)
        assert kernel.dead_letters == [DeadLetter(number, "dropped") for number in range(3)]
        await kernel.terminate(0.0)
        assert kernel.dead_letters[3:] == [DeadLetter(3, "unhandled"), DeadLetter(4, "unhandled")]

    async def test_their_number_is_bounded(self) -> None:
        kernel = await active(never, input_queue_size=1, backpressure_strategy="drop_oldest", dead_letter_capacity=3)
        for number in range(10):
            await kernel.send(number)
        assert [letter.message for letter in kernel.dead_letters] == [6, 7, 8]
        await kernel.terminate(0.0)
        with pytest.raises(ValueError, match="dead_letter_capacity"):
            RingKernelConfig("k", dead_letter_capacity=-1)

    async def test_a_message_in_work_when_the_function_is_cancelled(self, caplog: pytest.LogCaptureFixture) -> None:
        async def stuck(ctx: Context) -> None:
            await ctx.receive()
            await asyncio.Event().wait()

        kernel = await active(stuck)
        await kernel.send("in work")
        await yield_to_loop()
        await kernel.terminate(0.0)
        assert kernel.dead_letters == [DeadLetter("in work", "unhandled")]
        assert "cancelled while it handled a message" in caplog.text


class TestLog:
    async def test_lifecycle_events(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, logger="pydotcompute")
        async with RingKernelRuntime() as runtime:
            await runtime.launch("k", never)
            await runtime.activate("k")
            await runtime.deactivate("k")
            await runtime.reactivate("k")
            for number in range(3):
                await runtime.send("k", number)
            await runtime.terminate("k", timeout=0.0)
        events = [(record.levelname, record.getMessage()) for record in caplog.records if "'k'" in record.getMessage()]
        expected = ["launched", "activated", "deactivated", "reactivated", "cancelling", "3 queued messages", "terminated"]
        assert [word in text for word, (_, text) in zip(expected, events, strict=True)] == [True] * 7
        assert [level for level, _ in events] == ["DEBUG", "INFO", "INFO", "INFO", "DEBUG", "WARNING", "INFO"]
        assert all(record.name.startswith("pydotcompute.") for record in caplog.records)
        assert "runtime shut down" in caplog.text

    async def test_outputs_that_were_not_received(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="pydotcompute")

        async def sends(ctx: Context) -> None:
            await ctx.send(1)
            await ctx.send(2)
            await ctx.receive()

        kernel = await active(sends)
        await yield_to_loop()
        await kernel.terminate()
        assert "2 outputs that were not received" in caplog.text

    def test_threads(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="pydotcompute")

        def returns(ctx: ThreadedKernelContext[Any, Any]) -> None:
            ctx.wait_shutdown()

        kernel = ThreadedRingKernel("k", returns)
        kernel.start()
        for number in range(3):
            kernel.send(number)
        kernel.stop()
        assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]
        assert "3 queued messages" in caplog.text
        assert [letter.message for letter in kernel.dead_letters] == [0, 1, 2]
