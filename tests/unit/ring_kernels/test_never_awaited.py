"""An operation that was never awaited: nothing happens, and it is warned of and counted."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from async_handlers import active, never, yield_to_loop
from pydotcompute.exceptions import KernelNotFoundError, QueueFullError
from pydotcompute.ring_kernels.fast_queue import FastMessageQueue
from pydotcompute.ring_kernels.lifecycle import KernelContext
from pydotcompute.ring_kernels.queue import BackpressureStrategy, MessageQueue
from pydotcompute.ring_kernels.runtime import RingKernelRuntime

Context = KernelContext[Any, Any]


@contextmanager
def recorded() -> Iterator[list[str]]:
    """Yields the texts of the warnings of the block."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield texts
        gc.collect()
        assert all(issubclass(warning.category, RuntimeWarning) for warning in caught)
        texts.extend(str(warning.message) for warning in caught)


@pytest.mark.parametrize("method", ["send", "receive", "send_and_receive"])
async def test_calls_of_a_runtime(method: str) -> None:
    async with RingKernelRuntime() as runtime:
        kernel = await runtime.launch("idle", never)
        await runtime.activate("idle")
        with recorded() as texts:
            if method == "receive":
                runtime.receive("idle")
            else:
                getattr(runtime, method)("idle", 1)
        (text,) = texts
        assert f"'RingKernelRuntime.{method}' of kernel 'idle' was never awaited" in text
        telemetry = runtime.get_telemetry("idle")
        assert telemetry is not None
        assert (telemetry.never_awaited, telemetry.queue_depth, telemetry.to_dict()["never_awaited"]) == (1, 0, 1)
        await kernel.terminate(0.0)


async def test_sends_of_a_kernel_send_nothing() -> None:
    """Also those for which there would have been room."""
    texts: list[str] = []

    async def forgets(ctx: Context) -> None:
        with recorded() as caught:
            for number in range(10):
                ctx.send(number)
            ctx.reply(0, 0)
            ctx.receive()
        texts.extend(caught)
        await ctx.send("awaited")
        await never(ctx)

    kernel = await active(forgets, output_queue_size=2)
    assert await kernel.receive(timeout=10) == "awaited"
    methods = ["KernelContext.send"] * 10 + ["KernelContext.reply", "KernelContext.receive"]
    assert [text.split("'")[1] for text in texts] == methods
    context = kernel._context
    assert context is not None
    assert context.output_queue.get_stats()["never_awaited"] == 11
    assert context.input_queue.get_stats()["never_awaited"] == 1
    await kernel.terminate(0.0)


@pytest.mark.parametrize("make", [MessageQueue, FastMessageQueue])
async def test_operations_of_a_queue(make: type[Any]) -> None:
    queue = make(4)
    with recorded() as texts:
        queue.put(1)
        queue.get(timeout=1.0)
    assert [text.split(",")[0] for text in texts] == [f"'{make.__name__}.{method}' was never awaited" for method in ("put", "get")]
    assert (queue.qsize, queue.get_stats()["never_awaited"]) == (0, 2)


async def test_a_call_that_would_have_raised() -> None:
    async with RingKernelRuntime() as runtime:
        with recorded() as texts:
            runtime.send("absent", 1)
        assert texts == ["'RingKernelRuntime.send' was never awaited, and its error was not raised"]
        with recorded() as texts, pytest.raises(KernelNotFoundError):
            await runtime.send("absent", 1)
        assert texts == []


async def test_the_warning_names_the_line() -> None:
    queue: FastMessageQueue[int] = FastMessageQueue()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        queue.put(1)
    assert caught[0].filename == __file__


async def test_what_is_awaited_or_closed_is_not_warned_of() -> None:
    queue: FastMessageQueue[int] = FastMessageQueue(2)
    rejecting: MessageQueue[int] = MessageQueue(1, backpressure=BackpressureStrategy.REJECT)

    async def echo(ctx: Context) -> None:
        while not ctx.should_terminate:
            await ctx.send(await ctx.receive())

    kernel = await active(echo)
    with recorded() as texts:
        await queue.put(1)
        await asyncio.gather(queue.put(2), queue.get())
        await asyncio.wait_for(queue.get(), 10)
        await rejecting.put(1)
        with pytest.raises(QueueFullError):
            await rejecting.put(2)
        assert await kernel.ask(3) == 3
        task = asyncio.ensure_future(queue.get())
        await yield_to_loop()
        task.cancel()
        await asyncio.wait([task])
        queue.put(3).close()
        await kernel.terminate()
    assert texts == []


async def test_the_warning_as_an_error_is_reported_and_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    queue: FastMessageQueue[int] = FastMessageQueue()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        queue.put(1)
    assert [type(one.exc_value) for one in unraisable] == [RuntimeWarning]


async def test_a_call_that_is_kept_and_awaited_later_does_all_of_it_then() -> None:
    kernel = await active(never)
    late = kernel.send(1)
    context = kernel._context
    assert context is not None
    assert context.input_queue.qsize == 0
    assert await late is True
    assert context.input_queue.qsize == 1
    await kernel.terminate(0.0)
