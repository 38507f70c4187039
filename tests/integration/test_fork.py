"""Every tier after a fork: what belongs to the parent is refused, with an error that names the fork, and nothing hangs.

What the child creates itself works, and so does what was created before the fork and started after it.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import pickle
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from native_handlers import Count, Sequence, in_sequence
from pydotcompute.exceptions import ForkedProcessError, KernelError, PyDotComputeError, QueueError
from pydotcompute.native import NativeKernel, NativeRuntime
from pydotcompute.ring_kernels import RingKernelRuntime
from pydotcompute.ring_kernels._cython import FastSPSCQueue
from pydotcompute.ring_kernels.cython_kernel import CythonRingKernel
from pydotcompute.ring_kernels.fast_queue import FastMessageQueue, RingBuffer
from pydotcompute.ring_kernels.lifecycle import RingKernel
from pydotcompute.ring_kernels.queue import MessageQueue
from pydotcompute.ring_kernels.shared_queue import SharedQueue
from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue
from pydotcompute.ring_kernels.threaded_kernel import ThreadedKernelPool, ThreadedRingKernel

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork"),
    # Python 3.12 and later warn of a fork in a process with threads, which is the subject of these tests.
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

# Seconds, more than any child takes.
LIMIT = 60.0


def in_child(function: Callable[[], Any], *, exits: bool = False) -> Any:
    """Calls a function in a forked child and returns its result; raises its exception.

    Args:
        function: The function.
        exits: Whether the child ends like a program, with `atexit` functions. Otherwise it ends at once.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            try:
                outcome = (True, function())
            except BaseException as error:
                outcome = (False, error)
            os.write(writer, pickle.dumps(outcome))
            os.close(writer)
            status = 0
            if exits:
                sys.modules["atexit"]._run_exitfuncs()
        finally:
            os._exit(status)
    os.close(writer)
    data = _read_all(reader, child)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, data
    succeeded, outcome = pickle.loads(data)
    if not succeeded:
        raise outcome
    return outcome


def _read_all(reader: int, child: int) -> bytes:
    data = b""
    try:
        while True:
            if not select.select([reader], [], [], LIMIT)[0]:
                os.kill(child, signal.SIGKILL)
                pytest.fail(f"the child hangs; it had sent {data!r}")
            part = os.read(reader, 65536)
            if not part:
                return data
            data += part
    finally:
        os.close(reader)


def refusals(*calls: Callable[[], Any]) -> list[str]:
    """Makes calls in a forked child. Returns what each did, unless it raised ``ForkedProcessError`` for the parent's object."""
    parent = os.getpid()

    def call_all() -> list[str]:
        wrong = []
        for number, call in enumerate(calls):
            try:
                result = call()
                if asyncio.iscoroutine(result) or hasattr(result, "__await__"):
                    asyncio.run(_wait_for(result))
            except ForkedProcessError as error:
                if error.owner_pid != parent or error.pid != os.getpid() or "SharedQueue" not in str(error):
                    wrong.append(f"call {number}: {error}")
            except BaseException as error:
                wrong.append(f"call {number}: {error!r}")
            else:
                wrong.append(f"call {number}: {result!r}")
        return wrong

    outcome: list[str] = in_child(call_all)
    return outcome


async def _wait_for(awaitable: Any) -> Any:
    return await asyncio.wait_for(awaitable, 5)


@pytest.fixture
def native() -> Iterator[NativeKernel]:
    pytest.importorskip("numba")
    with NativeRuntime(workers=1) as runtime, NativeKernel(in_sequence, state=Sequence, runtime=runtime) as kernel:
        assert kernel.ask(Count(0), timeout=30).value == 0
        yield kernel


def test_a_native_kernel_of_the_parent(native: NativeKernel) -> None:
    records = np.zeros(3, native.input_dtype)
    assert (
        refusals(
            lambda: native.ask(Count(1)),
            lambda: native.ask(Count(1), timeout=1),
            lambda: native.tell(Count(1)),
            lambda: native.receive(timeout=1),
            lambda: native.ask_async(Count(1)),
            lambda: native.ask_async(Count(1), timeout=1),
            lambda: native.tell_async(Count(1)),
            lambda: native.receive_async(timeout=1),
            lambda: native.ask_many(records),
            lambda: native.tell_many(records),
            lambda: native.state,
            lambda: native.stats,
            lambda: native.lifecycle_state,
            native.activate,
            native.deactivate,
            native.reactivate,
            native.terminate,
            native.abort,
            native._runtime.dead_letters,
            lambda: native._runtime.dead_letter_count,
            native._runtime.shutdown,
            lambda: NativeKernel(in_sequence, state=Sequence, runtime=native._runtime),
        )
        == []
    )
    assert native.ask(Count(1), timeout=30).value == 0, "nothing has reached the parent's kernel"
    assert in_child(lambda: repr(native)) == f"<NativeKernel {native.name!r} of process {os.getpid()}>"


