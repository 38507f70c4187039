"""Names exported by the package itself."""

from dataclasses import dataclass

import pydotcompute
from pydotcompute import (
    Accelerator,
    BufferState,
    ComputeOrchestrator,
    MemoryPool,
    RingKernelMessage,
    RingKernelRuntime,
    UnifiedBuffer,
    gpu_kernel,
    kernel,
    message,
    ring_kernel,
)
from pydotcompute.ring_kernels.lifecycle import KernelContext

version: str = pydotcompute.__version__
decorators: list[object] = [gpu_kernel, kernel]
classes: list[type] = [Accelerator, BufferState, ComputeOrchestrator, MemoryPool, UnifiedBuffer]


@message
@dataclass
class Request(RingKernelMessage):
    value: float = 0.0


@message
@dataclass
class Reply(RingKernelMessage):
    value: float = 0.0


@ring_kernel(kernel_id="double", input_type=Request, output_type=Reply)
async def double(ctx: KernelContext[Request, Reply]) -> None:
    while not ctx.should_terminate:
        request: Request = await ctx.receive()
        await ctx.send(Reply(value=2 * request.value, correlation_id=request.message_id))


async def use() -> float:
    async with RingKernelRuntime() as runtime:
        await runtime.launch("double")
        await runtime.activate("double")
        reply: Reply = await runtime.send_and_receive("double", Request(value=21.0), timeout=1.0)
        return reply.value
