"""Ring kernels on threads, threaded and compiled: states, failures, dead letters and pools."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from pydotcompute.exceptions import KernelError, KernelStateError, QueueFullError, TypeValidationError
from pydotcompute.ring_kernels.cython_kernel import (
    CythonKernelConfig,
    CythonKernelState,
    CythonRingKernel,
    is_cython_kernel_available,
)
from pydotcompute.ring_kernels.lifecycle import DeadLetter
from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue
from pydotcompute.ring_kernels.threaded_kernel import (
    ThreadedKernelConfig,
    ThreadedKernelContext,
    ThreadedKernelPool,
    ThreadedKernelState,
    ThreadedRingKernel,
)

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def echo(ctx: Any) -> None:
    while not ctx.should_terminate:
        message = ctx.receive(timeout=10)
        if message is not None:
            assert ctx.send(message, timeout=10)


def fail_at_negative(ctx: Any) -> None:
    """Replies with each number, and raises at the first negative one."""
    while not ctx.should_terminate:
        number = ctx.receive(timeout=10)
        if number is not None:
            if number < 0:
                raise ArithmeticError(f"{number} is negative")
            ctx.send(number, timeout=10)


def threaded(function: Any, *, use_spsc: bool = True, **config: Any) -> Any:
    return ThreadedRingKernel("k", function, config=ThreadedKernelConfig("k", use_spsc=use_spsc, **config))


def with_locks(function: Any, **config: Any) -> Any:
    return threaded(function, use_spsc=False, **config)


def compiled(function: Any, **config: Any) -> Any:
    return CythonRingKernel("k", function, config=CythonKernelConfig("k", **config))


every_kind = pytest.mark.parametrize("make", [threaded, with_locks, compiled])


def names(kernel: Any) -> str:
    name: str = kernel.state.name
    return name


@every_kind
class TestLifecycle:
    def test_states(self, make: Any) -> None:
        kernel = make(echo)
        assert names(kernel) == "CREATED"
        assert not kernel.is_running
        kernel.start()
        assert names(kernel) == "RUNNING"
        assert kernel.is_running
        with pytest.raises(KernelStateError, match="Cannot start kernel 'k' from state 'RUNNING'"):
            kernel.start()
        kernel.stop()
        assert names(kernel) == "STOPPED"
        kernel.stop()
        with pytest.raises(KernelStateError):
            kernel.start()
        assert kernel.error is None

    def test_stop_before_start_does_nothing(self, make: Any) -> None:
        kernel = make(echo)
        kernel.stop()
        assert names(kernel) == "CREATED"

    def test_sending_in_the_wrong_state(self, make: Any) -> None:
        kernel = make(echo)
        with pytest.raises(KernelStateError) as wrong:
            kernel.send(1)
        assert (wrong.value.kernel_id, wrong.value.current_state) == ("k", "CREATED")
        assert kernel.send_nowait(1) is False
        assert kernel.receive_nowait() is None
        with kernel:
            pass
        with pytest.raises(KernelStateError, match="STOPPED"):
            kernel.send(1)
        assert kernel.send_nowait(1) is False

    def test_replies(self, make: Any) -> None:
        with make(echo) as kernel:
            for number in range(1000):
                assert kernel.send(number, timeout=10)
                assert kernel.receive(timeout=10) == number
            assert kernel.receive(timeout=0.01) is None
            assert kernel.receive_nowait() is None

    def test_a_kernel_may_stop_itself(self, make: Any) -> None:
        kernel = make(lambda ctx: kernel.stop())
        kernel.start()
        kernel._thread.join()
        assert names(kernel) == "STOPPED"

    def test_stop_wakes_a_kernel_blocked_on_output(self, make: Any) -> None:
        rejected = []

        def send_all(ctx: Any) -> None:
            number = 0
            while ctx.send(number, timeout=60):
                number += 1
            rejected.append(number)

        with make(send_all, output_queue_size=4) as kernel:
            assert kernel.receive(timeout=10) == 0
        assert names(kernel) == "STOPPED"
        received = []
        while len(received) < rejected[0] - 1:
            received.append(kernel.receive(timeout=0))
        assert received == list(range(1, rejected[0]))

    def test_the_current_message_is_completed_on_stop(self, make: Any) -> None:
        received = threading.Event()

        def slow(ctx: Any) -> None:
            number = ctx.receive(timeout=10)
            received.set()
            ctx._shutdown_event.wait()
            ctx.send(number)

        kernel = make(slow)
        with kernel:
            kernel.send(7)
            received.wait()
        assert kernel.receive(timeout=0) == 7

    def test_messages_not_received_before_stop_stay_queued(self, make: Any) -> None:
        def idle(ctx: Any) -> None:
            ctx._shutdown_event.wait()

        kernel = make(idle)
        with kernel:
            for number in range(5):
                kernel.send(number)
            assert kernel.dead_letters == []
        expected = [DeadLetter(number, "unhandled") for number in range(5)]
        assert kernel.dead_letters == expected
        assert kernel.dead_letters == expected

    def test_a_million_in_order(self, make: Any) -> None:
        with make(echo) as kernel:
            sent = received = 0
            while received < 1_000_000:
                while sent < 1_000_000 and sent - received < 1000:
                    assert kernel.send(sent, timeout=10)
                    sent += 1
                while received < sent:
                    assert kernel.receive(timeout=10) == received
                    received += 1
        assert kernel.dead_letters == []


@every_kind
class TestFailure:
    def test_waiting_callers_get_the_cause_at_once(self, make: Any, caplog: pytest.LogCaptureFixture) -> None:
        kernel = make(fail_at_negative)
        kernel.start()
        for number in (1, 2, -3):
            kernel.send(number)
        assert kernel.receive(timeout=60) == 1
        assert kernel.receive(timeout=60) == 2
        with pytest.raises(KernelError, match="failed with ArithmeticError: -3 is negative") as failed:
            kernel.receive(timeout=60)
        assert failed.value.__cause__ is kernel.error
        assert isinstance(kernel.error, ArithmeticError)
        with pytest.raises(KernelError):
            kernel.receive_nowait()
        assert names(kernel) == "FAILED"
        with pytest.raises(KernelStateError) as rejected:
            kernel.send(4)
        assert rejected.value.__cause__ is kernel.error
        kernel.stop()
        assert names(kernel) == "STOPPED"
        with pytest.raises(KernelError):
            kernel.receive(timeout=1)
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == ["Kernel 'k' failed"]

    def test_outputs_before_the_failure_are_received_first(self, make: Any) -> None:
        kernel = make(fail_at_negative)
        kernel.start()
        for number in (1, 2, -3):
            kernel.send(number)
        kernel._thread.join()
        assert [kernel.receive(timeout=1), kernel.receive(timeout=1)] == [1, 2]
        with pytest.raises(KernelError):
            kernel.receive(timeout=1)

    def test_unhandled_messages_stay_queued(self, make: Any) -> None:
        go = threading.Event()

        def fail(ctx: Any) -> None:
            go.wait()
            number = ctx.receive(timeout=10)
            raise ArithmeticError(number)

        kernel = make(fail)
        kernel.start()
        for number in range(5):
            kernel.send(number)
        go.set()
        with pytest.raises(KernelError):
            kernel.receive(timeout=60)
        assert kernel.dead_letters == [DeadLetter(number, "failed", kernel.error) for number in range(5)]

    def test_a_failure_raises_in_a_waiting_sender(self, make: Any) -> None:
        go = threading.Event()

        def fail(ctx: Any) -> None:
            go.wait()
            raise ArithmeticError("failure")

        kernel = make(fail, input_queue_size=1)
        kernel.start()
        kernel.send(0)
        threading.Timer(0.05, go.set).start()
        with pytest.raises((KernelError, KernelStateError)) as raised:
            kernel.send(1, timeout=60)
        assert isinstance(raised.value.__cause__, ArithmeticError)
        assert kernel.dead_letters == [DeadLetter(0, "failed", kernel.error)]

    def test_a_system_exit_stops_a_kernel_without_an_error(self, make: Any) -> None:
        def leave(ctx: Any) -> None:
            raise SystemExit

        kernel = make(leave)
        kernel.start()
        kernel._thread.join()
        assert names(kernel) == "STOPPED"
        assert kernel.error is None


class TestThreaded:
    def test_config_is_checked(self) -> None:
        for config in (ThreadedKernelConfig, CythonKernelConfig):
            for name in ("input_queue_size", "output_queue_size"):
                with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
                    config("k", **{name: 0})

    def test_use_spsc_chooses_the_queues(self) -> None:
        kinds: list[tuple[type, type]] = []
        for use_spsc in (True, False):
            with threaded(lambda ctx: kinds.append((type(ctx.input_queue), type(ctx.output_queue))), use_spsc=use_spsc):
                pass
        assert kinds == [(SPSCQueue, SPSCQueue), (SyncQueue, SyncQueue)]

    def test_a_full_queue(self) -> None:
        with threaded(lambda ctx: ctx.wait_shutdown(), input_queue_size=1) as kernel:
            assert kernel.send(1)
            assert kernel.send(2, timeout=0.01) is False
        with with_locks(lambda ctx: ctx.wait_shutdown(), input_queue_size=1) as kernel:
            assert kernel.send(1)
            with pytest.raises(QueueFullError) as full:
                kernel.send(2, timeout=0.01)
            assert (full.value.kernel_id, full.value.queue_size) == ("k", 1)

    def test_receiving_in_the_wrong_state(self) -> None:
        kernel = threaded(echo)
        with pytest.raises(KernelStateError, match="CREATED"):
            kernel.receive()
        with kernel:
            kernel.send(1)
            assert kernel.receive(timeout=10) == 1
        with pytest.raises(KernelStateError, match="STOPPED"):
            kernel.receive()

    def test_message_types_are_checked(self) -> None:
        def reply_with_text(ctx: ThreadedKernelContext[int, int]) -> None:
            number = ctx.receive()
            ctx.send(str(number))  # type: ignore[arg-type]

        kernel = ThreadedRingKernel("k", reply_with_text, input_type=int, output_type=int)
        with kernel:
            for send in (kernel.send, kernel.send_nowait):
                with pytest.raises(TypeValidationError, match="input of kernel 'k': expected int, got str"):
                    send("1")  # type: ignore[arg-type]
            kernel.send(1)
            with pytest.raises(KernelError, match="output of kernel 'k': expected int, got str") as failed:
                kernel.receive(timeout=60)
            assert isinstance(failed.value.__cause__, TypeValidationError)

    def test_repr_names_the_state(self) -> None:
        assert repr(threaded(echo)) == "ThreadedRingKernel(id='k', state=CREATED, spsc=True)"
        assert repr(compiled(echo)) == "CythonRingKernel(id='k', state=CREATED, cython=True)"

    def test_state_names_match_0_2(self) -> None:
        for states in (ThreadedKernelState, CythonKernelState):
            assert [state.name for state in states][:5] == ["CREATED", "RUNNING", "STOPPING", "STOPPED", "FAILED"]


class TestCompiled:
    def test_is_compiled(self) -> None:
        assert is_cython_kernel_available()
        assert compiled(echo).using_cython

    def test_calls_without_a_timeout_do_not_wait(self) -> None:
        kernel = compiled(lambda ctx: ctx._shutdown_event.wait(), input_queue_size=1)
        assert kernel.receive() is None
        with kernel:
            assert kernel.receive() is None
            assert [kernel.send(1), kernel.send(2), kernel.send_nowait(2)] == [True, False, False]

    def test_a_context_sends_to_the_output(self) -> None:
        def send_all(ctx: Any) -> None:
            assert ctx.receive_nowait() is None
            assert ctx.send(1)
            assert ctx.send_nowait(2)

        with compiled(send_all) as kernel:
            assert [kernel.receive(timeout=10), kernel.receive(timeout=10)] == [1, 2]

    def test_polling_loops_release_the_gil_to_each_other(self) -> None:
        """Neither side blocks, so each must release the GIL to let the other run."""

        def poll(ctx: Any) -> None:
            while not ctx.should_terminate:
                number = ctx.receive_nowait()
                if number is not None:
                    ctx.send_nowait(number)

        with compiled(poll) as kernel:
            for number in range(300):
                assert kernel.send_nowait(number)
                while (reply := kernel.receive_nowait()) is None:
                    pass
                assert reply == number


class TestPool:
    def test_all_workers_reply(self) -> None:
        names: set[str] = set()

        def square(ctx: Any) -> None:
            names.add(threading.current_thread().name)
            while not ctx.should_terminate:
                number = ctx.receive()
                if number is not None:
                    ctx.send(number * number)

        pool = ThreadedKernelPool("square", square, num_workers=3)
        assert len(pool) == 3
        with pool:
            for number in range(300):
                assert pool.send(number, timeout=10)
            assert sorted(pool.receive_any(timeout=10) for _ in range(300)) == [number * number for number in range(300)]
            assert pool.receive_any(timeout=0.01) is None
        assert names == {f"threaded_kernel_square_{worker}" for worker in range(3)}
        with pytest.raises(KernelStateError):
            pool.receive_any()
        with pytest.raises(KernelStateError):
            pool.send(1)

    def test_a_failed_worker_is_reported_and_skipped(self) -> None:
        with ThreadedKernelPool("p", fail_at_negative, num_workers=2) as pool:
            pool.send(-1)
            with pytest.raises(KernelError, match="Kernel 'p_0' of pool 'p' failed: -1 is negative") as failed:
                pool.receive_any(timeout=60)
            assert isinstance(failed.value.__cause__, ArithmeticError)
            for number in range(10):
                assert pool.send(number)
            assert [pool.receive_any(timeout=10) for _ in range(10)] == list(range(10))

    def test_many_threads_may_send(self) -> None:
        with ThreadedKernelPool("p", echo, num_workers=2) as pool:
            senders = [threading.Thread(target=lambda: [pool.send(number) for number in range(1000)]) for _ in range(4)]
            for sender in senders:
                sender.start()
            received = [pool.receive_any(timeout=10) for _ in range(4000)]
            for sender in senders:
                sender.join()
        assert sorted(received) == sorted(list(range(1000)) * 4)

    def test_a_pool_needs_a_worker(self) -> None:
        with pytest.raises(ValueError, match="at least 1"):
            ThreadedKernelPool("p", echo, num_workers=0)

    def test_stop_wakes_workers_blocked_on_output(self) -> None:
        def send_all(ctx: Any) -> None:
            while ctx.send(0):
                pass

        with ThreadedKernelPool("p", send_all, num_workers=2, output_queue_size=4) as pool:
            assert pool.receive_any(timeout=10) == 0
        assert all(not kernel._thread.is_alive() for kernel in pool._kernels if kernel._thread is not None)
