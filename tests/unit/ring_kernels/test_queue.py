"""Queues on the event loop: order, capacity, timeouts, cancellation, priorities and backpressure."""

import asyncio
import contextlib
import contextvars
import gc
import threading
import weakref
from typing import Any

import pytest

from pydotcompute.exceptions import QueueFullError, QueueTimeoutError
from pydotcompute.ring_kernels.fast_queue import FastMessageQueue, PriorityBand, RingBuffer, get_priority_band
from pydotcompute.ring_kernels.message import RingKernelMessage, message
from pydotcompute.ring_kernels.queue import BackpressureStrategy, MessageQueue, PriorityItem


@message
class Note(RingKernelMessage):
    text: str = ""


def note(text: str, priority: int = 128) -> Note:
    return Note(text, priority=priority)


QUEUES = [FastMessageQueue, MessageQueue, lambda size: MessageQueue(size, use_priority=False), RingBuffer]


@pytest.mark.parametrize("make", QUEUES)
class TestAllQueues:
    async def test_items_come_out_in_order(self, make: Any) -> None:
        queue = make(8)
        for number in range(8):
            assert await queue.put(number) is True
        assert queue.full and len(queue) == 8 and not queue.put_nowait(8)
        assert [await queue.get() for _ in range(8)] == list(range(8))
        assert queue.empty and queue.get_nowait() is None

    async def test_a_getter_is_resumed_by_the_put_itself(self, make: Any) -> None:
        queue, order = make(4), []

        async def receive() -> None:
            order.append(await queue.get())

        task = asyncio.create_task(receive())
        await asyncio.sleep(0)
        await queue.put("message")
        order.append("after put")
        await task
        assert order == ["message", "after put"]

    async def test_put_waits_for_a_free_slot(self, make: Any) -> None:
        queue = make(2)
        await queue.put(1), await queue.put(2)
        task = asyncio.create_task(queue.put(3))
        await asyncio.sleep(0)
        assert not task.done()
        assert await queue.get() == 1
        assert await task is True
        assert [await queue.get(), await queue.get()] == [2, 3]

    async def test_put_and_get_time_out(self, make: Any) -> None:
        queue = make(1)
        if isinstance(queue, RingBuffer):
            assert await queue.get(timeout=0.01) is None
            assert await queue.get(timeout=0) is None
            await queue.put(1)
            assert await queue.put(2, timeout=0.01) is False
        else:
            for timeout in (0.01, 0):
                with pytest.raises(QueueTimeoutError) as late:
                    await queue.get(timeout=timeout)
                assert (late.value.timeout, late.value.operation) == (timeout, "receive")
            await queue.put(1)
            with pytest.raises(QueueFullError if isinstance(queue, FastMessageQueue) else QueueTimeoutError):
                await queue.put(2, timeout=0.01)
            with pytest.raises(QueueFullError):
                await queue.put(2, timeout=0)
        assert await queue.get() == 1 and queue.empty

    async def test_a_cancelled_getter_loses_nothing(self, make: Any) -> None:
        queue = make(4)
        first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        first.cancel()
        await queue.put("message")
        assert await second == "message"
        with pytest.raises(asyncio.CancelledError):
            await first

    async def test_a_message_that_arrives_for_a_cancelled_task_goes_to_the_next(self, make: Any) -> None:
        queue = make(64)

        async def receive() -> Any:
            return await queue.get()

        # Once the limit of direct resumes is reached, a waiter holds its message until the event loop resumes its task.
        tasks = [asyncio.create_task(receive()) for _ in range(200)]
        await asyncio.sleep(0)
        for number in range(200):
            await queue.put(number)
        for task in tasks[100:150]:
            task.cancel()
        received = [r for r in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(r, int)]
        received += [queue.get_nowait() for _ in range(len(queue))]
        assert sorted(received) == list(range(200))

    async def test_wait_for_and_timeout_of_asyncio(self, make: Any) -> None:
        queue = make(4)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(queue.get(), 0.01)
        with pytest.raises(asyncio.TimeoutError):
            async with asyncio.timeout(0.01):
                await queue.get()
        await queue.put("message")
        assert await asyncio.wait_for(queue.get(), 1) == "message"

    async def test_other_tasks_are_scheduled_meanwhile(self, make: Any) -> None:
        queue, ticks = make(4), 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        async def receive() -> None:
            for _ in range(10_000):
                await queue.get()

        ticking, receiving = asyncio.create_task(tick()), asyncio.create_task(receive())
        await asyncio.sleep(0)
        for number in range(10_000):
            await queue.put(number)
        await receiving
        ticking.cancel()
        assert ticks >= 100

    async def test_a_put_from_another_thread(self, make: Any) -> None:
        queue = make(4)
        task = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        thread = threading.Thread(target=queue.put_nowait, args=("from a thread",))
        thread.start()
        assert await asyncio.wait_for(task, 10) == "from a thread"
        thread.join()

    async def test_asyncio_accepts_the_awaitable_as_a_coroutine(self, make: Any) -> None:
        queue = make(4)
        results = await asyncio.gather(queue.put(1), queue.put(2), queue.get(), queue.get())
        assert results == [True, True, 1, 2]
        waiting = queue.get()
        assert asyncio.iscoroutine(waiting)
        waiting.close()
        once = queue.get()
        await queue.put(1)
        assert await once == 1
        with pytest.raises(RuntimeError, match="awaited before"):
            await once

    async def test_clear(self, make: Any) -> None:
        queue = make(4)
        for number in range(4):
            queue.put_nowait(number)
        waiting = asyncio.create_task(queue.put(4))
        await asyncio.sleep(0)
        assert queue.clear() == 4
        assert await waiting is True and queue.get_nowait() == 4

    def test_a_queue_serves_two_event_loops_in_succession(self, make: Any) -> None:
        queue = make(4)

        async def late() -> None:
            with contextlib.suppress(QueueTimeoutError):
                await queue.get(timeout=0.01)

        async def in_time() -> Any:
            task = asyncio.create_task(queue.get(timeout=30))
            await asyncio.sleep(0)
            await queue.put("message")
            return await task

        asyncio.run(late())
        assert asyncio.run(in_time()) == "message"
        asyncio.run(late())

    async def test_messages_and_tasks_are_collected(self, make: Any) -> None:
        queue = make(4)

        class Thing:
            pass

        thing = Thing()
        reference = weakref.ref(thing)
        queue.put_nowait(thing)
        queue.own = queue  # a cycle through the queue
        task = asyncio.create_task(make(1).get())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        del thing, queue, task
        gc.collect()
        assert reference() is None

    async def test_a_resumed_receiver_sees_its_own_context_variables(self, make: Any) -> None:
        queue = make(4)
        role = contextvars.ContextVar("role", default="unset")
        seen = []

        async def receive() -> None:
            role.set("receiver")
            for _ in range(3):
                await queue.get()
                seen.append((role.get(), asyncio.current_task().get_name()))  # type: ignore[union-attr]

        task = asyncio.create_task(receive(), name="the receiver")
        await asyncio.sleep(0)
        role.set("sender")
        me = asyncio.current_task()
        for number in range(3):
            await queue.put(number)
            assert role.get() == "sender" and asyncio.current_task() is me
        await task
        assert seen == [("receiver", "the receiver")] * 3


