"""Ring kernels on the event loop: lifecycle, settings and failure."""

import asyncio
import functools
import logging
from typing import Any

import pytest

from async_handlers import Reply, Request, double, double_with_timeout
from pydotcompute.exceptions import InvalidConfigurationError, KernelError, KernelStateError, QueueTimeoutError
from pydotcompute.ring_kernels.lifecycle import KernelContext, KernelState, RingKernel, RingKernelConfig, Supervision, managed_kernel
from pydotcompute.ring_kernels.runtime import RingKernelRuntime

pytestmark = pytest.mark.usefixtures("quiet_log")


def plain(ctx: Any) -> None:
    while not ctx.should_terminate:
        ctx.receive()


async def without_parameters() -> None: ...


async def with_two_parameters(ctx: KernelContext[Any, Any], second: int) -> None:
    while not ctx.should_terminate:
        await ctx.send(await ctx.receive())


class Callable:
    async def __call__(self, ctx: KernelContext[Any, Any]) -> None:
        await with_two_parameters(ctx, 1)

    async def method(self, ctx: KernelContext[Any, Any]) -> None:
        await with_two_parameters(ctx, 1)


class TestLifecycle:
    async def test_the_states_from_launch_to_termination(self) -> None:
        kernel: RingKernel[Request, Reply] = RingKernel("k", double)
        assert kernel.state is KernelState.CREATED
        await kernel.launch()
        assert kernel.state is KernelState.LAUNCHED
        await kernel.activate()
        assert kernel.state is KernelState.ACTIVE
        await kernel.send(Request(21))
        assert (await kernel.receive(timeout=5)).value == 42
        await kernel.deactivate()
        assert kernel.state is KernelState.DEACTIVATED
        await kernel.reactivate()
        await kernel.terminate()
        assert kernel.state is KernelState.TERMINATED
        await kernel.terminate()

    async def test_errors_of_calls_in_the_wrong_state_name_kernel_state_and_call(self) -> None:
        kernel: RingKernel[Request, Reply] = RingKernel("k", double)
        for call in (kernel.activate, kernel.deactivate, kernel.reactivate, kernel.receive):
            with pytest.raises(KernelStateError) as wrong:
                await call()
            assert wrong.value.current_state == "CREATED"
        await kernel.launch()
        with pytest.raises(KernelStateError, match="LAUNCHED"):
            await kernel.launch()
        with pytest.raises(KernelStateError, match=r"'k' from state 'LAUNCHED'; activate\(\) it first"):
            await kernel.send(Request(1))
        await kernel.activate()
        with pytest.raises(KernelStateError, match="ACTIVE"):
            await kernel.reactivate()
        await kernel.terminate()
        with pytest.raises(KernelStateError, match="TERMINATED"):
            await kernel.ask(Request(1))

    async def test_errors_are_raised_on_await_so_that_gather_can_return_them(self) -> None:
        kernel: RingKernel[Request, Reply] = RingKernel("k", double)
        outcomes = await asyncio.gather(kernel.send(Request(1)), kernel.receive(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [KernelStateError, KernelStateError]

    async def test_messages_wait_while_it_is_deactivated(self) -> None:
        async with managed_kernel("k", double) as kernel:
            await asyncio.sleep(0)
            await kernel.deactivate()
            await kernel.send(Request(1))
            with pytest.raises(QueueTimeoutError):
                await kernel.receive(timeout=0.02)
            pending = asyncio.create_task(kernel.ask(Request(2)))
            await asyncio.sleep(0.01)
            assert not pending.done()
            await kernel.reactivate()
            assert (await kernel.receive(timeout=5)).value == 2
            assert (await pending).value == 4

    @pytest.mark.parametrize("function", [double, double_with_timeout])
    async def test_terminate_ends_a_waiting_kernel_at_once(self, function: Any) -> None:
        async with managed_kernel("k", function) as kernel:
            await asyncio.sleep(0.01)
            begun = asyncio.get_running_loop().time()
            await kernel.terminate(timeout=30)
            assert asyncio.get_running_loop().time() - begun < 10

    async def test_a_kernel_that_ignores_should_terminate_is_cancelled(self) -> None:
        cleaned = []

        async def ignores_termination(ctx: KernelContext[Any, Any]) -> None:
            try:
                while True:
                    try:
                        await ctx.receive(timeout=0.01)
                    except QueueTimeoutError:
                        continue
            finally:
                cleaned.append(True)

        async with managed_kernel("k", ignores_termination) as kernel:
            await kernel.terminate(timeout=0.05)
        assert cleaned == [True]

    async def test_unhandled_messages_become_dead_letters(self) -> None:
        gate = asyncio.Event()

        async def slow(ctx: KernelContext[Request, Reply]) -> None:
            while not ctx.should_terminate:
                await ctx.receive()
                await gate.wait()

        async with managed_kernel("k", slow) as kernel:
            for value in range(5):
                await kernel.send(Request(value))
            pending = asyncio.create_task(kernel.ask(Request(5)))
            await asyncio.sleep(0.01)
            ending = asyncio.create_task(kernel.terminate())
            await asyncio.sleep(0)
            gate.set()
            await ending
            assert [letter.message.value for letter in kernel.dead_letters] == [1, 2, 3, 4, 5]
            assert {letter.reason for letter in kernel.dead_letters} == {"unhandled"}
            with pytest.raises(KernelError, match="will not reply"):
                await pending

    async def test_terminate_raises_in_waiting_callers(self) -> None:
        async def silent(ctx: KernelContext[Request, Reply]) -> None:
            while not ctx.should_terminate:
                await ctx.receive()

        async with managed_kernel("k", silent) as kernel:
            waiting = [asyncio.create_task(kernel.receive()), asyncio.create_task(kernel.ask(Request(1)))]
            await asyncio.sleep(0.01)
            await kernel.terminate()
            for outcome in await asyncio.gather(*waiting, return_exceptions=True):
                assert isinstance(outcome, KernelStateError) and outcome.current_state == "TERMINATED"

    async def test_a_function_that_returns_early(self) -> None:
        async def three(ctx: KernelContext[Request, Reply]) -> None:
            for value in range(3):
                await ctx.send(Reply(value))

        async with managed_kernel("k", three) as kernel:
            assert [(await kernel.receive(timeout=5)).value for _ in range(3)] == [0, 1, 2]
            with pytest.raises(KernelStateError, match="TERMINATED"):
                await kernel.receive(timeout=5)
            with pytest.raises(KernelStateError, match="TERMINATED"):
                await kernel.send(Request(1))

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            (plain, "`async def`"),
            (functools.partial(plain), "`async def`"),
            (len, "`async def`"),
            (5, "not callable"),
            (without_parameters, "one argument, the context"),
            (with_two_parameters, "one argument, the context"),
        ],
    )
    async def test_a_function_that_cannot_run_is_refused_at_launch(self, function: Any, reason: str) -> None:
        async with RingKernelRuntime() as runtime:
            with pytest.raises(InvalidConfigurationError, match=reason):
                await runtime.launch("k", function)
            # The name is free again.
            await runtime.launch("k", double)
            assert runtime.get_telemetry("k") is not None

    @pytest.mark.parametrize(
        "function",
        [functools.partial(with_two_parameters, second=1), Callable(), Callable().method, lambda ctx: with_two_parameters(ctx, 1)],
        ids=["partial", "object", "method", "lambda"],
    )
    async def test_what_returns_a_coroutine_can_be_launched(self, function: Any) -> None:
        async with managed_kernel("k", function) as kernel:
            assert await kernel.ask(1) == 1

    async def test_a_lambda_that_returns_no_awaitable_fails(self) -> None:
        async with managed_kernel("k", lambda ctx: 5) as kernel:
            await asyncio.sleep(0)
            assert kernel.state is KernelState.FAILED
            assert "returned 5, which cannot be awaited" in str(kernel.error)

    async def test_a_kernel_may_terminate_itself(self) -> None:
        async with RingKernelRuntime() as runtime:

            async def terminates_itself(ctx: KernelContext[Request, Reply]) -> None:
                await ctx.receive()
                await runtime.terminate("k")

            await runtime.launch("k", terminates_itself)
            await runtime.activate("k")
            await runtime.send("k", Request(1))
            await asyncio.sleep(0.05)
            assert runtime.kernel_ids == []

    async def test_a_context_accepts_custom_queues(self) -> None:
        items: asyncio.Queue[Any] = asyncio.Queue()

        class CustomQueue:
            async def get(self, *, timeout: float | None = None) -> Any:
                return await items.get()

            async def put(self, item: Any) -> bool:
                await items.put(item)
                return True

        ctx: KernelContext[Any, Any] = KernelContext("k", CustomQueue(), CustomQueue())  # type: ignore[arg-type]
        await ctx.send(5)
        assert await ctx.receive() == 5 and not ctx.should_terminate and not ctx.is_active

    @pytest.mark.parametrize("setting", ["grid_size", "block_size", "input_queue_size", "output_queue_size"])
    def test_settings_are_checked(self, setting: str) -> None:
        with pytest.raises(ValueError, match=setting):
            RingKernelConfig("k", **{setting: 0})
        with pytest.raises(ValueError, match="backpressure"):
            RingKernelConfig("k", backpressure_strategy="hope")


