"""Queues in shared memory between processes: order, killed processes, forks, and `multiprocessing`."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from pydotcompute.exceptions import NoPeerError, PeerDiedError, QueueClosedError, QueueError, QueueTimeoutError
from pydotcompute.ring_kernels.shared_queue import SharedQueue

MILLION = 1_000_000


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Starts a Python process that runs `code`, with `SharedQueue` imported and the arguments in `args`."""
    prologue = "import os, sys, time\nfrom pydotcompute.ring_kernels.shared_queue import SharedQueue\nargs = sys.argv[1:]\n"
    program = prologue + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line(other: subprocess.Popen[str]) -> str:
    assert other.stdout is not None
    return other.stdout.readline().rstrip("\n")


def finish(other: subprocess.Popen[str]) -> str:
    output, _ = other.communicate(timeout=60)
    assert other.returncode == 0
    return output


COUNT_UP = """
    queue = SharedQueue.attach(args[0])
    for number in range(int(args[1])):
        queue.put(number.to_bytes(4, "little"))
        if number == 0:
            print("here", flush=True)
"""


class TestTwoProcesses:
    @pytest.mark.parametrize("wait", ["adaptive", "park"])
    def test_a_million_in_order(self, wait: Any) -> None:
        with SharedQueue.create(capacity=1024, slot_size=16, wait=wait) as queue:
            producer = process(COUNT_UP, queue.name, MILLION)
            for number in range(MILLION):
                assert queue.get() == number.to_bytes(4, "little")
            # The producer process exited normally and closed its endpoint.
            with pytest.raises(QueueClosedError):
                queue.get()
            finish(producer)

    def test_a_million_round_trips(self) -> None:
        with SharedQueue.create(slot_size=16) as requests, SharedQueue.create(slot_size=16) as replies:
            echo = process(
                """
                requests, replies = map(SharedQueue.attach, args[:2])
                for _ in range(int(args[2])):
                    replies.put(requests.get())
                """,
                requests.name,
                replies.name,
                MILLION,
            )
            sent = received = 0
            while received < MILLION:
                while sent < MILLION and sent - received < 512:
                    requests.put(sent.to_bytes(4, "little"))
                    sent += 1
                while received < sent:
                    assert replies.get() == received.to_bytes(4, "little")
                    received += 1
            finish(echo)

    @pytest.mark.parametrize("waiting", ["spin", "adaptive", "park"])
    def test_published_messages_of_a_killed_producer_are_received(self, waiting: Any) -> None:
        with SharedQueue.create(capacity=64, wait=waiting) as queue:
            producer = process(
                """
                queue = SharedQueue.attach(args[0])
                for number in range(40):
                    queue.put(number.to_bytes(4, "little"))
                print("published", flush=True)
                time.sleep(3600)
                """,
                queue.name,
            )
            assert line(producer) == "published"
            os.kill(producer.pid, signal.SIGKILL)
            # The process is not reaped yet: it still exists as a zombie.
            assert [queue.get() for _ in range(40)] == [number.to_bytes(4, "little") for number in range(40)]
            for _ in range(2):
                with pytest.raises(PeerDiedError) as died:
                    queue.get()
                assert (died.value.pid, died.value.side, died.value.queue) == (producer.pid, "producer", queue.name)
            producer.communicate()
            # A new producer continues.
            producer = process(COUNT_UP, queue.name, 3)
            assert line(producer) == "here"
            assert [queue.get() for _ in range(3)] == [number.to_bytes(4, "little") for number in range(3)]
            finish(producer)

    def test_a_producer_killed_at_any_moment(self) -> None:
        """The consumer receives a prefix of the sent messages, in order, and then the error."""
        for round_ in range(5):
            with SharedQueue.create(capacity=1 << (2 * round_), slot_size=16) as queue:
                producer = process(COUNT_UP, queue.name, 1 << 31)
                for number in range(20_000 * (round_ + 1)):
                    assert queue.get() == number.to_bytes(4, "little")
                producer.kill()
                number += 1
                with pytest.raises(PeerDiedError):
                    while True:
                        assert queue.get() == number.to_bytes(4, "little")
                        number += 1
                assert queue.empty
                producer.communicate()

    def test_a_killed_consumer(self) -> None:
        with SharedQueue.create(capacity=64, slot_size=16) as queue:
            code = """
                queue = SharedQueue.attach(args[0])
                for number in range(int(args[1]), int(args[2])):
                    assert queue.get() == number.to_bytes(4, "little"), number
                    if number == int(args[1]):
                        print("here", flush=True)
                print("done", flush=True)
                time.sleep(3600)
            """
            consumer = process(code, queue.name, 0, 10_000)
            number = 0
            while number < 10_000:
                queue.put(number.to_bytes(4, "little"))
                number += 1
            assert [line(consumer), line(consumer)] == ["here", "done"]
            consumer.kill()
            with pytest.raises(PeerDiedError) as died:
                while True:
                    queue.put(number.to_bytes(4, "little"))
                    number += 1
            assert (died.value.pid, died.value.side) == (consumer.pid, "consumer")
            assert number == 10_000 + 64, "a rejected message is not queued, and no queued message is lost"
            consumer.communicate()
            # A new consumer continues at the next message.
            consumer = process(code, queue.name, 10_000, 20_000)
            assert line(consumer) == "here"
            while number < 20_000:
                queue.put(number.to_bytes(4, "little"))
                number += 1
            assert line(consumer) == "done"
            consumer.kill()
            consumer.communicate()

    def test_a_second_producer_raises_and_the_first_continues(self, queue: SharedQueue) -> None:
        queue.put(b"1")
        second = process(
            """
            from pydotcompute.exceptions import QueueError
            queue = SharedQueue.attach(args[0])
            try:
                queue.put(b"2")
            except QueueError as error:
                print(type(error).__name__, f"process {args[1]} has it" in str(error))
            """,
            queue.name,
            os.getpid(),
        )
        assert finish(second) == "QueueError True\n"
        assert [queue.get(), queue.get_nowait()] == [b"1", None]

    def test_a_process_exits_while_its_thread_waits(self, queue: SharedQueue) -> None:
        other = process(
            """
            import threading
            queue = SharedQueue.attach(args[0])
            threading.Thread(target=queue.get, daemon=True).start()
            while queue.consumer_pid is None:
                pass
            """,
            queue.name,
        )
        finish(other)
        # Either the process closed its endpoint at exit, or its death is detected.
        with pytest.raises((QueueClosedError, PeerDiedError)):
            while True:
                queue.put(b"1")

    def test_a_process_that_forks_during_a_wait(self, queue: SharedQueue) -> None:
        """The child inherits the lock of an endpoint in locked state, and must not close the endpoint of its parent."""
        other = process(
            """
            import threading
            queue = SharedQueue.attach(args[0])
            waiting = threading.Thread(target=lambda: print(queue.get(), flush=True))
            waiting.start()
            while queue.consumer_pid is None:
                pass
            child = os.fork()
            if child == 0:
                queue.close()
                del queue
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
            print("forked", flush=True)
            waiting.join()
            """,
            queue.name,
        )
        assert line(other) == "forked"
        queue.put(b"1")
        assert finish(other) == "b'1'\n"

    def test_ctrl_c_ends_a_wait(self, queue: SharedQueue) -> None:
        other = process("queue = SharedQueue.attach(args[0])\nprint(queue.get_nowait(), flush=True)\nqueue.get()", queue.name)
        assert line(other) == "None"
        other.send_signal(signal.SIGINT)
        other.communicate(timeout=60)
        assert other.returncode == -signal.SIGINT
        with pytest.raises(QueueClosedError):
            queue.put(b"1")


