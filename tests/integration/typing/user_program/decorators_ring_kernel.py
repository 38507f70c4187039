"""Functions that become ring kernels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydotcompute import RingKernelMessage, message
from pydotcompute.decorators.ring_kernel import RingKernelBuilder, get_ring_kernel_meta, is_ring_kernel, ring_kernel
from pydotcompute.ring_kernels.lifecycle import KernelContext


@message
@dataclass
class Reading(RingKernelMessage):
    celsius: float = 0.0


@ring_kernel(
    kernel_id="echo",
    input_type=Reading,
    output_type=Reading,
    queue_size=16,
    input_queue_size=None,
    output_queue_size=32,
    grid_size=1,
    block_size=256,
    backpressure="block",
    auto_register=False,
)
async def echo(ctx: KernelContext[Reading, Reading]) -> None:
    while not ctx.should_terminate:
        await ctx.send(await ctx.receive())


@ring_kernel
async def bare(ctx: KernelContext[Reading, Reading]) -> None:
    await ctx.wait_active()


def use() -> None:
    meta: dict[str, Any] | None = get_ring_kernel_meta(echo)
    really: bool = is_ring_kernel(bare)
    built: Callable[..., Any] = (
        RingKernelBuilder("built")
        .with_input_type(Reading)
        .with_output_type(Reading)
        .with_queue_size(16)
        .with_input_queue_size(16)
        .with_output_queue_size(16)
        .with_grid_size(1)
        .with_block_size(32)
        .with_backpressure("reject")
        .with_handler(echo)
        .build()
    )
    print(meta, really, built)