class TestPriorities:
    @pytest.mark.parametrize(
        ("priority", "band"),
        [(255, 0), (224, 0), (223, 1), (160, 1), (159, 2), (128, 2), (64, 2), (63, 3), (0, 3)],
    )
    async def test_priorities_map_to_bands(self, priority: int, band: int) -> None:
        assert get_priority_band(priority) == PriorityBand(band)
        queue: FastMessageQueue[Note] = FastMessageQueue()
        await queue.put(note("x", priority))
        counts = queue.get_stats()["band_counts"]
        assert isinstance(counts, dict)
        assert counts == {name: int(i == band) for i, name in enumerate(["system", "high", "normal", "low"])}

    async def test_higher_bands_come_first_and_each_band_is_fifo(self) -> None:
        queue: FastMessageQueue[Note] = FastMessageQueue()
        notes = [note("a", 10), note("b", 130), note("c", 120), note("d", 255), note("e", 200), note("f", 20)]
        assert queue.put_batch(notes) == 6
        assert [n.text for n in queue.get_batch(4)] == ["d", "e", "b", "c"]
        assert [n.text for n in queue.get_batch(9)] == ["a", "f"]

    async def test_message_queue_orders_strictly_by_priority(self) -> None:
        queue: MessageQueue[Note] = MessageQueue()
        for n in [note("a", 10), note("b", 130), note("c", 131), note("d", 130), note("e", 0)]:
            await queue.put(n)
        assert [(await queue.get()).text for _ in range(5)] == ["c", "b", "d", "a", "e"]

    async def test_a_priority_out_of_range_raises(self) -> None:
        odd = note("odd")
        odd.priority = 300
        queue: FastMessageQueue[Note] = FastMessageQueue()
        with pytest.raises(ValueError, match="0-255"):
            await queue.put(odd)
        with pytest.raises(ValueError, match="0-255"):
            queue.put_nowait(odd)
        assert queue.empty

    async def test_serialized_messages_keep_their_band(self) -> None:
        queue: FastMessageQueue[Any] = FastMessageQueue(serialize=True)
        await queue.put(note("low", 0))
        queue.put_nowait(note("high", 255))
        queue.put_batch([note("normal")])
        assert [Note.deserialize(await queue.get()).text for _ in range(3)] == ["high", "normal", "low"]

    def test_items_are_ordered_by_priority_then_sequence(self) -> None:
        assert PriorityItem(1, 2, "x") < PriorityItem(1, 3, "a") < PriorityItem(2, 0, "b")

    @pytest.mark.parametrize("maxsize", [0, -1])
    @pytest.mark.parametrize("kind", [MessageQueue, FastMessageQueue])
    async def test_a_capacity_of_zero_or_less_is_no_limit(self, kind: type[Any], maxsize: int) -> None:
        queue = kind(maxsize)
        assert queue.maxsize == 0
        for number in range(10_000):
            assert queue.put_nowait(number)
        assert await queue.put(10_000, timeout=0)
        assert not queue.full
        assert [await queue.get() for _ in range(10_001)] == list(range(10_001))


