"""A sent message is handed over: what the receiver gets in each tier, and that a copy is independent.

Tiers of one process pass the object itself. The others take a copy during the call. So a program that does not change what it has sent
sees the same in every tier.
"""

import asyncio
import copy
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pydotcompute import RingKernelRuntime, message
from pydotcompute.native import HandlerContext, NativeKernel
from pydotcompute.ring_kernels._cython import FastSPSCQueue
from pydotcompute.ring_kernels.array_message import array_message
from pydotcompute.ring_kernels.cython_kernel import CythonRingKernel
from pydotcompute.ring_kernels.fast_queue import FastMessageQueue, RingBuffer
from pydotcompute.ring_kernels.queue import MessageQueue
from pydotcompute.ring_kernels.shared_queue import SharedQueue
from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue
from pydotcompute.ring_kernels.threaded_kernel import ThreadedKernelPool, ThreadedRingKernel


@message
class Samples:
    values: np.ndarray


@array_message
class Handle:
    values: np.ndarray


def samples() -> Samples:
    return Samples(np.zeros(4, np.float32))


def echo(ctx: Any) -> None:
    while not ctx.should_terminate:
        received = ctx.receive(timeout=10)
        if received is not None:
            ctx.send(received, timeout=10)


async def echo_async(ctx: Any) -> None:
    while not ctx.should_terminate:
        await ctx.send(await ctx.receive())


async def through_asyncio(sent: Any) -> Any:
    async with RingKernelRuntime() as runtime:
        await runtime.launch("echo", echo_async)
        await runtime.activate("echo")
        asked = await runtime.send_and_receive("echo", sent, timeout=10)
        await runtime.send("echo", sent, timeout=10)
        assert await runtime.receive("echo", timeout=10) is asked
        return asked


def through_kernel(kernel: Any) -> Callable[[Any], Any]:
    def send(sent: Any) -> Any:
        with kernel() as running:
            assert running.send(sent, timeout=10)
            return running.receive(timeout=10)

    return send


def through_pool(sent: Any) -> Any:
    pool = ThreadedKernelPool(2, echo)
    pool.start_all()
    try:
        assert pool.send(sent, timeout=10)
        return pool.receive_any(timeout=10)
    finally:
        pool.stop_all()


def through_async_queue(make: Callable[[], Any]) -> Callable[[Any], Any]:
    async def send(sent: Any) -> Any:
        queue = make()
        await queue.put(sent)
        queue.put_nowait(sent)
        first = await queue.get()
        assert queue.get_nowait() is first
        return first

    return send


def through_queue(make: Callable[[], Any]) -> Callable[[Any], Any]:
    def send(sent: Any) -> Any:
        queue = make()
        assert queue.put(sent)
        return queue.get()

    return send


BY_REFERENCE = {
    "asyncio": through_asyncio,
    "threaded": through_kernel(lambda: ThreadedRingKernel("echo", echo)),
    "compiled": through_kernel(lambda: CythonRingKernel("echo", echo)),
    "pool": through_pool,
    "MessageQueue": through_async_queue(MessageQueue),
    "FastMessageQueue": through_async_queue(FastMessageQueue),
    "RingBuffer": through_async_queue(RingBuffer),
    "SyncQueue": through_queue(SyncQueue),
    "SPSCQueue": through_queue(SPSCQueue),
    "FastSPSCQueue": through_queue(lambda: FastSPSCQueue(8)),
}


async def received(tier: str, sent: Any) -> Any:
    result = BY_REFERENCE[tier](sent)
    return await result if asyncio.iscoroutine(result) else result


@pytest.mark.parametrize("tier", BY_REFERENCE)
async def test_a_tier_of_one_process_passes_the_message_itself(tier: str) -> None:
    sent = samples()
    got = await received(tier, sent)
    assert got is sent and got.values is sent.values


@pytest.mark.parametrize("tier", BY_REFERENCE)
async def test_a_copy_is_independent_of_the_sender(tier: str) -> None:
    original = samples()
    got = await received(tier, copy.deepcopy(original))
    original.values[:] = 9
    assert got.values.tolist() == [0.0] * 4 and got.message_id == original.message_id


def through_shared_queue(sent: Samples) -> Samples:
    with SharedQueue.create(capacity=4, slot_size=1000) as queue:
        queue.put(sent)
        sent.values[:] = 9
        got: Samples = queue.get(timeout=10)
        return got


def through_serializing_queue(sent: Samples) -> Samples:
    queue: FastMessageQueue[Any] = FastMessageQueue(serialize=True)
    queue.put_nowait(sent)
    sent.values[:] = 9
    return Samples.deserialize(queue.get_nowait())  # type: ignore[attr-defined, no-any-return]


def through_native(sent: Samples) -> Samples:
    pytest.importorskip("numba")

    @message
    class Window:
        values: Annotated[NDArray[np.float32], 4]

    def repeat(ctx: HandlerContext, state: None, msg: Window) -> Window:
        return Window(msg.values)

    with NativeKernel(repeat) as kernel:
        kernel.deactivate()
        kernel.tell(Window(sent.values))
        sent.values[:] = 9
        kernel.reactivate()
        return Samples(kernel.receive(timeout=60).values)


@pytest.mark.parametrize("tier", [through_shared_queue, through_serializing_queue, through_native])
def test_the_other_tiers_take_a_copy_during_the_call(tier: Callable[[Samples], Samples]) -> None:
    sent = samples()
    got = tier(sent)
    assert sent.values.tolist() == [9.0] * 4 and got.values.tolist() == [0.0] * 4


def test_an_array_message_passes_the_array_itself_when_serialized() -> None:
    sent: Any = Handle(np.zeros(4))
    got = type(sent).deserialize(sent.serialize())
    assert got is not sent and got.values is sent.values
    got.release_arrays()
