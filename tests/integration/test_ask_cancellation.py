"""Requests that time out or are cancelled: no caller gets the reply of another, and no abandoned request is retained."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import TYPE_CHECKING, Any

import pytest

from pydotcompute.exceptions import KernelError, QueueFullError, QueueTimeoutError
from pydotcompute.ring_kernels.lifecycle import KernelContext, Supervision, managed_kernel

if TYPE_CHECKING:
    pass
from async_handlers import Number, active, never, outcomes, turns


class TestAsks:
    async def test_those_that_still_queue_are_told_the_cause(self) -> None:
        wrong = ValueError("wrong")

        async def fail(ctx: KernelContext[Any, Any]) -> None:
            await ctx.receive()
            await turns()
            raise wrong

        kernel = await active(fail)
        results = await outcomes([kernel.ask(number) for number in range(3)])
        assert all(isinstance(result, KernelError) and result.__cause__ is wrong for result in results)
        await kernel.terminate()

    @pytest.mark.parametrize("settings", [{"backpressure_strategy": "reject"}, {}])
    async def test_those_without_room_are_forgotten(self, settings: dict[str, Any]) -> None:
        kernel = await active(never, input_queue_size=1, **settings)
        await kernel.send(0)
        for number in range(5):
            with pytest.raises(QueueFullError):
                await kernel.ask([number], timeout=0.001)
        context = kernel._context
        assert context is not None
        assert not [held for held in gc.get_referents(context.output_queue) if type(held).__name__ == "Waiter"]
        await kernel.terminate(0.0)

    async def test_those_cancelled_while_they_wait_for_room_are_forgotten(self) -> None:
        kernel = await active(never, input_queue_size=1)
        await kernel.send(0)
        asker = asyncio.ensure_future(kernel.ask(1))
        await turns()
        asker.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asker
        context = kernel._context
        assert context is not None
        assert not [held for held in gc.get_referents(context.output_queue) if type(held).__name__ == "Waiter"]
        await kernel.terminate(0.0)

    async def test_a_kernel_that_never_answers_does_not_remember_all_that_gave_up(self) -> None:
        async def swallow(ctx: KernelContext[Any, Any]) -> None:
            while True:
                await ctx.receive()

        kernel = await active(swallow)
        for number in range(5000):
            asker = asyncio.ensure_future(kernel.ask(number))
            await asyncio.sleep(0)
            asker.cancel()
            await asyncio.wait([asker])
        context = kernel._context
        assert context is not None
        held = sum(type(held).__name__ == "Waiter" for held in gc.get_referents(context.output_queue))
        assert held <= 4096
        await kernel.terminate()

    async def test_one_that_was_put_back_is_not_answered_by_what_comes_before_it_is_taken(self) -> None:
        """Delivered through the loop, and given up before the kernel had its turn."""
        go = asyncio.Event()

        async def slow(ctx: KernelContext[Any, Any]) -> None:
            first = asyncio.ensure_future(ctx.receive())
            await go.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await ctx.send("for nobody in particular")
            await ctx.send(("answer", await ctx.receive()))
            await asyncio.Event().wait()

        kernel = await active(slow)
        await turns()
        await kernel.deactivate()
        asker = asyncio.ensure_future(kernel.ask(7))
        await turns()
        # Its message goes to the first receive through the loop; that is cancelled in the same turn.
        go.set()
        await kernel.reactivate()
        assert await asyncio.wait_for(asker, 10) == ("answer", 7)
        assert await kernel.receive(timeout=10) == "for nobody in particular"
        await kernel.terminate(0.0)

    async def test_the_comparison_of_ids_may_fail(self) -> None:
        class Odd:
            def __eq__(self, other: object) -> bool:
                raise LookupError("not comparable")

            __hash__ = None  # type: ignore[assignment]

        class Answer:
            correlation_id = Odd()

        async def answer(ctx: KernelContext[Any, Any]) -> None:
            await ctx.receive()
            await ctx.send(Answer())

        kernel = await active(answer)
        with pytest.raises(KernelError) as caught:
            await asyncio.wait_for(kernel.ask(Number(1)), 10)
        assert isinstance(caught.value.__cause__, LookupError)
        await kernel.terminate()


@pytest.mark.parametrize("correlated", [False, True])
async def test_no_asker_gets_anothers_answer_whatever_is_cancelled_late_or_wrong(
    correlated: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Askers give up in every way there is, while the kernel gives up receiving, fails, is paused, and has no room."""
    caplog.set_level("CRITICAL", logger="pydotcompute")
    chance = random.Random(int(correlated))

    async def echo(ctx: KernelContext[Any, Any]) -> None:
        while True:
            try:
                got = await (ctx.receive() if chance.random() < 0.5 else asyncio.wait_for(ctx.receive(), chance.random() / 1000))
            except TimeoutError:
                continue
            await turns(chance.choice([0, 0, 2]))
            if chance.random() < 0.02:
                raise ValueError(got)
            await ctx.send(Number(got.value, correlation_id=got.message_id if correlated else None))

    kernel = await active(echo, input_queue_size=3, output_queue_size=4, supervision=Supervision(max_restarts=None))

    async def asks(value: int) -> bool:
        asked = Number(value, priority=chance.choice([10, 128, 250]))
        patience, how = chance.random() / 500, chance.randrange(4)
        try:
            if how == 0:
                answer = await kernel.ask(asked)
            elif how == 1:
                answer = await kernel.ask(asked, timeout=patience)
            elif how == 2:
                async with asyncio.timeout(patience):
                    answer = await kernel.ask(asked)
            else:
                answer = await asyncio.wait_for(kernel.ask(asked), patience)
        except (KernelError, QueueFullError, TimeoutError, QueueTimeoutError):
            return True
        return bool(answer.value == value)

    askers = []
    for value in range(1500):
        askers.append(asyncio.ensure_future(asks(value)))
        if chance.random() < 0.3:
            await asyncio.sleep(0)
        if chance.random() < 0.05:
            chance.choice(askers).cancel()
        if chance.random() < 0.01:
            await kernel.deactivate()
            await asyncio.sleep(0)
            await kernel.reactivate()
        if value % 20 == 0:
            await asyncio.wait(askers)
    results = await outcomes(askers)
    assert all(result is True or isinstance(result, asyncio.CancelledError) for result in results)
    context = kernel._context
    assert context is not None
    assert context.output_queue.qsize == 0
    assert not [held for held in gc.get_referents(context.output_queue) if type(held).__name__ == "Waiter"]
    await kernel.terminate()


