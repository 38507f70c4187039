"""References: what Python itself takes for what the workloads do, with nothing of ours in between, by which their figures can be judged."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import deque
from typing import Any

import msgpack
import numpy as np

from _harness import CLOCK, check, collect_garbage, time_blocks
from _workloads import RunConfig, Samples, Workload, numbers


class _Plain:
    """An object with a method, and one that is a coroutine."""

    def echo(self, item: Any) -> Any:
        return item

    async def hand_back_later(self, item: Any) -> Any:
        return item


def clock(config: RunConfig) -> Samples:
    """Two readings of the clock, one after the other: what every single timing includes."""
    samples = np.empty(config.count(20_000))
    for index in range(len(samples)):
        start = CLOCK()
        samples[index] = CLOCK() - start
    return samples


def method_call(config: RunConfig) -> Samples:
    """A loop over 1,000 items that calls a method with each and looks at what it returns."""
    items, call = numbers(1000), _Plain().echo

    def block() -> None:
        for item in items:
            if call(item) is not item:
                check(False, "a method returned another item")

    return time_blocks(block, len(items), config.count(200))


def coroutine_call(config: RunConfig) -> Samples:
    """The same with a coroutine that never waits."""

    async def work() -> Samples:
        items, call = numbers(1000), _Plain().hand_back_later
        samples = np.empty(config.count(200))
        for index in range(len(samples)):
            start = CLOCK()
            for item in items:
                if await call(item) is not item:
                    check(False, "a coroutine returned another item")
            samples[index] = (CLOCK() - start) / len(items)
        return samples

    return config.run(work())


def asyncio_ping_pong(config: RunConfig) -> Samples:
    """Two tasks that hand one item to and fro through two `asyncio.Queue`s."""

    async def work() -> Samples:
        there: asyncio.Queue[Any] = asyncio.Queue()
        back: asyncio.Queue[Any] = asyncio.Queue()

        async def peer() -> None:
            while True:
                await back.put(await there.get())

        task = asyncio.create_task(peer())
        items = numbers(config.count(20_000))
        samples = np.empty(len(items))
        collect_garbage()
        for index, item in enumerate(items):
            start = CLOCK()
            await there.put(item)
            answer = await back.get()
            samples[index] = CLOCK() - start
            check(answer is item, f"item {index} came back as another one")
        task.cancel()
        return samples

    return config.run(work())


def thread_ping_pong(config: RunConfig) -> Samples:
    """Two threads that hand one item to and fro through two `queue.SimpleQueue`s."""
    there: queue.SimpleQueue[Any] = queue.SimpleQueue()
    back: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def peer() -> None:
        while (item := there.get()) is not None:
            back.put(item)

    thread = threading.Thread(target=peer)
    thread.start()
    items = numbers(config.count(10_000))
    samples = np.empty(len(items))
    collect_garbage()
    try:
        for index, item in enumerate(items):
            start = CLOCK()
            there.put(item)
            answer = back.get(timeout=5)
            samples[index] = CLOCK() - start
            check(answer is item, f"item {index} came back as another one")
    finally:
        there.put(None)
        thread.join()
    return samples


def deque_pair(config: RunConfig) -> Samples:
    """`append` and `popleft` of a bare deque, which has no bound, no waiting and no priorities."""
    items: list[Any] = numbers(1000)
    bare: deque[Any] = deque()
    put, get = bare.append, bare.popleft

    def block() -> None:
        for item in items:
            put(item)
            if get() is not item:
                check(False, "a deque gave another item")

    return time_blocks(block, len(items), config.count(200))


def pack(config: RunConfig) -> Samples:
    """msgpack of a plain dictionary with the same three values, and neither header nor type."""
    values = [{"sensor": sensor, "celsius": sensor / 8, "place": "hall"} for sensor in range(1000)]
    packed: list[bytes] = []

    def block() -> None:
        packed.clear()
        packed.extend(map(msgpack.packb, values))

    samples = time_blocks(block, len(values), config.count(100))
    check([msgpack.unpackb(data) for data in packed] == values, "what was packed does not read back")
    return samples


BASELINES = [
    Workload("clock", "read the clock twice", clock),
    Workload("method_call", "call a method that returns its argument", method_call),
    Workload("coroutine_call", "await a coroutine that returns its argument", coroutine_call),
    Workload("asyncio_ping_pong", "there and back through two asyncio.Queues, between two tasks", asyncio_ping_pong),
    Workload("thread_ping_pong", "there and back through two queue.SimpleQueues, between two threads", thread_ping_pong),
    Workload("deque", "append and popleft of a deque", deque_pair),
    Workload("msgpack", "msgpack.packb of a dictionary of three values", pack),
]
