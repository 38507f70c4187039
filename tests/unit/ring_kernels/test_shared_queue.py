"""Queues in shared memory within one process: order, limits, closing, names, and damaged segments."""

from __future__ import annotations

import os
import secrets
import struct
import threading
from pathlib import Path

import pytest

from pydotcompute.exceptions import (
    MessageDeserializationError,
    MessageError,
    QueueClosedError,
    QueueError,
    QueueFullError,
    QueueTimeoutError,
)
from pydotcompute.ring_kernels.message import message
from pydotcompute.ring_kernels.shared_queue import SharedQueue

MILLION = 1_000_000
SHM = Path("/dev/shm")

linux = pytest.mark.skipif(not SHM.is_dir(), reason="needs /dev/shm")


@message
class QueuedReading:
    sensor: int
    value: float


class TestOneProcess:
    def test_passes_buffers_in_order(self, queue: SharedQueue) -> None:
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

    def test_too_large_a_message_raises(self, queue: SharedQueue) -> None:
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

    def test_a_second_producer_or_consumer_raises(self, queue: SharedQueue) -> None:
        other = SharedQueue.attach(queue.name)
        queue.put(b"1")
        assert queue.producer_pid == os.getpid()
        with pytest.raises(QueueError, match=f"producer's end.*process {os.getpid()} has it"):
            other.put(b"2")
        assert other.get() == b"1"
        with pytest.raises(QueueError, match="consumer's end"):
            queue.get()
        other.close()

    def test_a_waiting_thread_keeps_its_endpoint(self, queue: SharedQueue) -> None:
        received: list[bytes] = []
        waiting = threading.Thread(target=lambda: received.append(queue.get()))
        waiting.start()
        with pytest.raises(QueueError, match="another thread"):
            while True:
                queue.get_nowait()
        queue.put(b"1")
        waiting.join()
        assert received == [b"1"]

    def test_close_wakes_a_waiting_thread(self, queue: SharedQueue) -> None:
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

    def test_calls_on_a_closed_queue_raise(self) -> None:
        queue = SharedQueue.create()
        queue.close()
        queue.close()
        with pytest.raises(QueueClosedError, match="closed in this process"):
            queue.put(b"1")
        with pytest.raises(QueueClosedError, match="closed in this process"):
            queue.get_nowait()

    def test_the_consumer_drains_a_queue_closed_by_the_producer(self, queue: SharedQueue) -> None:
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

    def test_put_raises_after_the_consumer_closed(self, queue: SharedQueue) -> None:
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

    def test_a_name_in_use_raises(self, queue: SharedQueue) -> None:
        with pytest.raises(QueueError, match="the name is in use"):
            SharedQueue.create(queue.name)

    def test_the_creator_removes_the_name_on_close(self) -> None:
        queue = SharedQueue.create()
        queue.close()
        with pytest.raises(QueueError, match="no queue has this name"):
            SharedQueue.attach(queue.name)
        assert SharedQueue.remove(queue.name) is False

    def test_the_name_remains_while_messages_wait_for_a_consumer(self) -> None:
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

    def test_more_memory_than_available(self) -> None:
        name = f"pydotcompute-test-{secrets.token_hex(4)}"
        with pytest.raises(QueueError, match="bytes of shared memory"):
            SharedQueue.create(name, 1 << 30, (1 << 20) - 16)
        assert SharedQueue.remove(name) is False

    def test_an_unknown_wait_strategy(self) -> None:
        with pytest.raises(ValueError, match="'spin', 'adaptive' or 'park'"):
            SharedQueue.create(wait="sleep")  # type: ignore[arg-type]


@linux
class TestDamagedSegments:
    """For any file content, `attach` either raises or returns a queue; it never crashes."""

    def attach(self, content: bytes) -> None:
        path = SHM / f"pydotcompute-test-{secrets.token_hex(4)}"
        path.write_bytes(content)
        try:
            SharedQueue.attach(path.name).close()
        finally:
            path.unlink(missing_ok=True)

    @pytest.mark.parametrize("content", [b"", b"short", b"not a queue" * 1000, bytes(4096)])
    def test_a_file_that_is_not_a_queue(self, content: bytes) -> None:
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
            (768 + 16, "<Q", 0, "damaged|capacity is 0"),
            (768 + 16, "<Q", 7, "7 slots"),
            (768 + 16, "<Q", 1 << 63, "damaged|not enough memory"),
        ],
    )
    def test_a_damaged_header(self, queue: SharedQueue, offset: int, kind: str, value: int, match: str) -> None:
        content = bytearray((SHM / queue.name).read_bytes())
        struct.pack_into(kind, content, offset, value)
        with pytest.raises(QueueError, match=match):
            self.attach(bytes(content))

    @pytest.mark.parametrize("cut", [1, 100, 128 * 9])
    def test_a_truncated_file(self, queue: SharedQueue, cut: int) -> None:
        with pytest.raises(QueueError):
            self.attach((SHM / queue.name).read_bytes()[:-cut])

    def test_a_wrong_ring_magic(self, queue: SharedQueue) -> None:
        """The ring has its own header, which is checked when an endpoint is claimed."""
        path = SHM / queue.name
        with path.open("r+b") as file:
            file.seek(768)
            file.write(b"no ring!")
        other = SharedQueue.attach(queue.name)
        with pytest.raises(QueueError, match="expected the ring magic"):
            other.get_nowait()
        assert other.consumer_pid is None

    def test_a_message_longer_than_its_slot(self, queue: SharedQueue) -> None:
        queue.put(b"1")
        with (SHM / queue.name).open("r+b") as file:
            file.seek(768 + 512 + 8)
            file.write(struct.pack("<I", 1 << 31))
        with pytest.raises(QueueError, match="longer than its slot"):
            queue.get()
