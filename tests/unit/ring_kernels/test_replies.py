"""Which request a ring kernel's message replies to: `send`, `reply` and `skip`."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from async_handlers import Number, Reply, Request, active, never, outcomes, yield_to_loop
from pydotcompute.exceptions import AmbiguousReplyError, KernelError, KernelStateError, NoReplyError, QueueTimeoutError
from pydotcompute.ring_kernels.lifecycle import KernelContext, Supervision, managed_kernel

pytestmark = pytest.mark.usefixtures("quiet_log")

Context = KernelContext[Any, Any]

# A caller that gets no answer fails the test after this time, in seconds.
LIMIT = 20.0


async def ask_all(kernel: Any, messages: list[Any]) -> list[Any]:
    """Asks at once, and returns replies and exceptions."""
    return await outcomes([asyncio.ensure_future(kernel.ask(message)) for message in messages])


class TestSend:
    async def test_a_kernel_that_answers_only_some_requests_gives_no_wrong_answer(self) -> None:
        async def only_odd(ctx: Context) -> None:
            while not ctx.should_terminate:
                number = await ctx.receive()
                await asyncio.sleep(0)
                if number % 2:
                    await ctx.send(number)

        async with managed_kernel("odd", only_odd) as kernel:
            results = await ask_all(kernel, list(range(8)))
            assert isinstance(kernel.error, AmbiguousReplyError)
            assert (kernel.error.kernel_id, kernel.error.open_requests) == ("odd", 2)
        assert all(isinstance(result, KernelError) for result in results)
        assert isinstance(results[0].__cause__, AmbiguousReplyError)
        for advice in ("ctx.reply(", "correlation_id", "ctx.skip("):
            assert advice in str(results[0])

    async def test_a_batch_that_does_not_name_its_requests_is_an_error(self) -> None:
        async def pairs(ctx: Context) -> None:
            while not ctx.should_terminate:
                for number in [await ctx.receive(), await ctx.receive()]:
                    await ctx.send(number)

        async with managed_kernel("pairs", pairs) as kernel:
            results = await ask_all(kernel, [1, 2])
        assert [type(result.__cause__) for result in results] == [AmbiguousReplyError] * 2

    @pytest.mark.parametrize("gives_up", ["before", "after"])
    async def test_a_late_answer_does_not_reach_the_next_caller_of_a_batch(self, gives_up: str) -> None:
        """The first caller gives up, before or after the kernel receives the second request."""
        go_on = asyncio.Event()

        async def pairs(ctx: Context) -> None:
            first, second = await ctx.receive(), await ctx.receive()
            await go_on.wait()
            for number in (first, second):
                await ctx.send(number)

        kernel = await active(pairs)
        first = asyncio.ensure_future(kernel.ask(1))
        await yield_to_loop()
        if gives_up == "before":
            first.cancel()
            await yield_to_loop()
        second = asyncio.ensure_future(kernel.ask(2))
        await yield_to_loop()
        first.cancel()
        await yield_to_loop()
        go_on.set()
        (result,) = await outcomes([second])
        assert isinstance(result.__cause__, AmbiguousReplyError)
        await kernel.terminate()

    async def test_a_task_per_message_that_does_not_name_its_request_is_an_error_for_all_callers(self) -> None:
        failed: list[BaseException | None] = []

        async def workers(ctx: Context) -> None:
            tasks = set()

            async def work(number: int) -> None:
                await asyncio.sleep(0.001 * (10 - number))
                await ctx.send(number)

            while not ctx.should_terminate:
                task = asyncio.ensure_future(work(await ctx.receive()))
                task.add_done_callback(lambda task: failed.append(task.exception()))
                tasks.add(task)

        async with managed_kernel("workers", workers) as kernel:
            results = await ask_all(kernel, list(range(8)))
            assert [type(result.__cause__) for result in results] == [AmbiguousReplyError] * 8
            await asyncio.sleep(0.02)
            # A task that works for an ended request cannot answer a later one.
            late = asyncio.ensure_future(kernel.ask(9))
            (result,) = await outcomes([late])
            assert isinstance(result.__cause__, AmbiguousReplyError)
        assert isinstance(failed[0], AmbiguousReplyError)

    async def test_requests_that_are_still_queued_do_not_count(self) -> None:
        async def slow(ctx: Context) -> None:
            while not ctx.should_terminate:
                number = await ctx.receive()
                await yield_to_loop()
                await ctx.send(number)

        async with managed_kernel("slow", slow) as kernel:
            assert await ask_all(kernel, list(range(20))) == list(range(20))

    async def test_of_several_sends_the_first_replies(self) -> None:
        async def stream(ctx: Context) -> None:
            while not ctx.should_terminate:
                number = await ctx.receive()
                for index in range(3):
                    await ctx.send((number, index))

        async with managed_kernel("stream", stream) as kernel:
            assert await ask_all(kernel, [1, 2]) == [(1, 0), (2, 0)]
            assert [await kernel.receive(timeout=LIMIT) for _ in range(4)] == [(1, 1), (1, 2), (2, 1), (2, 2)]

    async def test_an_output_for_a_told_message_while_a_request_waits_is_an_error(self) -> None:
        async def two(ctx: Context) -> None:
            await ctx.receive()
            await ctx.receive()
            await ctx.send("for which one?")

        kernel = await active(two)
        asked = asyncio.ensure_future(kernel.ask("asked"))
        await yield_to_loop()
        await kernel.send("told")
        (result,) = await outcomes([asked])
        assert isinstance(result.__cause__, AmbiguousReplyError)
        await kernel.terminate()

    async def test_a_told_message_before_the_request_does_not_count(self) -> None:
        async def totals(ctx: Context) -> None:
            total = 0
            while not ctx.should_terminate:
                number = await ctx.receive()
                total += number
                if number == 0:
                    await ctx.send(total)

        async with managed_kernel("totals", totals) as kernel:
            for number in (1, 2, 3):
                await kernel.send(number)
            assert await kernel.ask(0, timeout=LIMIT) == 6

    async def test_an_output_after_the_caller_of_an_earlier_request_gave_up(self) -> None:
        async def ignores(ctx: Context) -> None:
            await ctx.receive()
            await ctx.send(("told", await ctx.receive()))
            await asyncio.Event().wait()

        kernel = await active(ignores)
        with pytest.raises(QueueTimeoutError):
            await kernel.ask(1, timeout=0.001)
        await kernel.send(2)
        assert await kernel.receive(timeout=LIMIT) == ("told", 2)
        await kernel.terminate(0.0)

    async def test_a_task_of_an_earlier_run_cannot_answer_a_request_of_the_next_one(self) -> None:
        """Supervision restarts the function while its task still works for the message that failed."""
        refused: list[BaseException | None] = []

        async def fails_once(ctx: Context) -> None:
            async def late(number: int) -> None:
                await go_on.wait()
                await ctx.send(("late", number))

            number = await ctx.receive()
            if number == 1:
                task = asyncio.ensure_future(late(number))
                task.add_done_callback(lambda task: refused.append(task.exception()))
                raise ValueError(number)
            await asyncio.Event().wait()

        go_on = asyncio.Event()
        kernel = await active(fails_once, supervision=Supervision(max_restarts=1))
        (first,) = await ask_all(kernel, [1])
        assert isinstance(first.__cause__, ValueError)
        second = asyncio.ensure_future(kernel.ask(2))
        await yield_to_loop()
        go_on.set()
        (result,) = await outcomes([second])
        assert isinstance(result.__cause__, AmbiguousReplyError)
        assert isinstance(refused[0], AmbiguousReplyError)
        await kernel.terminate(0.0)

    @pytest.mark.parametrize("form", ["plain", "in a task", "send in a task"])
    async def test_a_plain_loop_goes_on_after_a_restart(self, form: str) -> None:
        async def loop(ctx: Context) -> None:
            while not ctx.should_terminate:
                inverse = 1 / await ctx.receive()
                await (asyncio.ensure_future(ctx.send(inverse)) if form == "send in a task" else ctx.send(inverse))

        async def inverts(ctx: Context) -> None:
            await (asyncio.ensure_future(loop(ctx)) if form == "in a task" else loop(ctx))

        kernel = await active(inverts, supervision=Supervision(max_restarts=None))
        results = await ask_all(kernel, [0, 1, 0, 2])
        assert [results[1], results[3]] == [1.0, 0.5]
        assert await kernel.ask(4, timeout=LIMIT) == 0.25
        await kernel.terminate()


class TestReply:
    async def test_replies_in_any_order_and_from_tasks(self) -> None:
        async def workers(ctx: Context) -> None:
            tasks = set()

            async def work(message: Any) -> None:
                await yield_to_loop(10 - message.value)
                await ctx.reply(message, message.value)

            while not ctx.should_terminate:
                tasks.add(asyncio.ensure_future(work(await ctx.receive())))

        async with managed_kernel("workers", workers) as kernel:
            assert await ask_all(kernel, [Number(value) for value in range(10)]) == list(range(10))

    async def test_batches_of_plain_objects(self) -> None:
        async def backwards(ctx: Context) -> None:
            batch = [await ctx.receive() for _ in range(4)]
            for number in reversed(batch):
                await ctx.reply(number, -number)
            await asyncio.Event().wait()

        kernel = await active(backwards)
        assert await ask_all(kernel, [1, 10**9, 2, 3]) == [-1, -(10**9), -2, -3]
        await kernel.terminate(0.0)

    async def test_the_same_object_sent_twice(self) -> None:
        async def batch(ctx: Context) -> None:
            numbers = [await ctx.receive() for _ in range(3)]
            for index, number in enumerate(numbers):
                await ctx.reply(number, (number, index))
            await asyncio.Event().wait()

        kernel = await active(batch)
        assert await ask_all(kernel, [7, 8, 7]) == [(7, 0), (8, 1), (7, 2)]
        await kernel.terminate(0.0)

    async def test_of_equal_objects_the_one_whose_caller_waits_gets_the_reply(self) -> None:
        async def second_only(ctx: Context) -> None:
            await ctx.receive()
            await ctx.reply(await ctx.receive(), "reply")
            await asyncio.Event().wait()

        kernel = await active(second_only)
        with pytest.raises(QueueTimeoutError):
            await kernel.ask(7, timeout=0.001)
        assert await kernel.ask(7, timeout=LIMIT) == "reply"
        await kernel.terminate(0.0)

    async def test_a_copy_of_a_message_names_it_by_its_id(self) -> None:
        async def copies(ctx: Context) -> None:
            batch = [await ctx.receive() for _ in range(2)]
            for message in reversed(batch):
                await ctx.reply(pickle.loads(pickle.dumps(message)), message.value)
            await asyncio.Event().wait()

        kernel = await active(copies)
        requests = [Request(1), Request(2)]
        assert all(request.message_id for request in requests)
        assert await ask_all(kernel, requests) == [1, 2]
        await kernel.terminate(0.0)

    async def test_a_reply_that_is_the_reply_of_another_kernel_reaches_its_caller(self) -> None:
        """Its correlation id names the request to the other kernel."""

        async def double(ctx: Context) -> None:
            while not ctx.should_terminate:
                request = await ctx.receive()
                await ctx.send(Reply(2 * request.value, correlation_id=request.message_id))

        async with managed_kernel("double", double) as other:

            async def relay(ctx: Context) -> None:
                while not ctx.should_terminate:
                    request = await ctx.receive()
                    await ctx.reply(request, await other.ask(Request(request.value)))

            async with managed_kernel("relay", relay) as kernel:
                assert (await kernel.ask(Request(4), timeout=LIMIT)).value == 8

    async def test_replies_to_told_messages_and_further_replies_are_outputs(self) -> None:
        async def twice(ctx: Context) -> None:
            while not ctx.should_terminate:
                number = await ctx.receive()
                await ctx.reply(number, (number, 1))
                await ctx.reply(number, (number, 2))

        async with managed_kernel("twice", twice) as kernel:
            assert await kernel.ask(5, timeout=LIMIT) == (5, 1)
            await kernel.send(6)
            assert [await kernel.receive(timeout=LIMIT) for _ in range(3)] == [(5, 2), (6, 1), (6, 2)]

    async def test_a_reply_to_a_caller_that_gave_up_is_dropped(self) -> None:
        async def late(ctx: Context) -> None:
            first = await ctx.receive()
            second = await ctx.receive()
            await ctx.reply(first, "late")
            await ctx.reply(second, "in time")
            await asyncio.Event().wait()

        kernel = await active(late)
        with pytest.raises(QueueTimeoutError):
            await kernel.ask(1, timeout=0.001)
        assert await kernel.ask(2, timeout=LIMIT) == "in time"
        context = kernel._context
        assert context is not None
        assert (context.output_queue.qsize, context.output_queue.get_stats()["total_dropped"]) == (0, 1)
        await kernel.terminate(0.0)


class TestNoReply:
    async def test_a_skipped_request_ends_at_once_and_does_not_shift_later_replies(self) -> None:
        async def only_odd(ctx: Context) -> None:
            while not ctx.should_terminate:
                number = await ctx.receive()
                if number % 2:
                    await ctx.send(number)
                else:
                    await ctx.skip(number)

        async with managed_kernel("odd", only_odd) as kernel:
            results = await ask_all(kernel, list(range(8)))
        assert results[1::2] == [1, 3, 5, 7]
        assert all(isinstance(result, NoReplyError) and result.kernel_id == "odd" for result in results[::2])
        assert "skipped" in str(results[0])

    async def test_skip_acts_without_await_and_ignores_other_messages(self) -> None:
        async def skips(ctx: Context) -> None:
            number = await ctx.receive()
            ctx.skip("another object")
            ctx.skip(number)
            ctx.skip(number)
            await asyncio.Event().wait()

        kernel = await active(skips)
        (result,) = await ask_all(kernel, [1])
        assert isinstance(result, NoReplyError)
        await kernel.terminate(0.0)

    async def test_the_end_of_the_function_ends_its_requests(self) -> None:
        async def returns(ctx: Context) -> None:
            for _ in range(2):
                await ctx.receive()

        kernel = await active(returns)
        results = await ask_all(kernel, [1, 2, 3])
        assert all(isinstance(result, KernelError) for result in results)
        assert isinstance(results[0], KernelStateError)
        await kernel.terminate()

    async def test_an_error_about_replies_can_be_pickled(self) -> None:
        for error in (NoReplyError("k", "why"), AmbiguousReplyError("k", 3)):
            copy = pickle.loads(pickle.dumps(error))
            assert (str(copy), vars(copy)) == (str(error), vars(error))

    async def test_a_request_to_a_kernel_that_never_replies_ends_with_the_kernel(self) -> None:
        kernel = await active(never)
        asked = asyncio.ensure_future(kernel.ask(1))
        await yield_to_loop()
        await kernel.terminate(0.0)
        (result,) = await outcomes([asked])
        assert isinstance(result, KernelError)
