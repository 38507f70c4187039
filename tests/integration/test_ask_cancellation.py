"""Requests that time out or are cancelled: no caller gets the reply of another, and no abandoned request is retained."""

from __future__ import annotations

import asyncio
import gc
import random
from typing import TYPE_CHECKING, Any

import pytest

from pydotcompute.exceptions import AmbiguousReplyError, KernelError, QueueFullError, QueueTimeoutError
from pydotcompute.ring_kernels.lifecycle import KernelContext, Supervision, managed_kernel

if TYPE_CHECKING:
    pass
from async_handlers import Number, active, never, outcomes, yield_to_loop


async def no_ask_is_tracked(context: KernelContext[Any, Any]) -> None:
    """Waits until the output tracks no ask: the ring kernel may still handle messages of cancelled callers."""
    async with asyncio.timeout(30):
        while [held for held in gc.get_referents(context.output_queue) if type(held).__name__ == "Waiter"]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


class TestAbandonedAsks:
    async def test_queued_requests_get_the_cause_of_a_failure(self) -> None:
        wrong = ValueError("wrong")

        async def fail(ctx: KernelContext[Any, Any]) -> None:
            await ctx.receive()
            await yield_to_loop()
            raise wrong

        kernel = await active(fail)
        results = await outcomes([kernel.ask(number) for number in range(3)])
        assert all(isinstance(result, KernelError) and result.__cause__ is wrong for result in results)
        await kernel.terminate()

    @pytest.mark.parametrize("settings", [{"backpressure_strategy": "reject"}, {}])
    async def test_requests_rejected_by_a_full_mailbox_are_not_retained(self, settings: dict[str, Any]) -> None:
        kernel = await active(never, input_queue_size=1, **settings)
        await kernel.send(0)
        for number in range(5):
            with pytest.raises(QueueFullError):
                await kernel.ask([number], timeout=0.001)
        context = kernel._context
        assert context is not None
        await no_ask_is_tracked(context)
        await kernel.terminate(0.0)

    async def test_requests_cancelled_while_waiting_for_a_free_slot_are_not_retained(self) -> None:
        kernel = await active(never, input_queue_size=1)
        await kernel.send(0)
        caller = asyncio.ensure_future(kernel.ask(1))
        await yield_to_loop()
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        context = kernel._context
        assert context is not None
        await no_ask_is_tracked(context)
        await kernel.terminate(0.0)

    async def test_a_kernel_that_never_replies_retains_a_bounded_number_of_abandoned_asks(self) -> None:
        async def swallow(ctx: KernelContext[Any, Any]) -> None:
            while True:
                await ctx.receive()

        kernel = await active(swallow)
        for number in range(5000):
            caller = asyncio.ensure_future(kernel.ask(number))
            await asyncio.sleep(0)
            caller.cancel()
            await asyncio.wait([caller])
        context = kernel._context
        assert context is not None
        held = sum(type(held).__name__ == "Waiter" for held in gc.get_referents(context.output_queue))
        assert held <= 4096
        await kernel.terminate()

    async def test_outputs_before_a_requeued_request_is_received_do_not_complete_it(self) -> None:
        """The request is delivered through the event loop, and its receive is cancelled before the kernel runs."""
        go = asyncio.Event()

        async def slow(ctx: KernelContext[Any, Any]) -> None:
            first = asyncio.ensure_future(ctx.receive())
            await go.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            await ctx.send("not a reply")
            await ctx.send(("reply", await ctx.receive()))
            await asyncio.Event().wait()

        kernel = await active(slow)
        await yield_to_loop()
        await kernel.deactivate()
        caller = asyncio.ensure_future(kernel.ask(7))
        await yield_to_loop()
        # The event loop delivers the request to the first receive, which is cancelled in the same iteration.
        go.set()
        await kernel.reactivate()
        assert await asyncio.wait_for(caller, 10) == ("reply", 7)
        assert await kernel.receive(timeout=10) == "not a reply"
        await kernel.terminate(0.0)

    async def test_a_failing_comparison_of_ids_is_the_cause(self) -> None:
        class Odd:
            def __eq__(self, other: object) -> bool:
                raise LookupError("not comparable")

            __hash__ = None  # type: ignore[assignment]

        class Reply:
            correlation_id = Odd()

        async def reply(ctx: KernelContext[Any, Any]) -> None:
            await ctx.receive()
            await ctx.send(Reply())

        kernel = await active(reply)
        with pytest.raises(KernelError) as caught:
            await asyncio.wait_for(kernel.ask(Number(1)), 10)
        assert isinstance(caught.value.__cause__, LookupError)
        await kernel.terminate()


