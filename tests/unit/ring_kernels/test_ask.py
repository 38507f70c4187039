"""`RingKernel.ask` and `send`: which reply completes which request, full mailboxes, and message types."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from async_handlers import Answer, Question, double
from pydotcompute.exceptions import (
    KernelError,
    QueueFullError,
    QueueTimeoutError,
    TypeValidationError,
)
from pydotcompute.ring_kernels.lifecycle import (
    KernelContext,
    RingKernelConfig,
    managed_kernel,
)
from pydotcompute.ring_kernels.runtime import RingKernelRuntime

pytestmark = pytest.mark.usefixtures("quiet_log")


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
