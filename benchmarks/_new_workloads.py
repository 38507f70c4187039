"""Workloads without a counterpart in 0.2.0, or with one only where Cython was available."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

import numpy as np

from _harness import CLOCK, check, collect_garbage, time_blocks
from _workloads import TIMEOUT_S, RunConfig, Samples, Workload, numbers
from pydotcompute import RingKernelMessage, message
from pydotcompute.native import HandlerContext, NativeKernel, state
from pydotcompute.ring_kernels._cython import FastSPSCQueue
from pydotcompute.ring_kernels.shared_queue import SharedQueue


def fast_spsc_queue(config: RunConfig) -> Samples:
    """`put` and `get` of a `FastSPSCQueue` on one thread."""
    items = numbers(1000)
    queue: FastSPSCQueue[Any] = FastSPSCQueue()
    put, get = queue.put, queue.get

    def block() -> None:
        for item in items:
            put(item)
            if get() is not item:
                check(False, f"message {item.value} was put, but another one was received")

    return time_blocks(block, len(items), config.count(200))


def _echo_process(request_name: str, reply_name: str, count: int) -> None:
    """Entry point of the other process: echo `count` messages."""
    with SharedQueue.attach(request_name, wait="spin") as requests, SharedQueue.attach(reply_name, wait="spin") as replies:
        for _ in range(count):
            replies.put(requests.get(timeout=TIMEOUT_S))


def cross_process(config: RunConfig) -> Samples:
    """Half the round-trip time of 64 bytes between two processes, both of which spin."""
    count = config.count(20_000)
    warm = max(20, count // 10)
    messages = [index.to_bytes(64, "little") for index in range(warm + count)]
    samples = np.empty(count)
    with SharedQueue.create(wait="spin") as requests, SharedQueue.create(wait="spin") as replies:
        # Spawned, because a forked process would inherit the event loops and threads of other workloads.
        peer = multiprocessing.get_context("spawn").Process(target=_echo_process, args=(requests.name, replies.name, len(messages)))
        peer.start()
        try:
            requests.put(messages[0])
            check(replies.get(timeout=60) == messages[0], "the first message was echoed incorrectly")
            for index in range(1, len(messages)):
                if index == warm:
                    collect_garbage()
                start = CLOCK()
                requests.put(messages[index])
                reply = replies.get(timeout=TIMEOUT_S)
                elapsed = CLOCK() - start
                check(reply == messages[index], f"message {index} was echoed incorrectly")
                if index >= warm:
                    samples[index - warm] = elapsed / 2
            peer.join(TIMEOUT_S)
            check(peer.exitcode == 0, f"the other process ended with {peer.exitcode}")
        finally:
            peer.kill()
            peer.join()
    return samples


@message
class Tick(RingKernelMessage):
    """Message of the native asks."""

    value: int = 0


@state
class Count:
    """State of the native ring kernel."""

    handled: int = 0


def count_and_echo(ctx: HandlerContext, state: Count, msg: Tick) -> Tick:
    """Reply to every message with its own value."""
    state.handled += 1
    return Tick(msg.value)


def _native(use: Callable[[NativeKernel, RunConfig], tuple[Samples, int]], **options: Any) -> Callable[[RunConfig], Samples]:
    """Run `use` with a native echo kernel, and check that the kernel handled as many messages as `use` sent."""

    def run(config: RunConfig) -> Samples:
        with NativeKernel(count_and_echo, state=Count, **options) as kernel:
            samples, sent = use(kernel, config)
            handled = kernel.state.handled
        check(handled == sent, f"{sent} messages were sent, but {handled} handled")
        return samples

    return run


def native_asks(timeout: float | None) -> Callable[[NativeKernel, RunConfig], tuple[Samples, int]]:
    """Time single asks, one after the other."""

    def use(kernel: NativeKernel, config: RunConfig) -> tuple[Samples, int]:
        count = config.count(20_000)
        warm = max(20, count // 10)
        ticks = [Tick(value=value) for value in range(warm + count)]
        samples = np.empty(count)
        for index, tick in enumerate(ticks):
            if index == warm:
                collect_garbage()
            start = CLOCK()
            reply = kernel.ask(tick, timeout)
            elapsed = CLOCK() - start
            check(reply.value == index, f"the reply to ask {index} is {reply.value}")
            if index >= warm:
                samples[index - warm] = elapsed
        return samples, len(ticks)

    return use


def native_ask_many(kernel: NativeKernel, config: RunConfig) -> tuple[Samples, int]:
    """Time 1,000 asks in one call, as records."""
    records = np.zeros(1000, kernel.input_dtype)
    records["value"] = np.arange(1000)

    def block() -> None:
        replies = kernel.ask_many(records)
        check(np.array_equal(replies["value"], records["value"]), "a reply does not have the value of its request")

    samples = time_blocks(block, len(records), config.count(200))
    return samples, (len(samples) + 2) * len(records)


NEW_WORKLOADS = [
    Workload("native_ask", "NativeKernel: ask, handled on the caller's thread while the ring kernel is idle", _native(native_asks(None))),
    Workload(
        "native_ask_thread", "NativeKernel: ask with a timeout, handled on another thread that spins", _native(native_asks(5.0), spin=True)
    ),
    Workload("native_ask_many", "NativeKernel: ask_many of 1,000 records, each", _native(native_ask_many)),
    Workload("fast_spsc_queue", "FastSPSCQueue: put and get, neither waiting", fast_spsc_queue),
    Workload("cross_process", "SharedQueue: 64 bytes one way between two processes that spin; half a round trip", cross_process),
]
