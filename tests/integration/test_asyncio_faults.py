"""Ring kernels on the event loop: faults, cancellation and shutdown at awkward moments lose no message and leave no caller waiting."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import pickle
from typing import TYPE_CHECKING, Any

import pytest

from pydotcompute.exceptions import KernelError, KernelStateError, QueueTimeoutError
from pydotcompute.ring_kernels.fast_queue import FastMessageQueue, RingBuffer
from pydotcompute.ring_kernels.lifecycle import KernelContext, KernelState, RingKernelConfig, Supervision, managed_kernel
from pydotcompute.ring_kernels.queue import MessageQueue
from pydotcompute.ring_kernels.telemetry import RingKernelTelemetry

if TYPE_CHECKING:
    from collections.abc import Awaitable
from async_handlers import Number, active, never, outcomes, yield_to_loop


class TestDeferredPut:
    """A put on a full queue that is awaited only after a slot became free."""

    async def test_a_waiting_receiver_gets_the_message(self) -> None:
        queue: FastMessageQueue[int] = FastMessageQueue(1)
        queue.put_nowait(1)
        late = queue.put(2)
        assert queue.get_nowait() == 1
        waiter = asyncio.ensure_future(queue.get())
        await yield_to_loop()
        assert await late is True
        assert await asyncio.wait_for(waiter, 10) == 2

    async def test_all_gathered_sends_complete(self) -> None:
        got = []

        async def receive(ctx: KernelContext[Any, Any]) -> None:
            while True:
                got.append(await ctx.receive())

        kernel = await active(receive, input_queue_size=2)
        await kernel.deactivate()
        sends = [kernel.send(number) for number in range(8)]
        await kernel.reactivate()
        await yield_to_loop()
        await asyncio.wait_for(asyncio.gather(*sends), 10)
        await yield_to_loop()
        assert got == list(range(8))
        await kernel.terminate()

    async def test_a_send_to_a_terminated_kernel_raises(self) -> None:
        kernel = await active(never, input_queue_size=1)
        await kernel.send(1)
        late = kernel.send(2)
        await kernel.terminate(0.0)
        with pytest.raises(KernelStateError):
            await asyncio.wait_for(late, 10)
        assert [letter.message for letter in kernel.dead_letters] == [1]

    async def test_waiting_senders_get_an_error_at_termination_and_keep_their_messages(self) -> None:
        kernel = await active(never, input_queue_size=2)
        sends: list[Awaitable[Any]] = [asyncio.ensure_future(kernel.send(number)) for number in range(5)]
        await yield_to_loop()
        await kernel.terminate(0.0)
        results = await outcomes(sends)
        assert results[:2] == [True, True]
        assert all(isinstance(result, KernelStateError) for result in results[2:])
        assert [letter.message for letter in kernel.dead_letters] == [0, 1]


class TestFailures:
    async def test_base_exceptions_reach_the_caller(self) -> None:
        class Odd(BaseException):
            pass

        async def fail(ctx: KernelContext[Any, Any]) -> None:
            await ctx.receive()
            raise Odd("odd")

        kernel = await active(fail)
        with pytest.raises(KernelError) as caught:
            await asyncio.wait_for(kernel.ask(1), 10)
        assert isinstance(caught.value.__cause__, Odd)
        assert kernel.state is KernelState.FAILED
        assert kernel._task is not None
        with pytest.raises(Odd):
            await kernel._task
        await kernel.terminate()

    async def test_an_error_about_another_kernel_is_the_cause(self) -> None:
        other = KernelStateError("other", "TERMINATED", "send message to")

        async def fail(ctx: KernelContext[Any, Any]) -> None:
            await ctx.receive()
            raise other

        kernel = await active(fail)
        with pytest.raises(KernelError) as caught:
            await asyncio.wait_for(kernel.ask(1), 10)
        assert caught.value.__cause__ is other
        await kernel.terminate()

    async def test_a_kernel_may_be_restarted_any_number_of_times(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("CRITICAL", logger="pydotcompute")

        async def fail_below_zero(ctx: KernelContext[Any, Any]) -> None:
            while True:
                number = await ctx.receive()
                if number < 0:
                    raise ValueError(number)
                await ctx.send(number)

        kernel = await active(fail_below_zero, supervision=Supervision(max_restarts=None))
        for number in range(1100):
            await kernel.send(-1 - number)
        assert await asyncio.wait_for(kernel.ask(5), 60) == 5
        assert len(kernel.dead_letters) == 1000
        await kernel.terminate()


class TestTermination:
    @pytest.mark.parametrize("timeout", [None, 1000.0])
    async def test_a_kernel_drains_its_mailbox_before_it_ends(self, timeout: float | None) -> None:
        got = []

        async def slow(ctx: KernelContext[Any, Any]) -> None:
            try:
                while True:
                    got.append(await ctx.receive(timeout=timeout))
                    await yield_to_loop()
            except QueueTimeoutError:
                pass

        kernel = await active(slow)
        for number in range(4):
            await kernel.send(number)
        await asyncio.wait_for(kernel.terminate(1000.0), 10)
        assert got == [0, 1, 2, 3]

    async def test_a_kernel_that_ignores_timeouts_does_not_block_the_event_loop(self) -> None:
        async def ignores_timeouts(ctx: KernelContext[Any, Any]) -> None:
            while True:
                try:
                    await ctx.receive(timeout=0.0 if ctx.should_terminate else 1000.0)
                except QueueTimeoutError:
                    continue

        kernel = await active(ignores_timeouts)
        await asyncio.wait_for(kernel.terminate(0.01), 10)
        assert kernel.state is KernelState.TERMINATED


class TestDropUnderLock:
    """Objects whose finalizer reads the queue never find it locked."""

    async def test_messages_of_abandoned_asks(self) -> None:
        seen = []

        class ReadsQueueOnDrop:
            queue: Any = None

            def __del__(self) -> None:
                seen.append(self.queue.qsize)

        async def swallow(ctx: KernelContext[Any, Any]) -> None:
            while True:
                await ctx.receive()

        kernel = await active(swallow)
        context = kernel._context
        assert context is not None
        request = ReadsQueueOnDrop()
        request.queue = context.output_queue
        with pytest.raises(QueueTimeoutError):
            await kernel.ask(request, timeout=0.001)
        await kernel.send(None)
        del request
        gc.collect()
        assert seen == []
        await kernel.terminate()
        gc.collect()
        assert seen == [0]

    async def test_handled_messages_at_reactivation(self) -> None:
        seen = []

        class ReadsQueueOnDrop:
            queue: Any = None

            def __del__(self) -> None:
                seen.append(self.queue.qsize)

        async def two(ctx: KernelContext[Any, Any]) -> None:
            first, second = (asyncio.ensure_future(self_clearing(ctx)) for _ in range(2))
            await asyncio.wait([first, second])

        async def self_clearing(ctx: KernelContext[Any, Any]) -> None:
            await ctx.receive()

        kernel = await active(two)
        await yield_to_loop()
        context = kernel._context
        assert context is not None
        handled = ReadsQueueOnDrop()
        handled.queue = context.input_queue
        await kernel.send(handled)
        await yield_to_loop()
        del handled
        await kernel.deactivate()
        await kernel.send("next")
        await kernel.reactivate()
        await yield_to_loop()
        gc.collect()
        assert seen == [0]
        await kernel.terminate()


class TestWaiters:
    async def test_put_nowait_does_not_run_the_receiver_before_it_returns(self) -> None:
        queue: FastMessageQueue[int] = FastMessageQueue()
        order = []

        async def receive() -> None:
            await queue.get()
            order.append("received")

        receiver = asyncio.ensure_future(receive())
        await yield_to_loop()
        queue.put_nowait(1)
        order.append("put")
        await asyncio.wait_for(receiver, 10)
        assert order == ["put", "received"]

    async def test_two_tasks_cannot_await_one_receive(self) -> None:
        queue: FastMessageQueue[int] = FastMessageQueue()
        receive = queue.get()

        async def wait() -> int:
            return await receive

        first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
        await yield_to_loop()
        queue.put_nowait(1)
        results = await outcomes([first, second])
        assert results[0] == 1
        assert isinstance(results[1], RuntimeError)

    def test_a_message_is_not_lost_to_a_task_of_a_closed_loop(self) -> None:
        queue: FastMessageQueue[int] = FastMessageQueue()

        async def receive() -> int:
            return await queue.get()

        loop = asyncio.new_event_loop()
        task = loop.create_task(receive())
        loop.run_until_complete(yield_to_loop())
        loop.close()
        assert queue.put_nowait(1) is True
        assert queue.qsize == 1
        assert asyncio.run(receive()) == 1
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    @pytest.mark.parametrize("make", [FastMessageQueue, MessageQueue, lambda: RingBuffer(4096)])
    async def test_every_message_is_received_once_despite_cancellation(self, make: Any) -> None:
        queue = make()
        received: list[int] = []

        async def receive() -> None:
            received.append(await queue.get())

        receivers = []
        for number in range(2000):
            receivers += [asyncio.ensure_future(receive()), asyncio.ensure_future(receive())]
            if number % 3:
                await asyncio.sleep(0)
            await queue.put(number)
            receivers[-1].cancel()
            if number % 2:
                receivers[-2].cancel()
        await asyncio.wait(receivers)
        while (left := queue.get_nowait()) is not None:
            received.append(left)
        assert sorted(received) == list(range(2000))
        stats = queue.get_stats()
        assert (stats["total_enqueued"], stats["total_dequeued"], stats["current_size"]) == (2000, 2000, 0)


class TestContexts:
    async def test_a_context_calls_overridden_queue_methods(self) -> None:
        class Loud(FastMessageQueue[Any]):
            def put(self, message: Any, *, timeout: float | None = None) -> Any:
                return super().put(("loud", message), timeout=timeout)

            async def get(self, *, timeout: float | None = None) -> Any:
                return "heard", await super().get(timeout=timeout)

        context: KernelContext[Any, Any] = KernelContext("test", Loud(), Loud())
        context.input_queue.put_nowait(1)
        assert await context.receive() == ("heard", 1)
        await context.send(2)
        assert context.output_queue.get_nowait() == ("loud", 2)

    async def test_a_serializing_queue_gets_bytes(self) -> None:
        output: FastMessageQueue[Any] = FastMessageQueue(serialize=True)
        context: KernelContext[Any, Any] = KernelContext("test", FastMessageQueue(), output)
        sent = Number(3)
        await context.send(sent)
        assert Number.deserialize(output.get_nowait()) == sent  # type: ignore[attr-defined]


async def test_a_cancelled_send_is_either_delivered_or_not() -> None:
    """A message is either delivered or still owned by the sender, never both and never neither."""
    got = []

    async def receive(ctx: KernelContext[Any, Any]) -> None:
        while True:
            got.append(await ctx.receive())
            await asyncio.sleep(0)

    accepted = []
    async with managed_kernel("receive", receive, config=RingKernelConfig("receive", input_queue_size=2)) as kernel:

        async def send(number: int) -> None:
            await kernel.send(number)
            accepted.append(number)

        for number in range(500):
            sender = asyncio.ensure_future(send(number))
            await yield_to_loop(number % 3)
            if number % 5 == 0:
                sender.cancel()
        await yield_to_loop(2000)
    lost = [letter.message for letter in kernel.dead_letters]
    assert len(set(got + lost)) == len(got + lost)
    assert set(accepted) <= set(got + lost)


@pytest.mark.parametrize("through", [copy.copy, copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it)), dataclasses.replace])
async def test_a_copy_of_telemetry_is_a_snapshot(through: Any) -> None:
    queue: FastMessageQueue[int] = FastMessageQueue()
    telemetry = RingKernelTelemetry("kernel")
    telemetry._watch(queue, FastMessageQueue(4))
    telemetry.record_message(5)
    telemetry.record_error("wrong")
    queue.put_nowait(1)
    record = through(telemetry)
    assert record == telemetry
    queue.put_nowait(2)
    telemetry.record_message(6)
    assert (record.messages_processed, record.max_latency_ns, record.queue_depth, record.last_error) == (1, 5, 1, "wrong")
    assert record != telemetry