def exists(name: str) -> bool:
    try:
        SharedQueue.attach(name).close()
    except QueueError:
        return False
    return True


CREATE_AND_RECEIVE = """
    queue = SharedQueue.create(args[0], 64)
    print("created", flush=True)
    queue.get()
    print("here", flush=True)
    time.sleep(3600)
"""

PUT = """
    queue = SharedQueue.attach(args[0])
    queue.put(b"first")
    print("put", flush=True)
    sys.stdin.readline()
    for number in range(int(args[1])):
        queue.put(b"later")
"""


class TestNames:
    """What remains of a queue whose processes have ended."""

    @pytest.fixture
    def name(self) -> Iterator[str]:
        name = f"pydotcompute-test-{os.getpid()}"
        yield name
        SharedQueue.remove(name)

    @pytest.mark.parametrize("messages", [0, 3])
    def test_a_producer_that_outlives_a_killed_consumer_removes_the_name(self, name: str, messages: int) -> None:
        consumer = process(CREATE_AND_RECEIVE, name)
        assert line(consumer) == "created"
        producer = process(PUT, name, messages)
        assert [line(consumer), line(producer)] == ["here", "put"]
        consumer.kill()
        consumer.communicate()
        assert exists(name), "a new consumer could attach"
        finish(producer)
        assert not exists(name)

    def test_the_creator_removes_the_name_after_both_ends_were_killed(self, name: str) -> None:
        with SharedQueue.create(name, 64):
            consumer = process("queue = SharedQueue.attach(args[0])\nqueue.get()\nprint('here', flush=True)\ntime.sleep(3600)", name)
            producer = process(PUT, name, 0)
            assert [line(producer), line(consumer)] == ["put", "here"]
            producer.kill()
            producer.communicate()
            with SharedQueue.attach(name) as queue:
                queue.put(b"never received")
                consumer.kill()
                consumer.communicate()
            assert exists(name), "the creator runs"
        assert not exists(name)

    def test_a_producer_that_outlives_the_killed_creator_of_an_empty_queue_removes_the_name(self, name: str) -> None:
        creator = process("queue = SharedQueue.create(args[0], 64)\nprint('created', flush=True)\ntime.sleep(3600)", name)
        assert line(creator) == "created"
        with SharedQueue.attach(name) as queue:
            creator.kill()
            creator.communicate()
            assert not queue.closed
        assert not exists(name)

    def test_messages_for_a_consumer_that_never_attached_stay(self, name: str) -> None:
        with SharedQueue.create(name, 64) as queue:
            queue.put(b"kept")
        with SharedQueue.attach(name) as queue:
            assert queue.get() == b"kept"
        assert not exists(name)


