"""One-shot kernels, launched and timed."""

from collections.abc import Callable
from typing import Any
from uuid import UUID, uuid4

from pydotcompute.core.accelerator import Accelerator
from pydotcompute.core.memory_pool import MemoryPool
from pydotcompute.core.orchestrator import ComputeOrchestrator, KernelExecution, KernelLaunchConfig


def describe(execution: KernelExecution) -> str:
    number: UUID = execution.execution_id
    name: str = execution.kernel_name
    config: KernelLaunchConfig = execution.config
    times: tuple[float, float, float] = (execution.start_time, execution.end_time, execution.duration_ms)
    worked: bool = execution.success
    error: Exception | None = execution.error
    return f"{number} {name} {config} {times} {worked} {error}"


async def use() -> None:
    config = KernelLaunchConfig(grid_size=(2,), block_size=(32, 2), shared_memory_bytes=0, stream=None)
    sizes: tuple[tuple[int, ...], tuple[int, ...], int] = (config.grid_size, config.block_size, config.shared_memory_bytes)
    stream: object | None = config.stream
    async with ComputeOrchestrator() as orchestrator:
        active: bool = orchestrator.is_active
        accelerator: Accelerator | None = orchestrator.accelerator
        pool: MemoryPool | None = orchestrator.memory_pool
        orchestrator.register_kernel("print", print)
        known: Callable[..., Any] | None = orchestrator.get_kernel("print")
        execution: KernelExecution = await orchestrator.launch_kernel("print", config, 1, end="")
        execution = await orchestrator.launch_kernel(print, config)
        async with orchestrator.stream_context() as within:
            inner: object | None = within
        stream = orchestrator.create_stream()
        orchestrator.synchronize()
        history: list[KernelExecution] = orchestrator.get_execution_history(limit=10, kernel_name="print")
        orchestrator.clear_execution_history()
    by_hand = ComputeOrchestrator()
    await by_hand.initialize()
    await by_hand.shutdown()
    own = KernelExecution(execution_id=uuid4(), kernel_name="own", config=config, start_time=0.0, end_time=0.0, success=True, error=None)
    print(sizes, stream, active, accelerator, pool, known, describe(execution), inner, history, own)
