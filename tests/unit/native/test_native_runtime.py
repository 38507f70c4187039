"""Native ring kernels on event loops: ``@ring_kernel(device=...)`` and the awaitable calls."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest

import native_handlers as handlers
from native_handlers import Best, Count, Hottest, Reading, Sequence
from pydotcompute.decorators.ring_kernel import get_ring_kernel_meta, ring_kernel
from pydotcompute.exceptions import (
    InvalidConfigurationError,
    KernelAlreadyExistsError,
    KernelCompilationError,
    KernelError,
    KernelStateError,
    QueueFullError,
    QueueTimeoutError,
    TypeValidationError,
)
from pydotcompute.native import HandlerContext, NativeKernel
from pydotcompute.native.ring_kernel import NativeRingKernel
from pydotcompute.ring_kernels.lifecycle import KernelState, RingKernelConfig, Supervision
from pydotcompute.ring_kernels.runtime import RingKernelRuntime

pytest.importorskip("numba")


@ring_kernel(device="cpu", state=Best, kernel_id="native_hottest")
def hottest(ctx: HandlerContext, state: Best, msg: Reading) -> Hottest:
    state.seen += 1
    if msg.celsius > state.celsius:
        state.sensor = msg.sensor
        state.celsius = msg.celsius
    return Hottest(state.sensor, state.celsius, state.seen)


picky = ring_kernel(device="cpu", state=Sequence, kernel_id="native_picky")(handlers.picky)


async def test_a_decorated_handler_is_launched_by_its_name() -> None:
    async with RingKernelRuntime() as runtime:
        kernel = await runtime.launch("native_hottest")
        assert isinstance(kernel, NativeRingKernel)
        assert runtime.get_kernel_state("native_hottest") is KernelState.LAUNCHED
        await runtime.activate("native_hottest")
        reply = await runtime.send_and_receive("native_hottest", Reading(7, 21.5))
        assert (reply.sensor, reply.celsius, reply.seen) == (7, 21.5, 1)
        reply = await runtime.send_and_receive("native_hottest", Reading(8, 20.0), timeout=30.0)
        assert (reply.sensor, reply.seen) == (7, 2)
        await runtime.send("native_hottest", Reading(9, 30.0))
        assert (await runtime.receive("native_hottest", timeout=30.0)).sensor == 9
        assert kernel.native.state.seen == 3
        await runtime.deactivate("native_hottest")
        assert kernel.state is KernelState.DEACTIVATED
        await runtime.reactivate("native_hottest")
        await runtime.terminate("native_hottest")
        assert kernel.state is KernelState.TERMINATED
        assert runtime.kernel_ids == []


async def test_runtimes_do_not_share_names() -> None:
    async with RingKernelRuntime() as one, RingKernelRuntime() as other:
        for runtime in (one, other):
            async with runtime.kernel_scope("same", hottest) as kernel:
                assert (await kernel.ask(Reading(1, 1.0))).seen == 1
                with pytest.raises(KernelAlreadyExistsError):
                    await runtime.launch("same", hottest)


async def test_a_runtime_that_is_shut_down_ends_its_native_kernels() -> None:
    runtime = RingKernelRuntime()
    await runtime.start()
    kernel = await runtime.launch("native_hottest")
    await kernel.activate()
    await runtime.shutdown()
    assert kernel.state is KernelState.TERMINATED
    with pytest.raises(KernelStateError):
        await kernel.ask(Reading(1, 1.0))


async def test_exceptions_follow_the_declared_supervision() -> None:
    async with RingKernelRuntime() as runtime:
        async with runtime.kernel_scope("failing", picky) as kernel:
            with pytest.raises(KernelError, match="negative") as caught:
                await kernel.ask(Count(-1))
            assert isinstance(caught.value.__cause__, ValueError)
        config = RingKernelConfig("restarted", supervision=Supervision(max_restarts=2, within=60.0))
        async with runtime.kernel_scope("restarted", picky, config=config) as kernel:
            for _ in range(2):
                with pytest.raises(KernelError):
                    await kernel.ask(Count(-1), timeout=30.0)
                assert (await kernel.ask(Count(8), timeout=30.0)).value == 4
            with pytest.raises(KernelError):
                await kernel.ask(Count(-1), timeout=30.0)
            # The caller gets its error before the ring kernel ends.
            assert await asyncio.to_thread(kernel.native._core.wait_ended, 30.0)
            with pytest.raises(KernelStateError):
                await kernel.ask(Count(8), timeout=30.0)


async def test_bad_messages_full_queues_and_timeouts() -> None:
    async with RingKernelRuntime() as runtime:
        config = RingKernelConfig("small", input_queue_size=2, backpressure_strategy="reject")
        async with runtime.kernel_scope("small", picky, config=config) as kernel:
            with pytest.raises(TypeValidationError):
                await kernel.send(Reading(1, 1.0))
            await kernel.deactivate()
            with pytest.raises(QueueTimeoutError):
                await kernel.receive(timeout=0.01)
            with pytest.raises(QueueTimeoutError):
                await kernel.ask(Count(2), timeout=0.01)
            await kernel.send(Count(4))
            with pytest.raises(QueueFullError):
                await kernel.send(Count(6))
            await kernel.reactivate()
            assert (await kernel.receive(timeout=30.0)).value == 2
        async with runtime.kernel_scope("waits", picky, config=RingKernelConfig("waits", input_queue_size=2)) as kernel:
            await kernel.deactivate()
            await kernel.send(Count(2))
            await kernel.send(Count(4))
            with pytest.raises(QueueTimeoutError):
                await kernel.send(Count(6), timeout=0.01)
            waiting = asyncio.ensure_future(kernel.send(Count(8)))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            await kernel.reactivate()
            await waiting
            assert [(await kernel.receive(timeout=30.0)).value for _ in range(3)] == [1, 2, 4]


async def test_handlers_that_do_not_compile_raise_at_launch() -> None:
    @ring_kernel(device="cpu", auto_register=False, input_type=Count, output_type=Count)
    def broken(ctx: HandlerContext, state: None, msg: Count) -> Count:
        return Count(msg.valeu)  # type: ignore[attr-defined]

    async with RingKernelRuntime() as runtime:
        with pytest.raises(KernelCompilationError, match=r"msg\.valeu"):
            await runtime.launch("broken", broken)
        assert runtime.kernel_ids == []


def test_fast_math_is_a_setting_of_native_ring_kernels() -> None:
    @ring_kernel(device="cpu", fast_math=True, auto_register=False)
    def fast(ctx, state, msg: handlers.Count) -> None: ...

    meta = get_ring_kernel_meta(fast)
    assert meta is not None and meta["native"] == {"device": "cpu", "state": None, "fast_math": True}
    with pytest.raises(InvalidConfigurationError, match="fast_math"):
        ring_kernel(lambda ctx: None, kernel_id="python", fast_math=True)


def test_settings_of_the_decorator_are_checked() -> None:
    with pytest.raises(InvalidConfigurationError):
        ring_kernel(device="tpu")
    with pytest.raises(InvalidConfigurationError):
        ring_kernel(state=Best)
    meta = get_ring_kernel_meta(hottest)
    assert meta is not None
    assert meta["native"] == {"device": "cpu", "state": Best}


async def test_each_of_many_concurrent_asks_gets_its_own_reply() -> None:
    with NativeKernel(handlers.picky, state=Sequence, queue_size=1024, dedicated=True) as kernel:
        replies = await asyncio.gather(*(kernel.ask_async(Count(2 * number), timeout=60.0) for number in range(1000)))
        assert [reply.value for reply in replies] == list(range(1000))
        for number in range(2000):
            assert (await kernel.ask_async(Count(2 * number))).value == number


async def test_the_event_loop_runs_while_a_task_waits_for_a_native_kernel() -> None:
    with NativeKernel(handlers.picky, state=Sequence) as kernel:
        receiving = asyncio.ensure_future(kernel.receive_async())
        ticks = 0
        while ticks < 20:
            await asyncio.sleep(0.001)
            ticks += 1
        assert not receiving.done()
        kernel.tell(Count(10))
        assert (await asyncio.wait_for(receiving, 30.0)).value == 5
        # A cancelled receive takes no message.
        receiving = asyncio.ensure_future(kernel.receive_async())
        await asyncio.sleep(0)
        receiving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await receiving
        kernel.tell(Count(12))
        assert (await kernel.receive_async(timeout=30.0)).value == 6


async def test_terminate_wakes_waiting_tasks() -> None:
    kernel = NativeKernel(handlers.picky, state=Sequence)
    kernel.activate()
    receiving = asyncio.ensure_future(kernel.receive_async())
    await asyncio.sleep(0)
    await asyncio.to_thread(kernel.terminate)
    with pytest.raises(KernelStateError):
        await asyncio.wait_for(receiving, 30.0)


def test_event_loops_of_many_threads_share_a_kernel() -> None:
    with NativeKernel(handlers.picky, state=Sequence, dedicated=True) as kernel:
        wrong: list[int] = []

        async def ask(start: int) -> None:
            replies = [(await kernel.ask_async(Count(2 * value), timeout=60.0)).value for value in range(start, start + 300)]
            wrong.extend(set(replies) ^ set(range(start, start + 300)))

        threads = [threading.Thread(target=lambda start=number: asyncio.run(ask(start * 1000))) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gc.collect()
        assert wrong == []
        assert kernel.stats.handled == 900
