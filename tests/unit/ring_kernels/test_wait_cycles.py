"""Ring kernels that wait for each other in a cycle: an error at once, which names them."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from async_handlers import Reply, Request
from pydotcompute.exceptions import WaitCycleError
from pydotcompute.ring_kernels.lifecycle import KernelContext, RingKernelConfig
from pydotcompute.ring_kernels.runtime import RingKernelRuntime

Handler = Callable[[KernelContext[Any, Any]], Awaitable[None]]

# A missed cycle fails the test after this time, in seconds.
LIMIT = 20.0


def asks(runtime: RingKernelRuntime, target: str, errors: list[WaitCycleError]) -> Handler:
    """A function that asks ``target`` for each message and passes the reply on. After a cycle it replies with the text of the error."""

    async def function(ctx: KernelContext[Any, Any]) -> None:
        while not ctx.should_terminate:
            message = await ctx.receive()
            try:
                reply = await runtime.send_and_receive(target, message)
            except WaitCycleError as error:
                errors.append(error)
                reply = str(error)
            await ctx.send(reply)

    return function


async def echo(ctx: KernelContext[Any, Any]) -> None:
    while not ctx.should_terminate:
        await ctx.send(await ctx.receive())


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c", "d"]])
async def test_a_cycle_of_asks_is_an_error_at_once(names: list[str]) -> None:
    errors: list[WaitCycleError] = []
    async with RingKernelRuntime() as runtime:
        for name, target in zip(names, names[1:] + names[:1], strict=True):
            await runtime.launch(name, asks(runtime, target, errors))
            await runtime.activate(name)
        rotations = {(*names[at:], *names[: at + 1]) for at in range(len(names))}
        for _ in range(200):
            text = await asyncio.wait_for(runtime.send_and_receive("a", 1), LIMIT)
            assert any(" → ".join(rotation) in text for rotation in rotations)
        assert len(errors) >= 200
        assert {tuple(error.cycle) for error in errors} <= rotations
        assert all(error.kernel_id == error.cycle[1] for error in errors)
        # No message and no reply of a broken ask stays behind: the last ones are still being handled.
        contexts = [runtime._get_kernel(name)._context for name in names]
        async with asyncio.timeout(LIMIT):
            while any(context is None or context.input_queue.qsize or context.output_queue.qsize for context in contexts):  # noqa: ASYNC110
                await asyncio.sleep(0.001)


async def test_asks_from_many_callers_into_a_cycle_all_end() -> None:
    errors: list[WaitCycleError] = []
    async with RingKernelRuntime() as runtime:
        for name, target in [("a", "b"), ("b", "a")]:
            await runtime.launch(name, asks(runtime, target, errors))
            await runtime.activate(name)
        replies = await asyncio.wait_for(
            asyncio.gather(*(runtime.send_and_receive(name, number) for number in range(100) for name in "ab")), LIMIT
        )
    assert len(replies) == 200
    assert errors


async def test_asks_that_wait_for_a_slot_close_a_cycle_too() -> None:
    """The input of each ring kernel is full of requests that would ask the other one."""
    errors: list[WaitCycleError] = []
    async with RingKernelRuntime() as runtime:
        for name, target in [("a", "b"), ("b", "a")]:
            await runtime.launch(name, asks(runtime, target, errors), config=RingKernelConfig(name, input_queue_size=1))
            await runtime.activate(name)
        asked = [runtime.send_and_receive(name, number) for number in range(50) for name in "ab"]
        await asyncio.wait_for(asyncio.gather(*asked), LIMIT)
    assert errors


async def test_a_chain_and_a_diamond_are_no_cycles() -> None:
    errors: list[WaitCycleError] = []
    async with RingKernelRuntime() as runtime:
        await runtime.launch("end", echo)
        for name, target in [("left", "end"), ("right", "end"), ("first", "left"), ("second", "right")]:
            await runtime.launch(name, asks(runtime, target, errors))
        for name in ["end", "left", "right", "first", "second"]:
            await runtime.activate(name)
        asked = [runtime.send_and_receive(name, number) for number in range(200) for name in ("first", "second", "left")]
        replies = await asyncio.wait_for(asyncio.gather(*asked), LIMIT)
    assert replies == [number for number in range(200) for _ in range(3)]
    assert not errors


async def test_a_ring_kernel_that_replies_from_other_tasks_may_be_asked_back() -> None:
    """``front`` takes messages while its tasks ask ``back``, which asks ``front`` in turn."""
    async with RingKernelRuntime() as runtime:

        async def front(ctx: KernelContext[Request, Reply]) -> None:
            tasks: set[asyncio.Task[None]] = set()

            async def work(request: Request) -> None:
                value = request.value
                if value >= 0:
                    value = (await runtime.send_and_receive("back", Request(-1 - value))).value
                await ctx.send(Reply(value, correlation_id=request.message_id))

            while not ctx.should_terminate:
                task = asyncio.ensure_future(work(await ctx.receive()))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        async def back(ctx: KernelContext[Request, Reply]) -> None:
            while not ctx.should_terminate:
                request = await ctx.receive()
                reply = await runtime.send_and_receive("front", Request(request.value))
                await ctx.send(Reply(reply.value, correlation_id=request.message_id))

        await runtime.launch("front", front)
        await runtime.launch("back", back)
        await runtime.activate("front")
        await runtime.activate("back")
        for value in range(50):
            reply = await asyncio.wait_for(runtime.send_and_receive("front", Request(value)), LIMIT)
            assert reply.value == -1 - value


async def test_a_ring_kernel_goes_on_after_the_error() -> None:
    async with RingKernelRuntime() as runtime:

        async def twice(ctx: KernelContext[Any, Any]) -> None:
            while not ctx.should_terminate:
                number = await ctx.receive()
                with pytest.raises(WaitCycleError, match="a → a"):
                    await runtime.send_and_receive("a", number)
                await ctx.send(await runtime.send_and_receive("b", number))

        await runtime.launch("a", twice)
        await runtime.launch("b", echo)
        await runtime.activate("a")
        await runtime.activate("b")
        assert [await asyncio.wait_for(runtime.send_and_receive("a", number), LIMIT) for number in range(100)] == list(range(100))


async def test_an_ask_that_has_ended_keeps_nothing_alive() -> None:
    class Message:
        """Can be referenced weakly."""

    async with RingKernelRuntime() as runtime:

        async def slow_echo(ctx: KernelContext[Any, Any]) -> None:
            while not ctx.should_terminate:
                message = await ctx.receive()
                await asyncio.sleep(0)
                await ctx.send(message)

        errors: list[WaitCycleError] = []
        await runtime.launch("caller", asks(runtime, "end", errors))
        await runtime.launch("end", slow_echo)
        await runtime.activate("caller")
        await runtime.activate("end")
        message = Message()
        seen = weakref.ref(message)
        assert await asyncio.wait_for(runtime.send_and_receive("caller", message), LIMIT) is message
        # A ring kernel holds its current message until it takes the next one.
        for name in ["caller", "end"]:
            assert await asyncio.wait_for(runtime.send_and_receive(name, 1), LIMIT) == 1
        del message
        gc.collect()
        assert seen() is None
