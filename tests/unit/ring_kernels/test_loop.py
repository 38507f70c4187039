"""Event loops of the program: what the package changes, and what it leaves alone."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading
from typing import Any

import pytest

from async_handlers import Request, double
from pydotcompute.exceptions import EventLoopError
from pydotcompute.ring_kernels import RingKernelRuntime, install_eager_task_factory, is_uvloop_available
from pydotcompute.ring_kernels.lifecycle import KernelContext

EAGER = sys.version_info >= (3, 12)


async def a_failing_child() -> str:
    """Uses a `TaskGroup` with a child that raises at once, which breaks the loop on Python 3.12.1 if tasks start eagerly."""

    async def child() -> None:
        raise ValueError("child")

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
    except* ValueError:
        pass
    return "survived"


async def steps_before_the_call_returns(runtime: RingKernelRuntime) -> list[str]:
    """Returns what a ring kernel and a task have done when the calls that create them return."""
    steps = []

    async def kernel(ctx: KernelContext[Any, Any]) -> None:
        steps.append("kernel")
        await ctx.receive()

    async def task() -> None:
        steps.append("task")

    await runtime.launch("k", kernel)
    await runtime.activate("k")
    other = asyncio.create_task(task())
    done = list(steps)
    await other
    return done


class TestTaskFactory:
    @pytest.mark.parametrize("eager", [True, False])
    async def test_the_loop_of_the_program_keeps_its_task_factory(self, eager: bool) -> None:
        loop = asyncio.get_running_loop()
        async with RingKernelRuntime(use_eager_tasks=eager) as runtime:
            assert loop.get_task_factory() is None
            assert runtime.get_loop_info()["runtime_eager_tasks_installed"] is (eager and EAGER)
            assert await steps_before_the_call_returns(runtime) == (["kernel"] if eager and EAGER else [])
        assert loop.get_task_factory() is None

    async def test_a_task_factory_of_the_program_makes_the_tasks(self) -> None:
        made = []

        def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
            made.append(coro.__qualname__)
            return asyncio.Task(coro, loop=loop, **options)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        try:
            async with RingKernelRuntime() as runtime:
                await runtime.launch("double", double)
                await runtime.activate("double")
                assert loop.get_task_factory() is factory
        finally:
            loop.set_task_factory(None)
        assert "RingKernel._run" in made

    def test_task_groups_beside_and_inside_a_ring_kernel(self) -> None:
        async def groups(ctx: KernelContext[Any, Any]) -> None:
            while not ctx.should_terminate:
                await ctx.receive()
                await ctx.send(await a_failing_child())

        async def main() -> list[str]:
            async with RingKernelRuntime(use_uvloop=False) as runtime:
                await runtime.launch("groups", groups)
                await runtime.activate("groups")
                return [await a_failing_child(), *[await runtime.send_and_receive("groups", 1, timeout=20) for _ in range(2)]]

        assert asyncio.run(main()) == ["survived"] * 3

    @pytest.mark.skipif(not EAGER, reason="Python 3.12 and later have eager tasks")
    async def test_the_program_may_install_the_factory(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            assert install_eager_task_factory()
            assert loop.get_task_factory() is not None
        finally:
            loop.set_task_factory(None)


class TestSecondLoop:
    """A runtime that is used from another event loop than the one in which its kernels were activated."""

    @staticmethod
    async def prepared() -> RingKernelRuntime:
        runtime = RingKernelRuntime()
        await runtime.start()
        await runtime.launch("double", double)
        await runtime.activate("double")
        await runtime.send_and_receive("double", Request(1), timeout=20)
        return runtime

    def test_after_the_first_loop_was_closed(self) -> None:
        loops = []

        async def prepare() -> RingKernelRuntime:
            loops.append(str(asyncio.get_running_loop()))
            return await self.prepared()

        runtime = asyncio.run(prepare())

        async def use(call: Any) -> None:
            with pytest.raises(EventLoopError) as caught:
                await call()
            assert caught.value.kernel_id == "double"
            assert str(asyncio.get_running_loop()) == caught.value.calling_loop
            assert caught.value.calling_loop in str(caught.value)
            assert caught.value.kernel_loop in str(caught.value)
            assert "closed" in caught.value.kernel_loop

        asyncio.run(use(lambda: runtime.send_and_receive("double", Request(2))))
        asyncio.run(use(lambda: runtime.send("double", Request(2))))
        asyncio.run(runtime.shutdown())

    def test_while_the_first_loop_does_not_run(self) -> None:
        first = asyncio.new_event_loop()
        runtime = first.run_until_complete(self.prepared())

        async def use() -> None:
            for call in (lambda: runtime.send_and_receive("double", Request(2)), lambda: runtime.receive("double"), runtime.shutdown):
                with pytest.raises(EventLoopError):
                    await asyncio.wait_for(call(), 20)

        asyncio.run(use())

        async def use_again() -> Any:
            reply = await runtime.send_and_receive("double", Request(4), timeout=20)
            await runtime.shutdown()
            return reply.value

        assert first.run_until_complete(use_again()) == 8
        first.close()

    def test_a_loop_that_runs_on_another_thread(self) -> None:
        ready: queue.SimpleQueue[Any] = queue.SimpleQueue()

        async def serve() -> None:
            runtime = await self.prepared()
            end = asyncio.Event()
            ready.put((runtime, asyncio.get_running_loop(), end))
            await end.wait()
            await runtime.shutdown()

        thread = threading.Thread(target=asyncio.run, args=(serve(),))
        thread.start()
        runtime, loop, end = ready.get(timeout=60)

        async def use() -> list[int]:
            return [(await runtime.send_and_receive("double", Request(value), timeout=20)).value for value in range(20)]

        try:
            assert asyncio.run(use()) == list(range(0, 40, 2))
        finally:
            loop.call_soon_threadsafe(end.set)
            thread.join(60)


@pytest.mark.skipif(not is_uvloop_available(), reason="needs uvloop")
@pytest.mark.parametrize(
    ("environment", "before", "expected"),
    [
        ({}, "", "uvloop"),
        ({"PYDOTCOMPUTE_NO_UVLOOP": "1"}, "", "asyncio.unix_events"),
        ({}, "asyncio.set_event_loop_policy(Own())", "__main__"),
    ],
)
def test_import_and_runtimes_respect_the_choice_of_the_program(environment: dict[str, str], before: str, expected: str) -> None:
    program = f"""
import asyncio, os
os.environ.pop("PYDOTCOMPUTE_NO_UVLOOP", None)
os.environ.update({environment!r})
class Own(asyncio.DefaultEventLoopPolicy):
    pass
{before}
from pydotcompute import RingKernelRuntime
RingKernelRuntime()
print(type(asyncio.get_event_loop_policy()).__module__)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == expected
