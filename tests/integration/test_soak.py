"""Memory does not grow under traffic.

Each test runs for seconds by default. Set PYDOTCOMPUTE_SOAK_SECONDS=600 for a soak test.
"""

import asyncio
import gc
import os
import time
from collections.abc import Iterator

import psutil
import pytest

from pydotcompute.exceptions import KernelError, QueueTimeoutError
from pydotcompute.ring_kernels.lifecycle import KernelContext, RingKernelConfig, Supervision
from pydotcompute.ring_kernels.message import RingKernelMessage, message
from pydotcompute.ring_kernels.runtime import RingKernelRuntime
from pydotcompute.ring_kernels.threaded_kernel import ThreadedKernelContext, ThreadedRingKernel

SECONDS = float(os.environ.get("PYDOTCOMPUTE_SOAK_SECONDS", "2"))
# Bytes that allocators may retain. Leaking one small object per message would exceed it a hundredfold.
MARGIN = 16 << 20

pytestmark = [pytest.mark.timeout(SECONDS * 4 + 60), pytest.mark.slow]


@message
class Note(RingKernelMessage):
    number: int
    text: str = ""


class Memory:
    """Measures the growth of this process since the first quarter of a run."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.begun = time.monotonic()
        self.first = 0

    def rounds(self) -> Iterator[int]:
        number = 0
        while (elapsed := time.monotonic() - self.begun) < SECONDS:
            if not self.first and elapsed > SECONDS / 4:
                gc.collect()
                self.first = self.process.memory_info().rss
            yield number
            number += 1

    def grown(self) -> int:
        gc.collect()
        return self.process.memory_info().rss - self.first


async def echo(ctx: KernelContext[Note, Note]) -> None:
    while not ctx.should_terminate:
        try:
            note = await ctx.receive(timeout=0.5)
        except QueueTimeoutError:
            continue
        if note.number < 0:
            raise ValueError("negative")
        await ctx.send(Note(note.number, correlation_id=note.message_id))


async def test_asks_tells_timeouts_and_failures() -> None:
    config = RingKernelConfig("echo", supervision=Supervision(max_restarts=None))
    memory = Memory()
    async with RingKernelRuntime() as runtime:
        await runtime.launch("echo", echo, config=config)
        await runtime.activate("echo")
        for round_ in memory.rounds():
            for number in range(1000):
                assert (await runtime.send_and_receive("echo", Note(number), timeout=30)).number == number
            await asyncio.gather(*(runtime.send_and_receive("echo", Note(number)) for number in range(20)))
            with pytest.raises(QueueTimeoutError):
                await runtime.receive("echo", timeout=0.0001)
            if round_ % 50 == 0:
                # Rarely, because logging the errors would distort the measurement.
                with pytest.raises(KernelError):
                    await runtime.send_and_receive("echo", Note(-1))
    assert memory.grown() < MARGIN


async def test_kernels_are_launched_and_terminated() -> None:
    memory = Memory()
    async with RingKernelRuntime() as runtime:
        for round_ in memory.rounds():
            async with runtime.kernel_scope(f"kernel {round_}", echo) as kernel:
                assert (await kernel.ask(Note(round_))).number == round_
    assert memory.grown() < MARGIN


def test_messages_are_serialized_and_deserialized() -> None:
    memory = Memory()
    for round_ in memory.rounds():
        for number in range(1000):
            note = Note(number, "x" * (round_ % 100))
            if Note.deserialize(note.serialize()) != note:
                pytest.fail("the deserialized message differs")
    assert memory.grown() < MARGIN


def test_threads() -> None:
    def double(ctx: ThreadedKernelContext[int, int]) -> None:
        while not ctx.should_terminate:
            number = ctx.receive(timeout=0.5)
            if number is not None:
                ctx.send(2 * number)

    memory = Memory()
    with ThreadedRingKernel("double", double) as kernel:
        for _ in memory.rounds():
            for number in range(200):
                kernel.send(number)
                assert kernel.receive(timeout=30) == 2 * number
    assert memory.grown() < MARGIN
