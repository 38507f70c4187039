"""Queues between processes: order, limits, closing, dying, forking, and segments that are no queues."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import secrets
import signal
import struct
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pydotcompute.exceptions import (
    MessageDeserializationError,
    MessageError,
    PeerDiedError,
    QueueClosedError,
    QueueError,
    QueueFullError,
    QueueTimeoutError,
)
from pydotcompute.ring_kernels.message import message
from pydotcompute.ring_kernels.shared_queue import SharedQueue

MILLION = 1_000_000
SHM = Path("/dev/shm")

linux = pytest.mark.skipif(not SHM.is_dir(), reason="looks into /dev/shm")


@message
class QueuedReading:
    sensor: int
    value: float


@pytest.fixture
def queue() -> Iterator[SharedQueue]:
    made = SharedQueue.create(capacity=8, slot_size=64)
    yield made
    made.close()
    SharedQueue.remove(made.name)


def process(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another interpreter that runs `code`, with `SharedQueue` and its arguments at hand."""
    prologue = "import os, sys, time\nfrom pydotcompute.ring_kernels.shared_queue import SharedQueue\nargs = sys.argv[1:]\n"
    program = prologue + textwrap.dedent(code)
    return subprocess.Popen([sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def line(other: subprocess.Popen[str]) -> str:
    assert other.stdout is not None
    return other.stdout.readline().rstrip("\n")


def finish(other: subprocess.Popen[str]) -> str:
    output, _ = other.communicate(timeout=60)
    assert other.returncode == 0
    return output


class TestOneProcess:
    def test_passes_what_has_a_buffer_in_order(self, queue: SharedQueue) -> None:
        items = [b"", b"bytes", bytearray(b"bytearray"), memoryview(b"memoryview")]
        for item in items:
            assert queue.put(item) is True
        assert (queue.size, len(queue), queue.empty, queue.full) == (4, 4, False, False)
        assert [queue.get() for _ in items] == [bytes(item) for item in items]
        assert queue.empty

    def test_passes_messages(self, queue: SharedQueue) -> None:
        with SharedQueue.create(slot_size=256) as wide:
            sent = QueuedReading(sensor=3, value=0.5)
            wide.put(sent)
            received = wide.get()
            assert received == sent
            assert type(received) is QueuedReading

    def test_sizes_are_rounded_up(self) -> None:
        with SharedQueue.create(capacity=5, slot_size=49) as queue:
            assert queue.capacity == 8
            assert queue.slot_size == 112
            assert f"name={queue.name!r}, size=0/8, slot_size=112" in repr(queue)

    @pytest.mark.parametrize("slot_size", [1, 48, 49, 1000, 65_536, (1 << 20) - 16])
    def test_every_byte_of_a_slot_can_be_used(self, slot_size: int) -> None:
        with SharedQueue.create(capacity=2, slot_size=slot_size) as queue:
            for lap in range(3):
                item = bytes([lap]) * queue.slot_size
                queue.put(item)
                queue.put(b"short")
                assert queue.get() == item
                assert queue.get() == b"short"

    def test_too_large_a_message_is_refused(self, queue: SharedQueue) -> None:
        with pytest.raises(MessageError, match=f"{queue.slot_size + 1} bytes.*hold {queue.slot_size}.*slot_size="):
            queue.put(b"x" * (queue.slot_size + 1))
        assert queue.empty
        with pytest.raises(TypeError):
            queue.put("text")

    def test_full_and_empty(self, queue: SharedQueue) -> None:
        assert queue.get_nowait() is None
        with pytest.raises(QueueTimeoutError) as empty:
            queue.get(timeout=0.01)
        assert (empty.value.kernel_id, empty.value.timeout) == (queue.name, 0.01)
        while queue.put_nowait(b"x"):
            pass
        assert queue.full
        for timeout in (0, 0.01):
            with pytest.raises(QueueFullError) as full:
                queue.put(b"y", timeout=timeout)
            assert full.value.queue_size == 8
        assert [queue.get_nowait() for _ in range(9)] == [b"x"] * 8 + [None]

    def test_two_producers_and_two_consumers_are_refused(self, queue: SharedQueue) -> None:
        other = SharedQueue.attach(queue.name)
        queue.put(b"1")
        assert queue.producer_pid == os.getpid()
        with pytest.raises(QueueError, match=f"producer's end.*process {os.getpid()} has it"):
            other.put(b"2")
        assert other.get() == b"1"
        with pytest.raises(QueueError, match="consumer's end"):
            queue.get()
        other.close()

    def test_a_thread_that_waits_at_an_end_keeps_it(self, queue: SharedQueue) -> None:
        received: list[bytes] = []
        waiting = threading.Thread(target=lambda: received.append(queue.get()))
        waiting.start()
        with pytest.raises(QueueError, match="another thread"):
            while True:
                queue.get_nowait()
        queue.put(b"1")
        waiting.join()
        assert received == [b"1"]

    def test_closing_wakes_a_thread_that_waits(self, queue: SharedQueue) -> None:
        errors: list[Exception] = []

        def wait() -> None:
            try:
                queue.get()
            except QueueError as error:
                errors.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        with pytest.raises(QueueError, match="another thread"):
            while True:
                queue.get_nowait()
        queue.close()
        waiting.join()
        assert [type(error) for error in errors] == [QueueClosedError]
        assert queue.consumer_pid is None
        assert queue.closed

    def test_a_closed_queue_says_so(self) -> None:
        queue = SharedQueue.create()
        queue.close()
        queue.close()
        with pytest.raises(QueueClosedError, match="closed in this process"):
            queue.put(b"1")
        with pytest.raises(QueueClosedError, match="closed in this process"):
            queue.get_nowait()

    def test_the_other_side_of_a_closed_queue_gets_what_is_left(self, queue: SharedQueue) -> None:
        producer = SharedQueue.attach(queue.name)
        producer.put(b"1")
        producer.put(b"2")
        producer.close()
        assert [queue.get(), queue.get()] == [b"1", b"2"]
        with pytest.raises(QueueClosedError, match="producer has closed"):
            queue.get()
        again = SharedQueue.attach(queue.name)
        again.put(b"3")
        assert queue.get() == b"3"
        again.close()

    def test_a_producer_learns_that_the_consumer_has_closed(self, queue: SharedQueue) -> None:
        consumer = SharedQueue.attach(queue.name)
        queue.put(b"1")
        assert consumer.get() == b"1"
        consumer.close()
        with pytest.raises(QueueClosedError, match="consumer has closed"):
            queue.put(b"2")

    def test_unreadable_messages_do_not_block_the_queue(self, queue: SharedQueue) -> None:
        class Broken:
            def serialize(self) -> bytes:
                return b"\xc1"

        queue.put(Broken())
        queue.put(b"next")
        with pytest.raises(MessageDeserializationError) as broken:
            queue.get()
        assert broken.value.data == b"\xc1"  # type: ignore[attr-defined]
        assert queue.get() == b"next"


class TestNames:
    def test_names_are_checked(self) -> None:
        for name in ("", "a/b", "x" * 201):
            with pytest.raises(QueueError, match="name"):
                SharedQueue.create(name)

    def test_a_name_is_taken_once(self, queue: SharedQueue) -> None:
        with pytest.raises(QueueError, match="the name is in use"):
            SharedQueue.create(queue.name)

    def test_the_name_goes_with_the_creator(self) -> None:
        queue = SharedQueue.create()
        queue.close()
        with pytest.raises(QueueError, match="no queue has this name"):
            SharedQueue.attach(queue.name)
        assert SharedQueue.remove(queue.name) is False

    def test_the_name_stays_while_messages_wait_for_a_consumer(self) -> None:
        queue = SharedQueue.create()
        queue.put(b"1")
        queue.close()
        late = SharedQueue.attach(queue.name)
        assert late.get() == b"1"
        late.close()
        assert SharedQueue.remove(queue.name) is False

    @pytest.mark.parametrize(("capacity", "slot_size"), [(0, 64), (1 << 60, 64), (8, 1 << 20)])
    def test_impossible_sizes(self, capacity: int, slot_size: int) -> None:
        name = f"pydotcompute-test-{secrets.token_hex(4)}"
        with pytest.raises(QueueError, match="Cannot create shared queue"):
            SharedQueue.create(name, capacity, slot_size)
        assert SharedQueue.remove(name) is False

    def test_more_memory_than_there_is(self) -> None:
        name = f"pydotcompute-test-{secrets.token_hex(4)}"
        with pytest.raises(QueueError, match="bytes of shared memory"):
            SharedQueue.create(name, 1 << 30, (1 << 20) - 16)
        assert SharedQueue.remove(name) is False

    def test_an_unknown_way_to_wait(self) -> None:
        with pytest.raises(ValueError, match="'spin', 'adaptive' or 'park'"):
            SharedQueue.create(wait="sleep")  # type: ignore[arg-type]


@linux
class TestDamage:
    """Whatever lies in the file, attaching raises or gives a queue; it never crashes."""

    def attach(self, content: bytes) -> None:
        path = SHM / f"pydotcompute-test-{secrets.token_hex(4)}"
        path.write_bytes(content)
        try:
            SharedQueue.attach(path.name).close()
        finally:
            path.unlink(missing_ok=True)

    @pytest.mark.parametrize("content", [b"", b"short", b"not a queue" * 1000, bytes(4096)])
    def test_something_else_has_the_name(self, content: bytes) -> None:
        with pytest.raises(QueueError, match="queue"):
            self.attach(content)

    @pytest.mark.parametrize(
        ("offset", "kind", "value", "match"),
        [
            (0, "<Q", 1, "begins with"),
            (8, "<I", 99, "version 99"),
            (12, "<I", 65, "65 bytes"),
            (12, "<I", 256, "damaged"),
            (16, "<Q", 0, "cut short"),
            (768 + 16, "<Q", 0, "damaged|0 messages"),
            (768 + 16, "<Q", 7, "7 slots"),
            (768 + 16, "<Q", 1 << 63, "damaged|larger"),
        ],
    )
    def test_a_damaged_header(self, queue: SharedQueue, offset: int, kind: str, value: int, match: str) -> None:
        content = bytearray((SHM / queue.name).read_bytes())
        struct.pack_into(kind, content, offset, value)
        with pytest.raises(QueueError, match=match):
            self.attach(bytes(content))

    @pytest.mark.parametrize("cut", [1, 100, 128 * 9])
    def test_a_file_cut_short(self, queue: SharedQueue, cut: int) -> None:
        with pytest.raises(QueueError):
            self.attach((SHM / queue.name).read_bytes()[:-cut])

    def test_a_ring_of_another_kind(self, queue: SharedQueue) -> None:
        """The ring has a header of its own, which is checked when an end is taken."""
        path = SHM / queue.name
        with path.open("r+b") as file:
            file.seek(768)
            file.write(b"no ring!")
        other = SharedQueue.attach(queue.name)
        with pytest.raises(QueueError, match="not as a ring does"):
            other.get_nowait()
        assert other.consumer_pid is None

    def test_a_message_longer_than_its_slot(self, queue: SharedQueue) -> None:
        queue.put(b"1")
        with (SHM / queue.name).open("r+b") as file:
            file.seek(768 + 512 + 8)
            file.write(struct.pack("<I", 1 << 31))
        with pytest.raises(QueueError, match="longer than its slot"):
            queue.get()


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
            # The producer's process has ended as usual, and said so.
            with pytest.raises(QueueClosedError):
                queue.get()
            finish(producer)

    def test_a_million_there_and_back(self) -> None:
        with SharedQueue.create(slot_size=16) as there, SharedQueue.create(slot_size=16) as back:
            echo = process(
                """
                there, back = map(SharedQueue.attach, args[:2])
                for _ in range(int(args[2])):
                    back.put(there.get())
                """,
                there.name,
                back.name,
                MILLION,
            )
            sent = received = 0
            while received < MILLION:
                while sent < MILLION and sent - received < 512:
                    there.put(sent.to_bytes(4, "little"))
                    sent += 1
                while received < sent:
                    assert back.get() == received.to_bytes(4, "little")
                    received += 1
            finish(echo)

    @pytest.mark.parametrize("waiting", ["spin", "adaptive", "park"])
    def test_a_killed_producer_loses_nothing_that_it_published(self, waiting: Any) -> None:
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
            # Not waited for: until somebody does, the process is there, as a zombie.
            assert [queue.get() for _ in range(40)] == [number.to_bytes(4, "little") for number in range(40)]
            for _ in range(2):
                with pytest.raises(PeerDiedError) as died:
                    queue.get()
                assert (died.value.pid, died.value.side, died.value.queue) == (producer.pid, "producer", queue.name)
            producer.communicate()
            # Another goes on.
            producer = process(COUNT_UP, queue.name, 3)
            assert line(producer) == "here"
            assert [queue.get() for _ in range(3)] == [number.to_bytes(4, "little") for number in range(3)]
            finish(producer)

    def test_a_producer_killed_in_the_middle(self) -> None:
        """At whatever moment: what comes is a beginning of what was sent, in order, and then the error."""
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
            assert number == 10_000 + 64, "what was refused is not in the queue, and what is in it was not lost"
            consumer.communicate()
            # Another goes on where this one was.
            consumer = process(code, queue.name, 10_000, 20_000)
            assert line(consumer) == "here"
            while number < 20_000:
                queue.put(number.to_bytes(4, "little"))
                number += 1
            assert line(consumer) == "done"
            consumer.kill()
            consumer.communicate()

    def test_a_second_producer_is_refused_and_the_first_goes_on(self, queue: SharedQueue) -> None:
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

    def test_a_process_ends_while_its_thread_waits(self, queue: SharedQueue) -> None:
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
        # Either it could still say that it closes the queue, or it is seen to have ended.
        with pytest.raises((QueueClosedError, PeerDiedError)):
            while True:
                queue.put(b"1")

    def test_a_process_that_was_forked_in_a_wait(self, queue: SharedQueue) -> None:
        """The child has the lock of an end taken for ever, and must not close that end under its parent."""
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


def _echo(there: SharedQueue, back: SharedQueue) -> None:
    while (item := there.get()) != b"end":
        back.put(item)


class TestMultiprocessing:
    @pytest.mark.parametrize("method", ["spawn", "fork", "forkserver"])
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_queues_are_handed_to_processes(self, method: str) -> None:
        context = multiprocessing.get_context(method)
        with SharedQueue.create() as there, SharedQueue.create() as back:
            child = context.Process(target=_echo, args=(there, back))
            child.start()
            for number in range(100):
                there.put(b"%d" % number)
                assert back.get(timeout=60) == b"%d" % number
            there.put(b"end")
            child.join()
            assert child.exitcode == 0
            with pytest.raises(QueueClosedError):
                back.get(timeout=60)

    def test_a_pickled_queue_attaches(self, queue: SharedQueue) -> None:
        queue.put(b"1")
        copy: SharedQueue = pickle.loads(pickle.dumps(queue))
        assert copy.get() == b"1"
        copy.close()

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_a_fork_leaves_its_parent_s_ends_alone(self, queue: SharedQueue) -> None:
        queue.put(b"1")
        child = os.fork()
        if child == 0:
            try:
                refused = False
                try:
                    queue.put(b"2")
                except QueueError:
                    refused = True
                queue.close()
                os._exit(0 if refused else 1)
            except BaseException:
                os._exit(2)
        assert os.waitpid(child, 0)[1] == 0
        queue.put(b"3")
        assert [queue.get(), queue.get()] == [b"1", b"3"]
        SharedQueue.attach(queue.name).close()
