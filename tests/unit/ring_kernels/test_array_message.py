"""Messages that pass arrays by handle."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import msgpack
import numpy as np
import pytest

from pydotcompute.core.unified_buffer import UnifiedBuffer
from pydotcompute.exceptions import MessageDeserializationError, MessageSerializationError
from pydotcompute.ring_kernels.array_message import ArrayMessage, array_message
from pydotcompute.ring_kernels.buffer_registry import BufferRegistry
from pydotcompute.ring_kernels.message import deserialize_message


@dataclass
class Batch(ArrayMessage):
    features: Any = None
    labels: Any = None
    number: int = 0
    extra: Any = field(default_factory=dict)


@array_message
class Plain:
    features: Any
    number: int = 0


@array_message
class Typed(ArrayMessage):
    features: np.ndarray
    number: int = 0


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[BufferRegistry]:
    monkeypatch.setattr(BufferRegistry, "_instance", None)
    yield BufferRegistry()


@pytest.mark.parametrize("kind", [Batch, Plain, Typed])
def test_arrays_are_passed_without_a_copy(registry: BufferRegistry, kind: Any) -> None:
    sent = kind(features=np.arange(1000.0), number=7, priority=200, correlation_id=uuid4())
    data = sent.serialize()
    assert len(data) < 500 and len(registry) == 1
    received = kind.deserialize(data)
    assert type(received) is kind and received.features is sent.features and received.number == 7
    assert (received.message_id, received.priority, received.correlation_id) == (sent.message_id, 200, sent.correlation_id)
    assert received.release_arrays() == 1 and len(registry) == 0
    assert sent.release_arrays() == 0 and received.features.sum() == 499500


def test_each_serialisation_is_a_reference(registry: BufferRegistry) -> None:
    sent = Batch(features=np.zeros(3), labels=np.ones(3))
    serialized = [sent.serialize() for _ in range(3)]
    assert len(registry) == 2
    for data in serialized:
        received = Batch.deserialize(data)
        assert received.features is sent.features and received.labels is sent.labels
        assert received.release_arrays() == 2
    assert len(registry) == 0
    # A new array in the field gets a new handle.
    sent.features = np.zeros(4)
    assert Batch.deserialize(sent.serialize()).features is sent.features


def test_the_sender_may_release_its_reference(registry: BufferRegistry) -> None:
    sent = Typed(features=np.zeros((2, 3), np.float32))
    data = sent.serialize()
    assert sent.release_arrays() == 1 and len(registry) == 0
    with pytest.raises(MessageDeserializationError, match=r"'features' is an array of float32 and shape \(2, 3\).*released"):
        Typed.deserialize(data)


def test_buffers_and_other_values(registry: BufferRegistry) -> None:
    buffer = UnifiedBuffer(4).fill(2)
    extra = {"ids": [uuid4()], "nested": [np.arange(3), np.float32(1.5)], 5: b"x"}
    received = Batch.deserialize(Batch(features=buffer, extra=extra).serialize())
    assert received.features is buffer and received.labels is None
    assert received.extra["ids"] == extra["ids"] and received.extra["nested"][0].tolist() == [0, 1, 2]
    assert received.extra["nested"][0].flags.writeable and received.extra["nested"][1] == 1.5 and received.extra[5] == b"x"


def test_a_message_of_an_unknown_class() -> None:
    sent = Plain(features=np.zeros(3))
    received: Any = deserialize_message(sent.serialize())
    assert type(received) is Plain and received.features is sent.features


def test_bytes_written_by_0_2_are_read(registry: BufferRegistry) -> None:
    array, message_id = np.arange(3), uuid4()
    reference = registry.register(array).buffer_id.hex
    old = {
        "message_id": {"__uuid_bin__": message_id.bytes},
        "priority": 5,
        "correlation_id": None,
        "features": {"__array_ref__": reference, "shape": [3], "dtype": "int64", "device": "cpu"},
        "labels": {"__array_fallback__": True, "data": np.ones(2).tobytes(), "shape": [2], "dtype": "float64"},
        "number": 3,
        "unknown": 1,
        "__array_refs__": {"features": reference},
        "__type__": "Batch",
        "__array_msg__": True,
    }
    read = Batch.deserialize(msgpack.packb(old))
    assert read.features is array and read.labels.tolist() == [1, 1] and (read.message_id, read.priority, read.number) == (message_id, 5, 3)
    old["message_id"] = str(message_id)
    assert Batch.deserialize(msgpack.packb(old)).message_id == message_id


def test_0_2_reads_the_bytes(registry: BufferRegistry) -> None:
    content = msgpack.unpackb(Batch(features=np.zeros((2, 1)), number=4).serialize())
    reference = content["__array_refs__"]["features"]
    assert UUID(hex=reference) in registry and len(content["message_id"]["__uuid_bin__"]) == 16
    assert content["features"] == {"__array_ref__": reference, "shape": [2, 1], "dtype": "float64", "device": "cpu"}
    assert (content["__type__"], content["__array_msg__"], content["number"]) == ("Batch", True, 4)
    assert "_array_buffer_ids" not in content


def test_a_failed_serialization_registers_no_array(registry: BufferRegistry) -> None:
    for wrong in (object(), [np.array([object()])], {1, object()}):
        with pytest.raises(MessageSerializationError) as caught:
            Batch(features=np.zeros(3), extra=wrong).serialize()
        assert caught.value.message_type is Batch and caught.value.__cause__ is caught.value.cause
    assert len(registry) == 0


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x81", msgpack.packb([1]), msgpack.packb({"priority": 999}), b"\x93\x01", "text", None])
def test_invalid_bytes_raise(data: Any) -> None:
    with pytest.raises(MessageDeserializationError) as caught:
        Batch.deserialize(data)
    assert caught.value.message_type is Batch and caught.value.cause is not None


def test_a_field_without_default_is_missing() -> None:
    with pytest.raises(MessageDeserializationError, match="features"):
        Typed.deserialize(msgpack.packb({"number": 1}))


def test_priorities_are_checked() -> None:
    with pytest.raises(ValueError, match="256"):
        Plain(features=None, priority=256)  # type: ignore[call-arg]
