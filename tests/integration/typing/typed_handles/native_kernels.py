"""Handles of native ring kernels, without annotations on the caller's side."""

from __future__ import annotations

from typing import Any, assert_type

from pydotcompute import RingKernelMessage, RingKernelRuntime, message, ring_kernel
from pydotcompute.native import HandlerContext, NativeKernel, state
from pydotcompute.native.ring_kernel import NativeRingKernel


@message
class Amount(RingKernelMessage):
    value: int


@message
class Total(RingKernelMessage):
    value: int


@state
class Sum:
    value: int


def total(ctx: HandlerContext, state: Sum, msg: Amount) -> Total:
    state.value += msg.value
    return Total(state.value)


def sometimes(ctx: HandlerContext, state: Sum, msg: Amount) -> Total | None:
    return Total(state.value) if msg.value else None


def never(ctx: HandlerContext, state: Sum, msg: Amount) -> None:
    state.value += msg.value


native_total = ring_kernel(device="cpu", state=Sum)(total)


async def use(runtime: RingKernelRuntime) -> None:
    with NativeKernel(total, state=Sum) as kernel:
        assert_type(kernel, NativeKernel[Amount, Total])
        assert_type(kernel.ask(Amount(1)), Total)
        assert_type(kernel.receive(), Total)
        assert_type(await kernel.ask_async(Amount(1)), Total)
        kernel.tell(Amount(1, priority=200))
        kernel.ask(Total(1))  # type: ignore[arg-type]
        kernel.tell(1)  # type: ignore[arg-type]
        await kernel.tell_async(Total(1))  # type: ignore[arg-type]
    replies = NativeKernel(sometimes, state=Sum)
    # A request without a reply raises, so that `ask` never returns `None`.
    assert_type(replies.ask(Amount(1)), Total)
    silent = NativeKernel(never, state=Sum)
    assert_type(silent, NativeKernel[Amount, None])
    silent.tell(Amount(1))
    silent.tell(Total(1))  # type: ignore[arg-type]
    bare: NativeKernel = kernel
    bare.tell(Total(1))

    launched = await runtime.launch(native_total)
    assert_type(launched, NativeRingKernel[Amount, Total])
    assert_type(await launched.ask(Amount(1)), Total)
    assert_type(await launched.receive(), Total)
    assert_type(launched.native, NativeKernel[Amount, Total])
    await launched.send(Amount(1))
    await launched.send(Total(1))  # type: ignore[arg-type]
    await launched.ask(Total(1))  # type: ignore[arg-type]
    named = await runtime.launch("sometimes", ring_kernel(device="cpu", state=Sum)(sometimes))
    assert_type(await named.ask(Amount(1)), Total)
    async with runtime.kernel_scope(native_total) as scoped:
        assert_type(await scoped.ask(Amount(1)), Total)
    held: NativeKernel[Any, Any] = kernel
    print(held)
