"""Workloads of what 0.2.0 does not have, or had only where it could be compiled."""

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
                check(False, f"message {item.value} went in and another came out")

    return time_blocks(block, len(items), config.count(200))


def _echo_process(there: str, back: str, count: int) -> None:
    """What the other process does: hand back `count` messages."""
    with SharedQueue.attach(there, wait="spin") as requests, SharedQueue.attach(back, wait="spin") as answers:
        for _ in range(count):
            answers.put(requests.get(timeout=TIMEOUT_S))


def cross_process(config: RunConfig) -> Samples:
    """Half the time of 64 bytes there and back between two processes, each of which spins."""
    count = config.count(20_000)
    warm = max(20, count // 10)
    messages = [index.to_bytes(64, "little") for index in range(warm + count)]
    samples = np.empty(count)
    with SharedQueue.create(wait="spin") as there, SharedQueue.create(wait="spin") as back:
        # Started anew, not forked: a fork would share what the event loops and threads of other workloads left behind.
        peer = multiprocessing.get_context("spawn").Process(target=_echo_process, args=(there.name, back.name, len(messages)))
        peer.start()
        try:
            there.put(messages[0])
            check(back.get(timeout=60) == messages[0], "the first message came back as another one")
            for index in range(1, len(messages)):
                if index == warm:
                    collect_garbage()
                start = CLOCK()
                there.put(messages[index])
                answer = back.get(timeout=TIMEOUT_S)
                elapsed = CLOCK() - start
                check(answer == messages[index], f"message {index} came back as another one")
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
    """What the native asks carry."""

    value: int = 0


@state
class Count:
    """What the native ring kernel keeps."""

    handled: int = 0


def count_and_echo(ctx: HandlerContext, state: Count, msg: Tick) -> Tick:
    """Answer every message with its own value."""
    state.handled += 1
    return Tick(msg.value)


def _native(use: Callable[[NativeKernel, RunConfig], tuple[Samples, int]], **options: Any) -> Callable[[RunConfig], Samples]:
    """Run `use` beside a native ring kernel that echoes; it has to have handled as many messages as `use` says it sent."""

    def run(config: RunConfig) -> Samples:
        with NativeKernel(count_and_echo, state=Count, **options) as kernel:
            samples, sent = use(kernel, config)
            handled = kernel.state.handled
        check(handled == sent, f"{sent} messages were sent, and {handled} handled")
        return samples

    return run


def native_asks(timeout: float | None) -> Callable[[NativeKernel, RunConfig], tuple[Samples, int]]:
    """One ask at a time: the time of each."""

    def use(kernel: NativeKernel, config: RunConfig) -> tuple[Samples, int]:
        count = config.count(20_000)
        warm = max(20, count // 10)
        ticks = [Tick(value=value) for value in range(warm + count)]
        samples = np.empty(count)
        for index, tick in enumerate(ticks):
            if index == warm:
                collect_garbage()
            start = CLOCK()
            answer = kernel.ask(tick, timeout)
            elapsed = CLOCK() - start
            check(answer.value == index, f"ask {index} was answered with {answer.value}")
            if index >= warm:
                samples[index - warm] = elapsed
        return samples, len(ticks)

    return use


def native_ask_many(kernel: NativeKernel, config: RunConfig) -> tuple[Samples, int]:
    """1,000 asks in one call, as records: the time of each."""
    records = np.zeros(1000, kernel.input_dtype)
    records["value"] = np.arange(1000)

    def block() -> None:
        answers = kernel.ask_many(records)
        check(np.array_equal(answers["value"], records["value"]), "an answer has another value than its question")

    samples = time_blocks(block, len(records), config.count(200))
    return samples, (len(samples) + 2) * len(records)


NEW_WORKLOADS = [
    Workload("native_ask", "NativeKernel: ask, handled on the asker's thread while the ring kernel is idle", _native(native_asks(None))),
    Workload(
        "native_ask_thread", "NativeKernel: ask with a timeout, handled on another thread that spins", _native(native_asks(5.0), spin=True)
    ),
    Workload("native_ask_many", "NativeKernel: ask_many of 1,000 records, each", _native(native_ask_many)),
    Workload("fast_spsc_queue", "FastSPSCQueue: put and get, neither waiting", fast_spsc_queue),
    Workload("cross_process", "SharedQueue: 64 bytes one way between two processes that spin; half of there and back", cross_process),
]