class TestWaitingForAPeer:
    def test_a_new_consumer_is_waited_for(self, queue: SharedQueue) -> None:
        code = "queue = SharedQueue.attach(args[0])\nprint(queue.get(), flush=True)\ntime.sleep(3600)"
        first = process(code, queue.name)
        assert queue.wait_for_consumer(timeout=60) == first.pid
        queue.put(b"1")
        assert line(first) == "b'1'"
        first.kill()
        first.communicate()
        with pytest.raises(NoPeerError, match=f"Queue '{queue.name}' had no running consumer within 0.02 s") as none:
            queue.wait_for_consumer(timeout=0.02)
        assert isinstance(none.value, QueueTimeoutError)
        assert (none.value.queue, none.value.side) == (queue.name, "consumer")
        second = process(code, queue.name)
        assert queue.wait_for_consumer() == second.pid
        queue.put(b"2")
        assert line(second) == "b'2'"
        second.kill()
        second.communicate()

    def test_a_producer_is_waited_for(self, queue: SharedQueue) -> None:
        producer = process(PUT, queue.name, 0)
        assert queue.wait_for_producer(timeout=60) == producer.pid
        assert queue.get() == b"first"
        finish(producer)

    def test_a_closed_queue_waits_for_no_peer(self, queue: SharedQueue) -> None:
        queue.close()
        with pytest.raises(QueueClosedError):
            queue.wait_for_producer()


def _echo(requests: SharedQueue, replies: SharedQueue) -> None:
    while (item := requests.get()) != b"end":
        replies.put(item)


class TestMultiprocessing:
    @pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_queues_are_passed_to_processes(self, method: str) -> None:
        context = multiprocessing.get_context(method)
        with SharedQueue.create() as requests, SharedQueue.create() as replies:
            child = context.Process(target=_echo, args=(requests, replies))
            child.start()
            for number in range(100):
                requests.put(b"%d" % number)
                assert replies.get(timeout=60) == b"%d" % number
            requests.put(b"end")
            child.join()
            assert child.exitcode == 0
            with pytest.raises(QueueClosedError):
                replies.get(timeout=60)

    def test_a_pickled_queue_attaches(self, queue: SharedQueue) -> None:
        queue.put(b"1")
        copy: SharedQueue = pickle.loads(pickle.dumps(queue))
        assert copy.get() == b"1"
        copy.close()

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_a_forked_child_does_not_close_the_endpoints_of_its_parent(self, queue: SharedQueue) -> None:
        queue.put(b"1")
        child = os.fork()
        if child == 0:
            try:
                rejected = False
                try:
                    queue.put(b"2")
                except QueueError:
                    rejected = True
                queue.close()
                os._exit(0 if rejected else 1)
            except BaseException:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        queue.put(b"3")
        assert [queue.get(), queue.get()] == [b"1", b"3"]
        SharedQueue.attach(queue.name).close()
