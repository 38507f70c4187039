"""No caller ever gets the reply of another one, in any interleaving of requests, tells, replies, skips and callers that give up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_handlers import Number, yield_to_loop
from pydotcompute.exceptions import AmbiguousReplyError, KernelError
from pydotcompute.ring_kernels.lifecycle import KernelContext, RingKernel, RingKernelConfig, Supervision

# A caller that gets no answer fails the test after this time, in seconds.
LIMIT = 30.0


@dataclass
class Script:
    """A ring kernel that does what the test says, and the callers that ask it."""

    commands: asyncio.Queue[tuple[str, int]] = field(default_factory=asyncio.Queue)
    callers: list[asyncio.Task[Any]] = field(default_factory=list)
    # Messages received, and neither answered nor skipped.
    held: list[Any] = field(default_factory=list)
    refusals: int = 0

    async def function(self, ctx: KernelContext[Any, Any]) -> None:
        while True:
            command, index = await self.commands.get()
            try:
                await self.step(ctx, command, index)
            except AmbiguousReplyError:
                # All requests received have ended.
                self.refusals += 1
                self.held.clear()

    async def step(self, ctx: KernelContext[Any, Any], command: str, index: int) -> None:
        if command == "receive":
            if ctx.input_queue.qsize:
                self.held.append(await ctx.receive())
        elif command == "cancelled receive":
            receive = asyncio.ensure_future(ctx.receive())
            await asyncio.sleep(0)
            if receive.cancel():
                await asyncio.wait([receive])
            if not receive.cancelled():
                self.held.append(receive.result())
        elif command == "fail":
            # Supervision restarts the function; all requests received have ended.
            self.held.clear()
            raise ValueError("scripted")
        elif self.held:
            message = self.held[index % len(self.held)]
            if command == "send" and number_of(message) < 0:
                command = "reply"  # A function that sends for a told message after it has received another one must name it.
            self.held.remove(message)
            await self.answer(ctx, command, message)

    async def answer(self, ctx: KernelContext[Any, Any], command: str, message: Any) -> None:
        number = number_of(message)
        if command == "send":
            await ctx.send(Number(number))
        elif command == "reply":
            await ctx.reply(message, Number(number))
        elif command == "task":
            await asyncio.ensure_future(ctx.reply(message, Number(number)))
        elif command == "correlate" and isinstance(message, Number):
            await ctx.send(Number(number, correlation_id=message.message_id))
        else:
            ctx.skip(message)


def number_of(message: Any) -> int:
    return message.value if isinstance(message, Number) else message


ANSWERS = ["send", "reply", "task", "correlate", "skip"]
COMMANDS = ["receive", "receive", "receive", "cancelled receive", *ANSWERS, "send", "fail"]

steps = st.one_of(
    # Small numbers repeat, as the same object.
    st.tuples(st.just("ask"), st.integers(0, 5), st.sampled_from(["plain", "message"]), st.sampled_from([10, 128, 250])),
    st.tuples(st.just("tell"), st.integers(-5, -1)),
    st.tuples(st.just("give up"), st.integers(0, 20)),
    st.tuples(st.sampled_from(COMMANDS), st.integers(0, 5)),
)


async def run(script: Script, sequence: list[tuple[Any, ...]]) -> None:
    config = RingKernelConfig("scripted", output_queue_size=1000, supervision=Supervision(max_restarts=None))
    kernel: RingKernel[Any, Any] = RingKernel("scripted", script.function, config=config)
    await kernel.launch()
    await kernel.activate()
    expected = []
    for step, *values in sequence:
        if step == "ask":
            number, form, priority = values
            expected.append(number)
            message = Number(number, priority=priority) if form == "message" else number
            script.callers.append(asyncio.ensure_future(kernel.ask(message)))
        elif step == "tell":
            await kernel.send(values[0])
        elif step == "give up":
            if script.callers:
                script.callers[values[0] % len(script.callers)].cancel()
        else:
            script.commands.put_nowait((step, values[0]))
        await yield_to_loop()
    await kernel.terminate(0.0)
    if script.callers:
        _, waiting = await asyncio.wait(script.callers, timeout=LIMIT)
        assert not waiting, "a caller never ended"
    for number, caller in zip(expected, script.callers, strict=True):
        if not caller.cancelled() and caller.exception() is None:
            assert caller.result().value == number
        elif not caller.cancelled():
            assert isinstance(caller.exception(), KernelError)


@pytest.mark.usefixtures("quiet_log")
@settings(max_examples=300, deadline=None)
@given(sequence=st.lists(steps, max_size=40))
def test_no_caller_gets_anothers_reply_and_every_caller_ends(sequence: list[tuple[Any, ...]]) -> None:
    async def scenario() -> None:
        await run(Script(), sequence)

    asyncio.run(scenario())