def test_a_child_launches_native_kernels_of_its_own(native: NativeKernel) -> None:
    def launch() -> tuple[int, int, str]:
        with NativeKernel(in_sequence, "mine", state=Sequence) as kernel:
            replies = (kernel.ask(Count(5), timeout=30).value, kernel.ask(Count(9)).value)
            kernel.tell(Count(0))
            kernel.receive(timeout=30)
            return *replies, kernel.lifecycle_state

    # Also in the parent, so that a shared runtime exists before the fork.
    with NativeKernel(in_sequence, "mine", state=Sequence) as kernel:
        assert kernel.ask(Count(5), timeout=30).value == 1
        assert in_child(launch, exits=True) == (1, 2, "ACTIVE")
        assert in_child(launch, exits=True) == (1, 2, "ACTIVE")
        assert kernel.ask(Count(6), timeout=30).value == 1


def test_a_child_leaves_and_drops_native_kernels_of_its_parent() -> None:
    """A child that unwinds through the parent's blocks, or collects its copies, neither hangs nor raises."""
    pytest.importorskip("numba")
    runtime = NativeRuntime(workers=2)
    kernels = [NativeKernel(in_sequence, state=Sequence, runtime=runtime, dedicated=bool(number)) for number in range(2)]
    for kernel in kernels:
        kernel.activate()
        kernel.ask(Count(0), timeout=30)

    def drop() -> str:
        nonlocal runtime, kernels
        # What the end of a `with` block calls, which the child would come to if the parent had forked inside it.
        kernels[0].__exit__(None, None, None)
        runtime.__exit__(None, None, None)
        del runtime, kernels
        gc.collect()
        return "dropped"

    assert in_child(drop, exits=True) == "dropped"
    assert [kernel.ask(Count(1), timeout=30).value for kernel in kernels] == [0, 0]
    runtime.shutdown()


@pytest.mark.parametrize("queue_type", [SyncQueue, SPSCQueue, FastSPSCQueue])
def test_a_queue_between_threads(queue_type: Callable[[int], Any]) -> None:
    queue = queue_type(4)
    queue.put("of the parent")
    calls = [
        lambda: queue.put("lost"),
        queue.get,
        queue.clear,
        queue.shutdown,
        lambda: queue.empty,
        lambda: queue.full,
        lambda: len(queue),
        queue._drain,
        queue._stop_blocking_puts,
    ]
    if queue_type is FastSPSCQueue:
        calls += [lambda: queue.put_wait("lost"), lambda: queue.get_wait(1.0), lambda: queue.size]
    else:
        calls += [lambda: queue.put_nowait("lost"), queue.get_nowait, lambda: queue.put("lost", 1.0), lambda: queue.get(1.0)]
    if queue_type is SyncQueue:
        calls += [queue.get_stats, lambda: queue.qsize]
    assert refusals(*calls) == []
    assert "parent" in in_child(lambda: repr(queue))
    assert len(queue) == 1
    assert queue.get() == "of the parent"


@pytest.mark.parametrize("queue_type", [FastMessageQueue, MessageQueue, RingBuffer])
def test_a_queue_of_coroutines(queue_type: Callable[[int], Any]) -> None:
    queue = queue_type(4)
    assert queue.put_nowait("of the parent")
    calls: list[Callable[[], Any]] = [
        lambda: queue.put("lost"),
        queue.get,
        lambda: queue.put_nowait("lost"),
        queue.get_nowait,
        lambda: queue.put_batch(["lost"]),
        lambda: queue.get_batch(2),
        queue.clear,
        queue.get_stats,
        lambda: queue.qsize,
        lambda: queue.empty,
        lambda: queue.full,
        lambda: len(queue),
    ]
    assert refusals(*calls) == []
    assert "parent" in in_child(lambda: repr(queue))
    assert queue.get_nowait() == "of the parent"


def _double(ctx: Any) -> None:
    while not ctx.should_terminate:
        number = ctx.receive(0.1)
        if number is not None:
            ctx.send(2 * number)


@pytest.mark.parametrize("kernel_type", [ThreadedRingKernel, CythonRingKernel])
def test_a_threaded_kernel(kernel_type: Callable[..., Any]) -> None:
    started, other = kernel_type("started", _double), kernel_type("other", _double)
    with started:
        started.send(4)
        assert started.receive(5.0) == 8
        assert (
            refusals(
                lambda: started.send(1),
                lambda: started.send(1, 1.0),
                lambda: started.receive(1.0),
                lambda: started.send_nowait(1),
                started.receive_nowait,
                lambda: started.state,
                lambda: started.is_running,
                lambda: started.dead_letters,
                started.start,
                started.stop,
            )
            == []
        )

        def start_in_child() -> Any:
            with started:  # Leaves the parent's kernel running.
                pass
            return None

        with pytest.raises(ForkedProcessError, match="kernel 'started'"):
            in_child(start_in_child)

        def start_the_other() -> Any:
            with other:
                other.send(21)
                return other.receive(30.0)

        assert in_child(start_the_other, exits=True) == 42, "a kernel that is started after the fork runs in the child"
        started.send(5)
        assert started.receive(5.0) == 10


