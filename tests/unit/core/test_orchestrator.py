"""The orchestrator of one-shot kernels: launches, streams and execution history."""

import asyncio
import os
import subprocess
import sys
from uuid import UUID

import numpy as np
import pytest

from pydotcompute.core.orchestrator import ComputeOrchestrator, KernelExecution, KernelLaunchConfig
from pydotcompute.decorators import kernel
from pydotcompute.exceptions import InvalidConfigurationError, KernelCompilationError

pytestmark = pytest.mark.usefixtures("without_gpu")

CONFIG = KernelLaunchConfig()


def test_launch_configurations() -> None:
    assert (CONFIG.grid_size, CONFIG.block_size, CONFIG.shared_memory_bytes, CONFIG.stream) == ((1,), (256,), 0, None)
    numbers = KernelLaunchConfig(grid_size=128, block_size=64)  # type: ignore[arg-type]
    assert (numbers.grid_size, numbers.block_size) == ((128,), (64,))
    for wrong in ({"grid_size": (0,)}, {"grid_size": ()}, {"block_size": (1, 2, 3, 4)}, {"block_size": -1}, {"shared_memory_bytes": -1}):
        with pytest.raises(InvalidConfigurationError, match=next(iter(wrong))):
            KernelLaunchConfig(**wrong)  # type: ignore[arg-type]


def test_execution_records() -> None:
    record = KernelExecution(start_time=1.0, end_time=1.5)
    assert record.duration_ms == 500.0 and isinstance(record.execution_id, UUID) and not record.success and record.error is None
    assert record.execution_id != KernelExecution().execution_id


async def test_initialize_and_shutdown() -> None:
    orchestrator = ComputeOrchestrator()
    assert not orchestrator.is_active and orchestrator.accelerator is None and orchestrator.memory_pool is None
    assert orchestrator.create_stream() is None
    async with orchestrator as entered:
        assert entered is orchestrator and orchestrator.is_active and orchestrator.accelerator is not None
        assert orchestrator.memory_pool is not None and orchestrator.memory_pool.enabled
        await orchestrator.initialize()
        orchestrator.synchronize()
        async with orchestrator.stream_context() as stream:
            assert stream is None
    assert not orchestrator.is_active
    await orchestrator.shutdown()


async def test_functions_and_coroutines_are_launched() -> None:
    def double(array: np.ndarray, *, by: int = 2) -> None:
        array *= by

    async def later(array: np.ndarray) -> None:
        await asyncio.sleep(0)
        array += 1

    array = np.arange(3)
    async with ComputeOrchestrator() as orchestrator:
        orchestrator.register_kernel("twice", double)
        assert orchestrator.get_kernel("twice") is double and orchestrator.get_kernel("thrice") is None
        named = await orchestrator.launch_kernel("twice", CONFIG, array)
        await orchestrator.launch_kernel(double, CONFIG, array, by=10)
        awaited = await orchestrator.launch_kernel(later, CONFIG, array)
        assert array.tolist() == [1, 21, 41]
        assert named.success and named.kernel_name == "twice" and named.config is CONFIG and named.duration_ms >= 0
        assert awaited.kernel_name == "later"
        assert [record.kernel_name for record in orchestrator.get_execution_history()] == ["twice", "double", "later"]
        assert orchestrator.get_execution_history(kernel_name="twice") == [named]
        assert orchestrator.get_execution_history(limit=1) == [awaited]
        assert orchestrator.get_execution_history(limit=0) == []
        with pytest.raises(InvalidConfigurationError):
            orchestrator.get_execution_history(limit=-1)
        assert repr(orchestrator) == "ComputeOrchestrator(active=True, kernels=1, executions=3)"
        orchestrator.clear_execution_history()
        assert orchestrator.get_execution_history() == []


async def test_decorated_kernels_are_launched() -> None:
    pytest.importorskip("numba", reason="Numba is not installed")

    @kernel(device="cpu", cache=False)
    def double(array):  # type: ignore[no-untyped-def]
        for at in range(array.size):
            array[at] *= 2

    @kernel(device="cpu", cache=False)
    def wrong(array):  # type: ignore[no-untyped-def]
        return array.no_such_thing

    array = np.arange(3)
    async with ComputeOrchestrator() as orchestrator:
        execution = await orchestrator.launch_kernel(double, CONFIG, array)
        assert execution.success and execution.kernel_name == "double" and array.tolist() == [0, 2, 4]
        with pytest.raises(KernelCompilationError):
            await orchestrator.launch_kernel(wrong, CONFIG, array)
        assert isinstance(orchestrator.get_execution_history()[-1].error, KernelCompilationError)


SIMULATED = """
import asyncio
import os
import subprocess
import sys
import numpy as np
from numba import cuda
from pydotcompute.core.orchestrator import ComputeOrchestrator, KernelLaunchConfig
from pydotcompute.decorators import gpu_kernel

@cuda.jit
def plain(out):
    at = cuda.grid(1)
    if at < out.size:
        out[at] = cuda.blockDim.x

@gpu_kernel(cache=False)
def decorated(out):
    at = cuda.grid(1)
    if at < out.size:
        out[at] = cuda.gridDim.x

async def main():
    out = np.zeros(8)
    async with ComputeOrchestrator() as orchestrator:
        assert (await orchestrator.launch_kernel(plain, KernelLaunchConfig(2, 4), out)).success
        assert out.tolist() == [4] * 8, out
        orchestrator.register_kernel("decorated", decorated)
        assert (await orchestrator.launch_kernel("decorated", KernelLaunchConfig(4, 2), out)).success
        assert out.tolist() == [4] * 8, out
        assert (await orchestrator.launch_kernel("decorated", KernelLaunchConfig((2,), (4,)), out)).success
        assert out.tolist() == [2] * 8, out

asyncio.run(main())
"""


def test_kernels_over_a_grid_in_the_simulator() -> None:
    pytest.importorskip("numba", reason="Numba is not installed")
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run([sys.executable, "-c", SIMULATED], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


async def test_a_failure_is_raised_and_recorded() -> None:
    failure = RuntimeError("launch failed")

    def broken() -> None:
        raise failure

    async with ComputeOrchestrator() as orchestrator:
        with pytest.raises(RuntimeError, match="launch failed"):
            await orchestrator.launch_kernel(broken, CONFIG)
        (record,) = orchestrator.get_execution_history()
        assert record.error is failure and not record.success and record.end_time >= record.start_time


async def test_unknown_names_and_invalid_kernels_raise() -> None:
    async with ComputeOrchestrator() as orchestrator:
        orchestrator.register_kernel("known", len)
        with pytest.raises(ValueError, match=r"'unknown' not registered; existing kernels: 'known'"):
            await orchestrator.launch_kernel("unknown", CONFIG)
        assert orchestrator.get_execution_history() == []
        with pytest.raises(InvalidConfigurationError, match="'nothing'"):
            orchestrator.register_kernel("nothing", 3)  # type: ignore[arg-type]


async def test_the_history_is_bounded() -> None:
    async with ComputeOrchestrator() as orchestrator:
        for number in range(1100):
            await orchestrator.launch_kernel(abs, CONFIG, number)
        assert len(orchestrator.get_execution_history()) == 1000


async def test_a_cancelled_kernel_is_recorded_without_success() -> None:
    started = asyncio.Event()

    async def endless() -> None:
        started.set()
        await asyncio.Event().wait()

    async with ComputeOrchestrator() as orchestrator:
        task = asyncio.create_task(orchestrator.launch_kernel(endless, CONFIG))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [record.success for record in orchestrator.get_execution_history()] == [False]