async def test_a_question_that_is_never_answered_does_not_shift_the_answers_after_it() -> None:
    async def picky(ctx: KernelContext[Any, Any]) -> None:
        while not ctx.should_terminate:
            number = await ctx.receive()
            if number % 3:
                await ctx.send(number)

    async with managed_kernel("picky", picky) as kernel:
        for number in range(12):
            if number % 3:
                assert await kernel.ask(number, timeout=30) == number
            else:
                with pytest.raises(QueueTimeoutError):
                    await kernel.ask(number, timeout=0.01)
        with pytest.raises(QueueTimeoutError):
            await kernel.ask(0, timeout=0.01)
        await kernel.send(7)
        assert await kernel.receive(timeout=30) == 7


async def test_a_kernel_that_answers_in_batches_keeps_its_order_when_an_asker_gives_up() -> None:
    go_on = asyncio.Event()

    async def in_pairs(ctx: KernelContext[Any, Any]) -> None:
        while not ctx.should_terminate:
            pair = [await ctx.receive(), await ctx.receive()]
            await go_on.wait()
            for number in pair:
                await ctx.send(number)

    async with managed_kernel("in pairs", in_pairs) as kernel:
        go_on.set()
        assert await asyncio.gather(kernel.ask(1), kernel.ask(2)) == [1, 2]
        go_on.clear()
        asking = [asyncio.create_task(kernel.ask(number)) for number in (3, 4, 5, 6)]
        await asyncio.sleep(0.01)
        asking[0].cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.gather(*asking[1:]) == [4, 5, 6]