class TestFailure:
    async def test_waiting_callers_get_the_error_with_its_cause(self) -> None:
        async with managed_kernel("k", double) as kernel:
            receiving = asyncio.create_task(kernel.receive())
            await asyncio.sleep(0)
            with pytest.raises(KernelError, match="'k' failed: ValueError: negative: -1") as from_ask:
                await kernel.ask(Request(-1))
            assert isinstance(from_ask.value.__cause__, ValueError)
            with pytest.raises(KernelError) as received:
                await receiving
            assert received.value.__cause__ is from_ask.value.__cause__ is kernel.error
            assert kernel.state is KernelState.FAILED
            with pytest.raises(KernelError):
                await kernel.receive()
            with pytest.raises(KernelStateError, match="FAILED"):
                await kernel.send(Request(1))

    async def test_outputs_before_the_failure_are_received_first(self) -> None:
        async with managed_kernel("k", double) as kernel:
            await kernel.send(Request(1))
            await kernel.send(Request(-1))
            assert (await kernel.receive()).value == 2
            with pytest.raises(KernelError):
                await kernel.receive()

    async def test_messages_become_dead_letters_with_the_cause(self) -> None:
        async with managed_kernel("k", double) as kernel:
            await kernel.deactivate()
            for value in (-1, 2, 3):
                await kernel.send(Request(value))
            await kernel.reactivate()
            with pytest.raises(KernelError):
                await kernel.receive(timeout=5)
            assert [letter.message.value for letter in kernel.dead_letters] == [-1, 2, 3]
            assert all(isinstance(letter.cause, ValueError) for letter in kernel.dead_letters)

    async def test_a_failure_completes_waiting_senders(self) -> None:
        config = RingKernelConfig("k", input_queue_size=1)
        gate = asyncio.Event()

        async def failing(ctx: KernelContext[Any, Any]) -> None:
            await gate.wait()
            raise RuntimeError("no")

        async with managed_kernel("k", failing, config=config) as kernel:
            await kernel.send(1)
            waiting = asyncio.create_task(kernel.send(2))
            await asyncio.sleep(0.01)
            gate.set()
            outcome = (await asyncio.gather(waiting, return_exceptions=True))[0]
            # Dead-lettering the queued message may free a slot for this one, which then becomes a dead letter too.
            assert outcome is True or isinstance(outcome, KernelError)

    async def test_supervision_limits_the_restarts(self) -> None:
        config = RingKernelConfig("k", supervision=Supervision(max_restarts=2, within=60))
        async with managed_kernel("k", double, config=config) as kernel:
            for _ in range(2):
                with pytest.raises(KernelError, match="negative"):
                    await kernel.ask(Request(-1))
                assert (await kernel.ask(Request(3), timeout=5)).value == 6
            with pytest.raises(KernelError):
                await kernel.ask(Request(-1))
            assert kernel.state is KernelState.FAILED
            assert [letter.reason for letter in kernel.dead_letters] == ["failed"] * 3

    async def test_messages_survive_a_restart(self) -> None:
        config = RingKernelConfig("k", supervision=Supervision(max_restarts=None))
        async with managed_kernel("k", double, config=config) as kernel:
            await kernel.deactivate()
            pending = [asyncio.create_task(kernel.ask(Request(value))) for value in (1, -1, 2, -1, 3)]
            await asyncio.sleep(0.01)
            await kernel.reactivate()
            outcomes = await asyncio.gather(*pending, return_exceptions=True)
            assert [o.value if isinstance(o, Reply) else type(o) for o in outcomes] == [2, KernelError, 4, KernelError, 6]

    async def test_an_error_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.ERROR, "pydotcompute")
        async with managed_kernel("k", double) as kernel:
            await kernel.send(Request(-1))
            await asyncio.sleep(0.01)
        assert "kernel 'k' raised ValueError" in caplog.text and "negative: -1" in caplog.text

    async def test_a_task_that_is_cancelled_before_its_first_step_is_a_failure(self) -> None:
        kernel: RingKernel[Any, Any] = RingKernel("k", double)
        await kernel.launch()
        await kernel.activate()
        assert kernel._task is not None
        kernel._task.cancel()
        waiting = asyncio.ensure_future(kernel.ask(Request(1)))
        with pytest.raises(KernelError, match="cancelled before it began"):
            await waiting
        assert kernel.state is KernelState.FAILED
        await kernel.terminate()

    async def test_a_cancelled_kernel_task_is_a_failure(self) -> None:
        async with managed_kernel("k", double) as kernel:
            receiving = asyncio.create_task(kernel.receive())
            await asyncio.sleep(0)
            assert kernel._task is not None
            kernel._task.cancel()
            with pytest.raises(KernelError, match="cancelled"):
                await receiving
