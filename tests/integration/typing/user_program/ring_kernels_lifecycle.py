"""One ring kernel without a runtime."""

from dataclasses import dataclass

from pydotcompute import RingKernelMessage, message
from pydotcompute.ring_kernels.fast_queue import FastMessageQueue
from pydotcompute.ring_kernels.lifecycle import KernelContext, KernelState, RingKernel, RingKernelConfig, managed_kernel
from pydotcompute.ring_kernels.queue import MessageQueue


@message
@dataclass
class Reading(RingKernelMessage):
    celsius: float = 0.0


async def echo(ctx: KernelContext[Reading, Reading]) -> None:
    name: str = ctx.kernel_id
    queues: tuple[MessageQueue[Reading] | FastMessageQueue[Reading], MessageQueue[Reading] | FastMessageQueue[Reading]] = (
        ctx.input_queue,
        ctx.output_queue,
    )
    await ctx.wait_active()
    while not ctx.should_terminate and ctx.is_active:
        reading: Reading = await ctx.receive(timeout=1.0)
        await ctx.send(reading)
    print(name, queues)


async def use() -> None:
    config = RingKernelConfig(
        kernel_id="echo",
        grid_size=1,
        block_size=256,
        input_queue_size=16,
        output_queue_size=16,
        backpressure_strategy="block",
        use_fast_queue=True,
    )
    sizes: tuple[int, int, int, int] = (
        config.grid_size,
        config.block_size,
        config.input_queue_size,
        config.output_queue_size,
    )
    names: tuple[str, str, bool] = (config.kernel_id, config.backpressure_strategy, config.use_fast_queue)
    kernel: RingKernel[Reading, Reading] = RingKernel("echo", echo, config=config, input_type=Reading, output_type=Reading)
    await kernel.launch()
    await kernel.activate()
    await kernel.send(Reading(celsius=20.0), timeout=1.0)
    reading: Reading = await kernel.receive(timeout=1.0)
    await kernel.deactivate()
    await kernel.reactivate()
    state: KernelState = kernel.state
    same: RingKernelConfig = kernel.config
    await kernel.terminate(timeout=5.0)
    async with managed_kernel("again", echo, config=None) as again:
        inner: RingKernel[Reading, Reading] = again
    states = [
        KernelState.CREATED,
        KernelState.LAUNCHED,
        KernelState.ACTIVE,
        KernelState.DEACTIVATED,
        KernelState.TERMINATING,
        KernelState.TERMINATED,
    ]
    print(sizes, names, reading, state, same, inner, states)
