"""`@ring_kernel`, the registry of ring kernels, and `RingKernelBuilder`."""

import pytest

from async_handlers import Reply, Request, double
from pydotcompute.decorators.ring_kernel import RingKernelBuilder, get_ring_kernel_meta, is_ring_kernel, ring_kernel
from pydotcompute.exceptions import TypeValidationError
from pydotcompute.ring_kernels.lifecycle import KernelContext
from pydotcompute.ring_kernels.runtime import RingKernelRuntime, get_registered_kernel

pytestmark = pytest.mark.usefixtures("quiet_log")


async def test_registered_functions() -> None:
    @ring_kernel(kernel_id="registered", input_type=Request, output_type=Reply, queue_size=7, backpressure="reject")
    async def registered(ctx: KernelContext[Request, Reply]) -> None:
        await double(ctx)

    assert is_ring_kernel(registered) and not is_ring_kernel(double)
    meta = get_ring_kernel_meta(registered)
    assert meta is not None and meta["kernel_id"] == "registered" and meta["input_type"] is Request
    known = get_registered_kernel("registered")
    assert known is not None and known["config"]["input_queue_size"] == 7
    async with RingKernelRuntime() as runtime:
        kernel = await runtime.launch("registered")
        assert (kernel.config.input_queue_size, kernel.config.backpressure_strategy) == (7, "reject")
        await runtime.activate("registered")
        assert (await runtime.send_and_receive("registered", Request(4))).value == 8
        with pytest.raises(TypeValidationError):
            await runtime.send("registered", Reply(4))


async def test_the_builder() -> None:
    builder = RingKernelBuilder("built").with_input_type(Request).with_output_type(Reply).with_queue_size(9)
    with pytest.raises(ValueError, match="with_handler"):
        builder.build()
    built = builder.with_output_queue_size(3).with_grid_size(2).with_block_size(64).with_backpressure("block")
    function = built.with_handler(double).build()
    meta = get_ring_kernel_meta(function)
    assert meta is not None
    assert meta["config"] == {
        "input_queue_size": 9,
        "output_queue_size": 3,
        "grid_size": 2,
        "block_size": 64,
        "backpressure_strategy": "block",
    }
