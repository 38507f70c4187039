"""`RingKernel.ask` and `send`: which reply completes which request, full mailboxes, and message types."""

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from async_handlers import Reply, Request, double, yield_to_loop
from pydotcompute.exceptions import KernelError, QueueFullError, QueueTimeoutError, TypeValidationError
from pydotcompute.ring_kernels.lifecycle import KernelContext, RingKernelConfig, managed_kernel
from pydotcompute.ring_kernels.runtime import RingKernelRuntime

pytestmark = pytest.mark.usefixtures("quiet_log")


class TestAsk:
    async def test_each_caller_gets_its_own_reply(self) -> None:
        async with managed_kernel("k", double) as kernel:
            replies = await asyncio.gather(*(kernel.ask(Request(value)) for value in range(500)))
            assert [reply.value for reply in replies] == [2 * value for value in range(500)]

    async def test_a_reply_with_a_correlation_id_reaches_its_caller_in_any_order(self) -> None:
        async def backwards(ctx: KernelContext[Request, Reply]) -> None:
            taken = [await ctx.receive() for _ in range(10)]
            for request in reversed(taken):
                await ctx.send(Reply(request.value, correlation_id=request.message_id))

        async with managed_kernel("k", backwards) as kernel:
            replies = await asyncio.gather(*(kernel.ask(Request(value)) for value in range(10)))
            assert [reply.value for reply in replies] == list(range(10))

    async def test_outputs_that_are_not_replies_are_received(self) -> None:
        async def also(ctx: KernelContext[Request, Reply]) -> None:
            while not ctx.should_terminate:
                request = await ctx.receive()
                await ctx.send(Reply(-1, correlation_id=uuid4()))
                await ctx.send(Reply(request.value, correlation_id=request.message_id))
                await ctx.send(Reply(-2))

        async with managed_kernel("k", also) as kernel:
            assert (await kernel.ask(Request(1))).value == 1
            assert [(await kernel.receive()).value for _ in range(2)] == [-1, -2]

    async def test_outputs_of_tells_are_not_taken_for_replies(self) -> None:
        async with managed_kernel("k", double) as kernel:
            for value in range(5):
                await kernel.send(Request(value))
            assert (await kernel.ask(Request(50))).value == 100
            assert [(await kernel.receive()).value for _ in range(5)] == [0, 2, 4, 6, 8]

    async def test_a_late_reply_does_not_complete_the_next_request(self) -> None:
        gate = asyncio.Event()

        async def late(ctx: KernelContext[Request, Reply]) -> None:
            while not ctx.should_terminate:
                request = await ctx.receive()
                await gate.wait()
                await ctx.send(Reply(request.value))

        async with managed_kernel("k", late) as kernel:
            with pytest.raises(QueueTimeoutError):
                await kernel.ask(Request(1), timeout=0.02)
            cancelled = asyncio.create_task(kernel.ask(Request(2)))
            await asyncio.sleep(0.01)
            cancelled.cancel()
            pending = asyncio.create_task(kernel.ask(Request(3)))
            await asyncio.sleep(0.01)
            gate.set()
            assert (await pending).value == 3
            with pytest.raises(QueueTimeoutError):
                await kernel.receive(timeout=0.01)

    async def test_ask_waits_while_the_mailbox_is_full(self) -> None:
        config = RingKernelConfig("k", input_queue_size=2)
        async with managed_kernel("k", double, config=config) as kernel:
            await kernel.deactivate()
            pending = [asyncio.create_task(kernel.ask(Request(value))) for value in range(20)]
            await asyncio.sleep(0.01)
            await kernel.reactivate()
            assert [reply.value for reply in await asyncio.gather(*pending)] == [2 * value for value in range(20)]

    async def test_a_full_mailbox_times_out(self) -> None:
        config = RingKernelConfig("k", input_queue_size=1)
        async with managed_kernel("k", double, config=config) as kernel:
            await kernel.deactivate()
            await kernel.send(Request(1))
            for call in (kernel.send, kernel.ask):
                with pytest.raises(QueueFullError):
                    await call(Request(2), timeout=0.01)

    async def test_one_timeout_covers_the_free_slot_and_the_reply(self) -> None:
        gate = asyncio.Event()

        async def slow(ctx: KernelContext[Request, Reply]) -> None:
            await ctx.receive()
            await gate.wait()
            await ctx.receive()
            await asyncio.Event().wait()

        config = RingKernelConfig("k", input_queue_size=1)
        async with managed_kernel("k", slow, config=config) as kernel:
            await kernel.send(Request(1))
            await asyncio.sleep(0)
            await kernel.send(Request(2))
            asked = asyncio.ensure_future(kernel.ask(Request(3), timeout=0.5))
            await yield_to_loop()
            gate.set()
            with pytest.raises(QueueTimeoutError):
                await asked
            await kernel.terminate(0.0)

    async def test_a_request_that_gave_up_before_there_was_a_free_slot_is_not_sent(self) -> None:
        got = []

        async def collect(ctx: KernelContext[Request, Reply]) -> None:
            while not ctx.should_terminate:
                got.append((await ctx.receive()).value)

        config = RingKernelConfig("k", input_queue_size=1)
        async with managed_kernel("k", collect, config=config) as kernel:
            await kernel.deactivate()
            await kernel.send(Request(1))
            with pytest.raises(QueueFullError):
                await kernel.ask(Request(2), timeout=0.01)
            cancelled = asyncio.ensure_future(kernel.ask(Request(3)))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            await kernel.reactivate()
            await kernel.send(Request(4))
            await yield_to_loop(20)
        assert got == [1, 4]

    async def test_a_request_that_is_dropped_for_a_newer_one(self) -> None:
        config = RingKernelConfig("k", input_queue_size=1, backpressure_strategy="drop_oldest")
        async with managed_kernel("k", double, config=config) as kernel:
            await kernel.deactivate()
            first = asyncio.create_task(kernel.ask(Request(1)))
            await asyncio.sleep(0)
            second = asyncio.create_task(kernel.ask(Request(2)))
            await asyncio.sleep(0.01)
            await kernel.reactivate()
            with pytest.raises(KernelError, match="dropped"):
                await first
            assert (await second).value == 4

    async def test_reject_raises_when_the_mailbox_is_full(self) -> None:
        config = RingKernelConfig("k", input_queue_size=1, backpressure_strategy="reject")
        async with managed_kernel("k", double, config=config) as kernel:
            await kernel.deactivate()
            await kernel.send(Request(1))
            with pytest.raises(QueueFullError) as full:
                await kernel.send(Request(2))
            assert full.value.kernel_id == "k"

    async def test_a_message_of_another_type_is_rejected(self) -> None:
        async with managed_kernel("k", double, input_type=Request) as kernel:
            for call in (kernel.send, kernel.ask):
                with pytest.raises(TypeValidationError) as wrong:
                    await call(Reply(1))  # type: ignore[arg-type]
                assert (wrong.value.expected, wrong.value.actual) == (Request, Reply)

            class Special(Request):
                pass

            assert (await kernel.ask(Special(4))).value == 8

    async def test_a_chain_of_kernels_that_ask_each_other(self) -> None:
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
