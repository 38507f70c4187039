"""Workloads that run on both pydotcompute 0.2.0 and this release: they use only names and signatures that both have.

Each workload checks its results (a reply to every message, in order, with its own value), so that it cannot time work that was not done.
Messages are created before the clock starts, unless their creation is measured.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from _harness import CLOCK, check, collect_garbage, time_blocks
from pydotcompute import RingKernelRuntime, message
from pydotcompute.exceptions import QueueTimeoutError
from pydotcompute.ring_kernels import (
    FastMessageQueue,
    MessageQueue,
    RingBuffer,
    SPSCQueue,
    SyncQueue,
    ThreadedRingKernel,
)
from pydotcompute.ring_kernels.cython_kernel import CythonRingKernel

Samples = NDArray[np.float64]
TIMEOUT_S = 5.0
LIMIT_S = 60.0


@message
class Number:
    """Message of the asks: one number, which identifies the reply."""

    value: int = 0


@message
class Reading:
    """A message of three fields and a header, for serialization."""

    sensor: int = 0
    celsius: float = 0.0
    place: str = ""


@dataclass(frozen=True)
class RunConfig:
    """Length of the run, and event loop.

    Attributes:
        quick: Whether to run a smoke test only.
        loop: "uvloop" or "asyncio".
    """

    quick: bool
    loop: str

    def count(self, full: int) -> int:
        """`full` operations; in a smoke test a fiftieth of them, at least 20."""
        return max(20, full // 50) if self.quick else full

    def run(self, work: Coroutine[Any, Any, Samples]) -> Samples:
        """Run a coroutine on an event loop of the selected kind, for at most a minute, so that a dead kernel cannot hang the run."""
        factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop
        if self.loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(work, LIMIT_S))


@dataclass(frozen=True)
class Workload:
    """One workload.

    Attributes:
        name: Name of the workload, one word.
        what: One sentence that describes one operation.
        run: Runs it and returns nanoseconds per operation.
    """

    name: str
    what: str
    run: Callable[[RunConfig], Samples]


async def echo(ctx: Any) -> None:
    """Reply to every message with itself."""
    while not ctx.should_terminate:
        await ctx.send(await ctx.receive())


async def echo_with_timeout(ctx: Any) -> None:
    """Reply to every message with itself, receiving with a timeout of one second."""
    while not ctx.should_terminate:
        try:
            received = await ctx.receive(timeout=1.0)
        except QueueTimeoutError:
            continue
        await ctx.send(received)


async def reply_to(ctx: Any) -> None:
    """Reply to every message with a new message."""
    while not ctx.should_terminate:
        received = await ctx.receive()
        await ctx.send(Number(value=received.value, correlation_id=received.message_id))


def numbers(count: int) -> list[Any]:
    """Create `count` messages, numbered from 0."""
    return [Number(value=value) for value in range(count)]


async def _with_kernel(kernel: Any, config: RunConfig, use: Callable[[RingKernelRuntime], Awaitable[Samples]]) -> Samples:
    """Run `use` with an active ring kernel named "peer"."""
    async with RingKernelRuntime(use_uvloop=config.loop == "uvloop") as runtime:
        await runtime.launch("peer", kernel)
        await runtime.activate("peer")
        try:
            return await use(runtime)
        finally:
            # A 0.2.0 kernel that waits without a timeout does not notice termination and blocks until this timeout.
            await runtime.terminate("peer", timeout=0.1)


def asks(kernel: Any, timeout: float | None) -> Callable[[RunConfig], Samples]:
    """Time single asks of an asyncio ring kernel, one after the other."""

    async def use(runtime: RingKernelRuntime, count: int) -> Samples:
        samples = np.empty(count)
        warm = max(20, count // 10)
        for index, sent in enumerate(numbers(warm + count)):
            if index == warm:
                collect_garbage()
            start = CLOCK()
            reply = await runtime.send_and_receive("peer", sent, timeout=timeout)
            elapsed = CLOCK() - start
            check(reply.value == index, f"the reply to ask {index} is {reply.value}")
            if index >= warm:
                samples[index - warm] = elapsed
        return samples

    return lambda config: config.run(_with_kernel(kernel, config, lambda runtime: use(runtime, config.count(20_000))))


def ask_rate(config: RunConfig) -> Samples:
    """Time asks in blocks of 1,000, without reading the clock in between."""

    async def use(runtime: RingKernelRuntime) -> Samples:
        sent = numbers(1000)
        samples = np.empty(config.count(40))
        collect_garbage()
        for index in range(len(samples)):
            start = CLOCK()
            for one in sent:
                reply = await runtime.send_and_receive("peer", one)
                if reply.value != one.value:
                    check(False, f"the reply to ask {one.value} is {reply.value}")
            samples[index] = (CLOCK() - start) / len(sent)
        return samples

    return config.run(_with_kernel(echo, config, use))


def ask_built(config: RunConfig) -> Samples:
    """Time asks that include creating the request, and a new message as the reply."""

    async def use(runtime: RingKernelRuntime) -> Samples:
        samples = np.empty(config.count(10_000))
        collect_garbage()
        for index in range(len(samples)):
            start = CLOCK()
            sent = Number(value=index)
            reply = await runtime.send_and_receive("peer", sent)
            samples[index] = CLOCK() - start
            check(reply.value == index, f"the reply to ask {index} is {reply.value}")
            check(reply.correlation_id == sent.message_id, f"the reply to ask {index} has another correlation id")
        return samples

    return config.run(_with_kernel(reply_to, config, use))


def stream(config: RunConfig) -> Samples:
    """Time a stream: a producer that does not wait for replies, concurrent with a consumer; time per echoed message."""

    async def use(runtime: RingKernelRuntime) -> Samples:
        sent = numbers(config.count(5000))
        samples = np.empty(config.count(20))

        async def produce() -> None:
            for one in sent:
                await runtime.send("peer", one)

        async def consume() -> None:
            for expected in range(len(sent)):
                reply = await runtime.receive("peer")
                if reply.value != expected:
                    check(False, f"reply {expected} of the stream is {reply.value}")

        collect_garbage()
        for index in range(len(samples)):
            start = CLOCK()
            await asyncio.gather(produce(), consume())
            samples[index] = (CLOCK() - start) / len(sent)
        return samples

    return config.run(_with_kernel(echo, config, use))


def thread_echo(ctx: Any) -> None:
    """Echo every message on a thread. The timeouts are for release 0.2.0, which can lose a wake-up and would not reply otherwise."""
    while not ctx.should_terminate:
        received = ctx.receive(timeout=0.05)
        if received is not None:
            ctx.send(received, timeout=TIMEOUT_S)


def _receive(kernel: Any) -> Any:
    """Receive with repeated 50 ms timeouts, for up to five seconds in total."""
    for _ in range(int(TIMEOUT_S / 0.05)):
        reply = kernel.receive(timeout=0.05)
        if reply is not None:
            return reply
    return None


def thread_asks(make: Callable[[], Any]) -> Callable[[RunConfig], Samples]:
    """Time single asks of a ring kernel on a thread, one after the other."""

    def run(config: RunConfig) -> Samples:
        samples = np.empty(config.count(10_000))
        warm = max(20, len(samples) // 10)
        with make() as kernel:
            for index, sent in enumerate(numbers(warm + len(samples))):
                if index == warm:
                    collect_garbage()
                start = CLOCK()
                kernel.send(sent, timeout=TIMEOUT_S)
                reply = _receive(kernel)
                elapsed = CLOCK() - start
                check(reply is not None, f"no reply to ask {index} within {TIMEOUT_S} s")
                check(reply.value == index, f"the reply to ask {index} is {reply.value}")
                if index >= warm:
                    samples[index - warm] = elapsed
        return samples

    return run


def _blocks(config: RunConfig, operation: Callable[[Any], Any]) -> Samples:
    """Time `operation` on 1,000 messages, in blocks, and check that it returns the message that it was passed."""
    items = numbers(1000)

    def block() -> None:
        for item in items:
            if operation(item) is not item:
                check(False, f"message {item.value} was put, but another one was received")

    return time_blocks(block, len(items), config.count(200))


def queue_nowait(make: Callable[[], Any]) -> Callable[[RunConfig], Samples]:
    """`put_nowait` and `get_nowait` on one thread."""

    def run(config: RunConfig) -> Samples:
        queue = make()
        put, get = queue.put_nowait, queue.get_nowait

        def pair(item: Any) -> Any:
            put(item)
            return get()

        return _blocks(config, pair)

    return run


def queue_blocking(make: Callable[[], Any]) -> Callable[[RunConfig], Samples]:
    """`put` and `get` on one thread, on a queue where neither blocks."""

    def run(config: RunConfig) -> Samples:
        queue = make()
        put, get = queue.put, queue.get

        def pair(item: Any) -> Any:
            put(item)
            return get()

        return _blocks(config, pair)

    return run


def queue_awaited(make: Callable[[], Any]) -> Callable[[RunConfig], Samples]:
    """`await put` and `await get` in one task, on a queue where neither waits."""

    async def work(config: RunConfig) -> Samples:
        queue, items = make(), numbers(1000)
        samples = np.empty(config.count(200))
        for index in range(-2, len(samples)):
            start = CLOCK()
            for item in items:
                await queue.put(item)
                if await queue.get() is not item:
                    check(False, f"message {item.value} was put, but another one was received")
            if index >= 0:
                samples[index] = (CLOCK() - start) / len(items)
        return samples

    return lambda config: config.run(work(config))


def make_message(config: RunConfig) -> Samples:
    """Create a message of three fields, with its id."""
    created: list[Any] = []

    def block() -> None:
        created.clear()
        created.extend(Reading(sensor=sensor, celsius=21.5, place="hall") for sensor in range(1000))

    samples = time_blocks(block, 1000, config.count(200))
    check([one.sensor for one in created] == list(range(1000)), "the created messages do not have the given values")
    check(
        len({one.message_id for one in created}) == 1000 and isinstance(created[0].message_id, UUID), "message ids are not distinct UUIDs"
    )
    return samples


def serialise(config: RunConfig) -> Samples:
    """Serialize a message of three fields."""
    readings = [Reading(sensor=sensor, celsius=sensor / 8, place="hall") for sensor in range(1000)]
    encoded: list[bytes] = []

    def block() -> None:
        encoded.clear()
        encoded.extend(reading.serialize() for reading in readings)

    samples = time_blocks(block, len(readings), config.count(100))
    check([Reading.deserialize(data) for data in encoded] == readings, "the serialized messages do not round-trip")
    return samples


def deserialise(config: RunConfig) -> Samples:
    """Deserialize a message of three fields."""
    readings = [Reading(sensor=sensor, celsius=sensor / 8, place="hall") for sensor in range(1000)]
    encoded = [reading.serialize() for reading in readings]
    decoded: list[Any] = []

    def block() -> None:
        decoded.clear()
        decoded.extend(map(Reading.deserialize, encoded))

    samples = time_blocks(block, len(readings), config.count(100))
    check(decoded == readings, "the deserialized messages differ from the originals")
    return samples


WORKLOADS = [
    Workload("ask", "send_and_receive of an asyncio ring kernel that echoes", asks(echo, None)),
    Workload("ask_timeout", "the same, with a timeout on both sides' receive", asks(echo_with_timeout, 1.0)),
    Workload("ask_rate", "the same without timeouts, timed in blocks of 1,000", ask_rate),
    Workload("ask_built", "the same, with request and reply created for each ask", ask_built),
    Workload("stream", "a message sent, echoed and received while others are in flight", stream),
    Workload(
        "threaded_ask", "send and receive of a ThreadedRingKernel that echoes", thread_asks(lambda: ThreadedRingKernel("peer", thread_echo))
    ),
    Workload(
        "cython_ask", "send and receive of a CythonRingKernel that echoes", thread_asks(lambda: CythonRingKernel("peer", thread_echo))
    ),
    Workload("fast_queue", "FastMessageQueue: put_nowait and get_nowait", queue_nowait(FastMessageQueue)),
    Workload("fast_queue_await", "FastMessageQueue: await put and await get, neither waiting", queue_awaited(FastMessageQueue)),
    Workload("message_queue_await", "MessageQueue: await put and await get, neither waiting", queue_awaited(MessageQueue)),
    Workload("ring_buffer", "RingBuffer: put_nowait and get_nowait", queue_nowait(RingBuffer)),
    Workload("sync_queue", "SyncQueue: put and get, neither waiting", queue_blocking(SyncQueue)),
    Workload("spsc_queue", "SPSCQueue: put and get, neither waiting", queue_blocking(SPSCQueue)),
    Workload("make_message", "create a message of three fields", make_message),
    Workload("serialise", "serialize a message of three fields", serialise),
    Workload("deserialise", "deserialize a message of three fields", deserialise),
]