def test_a_pool_of_threaded_kernels() -> None:
    with ThreadedKernelPool("pool", _double, num_workers=2) as pool:
        assert refusals(lambda: pool.send(1), lambda: pool.receive_any(timeout=1.0)) == []
        pool.send(3)
        assert pool.receive_any(timeout=30.0) == 6


async def _answer(ctx: Any) -> None:
    while not ctx.should_terminate:
        await ctx.send(2 * await ctx.receive())


async def test_an_asyncio_runtime() -> None:
    before_launch = RingKernelRuntime()
    async with RingKernelRuntime() as runtime:
        kernel = await runtime.launch("double", _answer)
        await runtime.activate("double")
        assert await runtime.send_and_receive("double", 4) == 8
        assert isinstance(kernel, RingKernel)
        calls: list[Callable[[], Any]] = [
            lambda: runtime.send_and_receive("double", 1),
            lambda: runtime.send_and_receive("double", 1, timeout=1.0),
            lambda: runtime.send("double", 1),
            lambda: runtime.receive("double", timeout=1.0),
            lambda: kernel.ask(1),
            lambda: kernel.send(1),
            lambda: kernel.receive(timeout=1.0),
            kernel.deactivate,
            kernel.terminate,
            lambda: runtime.deactivate("double"),
            lambda: runtime.terminate("double"),
            runtime.shutdown,
            lambda: kernel.state,
        ]
        assert refusals(*calls) == []
        assert "parent" in in_child(lambda: repr(kernel))

        async def use_own() -> int:
            async with before_launch:
                await before_launch.launch("own", _answer)
                await before_launch.activate("own")
                value: int = await before_launch.send_and_receive("own", 21, timeout=30.0)
                return value

        assert in_child(lambda: asyncio.run(use_own())) == 42, "a runtime without ring kernels may be used in the child"
        assert await runtime.send_and_receive("double", 5) == 10

        async def forks(ctx: Any) -> None:
            await ctx.receive()
            await ctx.send(in_child(lambda: asyncio.run(use_own())))

        # In a step that runs inside the caller's step.
        await runtime.launch("forks", forks)
        await runtime.activate("forks")
        await asyncio.sleep(0)
        assert await runtime.send_and_receive("forks", 1) == 42


def test_a_queue_in_shared_memory_is_the_way_across_a_fork() -> None:
    with SharedQueue.create(capacity=4) as queue, SharedQueue.create(capacity=4) as back:

        def claim_too() -> str:
            with pytest.raises(QueueError, match="has it"):
                queue.put(b"of a second producer")
            return "refused"

        def serve() -> str:
            back.put(queue.get(timeout=30.0) + b" and back")
            return "served"

        queue.put(b"there")
        assert in_child(claim_too, exits=True) == "refused"
        assert len(queue) == 1, "the child's exit has not closed the parent's end"
        assert in_child(serve, exits=True) == "served"
        assert back.get(timeout=30.0) == b"there and back"


def _ask_in_process(kernel: NativeKernel, queue: SharedQueue) -> None:
    try:
        queue.put(repr(kernel.ask(Count(1), timeout=5)).encode())
    except PyDotComputeError as error:
        queue.put(type(error).__name__.encode())


def test_a_process_of_multiprocessing_that_forks(native: NativeKernel) -> None:
    with SharedQueue.create(capacity=4) as queue:
        process = multiprocessing.get_context("fork").Process(target=_ask_in_process, args=(native, queue))
        process.start()
        assert queue.get(timeout=30.0) == b"ForkedProcessError"
        process.join(LIMIT)
        assert process.exitcode == 0


def test_a_fork_while_other_threads_use_everything(native: NativeKernel) -> None:
    """Locks that another thread holds at the fork stay locked in the child; the child must not wait for one."""
    queue: SyncQueue[int] = SyncQueue(4)
    stop = threading.Event()

    def use() -> None:
        number = 1
        while not stop.is_set():
            native.ask(Count(number))
            queue.put_nowait(number)
            queue.get_nowait()
            number += 1

    users = [threading.Thread(target=use) for _ in range(3)]
    for user in users:
        user.start()
    try:
        for _ in range(20):
            assert refusals(lambda: native.ask(Count(1)), lambda: queue.put(1), lambda: queue.get(1.0), native.terminate) == []
            assert in_child(gc.collect) >= 0
    finally:
        stop.set()
        for user in users:
            user.join(LIMIT)


def test_the_error_is_pickled_whole() -> None:
    error = ForkedProcessError("this queue", 7)
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.subject, copy.owner_pid, copy.pid, str(copy)) == ("this queue", 7, os.getpid(), str(error))
    assert not isinstance(error, (KernelError, QueueError, RuntimeError)), "what waits for those must not swallow it"