class TestBackpressure:
    async def test_reject(self) -> None:
        queue: MessageQueue[Note] = MessageQueue(1, backpressure=BackpressureStrategy.REJECT, kernel_id="k")
        await queue.put(note("a"))
        with pytest.raises(QueueFullError) as full:
            await queue.put(note("b"))
        assert (full.value.kernel_id, full.value.queue_size) == ("k", 1)
        assert not queue.put_nowait(note("c"))

    async def test_drop_oldest_drops_the_least_urgent(self) -> None:
        queue: MessageQueue[Note] = MessageQueue(2, backpressure=BackpressureStrategy.DROP_OLDEST)
        for n in [note("urgent", 200), note("old"), note("new")]:
            await queue.put(n)
        assert [(await queue.get()).text for _ in range(2)] == ["urgent", "new"]
        stats = queue.get_stats()
        assert (stats["total_enqueued"], stats["total_dequeued"], stats["total_dropped"]) == (3, 2, 1)


async def test_a_million_messages_in_sequence() -> None:
    queue: FastMessageQueue[int] = FastMessageQueue(1000)

    async def receive() -> int:
        for expected in range(1_000_000):
            got = await queue.get(timeout=60)
            if got != expected:
                return expected
        return -1

    task = asyncio.create_task(receive())
    for number in range(1_000_000):
        await queue.put(number)
    assert await task == -1
    stats = queue.get_stats()
    assert stats["total_enqueued"] == stats["total_dequeued"] == 1_000_000
