"""What the package itself offers."""

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
class Question(RingKernelMessage):
    value: float = 0.0


@message
@dataclass
class Answer(RingKernelMessage):
    value: float = 0.0


@ring_kernel(kernel_id="double", input_type=Question, output_type=Answer)
async def double(ctx: KernelContext[Question, Answer]) -> None:
    while not ctx.should_terminate:
        question: Question = await ctx.receive()
        await ctx.send(Answer(value=2 * question.value, correlation_id=question.message_id))


async def use() -> float:
    async with RingKernelRuntime() as runtime:
        await runtime.launch("double")
        await runtime.activate("double")
        answer: Answer = await runtime.send_and_receive("double", Question(value=21.0), timeout=1.0)
        return answer.value
