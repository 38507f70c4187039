"""Messages, handlers and helpers shared by the tests of ring kernels on the event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pydotcompute.exceptions import QueueTimeoutError
from pydotcompute.ring_kernels.lifecycle import KernelContext, RingKernel, RingKernelConfig
from pydotcompute.ring_kernels.message import RingKernelMessage, message

if TYPE_CHECKING:
    from collections.abc import Awaitable


@message
class Request(RingKernelMessage):
    value: int


@message
class Reply(RingKernelMessage):
    value: int


async def double(ctx: KernelContext[Request, Reply]) -> None:
    while not ctx.should_terminate:
        request = await ctx.receive()
        if request.value < 0:
            raise ValueError(f"negative: {request.value}")
        await ctx.send(Reply(2 * request.value))


async def double_with_timeout(ctx: KernelContext[Request, Reply]) -> None:
    while not ctx.should_terminate:
        try:
            request = await ctx.receive(timeout=0.05)
        except QueueTimeoutError:
            continue
        await ctx.send(Reply(2 * request.value))


@message
class Number:
    value: int


async def never(ctx: KernelContext[Any, Any]) -> None:
    """Receives no messages and never returns."""
    await asyncio.Event().wait()


async def yield_to_loop(count: int = 5) -> None:
    """Yields to the event loop `count` times, so that other ready tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def active(function: Any, **settings: Any) -> RingKernel[Any, Any]:
    """Launches and activates a ring kernel with the settings of `RingKernelConfig`."""
    kernel: RingKernel[Any, Any] = RingKernel("kernel", function, config=RingKernelConfig("kernel", **settings))
    await kernel.launch()
    await kernel.activate()
    return kernel


async def outcomes(awaitables: list[Awaitable[Any]]) -> list[Any]:
    """Awaits all, at most 10 seconds, and returns each result or exception."""
    return await asyncio.wait_for(asyncio.gather(*awaitables, return_exceptions=True), 10)
