"""The lifecycle of ring kernels on threads, in the words of every tier: launch, activate, deactivate, reactivate and terminate."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from pydotcompute.exceptions import KernelStateError, QueueTimeoutError
from pydotcompute.ring_kernels._cython import FastSPSCQueue
from pydotcompute.ring_kernels.cython_kernel import CythonKernelState, CythonRingKernel
from pydotcompute.ring_kernels.lifecycle import DeadLetter
from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue
from pydotcompute.ring_kernels.threaded_kernel import (
    ThreadedKernelConfig,
    ThreadedKernelPool,
    ThreadedKernelState,
    ThreadedRingKernel,
)


def echo(ctx: Any) -> None:
    while not ctx.should_terminate:
        message = ctx.receive(timeout=10)
        if message is not None:
            ctx.send(message, timeout=10)


def threaded(function: Callable[[Any], None]) -> Any:
    return ThreadedRingKernel("k", function)


def with_locks(function: Callable[[Any], None]) -> Any:
    return ThreadedRingKernel("k", function, config=ThreadedKernelConfig("k", use_spsc=False))


def compiled(function: Callable[[Any], None]) -> Any:
    return CythonRingKernel("k", function)


def pool(function: Callable[[Any], None]) -> Any:
    return ThreadedKernelPool("k", function, num_workers=2)


every_kind = pytest.mark.parametrize("make", [threaded, with_locks, compiled])
with_pool = pytest.mark.parametrize("make", [threaded, with_locks, compiled, pool])


def receive(kernel: Any) -> Any:
    return kernel.receive_any(timeout=10) if isinstance(kernel, ThreadedKernelPool) else kernel.receive(timeout=10)


@every_kind
class TestStates:
    def test_from_launch_to_termination(self, make: Any) -> None:
        kernel = make(echo)
        kernel.launch()
        assert (kernel.state.name, kernel.is_running) == ("LAUNCHED", False)
        kernel.activate()
        assert (kernel.state.name, kernel.is_running) == ("RUNNING", True)
        kernel.deactivate()
        assert (kernel.state.name, kernel.is_running) == ("DEACTIVATED", True)
        kernel.reactivate()
        assert (kernel.state.name, kernel.is_running) == ("RUNNING", True)
        kernel.terminate()
        assert (kernel.state.name, kernel.is_running) == ("STOPPED", False)
        kernel.terminate()

    @pytest.mark.parametrize(
        ("reached_by", "wrong"),
        [
            ([], ["activate", "deactivate", "reactivate"]),
            (["launch"], ["launch", "deactivate", "reactivate"]),
            (["launch", "activate"], ["launch", "activate", "reactivate", "start"]),
            (["launch", "activate", "deactivate"], ["launch", "activate", "deactivate", "start"]),
            (["launch", "terminate"], ["launch", "activate", "deactivate", "reactivate", "start"]),
            (["start", "stop"], ["launch", "activate", "deactivate", "reactivate", "start"]),
        ],
    )
    def test_calls_in_the_wrong_state(self, make: Any, reached_by: list[str], wrong: list[str]) -> None:
        kernel = make(echo)
        for call in reached_by:
            getattr(kernel, call)()
        state = kernel.state.name
        for call in wrong:
            with pytest.raises(KernelStateError, match=f"Cannot {call} kernel 'k' from state '{state}'"):
                getattr(kernel, call)()
        assert kernel.state.name == state
        kernel.terminate()

    def test_a_launched_kernel_takes_no_messages_and_runs_nothing(self, make: Any) -> None:
        ran = threading.Event()
        kernel = make(lambda ctx: ran.set())
        kernel.launch()
        with pytest.raises(KernelStateError, match="LAUNCHED"):
            kernel.send(1)
        assert kernel.send_nowait(1) is False
        assert kernel.receive_nowait() is None
        kernel.terminate()
        assert (kernel.state.name, kernel.dead_letters, ran.is_set()) == ("STOPPED", [], False)

    def test_the_names_of_0_2_are_the_same_calls(self, make: Any) -> None:
        kernel = make(echo)
        kernel.launch()
        kernel.start()
        assert kernel.state.name == "RUNNING"
        kernel.stop(timeout=10)
        assert kernel.state.name == "STOPPED"


@every_kind
class TestPause:
    def test_a_function_that_polls_gets_nothing_until_it_is_reactivated(self, make: Any) -> None:
        polls = threading.Semaphore(0)
        handled: list[int] = []

        def poll(ctx: Any) -> None:
            while not ctx.should_terminate:
                message = ctx.receive(timeout=0.001)
                polls.release()
                if message is not None:
                    handled.append(message)
                    ctx.send(message, timeout=10)

        with make(poll) as kernel:
            kernel.deactivate()
            assert kernel.send(1, timeout=10)
            assert kernel.send_nowait(2)
            for _ in range(20):  # More than the polls that may have been counted before the pause.
                assert polls.acquire(timeout=10)
            assert handled == []
            kernel.reactivate()
            assert [kernel.receive(timeout=10), kernel.receive(timeout=10)] == [1, 2]

    def test_a_waiting_function_gets_its_message_when_it_is_reactivated(self, make: Any) -> None:
        with make(echo) as kernel:
            kernel.deactivate()
            kernel.send(1, timeout=10)
            kernel.reactivate()
            assert kernel.receive(timeout=10) == 1

    def test_termination_ends_a_paused_kernel(self, make: Any) -> None:
        began = threading.Event()

        def waits(ctx: Any) -> None:
            began.set()
            while not ctx.should_terminate:
                ctx.receive(timeout=100)

        kernel = make(waits)
        kernel.start()
        assert began.wait(10)
        kernel.deactivate()
        kernel.terminate(timeout=10)
        assert kernel.state.name == "STOPPED"

    def test_messages_of_a_pause_are_received_after_a_termination_or_are_dead_letters(self, make: Any) -> None:
        go = threading.Event()

        def receives_one(ctx: Any) -> None:
            assert go.wait(10)
            ctx.send(ctx.receive(timeout=10), timeout=10)

        kernel = make(receives_one)
        kernel.start()
        kernel.deactivate()
        for number in (1, 2):
            kernel.send(number, timeout=10)
        kernel._request_stop()
        go.set()
        kernel.terminate(timeout=10)
        assert kernel.receive(timeout=10) == 1
        assert kernel.dead_letters == [DeadLetter(2, "unhandled")]


@with_pool
def test_every_tier_of_threads_has_the_words(make: Any) -> None:
    kernel = make(echo)
    kernel.launch()
    kernel.activate()
    kernel.deactivate()
    kernel.send(1, timeout=10)
    kernel.reactivate()
    assert receive(kernel) == 1
    kernel.terminate(timeout=10)
    with pytest.raises(KernelStateError):
        kernel.send(2)


def test_a_pool_pauses_its_running_workers() -> None:
    def fails_at_zero(ctx: Any) -> None:
        while not ctx.should_terminate:
            number = ctx.receive(timeout=10)
            if number is not None:
                ctx.send(1 / number, timeout=10)

    workers = ThreadedKernelPool("k", fails_at_zero, num_workers=2)
    with pytest.raises(KernelStateError, match="CREATED"):
        workers.deactivate()
    with workers:
        workers.send(0, timeout=10)
        with pytest.raises(Exception, match="division by zero"):
            workers.receive_any(timeout=10)
        workers.deactivate()
        with pytest.raises(KernelStateError, match="DEACTIVATED"):
            workers.deactivate()
        workers.reactivate()
        workers.send(1, timeout=10)
        assert workers.receive_any(timeout=10) == 1.0


@pytest.mark.parametrize("states", [ThreadedKernelState, CythonKernelState])
def test_states_have_the_names_of_every_tier(states: Any) -> None:
    assert (states.ACTIVE, states.TERMINATING, states.TERMINATED) == (states.RUNNING, states.STOPPING, states.STOPPED)
    assert [state.value for state in (states.CREATED, states.RUNNING, states.STOPPING, states.STOPPED, states.FAILED)] == [1, 2, 3, 4, 5]


class TestQueues:
    @pytest.mark.parametrize("queue_type", [SyncQueue, SPSCQueue])
    def test_a_paused_queue_keeps_its_items(self, queue_type: Any) -> None:
        queue = queue_type(4)
        queue._set_paused(True)
        assert queue.put(1)
        assert (queue.get_nowait(), len(queue)) == (None, 1)
        if queue_type is SyncQueue:
            with pytest.raises(QueueTimeoutError):
                queue.get(timeout=0)
        else:
            assert queue.get(timeout=0) is None
        queue._set_paused(False)
        assert queue.get(timeout=10) == 1

    def test_a_paused_queue_without_waits_keeps_its_items(self) -> None:
        queue: FastSPSCQueue[int] = FastSPSCQueue(4)
        queue._set_paused(True)
        assert queue.put(1)
        assert (queue.get(), queue.get_wait(0.0), len(queue)) == (None, None, 1)
        queue._set_paused(False)
        assert queue.get() == 1

    @pytest.mark.parametrize("make", [SyncQueue, SPSCQueue, FastSPSCQueue])
    def test_a_shutdown_ends_the_pause(self, make: Any) -> None:
        queue = make(4)
        queue._set_paused(True)
        queue.put(1)
        queue.shutdown()
        assert (queue.get() if make is FastSPSCQueue else queue.get(timeout=10)) == 1
