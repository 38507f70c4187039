"""Handles of asyncio ring kernels, without annotations on the caller's side. `# type: ignore` marks what must be an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, assert_type

from pydotcompute import Kernel, RingKernelMessage, RingKernelRuntime, message, ring_kernel
from pydotcompute.ring_kernels.lifecycle import KernelContext, RingKernel, managed_kernel


@message
class Question(RingKernelMessage):
    value: int


@message
class Answer(RingKernelMessage):
    text: str


async def answer(ctx: KernelContext[Question, Answer]) -> None:
    async for question in ctx:
        assert_type(question, Question)
        await ctx.send(Answer(str(question.value)))
        await ctx.reply(question, Answer("again"))
        await ctx.send(question)  # type: ignore[arg-type]


@ring_kernel(kernel_id="declared", input_type=Question)
async def declared(ctx: KernelContext[Question, Answer]) -> None:
    await ctx.skip(await ctx.receive())


async def any_context(ctx: KernelContext) -> None:
    await ctx.send(await ctx.receive())


async def use(runtime: RingKernelRuntime, untyped: Callable[..., Any]) -> None:
    kernel = await runtime.launch("answer", answer)
    assert_type(kernel, Kernel[Question, Answer])
    assert_type(kernel, RingKernel[Question, Answer])
    reply = await kernel.ask(Question(1), timeout=1.0)
    assert_type(reply, Answer)
    assert_type(reply.text, str)
    assert_type(await kernel.receive(), Answer)
    await kernel.send(Question(1, priority=200))
    await kernel.ask(Answer("no"))  # type: ignore[arg-type]
    await kernel.send(1)  # type: ignore[arg-type]
    print(reply.value)  # type: ignore[attr-defined]

    assert_type(await runtime.launch(answer), Kernel[Question, Answer])
    assert_type(await runtime.launch(declared), Kernel[Question, Answer])
    assert_type(await runtime.launch("by name", input_type=Question, output_type=Answer), Kernel[Question, Answer])
    assert_type(await runtime.launch("by name"), Kernel[Any, Any])
    assert_type(await runtime.launch(any_context), Kernel[Any, Any])
    by_name = await runtime.launch("by name", input_type=Question)
    await by_name.ask(Answer("no"))  # type: ignore[arg-type]
    anything = await runtime.launch("untyped", untyped)
    print((await anything.ask(1)).whatever)
    await runtime.launch("wrong", answer, input_type=Answer)  # type: ignore[arg-type]
    await runtime.launch("wrong", answer, setting=1)  # type: ignore[call-overload]

    async with runtime.kernel_scope(answer) as scoped, runtime.kernel_scope("scoped", answer) as named:
        assert_type(scoped, Kernel[Question, Answer])
        assert_type(named, Kernel[Question, Answer])
    async with managed_kernel("managed", answer) as managed:
        assert_type(await managed.ask(Question(1)), Answer)
    bare: Kernel = kernel
    print(bare)
