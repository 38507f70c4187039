"""`RingKernelRuntime`: kernels by name, scopes, shutdown, and the end of a program."""

import gc
import subprocess
import sys
import textwrap
from functools import partial

import pytest

from async_handlers import Request, double, double_with_timeout
from pydotcompute.decorators.ring_kernel import ring_kernel
from pydotcompute.exceptions import InvalidConfigurationError, KernelAlreadyExistsError, KernelNotFoundError, KernelStateError
from pydotcompute.ring_kernels.lifecycle import KernelContext, KernelState
from pydotcompute.ring_kernels.runtime import RingKernelRuntime

pytestmark = pytest.mark.usefixtures("quiet_log")


class TestRuntime:
    async def test_by_name(self) -> None:
        async with RingKernelRuntime() as runtime:
            assert runtime.is_active
            await runtime.launch("k", double)
            assert runtime.get_kernel_state("k") is KernelState.LAUNCHED
            await runtime.activate("k")
            await runtime.send("k", Request(1))
            assert (await runtime.receive("k")).value == 2
            assert (await runtime.send_and_receive("k", Request(2), timeout=1)).value == 4
            await runtime.deactivate("k")
            await runtime.reactivate("k")
            assert runtime.kernel_ids == ["k"]
            await runtime.terminate("k")
            assert runtime.kernel_ids == []
        assert not runtime.is_active

    async def test_an_unknown_kernel(self) -> None:
        async with RingKernelRuntime() as runtime:
            await runtime.launch("existing", double)
            for call in (runtime.activate, runtime.deactivate, runtime.reactivate, runtime.terminate, runtime.receive):
                with pytest.raises(KernelNotFoundError) as unknown:
                    await call("nowhere")
                assert unknown.value.available == ["existing"]
            for send in (runtime.send, runtime.send_and_receive):
                with pytest.raises(KernelNotFoundError, match=r"launch\('nowhere'"):
                    await send("nowhere", Request(1))
            with pytest.raises(KernelNotFoundError):
                runtime.get_kernel_state("nowhere")
            with pytest.raises(KernelNotFoundError):
                await runtime.launch("nowhere")

    async def test_a_name_in_use_raises(self) -> None:
        async with RingKernelRuntime() as runtime:
            await runtime.launch("k", double)
            with pytest.raises(KernelAlreadyExistsError):
                await runtime.launch("k", double)

    async def test_a_function_alone_gives_the_name(self) -> None:
        async def times(factor: int, ctx: KernelContext[int, int]) -> None:
            async for number in ctx:
                await ctx.send(factor * number)

        @ring_kernel(kernel_id="declared", auto_register=False)
        async def function(ctx: KernelContext[int, int]) -> None:
            await times(2, ctx)

        async with RingKernelRuntime() as runtime:
            for kernel in (await runtime.launch(double), await runtime.launch(function), await runtime.launch(partial(times, 3))):
                await kernel.activate()
            assert runtime.kernel_ids == ["double", "declared", "times"]
            assert (await runtime.send_and_receive("double", Request(21))).value == 42
            assert [await runtime.send_and_receive(name, 21) for name in ("declared", "times")] == [42, 63]
            with pytest.raises(KernelAlreadyExistsError, match="'double'"):
                await runtime.launch(double)
            async with RingKernelRuntime() as other, other.kernel_scope(double) as scoped:
                assert (await scoped.ask(Request(1))).value == 2 and other.kernel_ids == ["double"]

    async def test_a_launch_without_a_name(self) -> None:
        async with RingKernelRuntime() as runtime:
            for nameless in (lambda ctx: ctx.receive(), 5, partial(lambda ctx: ctx.receive())):
                with pytest.raises(InvalidConfigurationError, match="launch\\('name', function\\)"):
                    await runtime.launch(nameless)
            with pytest.raises(InvalidConfigurationError, match="pass the name first"):
                await runtime.launch(double, double)
            assert runtime.kernel_ids == []

    async def test_a_runtime_after_shutdown(self) -> None:
        async with RingKernelRuntime() as runtime:
            kernel = await runtime.launch("k", double)
            await runtime.activate("k")
        assert kernel.state is KernelState.TERMINATED
        with pytest.raises(KernelStateError, match="shut down"):
            await runtime.launch("k", double)
        with pytest.raises(KernelNotFoundError):
            await runtime.send("k", Request(1))
        await runtime.shutdown()
        await runtime.start()
        await runtime.launch("k", double)
        await runtime.shutdown()

    async def test_kernel_scope(self) -> None:
        async with RingKernelRuntime() as runtime:
            async with runtime.kernel_scope("k", double) as kernel:
                assert (await kernel.ask(Request(5))).value == 10
            assert runtime.kernel_ids == []
            with pytest.raises(ZeroDivisionError):
                async with runtime.kernel_scope("k", double):
                    raise ZeroDivisionError
            assert runtime.kernel_ids == []

    async def test_ten_thousand_kernels(self) -> None:
        async with RingKernelRuntime() as runtime:
            for number in range(10_000):
                await runtime.launch(str(number), double if number % 2 else double_with_timeout)
                await runtime.activate(str(number))
            for number in range(0, 10_000, 7):
                assert (await runtime.send_and_receive(str(number), Request(number), timeout=30)).value == 2 * number
        gc.collect()

    async def test_a_million_messages(self) -> None:
        async with RingKernelRuntime() as runtime:
            await runtime.launch("k", double_with_timeout)
            await runtime.activate("k")
            for value in range(500_000):
                if (await runtime.send_and_receive("k", Request(value), timeout=60)).value != 2 * value:
                    pytest.fail(f"wrong reply to {value}")
            telemetry = runtime.get_telemetry("k")
            assert telemetry is not None and telemetry.messages_processed >= 499_999


PROGRAM = """
import asyncio, os, signal, sys
from pydotcompute import RingKernelRuntime

async def waits(ctx):
    while not ctx.should_terminate:
        await ctx.receive()

async def main():
    runtime = await RingKernelRuntime().__aenter__()
    for number in range(100):
        await runtime.launch(str(number), waits)
        await runtime.activate(str(number))
        await runtime.send(str(number), number)
    {ending}

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("ending", "status", "expected_text"),
    [
        ("return", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("os.kill(os.getpid(), signal.SIGINT); await asyncio.sleep(60)", None, "KeyboardInterrupt"),
    ],
)
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_programs_end_cleanly_with_kernels_still_active(ending: str, status: int | None, expected_text: str, loop: str) -> None:
    import os

    environment = dict(os.environ)
    environment.pop("PYDOTCOMPUTE_NO_UVLOOP", None)
    if loop == "asyncio":
        environment["PYDOTCOMPUTE_NO_UVLOOP"] = "1"
    program = textwrap.dedent(PROGRAM).replace("{ending}", ending)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert run.returncode != 0 if status is None else run.returncode == status, run.stderr
    assert expected_text in run.stderr
    assert ("panicked" not in run.stderr and "Traceback" not in run.stderr.replace(expected_text and "Traceback", "", 1)) or expected_text
