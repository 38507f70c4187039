"""Queues between threads: order, capacity, waiting, shutdown, and two threads at one endpoint."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from pydotcompute.exceptions import QueueError, QueueFullError, QueueTimeoutError
from pydotcompute.ring_kernels._cython import CYTHON_AVAILABLE, FastSPSCQueue, is_cython_available
from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue

MILLION = 1_000_000


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Runs `work` on a thread. The returned function joins the thread and returns the result of `work`, or raises its exception."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()

    def finish() -> Any:
        thread.join()
        result, error = outcome[0]
        if error is not None:
            raise error
        return result

    return finish


def until_waiting(queue: Any, act: Callable[[], Any]) -> None:
    """Repeats `act` until it raises `QueueError`, which means that another thread waits at the endpoint."""
    with pytest.raises(QueueError, match="one producer and one consumer"):
        while True:
            act()


class TestSyncQueue:
    def test_keeps_order_and_counts(self) -> None:
        queue: SyncQueue[int] = SyncQueue(maxsize=3)
        assert queue.maxsize == 3
        assert queue.empty
        assert [queue.put(number) for number in range(3)] == [True] * 3
        assert queue.full
        assert queue.qsize == len(queue) == 3
        assert [queue.get(), queue.get(timeout=0)] == [0, 1]
        assert queue.get_stats() == {"current_size": 1, "max_size": 3, "total_enqueued": 3, "total_dequeued": 2}
        assert repr(queue) == "SyncQueue(size=1/3)"
        assert queue.clear() == 1
        assert queue.get_nowait() is None

    @pytest.mark.parametrize("maxsize", [0, -1])
    def test_maxsize_below_one_means_unbounded(self, maxsize: int) -> None:
        queue: SyncQueue[int] = SyncQueue(maxsize)
        assert all(queue.put_nowait(number) for number in range(10_000))
        assert not queue.full

    def test_timeouts_raise_full_and_timeout_errors(self) -> None:
        queue: SyncQueue[int] = SyncQueue(maxsize=1)
        with pytest.raises(QueueTimeoutError) as empty:
            queue.get(timeout=0.01)
        assert (empty.value.timeout, empty.value.operation) == (0.01, "get")
        queue.put(1)
        for timeout in (0, 0.01, -1):
            with pytest.raises(QueueFullError) as full:
                queue.put(2, timeout=timeout)
            assert full.value.queue_size == 1
        assert not queue.put_nowait(2)
        assert queue.get() == 1
        assert queue.empty

    def test_shutdown_wakes_all_waiters_and_keeps_queued_items(self) -> None:
        empty: SyncQueue[int] = SyncQueue()
        full: SyncQueue[int] = SyncQueue(maxsize=1)
        full.put(1)
        waiters = [in_thread(empty.get) for _ in range(3)] + [in_thread(lambda: full.put(2)) for _ in range(3)]
        empty.shutdown()
        full.shutdown()
        for waiter in waiters:
            with pytest.raises(RuntimeError, match="shut down"):
                waiter()
        with pytest.raises(RuntimeError, match="shut down"):
            full.put(2)
        assert not full.put_nowait(2)
        assert full.get() == 1
        with pytest.raises(RuntimeError, match="empty"):
            full.get()

    def test_a_million_with_many_producers_and_consumers(self) -> None:
        queue: SyncQueue[tuple[int, int]] = SyncQueue(maxsize=512)
        each = MILLION // 4

        def produce(me: int) -> None:
            for number in range(each):
                queue.put((me, number))

        def consume() -> list[tuple[int, int]]:
            return [queue.get() for _ in range(2 * each)]

        producers = [in_thread(lambda me=me: produce(me)) for me in range(4)]
        consumers = [in_thread(consume) for _ in range(2)]
        for producer in producers:
            producer()
        received = [consumer() for consumer in consumers]
        for mine in received:
            for producer in range(4):
                numbers = [number for me, number in mine if me == producer]
                assert numbers == sorted(numbers)
        assert sorted(received[0] + received[1]) == [(me, number) for me in range(4) for number in range(each)]

    def test_nan_is_not_a_valid_timeout(self) -> None:
        with pytest.raises(ValueError, match="nan"):
            SyncQueue[int]().get(timeout=float("nan"))


class TestSPSCQueue:
    def test_capacity_is_rounded_up_and_fully_usable(self) -> None:
        queue: SPSCQueue[int] = SPSCQueue(capacity=5)
        assert queue.capacity == 8
        assert [queue.put(number, timeout=0) for number in range(9)] == [True] * 8 + [False]
        assert queue.full
        assert queue.size == len(queue) == 8
        assert [queue.get(timeout=0) for _ in range(9)] == [*range(8), None]
        assert queue.empty
        assert repr(queue) == "SPSCQueue(size=0/8)"

    @pytest.mark.parametrize("kind", [SPSCQueue, FastSPSCQueue])
    @pytest.mark.parametrize("capacity", [0, -1, 1 << 60])
    def test_impossible_capacities(self, kind: type[Any], capacity: int) -> None:
        with pytest.raises(ValueError, match=f"capacity {capacity}"):
            kind(capacity)

    def test_timeouts_return_false_and_none(self) -> None:
        queue: SPSCQueue[int] = SPSCQueue(capacity=1)
        assert queue.get(timeout=0.01) is None
        assert queue.get_nowait() is None
        assert queue.put_nowait(1)
        assert queue.put(2, timeout=0.01) is False
        assert not queue.put_nowait(2)
        assert queue.clear() == 1
        assert queue.put(2, timeout=0.01) is True

    def test_shutdown_wakes_a_consumer(self) -> None:
        queue: SPSCQueue[int] = SPSCQueue()
        consumer = in_thread(queue.get)
        until_waiting(queue, queue.get_nowait)
        queue.shutdown()
        assert consumer() is None
        assert queue.put(1) is False

    def test_shutdown_wakes_a_producer_and_keeps_queued_items(self) -> None:
        queue: SPSCQueue[int] = SPSCQueue(capacity=1)
        queue.put(1)
        producer = in_thread(lambda: queue.put(2))
        until_waiting(queue, lambda: queue.put_nowait(3))
        queue.shutdown()
        assert producer() is False
        assert queue.get() == 1
        assert queue.get() is None

    def test_a_second_thread_at_an_endpoint_raises(self) -> None:
        queue: SPSCQueue[int] = SPSCQueue(capacity=1)
        consumer = in_thread(queue.get)
        until_waiting(queue, queue.get_nowait)
        with pytest.raises(QueueError, match="consumer's end"):
            queue.get()
        with pytest.raises(QueueError, match="consumer's end"):
            queue.clear()
        queue.put(1)
        assert consumer() == 1

    def test_misuse_by_many_threads_loses_nothing(self) -> None:
        """Every call either succeeds or raises, and each item that was put is received once."""
        queue: SPSCQueue[tuple[int, int]] = SPSCQueue(capacity=64)
        taken: list[tuple[int, int]] = []
        producing = threading.Event()
        producing.set()

        def produce(me: int) -> list[tuple[int, int]]:
            put = []
            for number in range(5_000):
                try:
                    if queue.put((me, number), timeout=0.001):
                        put.append((me, number))
                except QueueError:
                    pass
            return put

        def consume() -> None:
            while producing.is_set() or not queue.empty:
                try:
                    item = queue.get(timeout=0.001)
                except QueueError:
                    continue
                if item is not None:
                    taken.append(item)

        producers = [in_thread(lambda me=me: produce(me)) for me in range(3)]
        consumers = [in_thread(consume) for _ in range(3)]
        put = [item for producer in producers for item in producer()]
        producing.clear()
        for consumer in consumers:
            consumer()
        assert sorted(taken) == sorted(put)

    def test_a_million_in_order(self) -> None:
        queue: SPSCQueue[int] = SPSCQueue(capacity=1024)

        def produce() -> bool:
            return all(queue.put(number) for number in range(MILLION))

        producer = in_thread(produce)
        for number in range(MILLION):
            assert queue.get() == number
        assert producer()
        assert queue.empty


class TestFastSPSCQueue:
    def test_is_compiled(self) -> None:
        assert CYTHON_AVAILABLE
        assert is_cython_available()

    def test_puts_and_gets_without_waiting(self) -> None:
        queue: FastSPSCQueue[int] = FastSPSCQueue(2)
        assert (queue.capacity, queue.size, queue.empty, queue.full) == (2, 0, True, False)
        assert [queue.put(1), queue.put(2), queue.put(3)] == [True, True, False]
        assert (queue.size, len(queue), queue.empty, queue.full) == (2, 2, False, True)
        assert queue.put_wait(3, 0.01) is False
        assert [queue.get(), queue.get(), queue.get()] == [1, 2, None]
        assert queue.get_wait(timeout_sec=0.01) is None
        queue.put(1)
        queue.clear()
        assert queue.empty
        assert repr(queue) == "FastSPSCQueue(size=0/2)"

    def test_shutdown_wakes_both_endpoints(self) -> None:
        empty: FastSPSCQueue[int] = FastSPSCQueue(1)
        full: FastSPSCQueue[int] = FastSPSCQueue(1)
        full.put(1)
        consumer = in_thread(lambda: empty.get_wait(60))
        producer = in_thread(lambda: full.put_wait(2, 60))
        until_waiting(empty, empty.get)
        until_waiting(full, lambda: full.put(2))
        empty.shutdown()
        full.shutdown()
        assert consumer() is None
        assert producer() is False
        assert full.get() == 1

    def test_a_million_in_order(self) -> None:
        queue: FastSPSCQueue[int] = FastSPSCQueue(1024)

        def produce() -> bool:
            return all(queue.put(number) or queue.put_wait(number, 60) for number in range(MILLION))

        producer = in_thread(produce)
        for number in range(MILLION):
            assert queue.get_wait(60) == number
        assert producer()


class Message:
    """An object that supports weak references."""

    queue: Any = None


@pytest.mark.parametrize("kind", [SyncQueue, SPSCQueue, FastSPSCQueue])
class TestReferences:
    def test_queued_items_are_freed_with_the_queue(self, kind: type[Any]) -> None:
        queue, message = kind(4), Message()
        alive = weakref.ref(message)
        queue.put(message)
        del message
        assert alive() is not None
        del queue
        assert alive() is None

    def test_a_cycle_through_a_queue_is_collected(self, kind: type[Any]) -> None:
        queue, message = kind(4), Message()
        message.queue = queue
        alive = weakref.ref(message)
        queue.put(message)
        del queue, message
        gc.collect()
        assert alive() is None

    def test_can_be_subclassed_and_subscribed(self, kind: type[Any]) -> None:
        class Mine(kind):  # type: ignore[misc]
            pass

        mine = Mine(2)
        mine.put(1)
        assert mine.get() == 1
        assert kind[int].__origin__ is kind
