"""Baselines: what plain Python takes for operations like those of the workloads, as a reference for their results."""

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
    """An object with a method and a coroutine method."""

    def echo(self, item: Any) -> Any:
        return item

    async def echo_async(self, item: Any) -> Any:
        return item


def clock(config: RunConfig) -> Samples:
    """Read the clock twice in a row: the overhead included in every single timing."""
    samples = np.empty(config.count(20_000))
    for index in range(len(samples)):
        start = CLOCK()
        samples[index] = CLOCK() - start
    return samples


def method_call(config: RunConfig) -> Samples:
    """Call a method with each of 1,000 items, and check the result."""
    items, call = numbers(1000), _Plain().echo

    def block() -> None:
        for item in items:
            if call(item) is not item:
                check(False, "the method returned a different item")

    return time_blocks(block, len(items), config.count(200))


def coroutine_call(config: RunConfig) -> Samples:
    """The same with a coroutine that never suspends."""

    async def work() -> Samples:
        items, call = numbers(1000), _Plain().echo_async
        samples = np.empty(config.count(200))
        for index in range(len(samples)):
            start = CLOCK()
            for item in items:
                if await call(item) is not item:
                    check(False, "the coroutine returned a different item")
            samples[index] = (CLOCK() - start) / len(items)
        return samples

    return config.run(work())


def asyncio_ping_pong(config: RunConfig) -> Samples:
    """Pass one item back and forth between two tasks, through two `asyncio.Queue`s."""

    async def work() -> Samples:
        requests: asyncio.Queue[Any] = asyncio.Queue()
        replies: asyncio.Queue[Any] = asyncio.Queue()

        async def peer() -> None:
            while True:
                await replies.put(await requests.get())

        task = asyncio.create_task(peer())
        items = numbers(config.count(20_000))
        samples = np.empty(len(items))
        collect_garbage()
        for index, item in enumerate(items):
            start = CLOCK()
            await requests.put(item)
            reply = await replies.get()
            samples[index] = CLOCK() - start
            check(reply is item, f"item {index} returned as a different object")
        task.cancel()
        return samples

    return config.run(work())


def thread_ping_pong(config: RunConfig) -> Samples:
    """Pass one item back and forth between two threads, through two `queue.SimpleQueue`s."""
    requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
    replies: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def peer() -> None:
        while (item := requests.get()) is not None:
            replies.put(item)

    thread = threading.Thread(target=peer)
    thread.start()
    items = numbers(config.count(10_000))
    samples = np.empty(len(items))
    collect_garbage()
    try:
        for index, item in enumerate(items):
            start = CLOCK()
            requests.put(item)
            reply = replies.get(timeout=5)
            samples[index] = CLOCK() - start
            check(reply is item, f"item {index} returned as a different object")
    finally:
        requests.put(None)
        thread.join()
    return samples


def deque_pair(config: RunConfig) -> Samples:
    """`append` and `popleft` of a deque, which has no bound, no waiting and no priorities."""
    items: list[Any] = numbers(1000)
    bare: deque[Any] = deque()
    put, get = bare.append, bare.popleft

    def block() -> None:
        for item in items:
            put(item)
            if get() is not item:
                check(False, "the deque returned a different item")

    return time_blocks(block, len(items), config.count(200))


def pack(config: RunConfig) -> Samples:
    """msgpack of a plain dictionary with the same three values, without header and type."""
    values = [{"sensor": sensor, "celsius": sensor / 8, "place": "hall"} for sensor in range(1000)]
    packed: list[bytes] = []

    def block() -> None:
        packed.clear()
        packed.extend(map(msgpack.packb, values))

    samples = time_blocks(block, len(values), config.count(100))
    check([msgpack.unpackb(data) for data in packed] == values, "the packed values do not round-trip")
    return samples


BASELINES = [
    Workload("clock", "read the clock twice", clock),
    Workload("method_call", "call a method that returns its argument", method_call),
    Workload("coroutine_call", "await a coroutine that returns its argument", coroutine_call),
    Workload("asyncio_ping_pong", "round trip through two asyncio.Queues, between two tasks", asyncio_ping_pong),
    Workload("thread_ping_pong", "round trip through two queue.SimpleQueues, between two threads", thread_ping_pong),
    Workload("deque", "append and popleft of a deque", deque_pair),
    Workload("msgpack", "msgpack.packb of a dictionary of three values", pack),
]
