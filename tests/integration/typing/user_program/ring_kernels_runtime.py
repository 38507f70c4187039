"""Ring kernels under a runtime."""

from dataclasses import dataclass
from typing import Any

from pydotcompute import Kernel, RingKernelMessage, message
from pydotcompute.ring_kernels.connection import Connection
from pydotcompute.ring_kernels.lifecycle import KernelContext, KernelState, RingKernel, RingKernelConfig
from pydotcompute.ring_kernels.runtime import RingKernelRuntime, get_registered_kernel, register_ring_kernel
from pydotcompute.ring_kernels.telemetry import RingKernelTelemetry


@message
@dataclass
class Reading(RingKernelMessage):
    celsius: float = 0.0


async def echo(ctx: KernelContext[Reading, Reading]) -> None:
    while not ctx.should_terminate:
        await ctx.send(await ctx.receive())


async def use() -> None:
    register_ring_kernel("echo", echo, input_type=Reading, output_type=Reading, input_queue_size=16)
    registered: dict[str, Any] | None = get_registered_kernel("echo")
    async with RingKernelRuntime(enable_telemetry=True, use_uvloop=False, use_eager_tasks=True) as runtime:
        active: bool = runtime.is_active
        kernel: RingKernel[Reading, Reading] = await runtime.launch(
            "echo", echo, config=RingKernelConfig(kernel_id="echo"), input_type=Reading, output_type=Reading
        )
        await runtime.activate("echo")
        await runtime.send("echo", Reading(celsius=1.0), timeout=1.0)
        reading: Reading = await runtime.receive("echo", timeout=1.0)
        reply: Reading = await runtime.send_and_receive("echo", reading, timeout=1.0)
        await runtime.deactivate("echo")
        await runtime.reactivate("echo")
        names: list[str] = runtime.kernel_ids
        state: KernelState = runtime.get_kernel_state("echo")
        telemetry: RingKernelTelemetry | None = runtime.get_telemetry("echo")
        all_of_it: dict[str, RingKernelTelemetry] = runtime.get_all_telemetry()
        summary: dict[str, object] = runtime.get_summary()
        loop: dict[str, str | bool] = runtime.get_loop_info()
        await runtime.terminate("echo", timeout=5.0)
        async with runtime.kernel_scope("scoped", echo, input_type=Reading) as scoped:
            inner: RingKernel[Reading, Reading] = scoped
        other: Kernel[Reading, Reading] = await runtime.launch("other", echo)
        with runtime.connect("echo", "other") as connection:
            made: Connection = connection
        ended: Connection = runtime.disconnect("echo", "other")
        both: list[Connection] = runtime.connections
        print(other, made.is_connected, ended.delivered, both)
    by_hand = RingKernelRuntime()
    await by_hand.start()
    await by_hand.shutdown(timeout=10.0)
    print(registered, active, kernel, reply, names, state, telemetry, all_of_it, summary, loop, inner)
