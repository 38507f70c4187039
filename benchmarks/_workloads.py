"""Workloads that run on pydotcompute 0.2.0 and on this release alike: only names and signatures that both have.

Each workload checks what comes out (every message answered, in order, with its own value), so that it cannot measure nothing.
Messages are made before the clock starts unless making them is what is measured.
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
    """What the asks carry: one number, by which each answer is checked."""

    value: int = 0


@message
class Reading:
    """A message of three fields beside its header, for serialising."""

    sensor: int = 0
    celsius: float = 0.0
    place: str = ""


@dataclass(frozen=True)
class RunConfig:
    """How much to measure, and on which event loop.

    Attributes:
        quick: Whether a smoke run is enough.
        loop: "uvloop" or "asyncio".
    """

    quick: bool
    loop: str

    def count(self, full: int) -> int:
        """`full` operations, or a fiftieth of them (at least 20) in a smoke run."""
        return max(20, full // 50) if self.quick else full

    def run(self, work: Coroutine[Any, Any, Samples]) -> Samples:
        """Run a coroutine on an event loop of the chosen kind, for a minute at most: a kernel that died silently must not stop the run."""
        factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.SelectorEventLoop
        if self.loop == "uvloop":
            import uvloop

            factory = uvloop.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(asyncio.wait_for(work, LIMIT_S))


@dataclass(frozen=True)
class Workload:
    """One thing to measure.

    Attributes:
        name: Its name, as one word.
        what: One sentence: what one operation is.
        run: Does it and returns nanoseconds per operation.
    """

    name: str
    what: str
    run: Callable[[RunConfig], Samples]


async def echo(ctx: Any) -> None:
    """Answer every message with itself."""
    while not ctx.should_terminate:
        await ctx.send(await ctx.receive())


async def echo_with_timeout(ctx: Any) -> None:
    """Answer every message with itself, looking up once a second as kernels that wait with a timeout do."""
    while not ctx.should_terminate:
        try:
            received = await ctx.receive(timeout=1.0)
        except QueueTimeoutError:
            continue
        await ctx.send(received)


async def reply_to(ctx: Any) -> None:
    """Answer every message with a reply made for it."""
    while not ctx.should_terminate:
        received = await ctx.receive()
        await ctx.send(Number(value=received.value, correlation_id=received.message_id))


def numbers(count: int) -> list[Any]:
    """`count` messages, numbered from 0."""
    return [Number(value=value) for value in range(count)]


async def _with_kernel(kernel: Any, config: RunConfig, use: Callable[[RingKernelRuntime], Awaitable[Samples]]) -> Samples:
    """Run `use` beside a ring kernel named "peer" that is active."""
    async with RingKernelRuntime(use_uvloop=config.loop == "uvloop") as runtime:
        await runtime.launch("peer", kernel)
        await runtime.activate("peer")
        try:
            return await use(runtime)
        finally:
            # Release 0.2.0 leaves a kernel that waits without a timeout waiting until this runs out.
            await runtime.terminate("peer", timeout=0.1)


def asks(kernel: Any, timeout: float | None) -> Callable[[RunConfig], Samples]:
    """One ask at a time of an asyncio ring kernel: the time of each."""

    async def use(runtime: RingKernelRuntime, count: int) -> Samples:
        samples = np.empty(count)
        warm = max(20, count // 10)
        for index, sent in enumerate(numbers(warm + count)):
            if index == warm:
                collect_garbage()
            start = CLOCK()
            answer = await runtime.send_and_receive("peer", sent, timeout=timeout)
            elapsed = CLOCK() - start
            check(answer.value == index, f"ask {index} was answered with {answer.value}")
            if index >= warm:
                samples[index - warm] = elapsed
        return samples

    return lambda config: config.run(_with_kernel(kernel, config, lambda runtime: use(runtime, config.count(20_000))))


def ask_rate(config: RunConfig) -> Samples:
    """Asks in blocks of 1,000 without a look at the clock in between."""

    async def use(runtime: RingKernelRuntime) -> Samples:
        sent = numbers(1000)
        samples = np.empty(config.count(40))
        collect_garbage()
        for index in range(len(samples)):
            start = CLOCK()
            for one in sent:
                answer = await runtime.send_and_receive("peer", one)
                if answer.value != one.value:
                    check(False, f"ask {one.value} was answered with {answer.value}")
            samples[index] = (CLOCK() - start) / len(sent)
        return samples

    return config.run(_with_kernel(echo, config, use))


def ask_built(config: RunConfig) -> Samples:
    """Asks whose message is made for each, and answered by a reply that is made for it."""

    async def use(runtime: RingKernelRuntime) -> Samples:
        samples = np.empty(config.count(10_000))
        collect_garbage()
        for index in range(len(samples)):
            start = CLOCK()
            sent = Number(value=index)
            answer = await runtime.send_and_receive("peer", sent)
            samples[index] = CLOCK() - start
            check(answer.value == index, f"ask {index} was answered with {answer.value}")
            check(answer.correlation_id == sent.message_id, f"the reply to ask {index} does not name it")
        return samples

    return config.run(_with_kernel(reply_to, config, use))


def stream(config: RunConfig) -> Samples:
    """A producer that does not wait for answers beside a consumer: the time per message that went there and back."""

    async def use(runtime: RingKernelRuntime) -> Samples:
        sent = numbers(config.count(5000))
        samples = np.empty(config.count(20))

        async def produce() -> None:
            for one in sent:
                await runtime.send("peer", one)

        async def consume() -> None:
            for expected in range(len(sent)):
                answer = await runtime.receive("peer")
                if answer.value != expected:
                    check(False, f"answer {expected} of the stream was {answer.value}")

        collect_garbage()
        for index in range(len(samples)):
            start = CLOCK()
            await asyncio.gather(produce(), consume())
            samples[index] = (CLOCK() - start) / len(sent)
        return samples

    return config.run(_with_kernel(echo, config, use))


def thread_echo(ctx: Any) -> None:
    """Answer every message with itself, on a thread; the timeouts make release 0.2.0 answer at all when it loses a wake-up."""
    while not ctx.should_terminate:
        received = ctx.receive(timeout=0.05)
        if received is not None:
            ctx.send(received, timeout=TIMEOUT_S)


def _receive(kernel: Any) -> Any:
    """Receive, asking again when a wait of 50 ms brought nothing, for five seconds."""
    for _ in range(int(TIMEOUT_S / 0.05)):
        answer = kernel.receive(timeout=0.05)
        if answer is not None:
            return answer
    return None


def thread_asks(make: Callable[[], Any]) -> Callable[[RunConfig], Samples]:
    """One ask at a time of a ring kernel on a thread: the time of each."""

    def run(config: RunConfig) -> Samples:
        samples = np.empty(config.count(10_000))
        warm = max(20, len(samples) // 10)
        with make() as kernel:
            for index, sent in enumerate(numbers(warm + len(samples))):
                if index == warm:
                    collect_garbage()
                start = CLOCK()
                kernel.send(sent, timeout=TIMEOUT_S)
                answer = _receive(kernel)
                elapsed = CLOCK() - start
                check(answer is not None, f"ask {index} was not answered within {TIMEOUT_S} s")
                check(answer.value == index, f"ask {index} was answered with {answer.value}")
                if index >= warm:
                    samples[index - warm] = elapsed
        return samples

    return run


def _blocks(config: RunConfig, operation: Callable[[Any], Any]) -> Samples:
    """Time `operation` on each of 1,000 messages, in blocks; each has to give back the very message it was given."""
    items = numbers(1000)

    def block() -> None:
        for item in items:
            if operation(item) is not item:
                check(False, f"message {item.value} went in and another came out")

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
    """`put` and `get` on one thread, on a queue that never makes them wait."""

    def run(config: RunConfig) -> Samples:
        queue = make()
        put, get = queue.put, queue.get

        def pair(item: Any) -> Any:
            put(item)
            return get()

        return _blocks(config, pair)

    return run


def queue_awaited(make: Callable[[], Any]) -> Callable[[RunConfig], Samples]:
    """`await put` and `await get` in one task, on a queue that never makes them wait."""

    async def work(config: RunConfig) -> Samples:
        queue, items = make(), numbers(1000)
        samples = np.empty(config.count(200))
        for index in range(-2, len(samples)):
            start = CLOCK()
            for item in items:
                await queue.put(item)
                if await queue.get() is not item:
                    check(False, f"message {item.value} went in and another came out")
            if index >= 0:
                samples[index] = (CLOCK() - start) / len(items)
        return samples

    return lambda config: config.run(work(config))


def make_message(config: RunConfig) -> Samples:
    """Make a message of three fields, with its id."""
    made: list[Any] = []

    def block() -> None:
        made.clear()
        made.extend(Reading(sensor=sensor, celsius=21.5, place="hall") for sensor in range(1000))

    samples = time_blocks(block, 1000, config.count(200))
    check([one.sensor for one in made] == list(range(1000)), "the messages made do not hold what they were given")
    check(len({one.message_id for one in made}) == 1000 and isinstance(made[0].message_id, UUID), "message ids are not distinct UUIDs")
    return samples


def serialise(config: RunConfig) -> Samples:
    """Serialise a message of three fields."""
    readings = [Reading(sensor=sensor, celsius=sensor / 8, place="hall") for sensor in range(1000)]
    encoded: list[bytes] = []

    def block() -> None:
        encoded.clear()
        encoded.extend(reading.serialize() for reading in readings)

    samples = time_blocks(block, len(readings), config.count(100))
    check([Reading.deserialize(data) for data in encoded] == readings, "what was serialised does not read back")
    return samples


def deserialise(config: RunConfig) -> Samples:
    """Deserialise a message of three fields."""
    readings = [Reading(sensor=sensor, celsius=sensor / 8, place="hall") for sensor in range(1000)]
    encoded = [reading.serialize() for reading in readings]
    decoded: list[Any] = []

    def block() -> None:
        decoded.clear()
        decoded.extend(map(Reading.deserialize, encoded))

    samples = time_blocks(block, len(readings), config.count(100))
    check(decoded == readings, "what was deserialised is not what was serialised")
    return samples


WORKLOADS = [
    Workload("ask", "send_and_receive of an asyncio ring kernel that echoes", asks(echo, None)),
    Workload("ask_timeout", "the same, with a timeout on both sides' receive", asks(echo_with_timeout, 1.0)),
    Workload("ask_rate", "the same without timeouts, timed in blocks of 1,000", ask_rate),
    Workload("ask_built", "the same, the message and its reply made for each ask", ask_built),
    Workload("stream", "a message sent, echoed and received while others are under way", stream),
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
    Workload("make_message", "make a message of three fields", make_message),
    Workload("serialise", "serialise a message of three fields", serialise),
    Workload("deserialise", "deserialise a message of three fields", deserialise),
]