@pytest.mark.parametrize("correlated", [False, True])
async def test_no_caller_gets_the_reply_of_another(correlated: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Callers cancel or time out in every way, while the kernel cancels receives, fails, is deactivated, and has a full mailbox."""
    caplog.set_level("CRITICAL", logger="pydotcompute")
    chance = random.Random(int(correlated))

    async def echo(ctx: KernelContext[Any, Any]) -> None:
        while True:
            try:
                got = await (ctx.receive() if chance.random() < 0.5 else asyncio.wait_for(ctx.receive(), chance.random() / 1000))
            except TimeoutError:
                continue
            await yield_to_loop(chance.choice([0, 0, 2]))
            if chance.random() < 0.02:
                raise ValueError(got)
            await ctx.send(Number(got.value, correlation_id=got.message_id if correlated else None))

    kernel = await active(echo, input_queue_size=3, output_queue_size=4, supervision=Supervision(max_restarts=None))

    async def ask(value: int) -> bool:
        request = Number(value, priority=chance.choice([10, 128, 250]))
        timeout, how = chance.random() / 500, chance.randrange(4)
        try:
            if how == 0:
                reply = await kernel.ask(request)
            elif how == 1:
                reply = await kernel.ask(request, timeout=timeout)
            elif how == 2:
                async with asyncio.timeout(timeout):
                    reply = await kernel.ask(request)
            else:
                reply = await asyncio.wait_for(kernel.ask(request), timeout)
        except (KernelError, QueueFullError, TimeoutError, QueueTimeoutError):
            return True
        return bool(reply.value == value)

    callers = []
    for value in range(1500):
        callers.append(asyncio.ensure_future(ask(value)))
        if chance.random() < 0.3:
            await asyncio.sleep(0)
        if chance.random() < 0.05:
            chance.choice(callers).cancel()
        if chance.random() < 0.01:
            await kernel.deactivate()
            await asyncio.sleep(0)
            await kernel.reactivate()
        if value % 20 == 0:
            await asyncio.wait(callers)
    results = await outcomes(callers)
    assert all(result is True or isinstance(result, asyncio.CancelledError) for result in results)
    context = kernel._context
    assert context is not None
    assert context.output_queue.qsize == 0
    await no_ask_is_tracked(context)
    await kernel.terminate()


async def test_a_request_without_a_reply_does_not_shift_later_replies() -> None:
    async def picky(ctx: KernelContext[Any, Any]) -> None:
        while not ctx.should_terminate:
            number = await ctx.receive()
            if number % 3:
                await ctx.reply(number, number)

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


async def test_a_reply_that_may_be_the_late_one_to_an_earlier_request_is_an_error() -> None:
    """A function that takes pairs and one that ignores a request do the same up to the reply: it may belong to either request."""

    async def picky(ctx: KernelContext[Any, Any]) -> None:
        while not ctx.should_terminate:
            number = await ctx.receive()
            if number % 3:
                await ctx.send(number)

    async with managed_kernel("picky", picky) as kernel:
        with pytest.raises(QueueTimeoutError):
            await kernel.ask(0, timeout=0.01)
        with pytest.raises(KernelError) as caught:
            await kernel.ask(1, timeout=30)
        assert isinstance(caught.value.__cause__, AmbiguousReplyError)


async def test_a_kernel_that_replies_in_batches_when_a_caller_is_cancelled() -> None:
    go_on = asyncio.Event()

    async def in_pairs(ctx: KernelContext[Any, Any]) -> None:
        while not ctx.should_terminate:
            pair = [await ctx.receive(), await ctx.receive()]
            await go_on.wait()
            for number in pair:
                await ctx.reply(number, number)

    async with managed_kernel("in pairs", in_pairs) as kernel:
        go_on.set()
        assert await asyncio.gather(kernel.ask(1), kernel.ask(2)) == [1, 2]
        go_on.clear()
        pending = [asyncio.create_task(kernel.ask(number)) for number in (3, 4, 5, 6)]
        await asyncio.sleep(0.01)
        pending[0].cancel()
        await asyncio.sleep(0)
        go_on.set()
        assert await asyncio.gather(*pending[1:]) == [4, 5, 6]
