"""Connections between asyncio ring kernels."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from async_handlers import Reply, Request, double, outcomes, yield_to_loop
from pydotcompute.exceptions import (
    KernelConnectionError,
    KernelNotFoundError,
    KernelStateError,
    QueueFullError,
    QueueTimeoutError,
    TypeValidationError,
    WaitCycleError,
)
from pydotcompute.ring_kernels.connection import Connection
from pydotcompute.ring_kernels.lifecycle import KernelContext, KernelState, RingKernel, RingKernelConfig
from pydotcompute.ring_kernels.runtime import RingKernelRuntime

pytestmark = pytest.mark.usefixtures("quiet_log")

Function = Callable[[KernelContext[Any, Any]], Coroutine[Any, Any, None]]


async def add_one(ctx: KernelContext[int, int]) -> None:
    async for number in ctx:
        await ctx.send(number + 1)


def collect(into: list[Any]) -> Function:
    async def sink(ctx: KernelContext[Any, Any]) -> None:
        async for message in ctx:
            into.append(message)  # noqa: PERF401 - at once

    return sink


async def stuck(ctx: KernelContext[Any, Any]) -> None:
    """Receives nothing until it is told to terminate."""
    while not ctx.should_terminate:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def start(runtime: RingKernelRuntime, name: str, function: Function, **settings: Any) -> RingKernel[Any, Any]:
    kernel = await runtime.launch(name, function, config=RingKernelConfig(name, **settings))
    await runtime.activate(name)
    return kernel


class TestRouting:
    async def test_outputs_pass_along_a_pipeline(self) -> None:
        async with RingKernelRuntime() as runtime:
            for name in ("a", "b", "c"):
                await start(runtime, name, add_one)
            first, second = runtime.connect("a", "b"), runtime.connect("b", "c")
            for number in range(100):
                await runtime.send("a", number)
            assert [await runtime.receive("c", timeout=1.0) for _ in range(100)] == list(range(3, 103))
            assert (first.delivered, second.delivered, first.undelivered) == (100, 100, 0)
            assert runtime.connections == [first, second] and first.is_connected
            assert repr(first) == "Connection('a' → 'b', delivered=100)"

    async def test_replies_go_to_callers_and_outputs_to_the_target(self) -> None:
        received: list[int] = []

        async def both(ctx: KernelContext[int, int]) -> None:
            async for number in ctx:
                await ctx.reply(number, -number)
                await ctx.output_queue.put(number)

        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", both)
            await start(runtime, "b", collect(received))
            runtime.connect("a", "b")
            assert [await runtime.send_and_receive("a", number, timeout=1.0) for number in (1, 2, 3)] == [-1, -2, -3]
        assert received == [1, 2, 3]

    async def test_fan_out_and_fan_in(self) -> None:
        received: list[int] = []
        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", add_one)
            for name in ("b", "c"):
                await start(runtime, name, add_one)
                runtime.connect("a", name)
            await start(runtime, "d", collect(received))
            runtime.connect("b", "d")
            runtime.connect("c", "d")
            for number in range(50):
                await runtime.send("a", number)
        assert sorted(received) == sorted([number + 2 for number in range(50)] * 2)

    async def test_a_second_connection_delivers_each_output_twice(self) -> None:
        received: list[int] = []
        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", add_one)
            await start(runtime, "b", collect(received))
            runtime.connect("a", "b")
            second = runtime.connect("a", "b")
            await runtime.send("a", 0)
            await yield_to_loop()
            assert received == [1, 1]
            assert runtime.disconnect("a", "b") is second and runtime.connections == []
            await runtime.send("a", 1)
            assert await runtime.receive("a", timeout=1.0) == 2

    async def test_put_nowait_delivers_too_unless_a_target_is_full(self) -> None:
        async with RingKernelRuntime() as runtime:
            source = await start(runtime, "a", stuck)
            for name in ("b", "c"):
                await start(runtime, name, stuck, input_queue_size=2)
                runtime.connect("a", name)
            assert source._context is not None
            output = source._context.output_queue
            assert [output.put_nowait(number) for number in range(3)] == [True, True, False]
            assert [one.delivered for one in runtime.connections] == [2, 2]

    async def test_receive_gets_what_was_sent_before_the_connection_and_after_its_end(self) -> None:
        received: list[int] = []
        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", add_one)
            await start(runtime, "b", collect(received))
            await runtime.send("a", 0)
            await yield_to_loop()
            with runtime.connect("a", "b"):
                await runtime.send("a", 1)
                assert await runtime.receive("a", timeout=1.0) == 1
                with pytest.raises(QueueTimeoutError):
                    await runtime.receive("a", timeout=0.01)
                await yield_to_loop()
            await runtime.send("a", 2)
            assert await runtime.receive("a", timeout=1.0) == 3
        assert received == [2]

    async def test_a_pipeline_may_be_activated_in_any_order(self) -> None:
        received: list[int] = []
        async with RingKernelRuntime() as runtime:
            await runtime.launch("a", add_one)
            await runtime.launch("b", collect(received))
            runtime.connect("a", "b")
            await runtime.activate("a")
            await runtime.send("a", 1)
            await yield_to_loop()
            await runtime.activate("b")
        assert received == [2]

    async def test_a_circle_may_be_connected(self) -> None:
        done = asyncio.Event()

        async def count_down(ctx: KernelContext[int, int]) -> None:
            async for number in ctx:
                if number == 0:
                    done.set()
                else:
                    await ctx.send(number - 1)

        async with RingKernelRuntime() as runtime:
            for name in ("a", "b", "c"):
                await start(runtime, name, count_down)
            for source, target in ("ab", "bc", "ca"):
                runtime.connect(source, target)
            await runtime.send("a", 1000)
            await asyncio.wait_for(done.wait(), 10)

    async def test_a_full_circle_is_an_error_of_the_kernel_that_closes_it(self) -> None:
        async def flood(ctx: KernelContext[int, int]) -> None:
            async for number in ctx:
                for _ in range(4):
                    await ctx.send(number)

        async with RingKernelRuntime() as runtime:
            kernels = [await start(runtime, name, flood, input_queue_size=2) for name in ("a", "b")]
            runtime.connect("a", "b")
            runtime.connect("b", "a")
            await runtime.send("a", 1)
            async with asyncio.timeout(10):
                while not any(kernel.state is KernelState.FAILED for kernel in kernels):  # noqa: ASYNC110
                    await asyncio.sleep(0)
            assert any(isinstance(kernel.error, WaitCycleError) for kernel in kernels)


class TestBackpressure:
    async def test_a_full_target_holds_the_source_back(self) -> None:
        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", add_one, input_queue_size=2)
            target = await start(runtime, "b", add_one, input_queue_size=2)
            connection = runtime.connect("a", "b")
            await runtime.deactivate("b")
            # Two in the input of b, one that a sends, two in the input of a.
            for number in range(5):
                await runtime.send("a", number, timeout=1.0)
            with pytest.raises(QueueFullError):
                await runtime.send("a", 5, timeout=0.01)
            assert connection.delivered == 2
            await target.reactivate()
            assert [await runtime.receive("b", timeout=1.0) for _ in range(5)] == [2, 3, 4, 5, 6]
            await yield_to_loop()
            assert connection.delivered == 5

    async def test_a_target_gets_its_outputs_while_another_one_is_full(self) -> None:
        received: list[int] = []
        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", add_one)
            await start(runtime, "full", add_one, input_queue_size=1)
            await start(runtime, "free", collect(received))
            await runtime.deactivate("full")
            full, free = runtime.connect("a", "full"), runtime.connect("a", "free")
            for number in range(3):
                await runtime.send("a", number)
            await yield_to_loop()
            assert received == [1, 2] and (full.delivered, free.delivered) == (1, 2)
            await runtime.reactivate("full")
            await yield_to_loop()
            assert received == [1, 2, 3] and full.delivered == 3

    async def test_a_target_that_rejects_makes_outputs_dead_letters(self) -> None:
        async with RingKernelRuntime() as runtime:
            source = await start(runtime, "a", add_one)
            await start(runtime, "b", stuck, input_queue_size=2, backpressure_strategy="reject")
            connection = runtime.connect("a", "b")
            for number in range(5):
                await runtime.send("a", number)
            await yield_to_loop()
            assert (connection.delivered, connection.undelivered) == (2, 3)
            letters = source.dead_letters
            assert [(letter.message, letter.reason) for letter in letters] == [(number, "undelivered") for number in (3, 4, 5)]
            assert isinstance(letters[0].cause, QueueFullError)

    async def test_a_target_that_drops_the_oldest_never_holds_the_source_back(self) -> None:
        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", add_one)
            target = await start(runtime, "b", stuck, input_queue_size=2, backpressure_strategy="drop_oldest")
            connection = runtime.connect("a", "b")
            for number in range(5):
                await runtime.send("a", number)
            await yield_to_loop()
            assert connection.delivered == 5
            assert [(letter.message, letter.reason) for letter in target.dead_letters] == [(number, "dropped") for number in (1, 2, 3)]


class TestEndings:
    async def test_disconnecting_makes_the_waiting_output_a_dead_letter(self) -> None:
        async with RingKernelRuntime() as runtime:
            source = await start(runtime, "a", add_one)
            await start(runtime, "b", stuck, input_queue_size=1)
            connection = runtime.connect("a", "b")
            for number in range(3):
                await runtime.send("a", number)
            await yield_to_loop()
            assert await connection.disconnect() is connection
            await yield_to_loop()
            assert not connection.is_connected and repr(connection).endswith("undelivered=1, ended)")
            assert await runtime.receive("a", timeout=1.0) == 3
            assert [letter.message for letter in source.dead_letters] == [2] and source.state is KernelState.ACTIVE
            connection.disconnect()

    async def test_a_target_that_ends_while_an_output_waits_makes_it_a_dead_letter(self) -> None:
        async with RingKernelRuntime() as runtime:
            source = await start(runtime, "a", add_one)
            await start(runtime, "b", stuck, input_queue_size=1)
            connection = runtime.connect("a", "b")
            for number in range(4):
                await runtime.send("a", number)
            await yield_to_loop()
            await runtime.terminate("b")
            await yield_to_loop()
            assert (connection.delivered, connection.undelivered, source.unrouted) == (1, 1, 2)
            assert [letter.message for letter in source.dead_letters] == [2] and runtime.connections == []

    async def test_outputs_for_targets_that_have_ended_are_counted_and_do_not_go_to_receive(self) -> None:
        async with RingKernelRuntime() as runtime:
            source = await start(runtime, "a", add_one)
            await start(runtime, "b", add_one)
            runtime.connect("a", "b")
            await runtime.terminate("b")
            for number in range(3):
                await runtime.send("a", number)
            await yield_to_loop()
            assert source.unrouted == 3
            with pytest.raises(QueueTimeoutError):
                await runtime.receive("a", timeout=0.01)

    async def test_an_output_that_finds_a_failed_target_is_a_dead_letter(self) -> None:
        received: list[int] = []

        async def fail(ctx: KernelContext[int, int]) -> None:
            raise ValueError(await ctx.receive())

        async with RingKernelRuntime() as runtime:
            source = await start(runtime, "a", add_one)
            await start(runtime, "b", fail)
            await start(runtime, "c", collect(received))
            failed = runtime.connect("a", "b")
            runtime.connect("a", "c")
            for number in range(3):
                await runtime.send("a", number)
                await yield_to_loop()
            assert (failed.delivered, failed.undelivered, source.unrouted) == (1, 1, 0)
            assert received == [1, 2, 3] and [letter.message for letter in source.dead_letters] == [2]

    async def test_the_end_of_the_source_ends_its_connections(self) -> None:
        async def once(ctx: KernelContext[int, int]) -> None:
            await ctx.send(await ctx.receive())

        received: list[int] = []
        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", once)
            await start(runtime, "b", collect(received))
            connection = runtime.connect("a", "b")
            await runtime.send("a", 1)
            await yield_to_loop()
            assert not connection.is_connected and runtime.connections == [] and received == [1]

    async def test_termination_of_a_source_that_waits_makes_its_output_a_dead_letter(self) -> None:
        async with RingKernelRuntime() as runtime:
            source = await start(runtime, "a", add_one)
            await start(runtime, "b", stuck, input_queue_size=1)
            connection = runtime.connect("a", "b")
            for number in range(2):
                await runtime.send("a", number)
            await yield_to_loop()
            await source.terminate(timeout=0.01)
            assert (connection.delivered, connection.undelivered) == (1, 1)
            assert {(letter.message, letter.reason) for letter in source.dead_letters} == {(2, "undelivered"), (1, "unhandled")}

    async def test_a_cancelled_send_that_reached_no_target_is_not_sent(self) -> None:
        results: list[Any] = []

        async def patient(ctx: KernelContext[int, int]) -> None:
            async for number in ctx:
                try:
                    results.append(await asyncio.wait_for(ctx.send(number), 0.01))
                except TimeoutError:
                    results.append("not sent")

        async with RingKernelRuntime() as runtime:
            source = await start(runtime, "a", patient)
            await start(runtime, "b", stuck, input_queue_size=1)
            connection = runtime.connect("a", "b")
            for number in range(2):
                await runtime.send("a", number)
            async with asyncio.timeout(10):
                while len(results) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert results == [True, "not sent"] and (connection.delivered, source.dead_letters) == (1, [])

    async def test_an_output_that_was_accepted_just_before_the_cancellation_counts_as_delivered(self) -> None:
        tasks: list[asyncio.Task[Any]] = []

        async def source(ctx: KernelContext[int, int]) -> None:
            async for number in ctx:
                tasks.append(asyncio.create_task(ctx.send(number)))  # noqa: PERF401 - at once

        async with RingKernelRuntime() as runtime:
            kernel = await start(runtime, "a", source)
            target = await start(runtime, "b", stuck, input_queue_size=1)
            other = await start(runtime, "c", stuck, input_queue_size=1)
            connections = [runtime.connect("a", name) for name in ("b", "c")]
            for number in range(2):
                await runtime.send("a", number)
            await yield_to_loop()
            assert target._context is not None and target._context.input_queue.get_nowait() == 0
            tasks[1].cancel()
            assert isinstance((await outcomes(list(tasks)))[1], asyncio.CancelledError)
            assert [(one.delivered, one.undelivered) for one in connections] == [(2, 0), (1, 1)]
            assert [letter.message for letter in kernel.dead_letters] == [1] and other.dead_letters == []

    async def test_a_shutdown_handles_what_is_between_the_kernels(self) -> None:
        received: list[int] = []
        runtime = RingKernelRuntime()
        # The last one first, so that the order of launches does not help.
        await start(runtime, "c", collect(received))
        for name in ("b", "a"):
            await start(runtime, name, add_one, input_queue_size=1000)
            await runtime.deactivate(name)
        runtime.connect("a", "b")
        runtime.connect("b", "c")
        for number in range(1000):
            await runtime.send("a", number)
        await runtime.shutdown()
        assert received == list(range(2, 1002))

    async def test_counts_are_conserved_while_targets_come_and_go(self) -> None:
        received: list[int] = []
        async with RingKernelRuntime() as runtime:
            source = await start(runtime, "a", add_one, dead_letter_capacity=10_000)
            connections: list[Connection] = []
            for turn in range(20):
                target = await start(runtime, "b", collect(received), input_queue_size=2)
                connections.append(runtime.connect("a", "b"))
                for number in range(turn):
                    await runtime.send("a", number)
                if turn % 2:
                    runtime.disconnect("a", "b")
                await runtime.terminate("b")
                assert target.dead_letters == []
                await yield_to_loop()
            queued = source._context.output_queue.qsize if source._context is not None else 0
            sent = sum(range(20))
            assert sum(one.delivered for one in connections) == len(received)
            assert len(received) + len(source.dead_letters) + source.unrouted + queued == sent

    async def test_no_task_is_left(self) -> None:
        before = len(asyncio.all_tasks())
        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", add_one)
            await start(runtime, "b", stuck, input_queue_size=1)
            running = len(asyncio.all_tasks())
            for end in (lambda: runtime.disconnect("a", "b"), lambda: None):
                runtime.connect("a", "b")
                await runtime.send("a", 1)
                await runtime.send("a", 1)
                assert len(asyncio.all_tasks()) == running
                end()
            await runtime.terminate("a", timeout=0.01)
            assert len(asyncio.all_tasks()) == running - 1
        assert len(asyncio.all_tasks()) == before

    async def test_targets_that_have_ended_are_forgotten_by_a_source_that_sends_nothing(self) -> None:
        async with RingKernelRuntime() as runtime:
            source = await start(runtime, "a", add_one)
            for _ in range(200):
                await start(runtime, "b", add_one)
                runtime.connect("a", "b")
                await runtime.terminate("b")
            assert source._router is not None and len(source._router.connections) <= 32


class TestErrors:
    async def test_unknown_names(self) -> None:
        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", add_one)
            for pair in (("a", "x"), ("x", "a")):
                for call in (runtime.connect, runtime.disconnect):
                    with pytest.raises(KernelNotFoundError, match="'x'"):
                        call(*pair)

    async def test_a_kernel_is_not_connected_to_itself(self) -> None:
        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", add_one)
            with pytest.raises(KernelConnectionError, match="Cannot connect kernel 'a' to kernel 'a'"):
                runtime.connect("a", "a")

    async def test_disconnecting_what_is_not_connected(self) -> None:
        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", add_one)
            await start(runtime, "b", add_one)
            with pytest.raises(KernelConnectionError, match="Cannot disconnect kernel 'a' from kernel 'b'"):
                runtime.disconnect("a", "b")
            runtime.connect("a", "b")
            with pytest.raises(KernelConnectionError):
                runtime.disconnect("b", "a")

    async def test_kernels_that_have_ended(self) -> None:
        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", add_one)
            kernel = await start(runtime, "b", add_one)
            await kernel.terminate()
            for pair in (("a", "b"), ("b", "a")):
                with pytest.raises(KernelStateError, match="Cannot connect kernel 'b' from state 'TERMINATED'"):
                    runtime.connect(*pair)

    async def test_types_that_do_not_fit(self) -> None:
        async with RingKernelRuntime() as runtime:
            await runtime.launch("a", double, input_type=Request, output_type=Reply)
            await runtime.launch("b", double, input_type=Request)
            with pytest.raises(TypeValidationError, match="the connection of kernel 'a' to kernel 'b'"):
                runtime.connect("a", "b")

    async def test_an_output_of_the_wrong_type_is_an_error_in_the_source_and_reaches_no_target(self) -> None:
        errors: list[Exception] = []
        received: list[Any] = []

        async def source(ctx: KernelContext[int, Any]) -> None:
            async for number in ctx:
                try:
                    await ctx.send(number)
                except TypeValidationError as error:
                    errors.append(error)

        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", source)
            await start(runtime, "b", collect(received))
            await runtime.launch("c", double, input_type=Request)
            runtime.connect("a", "b")
            runtime.connect("a", "c")
            await runtime.send("a", 1)
            await yield_to_loop()
        assert len(errors) == 1 and received == []

    async def test_a_send_that_is_never_awaited_delivers_nothing_and_warns(self) -> None:
        received: list[int] = []

        async def forgetful(ctx: KernelContext[int, int]) -> None:
            async for number in ctx:
                ctx.send(number)

        async with RingKernelRuntime() as runtime:
            await start(runtime, "a", forgetful)
            await start(runtime, "b", collect(received))
            runtime.connect("a", "b")
            with pytest.warns(RuntimeWarning, match="'KernelContext.send' of kernel 'a' was never awaited"):
                await runtime.send("a", 1)
                await yield_to_loop()
            telemetry = runtime.get_telemetry("a")
            assert telemetry is not None and telemetry.never_awaited == 1
        assert received == []
