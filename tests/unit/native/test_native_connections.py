"""Connections of native ring kernels, with each other and with asyncio ring kernels."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from native_handlers import Best, Count, Hottest, Reading, Sequence, hottest, in_sequence
from pydotcompute.decorators.ring_kernel import ring_kernel
from pydotcompute.exceptions import QueueTimeoutError, TypeValidationError
from pydotcompute.native import HandlerContext, state
from pydotcompute.ring_kernels.lifecycle import KernelContext, KernelState, RingKernelConfig
from pydotcompute.ring_kernels.runtime import RingKernelRuntime

pytestmark = pytest.mark.usefixtures("quiet_log")


def add_one(ctx: HandlerContext, state: Any, msg: Count) -> Count:
    return Count(msg.value + 1)


native_add = ring_kernel(kernel_id="native add", device="cpu", auto_register=False)(add_one)
native_sequence = ring_kernel(kernel_id="native sequence", device="cpu", state=Sequence, auto_register=False)(in_sequence)
native_hottest = ring_kernel(kernel_id="native hottest", device="cpu", state=Best, auto_register=False)(hottest)


async def forward(ctx: KernelContext[Count, Count]) -> None:
    async for count in ctx:
        await ctx.send(Count(count.value + 100))


async def launch(runtime: RingKernelRuntime, name: str, function: Any, **settings: Any) -> Any:
    kernel = await runtime.launch(name, function, config=RingKernelConfig(name, **settings))
    await runtime.activate(name)
    return kernel


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    "functions", [(native_add, forward), (forward, native_add), (native_add, native_add)], ids=["from", "to", "between"]
)
async def test_outputs_pass_between_tiers(functions: tuple[Any, Any]) -> None:
    async with RingKernelRuntime() as runtime:
        for name, function in zip("ab", functions, strict=True):
            await launch(runtime, name, function)
        connection = runtime.connect("a", "b")
        for value in range(200):
            await runtime.send("a", Count(value))
        added = sum(100 if function is forward else 1 for function in functions)
        assert [(await runtime.receive("b", timeout=10.0)).value for _ in range(200)] == [value + added for value in range(200)]
        assert (connection.delivered, connection.undelivered) == (200, 0)


async def test_a_native_handler_alone_gives_the_name() -> None:
    async with RingKernelRuntime() as runtime:
        kernel = await runtime.launch(native_add)
        await kernel.activate()
        assert (await kernel.ask(Count(1), timeout=10.0)).value == 2 and runtime.kernel_ids == ["native add"]


async def test_replies_of_a_connected_kernel_go_to_their_callers() -> None:
    async with RingKernelRuntime() as runtime:
        await launch(runtime, "a", native_add)
        await launch(runtime, "b", native_add)
        runtime.connect("a", "b")
        answers = await asyncio.gather(*(runtime.send_and_receive("a", Count(value), timeout=10.0) for value in range(20)))
        assert [answer.value for answer in answers] == list(range(1, 21))
        with pytest.raises(QueueTimeoutError):
            await runtime.receive("b", timeout=0.02)


async def test_fan_out_to_both_tiers() -> None:
    async with RingKernelRuntime() as runtime:
        await launch(runtime, "a", native_add)
        for name, function in (("b", native_add), ("c", forward)):
            await launch(runtime, name, function)
            runtime.connect("a", name)
        for value in range(50):
            await runtime.send("a", Count(value))
        assert [(await runtime.receive("b", timeout=10.0)).value for _ in range(50)] == list(range(2, 52))
        assert [(await runtime.receive("c", timeout=10.0)).value for _ in range(50)] == list(range(101, 151))


async def test_a_full_native_target_holds_an_asyncio_source_back_and_order_is_kept() -> None:
    async with RingKernelRuntime() as runtime:
        await launch(runtime, "a", forward, input_queue_size=4)
        await launch(runtime, "b", native_sequence, input_queue_size=4, output_queue_size=1024)
        await runtime.deactivate("b")
        connection = runtime.connect("a", "b")
        sender = asyncio.create_task(send_all(runtime, "a", 100))
        await until(lambda: connection.delivered >= 4)
        await asyncio.sleep(0.05)
        # One more may have been taken out of the ring, to be handled first.
        assert connection.delivered <= 5 and not sender.done()
        await runtime.reactivate("b")
        await asyncio.wait_for(sender, 30)
        # The first message is out of sequence, since the handler expects 0 and gets 100.
        assert [(await runtime.receive("b", timeout=10.0)).value for _ in range(100)] == [1] * 100


async def send_all(runtime: RingKernelRuntime, name: str, count: int) -> None:
    for value in range(count):
        await runtime.send(name, Count(value))


async def test_a_full_asyncio_target_holds_a_native_source_back() -> None:
    async with RingKernelRuntime() as runtime:
        source = await launch(runtime, "a", native_add, input_queue_size=4, output_queue_size=4)
        await launch(runtime, "b", forward, input_queue_size=4)
        await runtime.deactivate("b")
        runtime.connect("a", "b")
        sender = asyncio.create_task(send_all(runtime, "a", 100))
        await until(lambda: source.native.stats.emitted >= 8)
        await asyncio.sleep(0.05)
        assert not sender.done() and source.native.stats.handled < 100
        await runtime.reactivate("b")
        assert [(await runtime.receive("b", timeout=10.0)).value for _ in range(100)] == list(range(101, 201))
        await sender


async def test_a_pipeline_may_be_activated_in_any_order() -> None:
    async with RingKernelRuntime() as runtime:
        for name, function in (("a", forward), ("b", native_add), ("c", forward)):
            await runtime.launch(name, function)
        runtime.connect("a", "b")
        runtime.connect("b", "c")
        await runtime.activate("a")
        await runtime.send("a", Count(0))
        await runtime.activate("c")
        await runtime.activate("b")
        assert (await runtime.receive("c", timeout=10.0)).value == 201


async def test_receive_gets_outputs_again_after_the_end_of_the_connection() -> None:
    async with RingKernelRuntime() as runtime:
        await launch(runtime, "a", native_add)
        await launch(runtime, "b", forward)
        async with runtime.connect("a", "b") as connection:
            await runtime.send("a", Count(0))
            assert (await runtime.receive("b", timeout=10.0)).value == 101
            with pytest.raises(QueueTimeoutError):
                await runtime.receive("a", timeout=0.02)
        assert not connection.is_connected
        await runtime.send("a", Count(1))
        assert (await runtime.receive("a", timeout=10.0)).value == 2


async def test_disconnecting_makes_the_waiting_output_a_dead_letter() -> None:
    async with RingKernelRuntime() as runtime:
        source = await launch(runtime, "a", native_add)
        await launch(runtime, "b", forward, input_queue_size=1)
        await runtime.deactivate("b")
        connection = runtime.connect("a", "b")
        for value in range(3):
            await runtime.send("a", Count(value))
        await until(lambda: source._forwarder._holds_output and connection._waits)
        await runtime.disconnect("a", "b")
        assert [(letter.message.value, letter.reason) for letter in source.dead_letters] == [(2, "undelivered")]
        assert (await runtime.receive("a", timeout=10.0)).value == 3


async def test_outputs_for_a_target_that_has_ended() -> None:
    async with RingKernelRuntime() as runtime:
        source = await launch(runtime, "a", native_add)
        for name, function in (("b", native_add), ("c", forward)):
            await launch(runtime, name, function)
            runtime.connect("a", name)
            await runtime.terminate(name)
            for value in range(3):
                await runtime.send("a", Count(value))
        await until(lambda: source.unrouted == 6)
        assert source.state is KernelState.ACTIVE and runtime.connections == []


async def test_a_native_target_that_fails_makes_the_output_a_dead_letter() -> None:
    def fail(ctx: HandlerContext, state: Any, msg: Count) -> Count:
        raise ValueError

    async with RingKernelRuntime() as runtime:
        source = await launch(runtime, "a", forward)
        target = await launch(runtime, "b", ring_kernel(device="cpu", auto_register=False)(fail))
        runtime.connect("a", "b")
        await runtime.send("a", Count(0))
        await until(lambda: target.state is KernelState.FAILED)
        for value in (1, 2):
            await runtime.send("a", Count(value))
        await until(lambda: source.unrouted == 1)
        assert [letter.message.value for letter in source.dead_letters] == [101]


async def test_a_shutdown_handles_what_is_between_the_kernels() -> None:
    received: list[int] = []

    async def sink(ctx: KernelContext[Count, Any]) -> None:
        async for count in ctx:
            received.append(count.value)  # noqa: PERF401 - at once

    runtime = RingKernelRuntime()
    await launch(runtime, "c", sink)
    for name in ("b", "a"):
        await launch(runtime, name, native_add, input_queue_size=1024, output_queue_size=16)
    runtime.connect("a", "b")
    runtime.connect("b", "c")
    for value in range(1000):
        await runtime.send("a", Count(value))
    await runtime.shutdown(timeout=30.0)
    assert received == list(range(2, 1002))


async def test_termination_does_not_wait_for_a_target_that_takes_nothing() -> None:
    async with RingKernelRuntime() as runtime:
        source = await launch(runtime, "a", native_add)
        await launch(runtime, "b", forward, input_queue_size=1)
        await runtime.deactivate("b")
        connection = runtime.connect("a", "b")
        for value in range(10):
            await runtime.send("a", Count(value))
        await until(lambda: source.native.stats.handled == 10 and connection._waits)
        await runtime.terminate("a", timeout=0.2)
        assert connection.delivered + connection.undelivered + source.unrouted == 10 and source.unrouted == 8


async def test_types_are_checked_when_two_kernels_are_connected() -> None:
    async with RingKernelRuntime() as runtime:
        await launch(runtime, "a", native_add)
        await launch(runtime, "b", native_hottest)
        with pytest.raises(TypeValidationError, match="the connection of kernel 'a' to kernel 'b'"):
            runtime.connect("a", "b")


async def test_a_wrong_type_is_an_error_in_an_asyncio_source() -> None:
    errors: list[Exception] = []

    async def wrong(ctx: KernelContext[Count, Any]) -> None:
        async for _ in ctx:
            try:
                await ctx.send(Hottest(1, celsius=1.0))
            except TypeValidationError as error:
                errors.append(error)
            await ctx.send(Reading(1, celsius=5.0))

    async with RingKernelRuntime() as runtime:
        await launch(runtime, "a", wrong)
        await launch(runtime, "b", native_hottest)
        runtime.connect("a", "b")
        await runtime.send("a", Count(0))
        assert (await runtime.receive("b", timeout=10.0)).celsius == 5.0
    assert len(errors) == 1


async def test_no_task_is_left() -> None:
    before = len(asyncio.all_tasks())
    async with RingKernelRuntime() as runtime:
        for name in ("a", "b"):
            await launch(runtime, name, native_add)
        await runtime.connect("a", "b").disconnect()
        assert len(asyncio.all_tasks()) == before
        runtime.connect("a", "b")
        assert len(asyncio.all_tasks()) == before + 1
        await runtime.terminate("a")
        assert len(asyncio.all_tasks()) == before
        await launch(runtime, "a", native_add)
        runtime.connect("a", "b")
    assert len(asyncio.all_tasks()) == before


@state
class Sum:
    value: int


async def test_a_handler_that_sends_nothing_may_be_connected() -> None:
    def add(ctx: HandlerContext, state: Sum, msg: Count) -> None:
        state.value += msg.value

    async with RingKernelRuntime() as runtime:
        await launch(runtime, "a", ring_kernel(device="cpu", state=Sum, auto_register=False)(add))
        await launch(runtime, "b", native_add)
        runtime.connect("a", "b")
        await runtime.send("a", Count(1))
        await runtime.terminate("a")
        assert runtime.connections == []
