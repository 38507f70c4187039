"""Messages: fields, ids, and the serialized format shared with 0.2 and the package msgpack."""

import collections
import contextlib
import copy
import dataclasses
import os
import pickle
import threading
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pydotcompute import _core
from pydotcompute.exceptions import MessageDeserializationError, MessageSerializationError
from pydotcompute.ring_kernels.message import RingKernelMessage, deserialize_message, get_message_type, message


@message
class Sample:
    sensor: int
    celsius: float
    tags: list[Any]


@message
class Frame:
    data: np.ndarray


@message
class Reading(RingKernelMessage):
    sensor: int
    celsius: float
    name: str = "?"
    extra: list[int] = field(default_factory=list)


@message
class Anything:
    value: Any = None


# Written by pydotcompute 0.2.0.
SAMPLE_020 = bytes.fromhex(
    "87a673656e736f7207a763656c73697573cb4035800000000000a47461677392a16181a16bffaa6d6573736167655f696481ac5f5f757569645f62"
    "696e5f5fc41000000000000000000000000000000001a87072696f72697479ccc8ae636f7272656c6174696f6e5f696481ac5f5f757569645f6269"
    "6e5f5fc41000000000000000000000000000000002a85f5f747970655f5fa653616d706c65"
)
FRAME_020 = bytes.fromhex(
    "85a46461746183ab5f5f6e6461727261795f5fc40c000001000200030004000500a56474797065a5696e743136a57368617065920203aa6d657373"
    "6167655f696481ac5f5f757569645f62696e5f5fc41000000000000000000000000000000003a87072696f72697479cc80ae636f7272656c617469"
    "6f6e5f6964c0a85f5f747970655f5fa54672616d65"
)
BASE_020 = bytes.fromhex(
    "84aa6d6573736167655f696481ac5f5f757569645f62696e5f5fc41000000000000000000000000000000004a87072696f72697479cc80ae636f72"
    "72656c6174696f6e5f6964c0a85f5f747970655f5fb152696e674b65726e656c4d657373616765"
)


class TestBytesOf020:
    def test_a_message_serializes_to_the_same_bytes(self) -> None:
        sample = Sample(7, 21.5, ["a", {"k": -1}], message_id=UUID(int=1), priority=200, correlation_id=UUID(int=2))
        assert sample.serialize() == SAMPLE_020
        assert Sample.deserialize(SAMPLE_020) == sample

    def test_an_array_serializes_to_the_same_bytes_and_is_writable_when_read(self) -> None:
        data = np.arange(6, dtype=np.int16).reshape(2, 3)
        assert Frame(data, message_id=UUID(int=3)).serialize() == FRAME_020
        read = Frame.deserialize(FRAME_020)
        np.testing.assert_array_equal(read.data, data)
        assert read.data.dtype == np.int16
        read.data[0, 0] = 9

    def test_the_base_class(self) -> None:
        assert RingKernelMessage(message_id=UUID(int=4)).serialize() == BASE_020
        assert RingKernelMessage.deserialize(BASE_020).message_id == UUID(int=4)

    def test_ids_as_strings_are_read(self) -> None:
        old = msgpack.packb({"message_id": {"__uuid__": str(UUID(int=5))}, "correlation_id": str(UUID(int=6))})
        read = RingKernelMessage.deserialize(old)
        assert (read.message_id, read.correlation_id) == (UUID(int=5), UUID(int=6))


class TestFields:
    def test_a_decorated_class_puts_its_own_fields_before_the_header(self) -> None:
        assert [f.name for f in dataclasses.fields(Sample)] == [
            "sensor",
            "celsius",
            "tags",
            "message_id",
            "priority",
            "correlation_id",
        ]

    def test_a_subclass_takes_its_fields_by_position_and_the_header_by_name(self) -> None:
        reading = Reading(7, 21.5, priority=3)
        assert (reading.sensor, reading.celsius, reading.name, reading.extra, reading.priority) == (7, 21.5, "?", [], 3)
        assert isinstance(reading, RingKernelMessage)

    def test_a_plain_dataclass_may_derive_from_the_base(self) -> None:
        @dataclass
        class Old(RingKernelMessage):
            value: float = 0.0

        old = Old(value=4.0)
        assert Old.deserialize(old.serialize()) == old

    def test_the_header_is_positional_as_in_020(self) -> None:
        assert RingKernelMessage(UUID(int=1), 5).priority == 5

    @pytest.mark.parametrize("priority", [-1, 256])
    def test_a_priority_out_of_range_raises(self, priority: int) -> None:
        with pytest.raises(ValueError, match="0-255"):
            Reading(1, 2.0, priority=priority)
        with pytest.raises(ValueError, match="0-255"):
            Sample(1, 2.0, [], priority=priority)

    def test_the_registry(self) -> None:
        assert get_message_type("Anything") is Anything
        assert get_message_type("Unregistered") is None

    def test_a_user_defined_post_init_runs(self) -> None:
        @message
        class Checked(RingKernelMessage):
            value: int

            def __post_init__(self) -> None:
                super().__post_init__()
                if self.value < 0:
                    raise ValueError("negative")

        data = Checked(1).serialize()
        assert Checked.deserialize(data).value == 1
        with pytest.raises(MessageDeserializationError, match="negative"):
            Checked.deserialize(msgpack.packb({"value": -1}))

    def test_with_correlation_and_reply(self) -> None:
        request = Reading(1, 2.0)
        reply = request.reply(sensor=1, celsius=3.0)
        assert reply.correlation_id == request.message_id
        assert reply.message_id != request.message_id
        same = request.with_correlation(UUID(int=9))
        assert (same.message_id, same.correlation_id) == (request.message_id, UUID(int=9))
        assert request.reply(response_class=Anything, value=1).correlation_id == request.message_id  # type: ignore[attr-defined]


class TestIds:
    def test_ids_are_stable_once_read_and_unique(self) -> None:
        readings = [Reading(i, 0.0) for i in range(1000)]
        ids = [r.message_id for r in readings]
        assert ids == [r.message_id for r in readings]
        assert len(set(ids)) == 1000
        assert {i.version for i in ids} == {4}

    def test_serialization_assigns_the_id(self) -> None:
        reading = Reading(1, 2.0)
        assert Reading.deserialize(reading.serialize()).message_id == reading.message_id

    @pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), dataclasses.replace])
    @pytest.mark.parametrize("made", [lambda: Reading(1, 2.0), lambda: Sample(1, 2.0, [])])
    def test_copies_have_the_same_id(self, again: Any, made: Any) -> None:
        original = made()
        assert again(original).message_id == original.message_id

    def test_generated_ids_equal_parsed_uuids(self) -> None:
        made = Reading(1, 2.0).message_id
        assert made == UUID(str(made)) and hash(made) == hash(UUID(str(made))) and pickle.loads(pickle.dumps(made)) == made
        assert made.is_safe == UUID(str(made)).is_safe

    def test_the_class_attribute_does_not_exist(self) -> None:
        assert not hasattr(Reading, "message_id")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform has no fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_generates_other_ids(self) -> None:
        _ = Reading(1, 2.0).message_id
        read_end, write_end = os.pipe()
        if (child := os.fork()) == 0:
            os.write(write_end, Reading(1, 2.0).message_id.bytes)
            os._exit(0)
        os.waitpid(child, 0)
        child_id = UUID(bytes=os.read(read_end, 16))
        os.close(read_end)
        os.close(write_end)
        assert child_id not in [Reading(1, 2.0).message_id for _ in range(300)]


# With these keys the wire format marks values that MessagePack does not have.
RESERVED_KEYS = ("__py__", "__uuid_bin__", "__uuid__", "__ndarray__")

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary() | st.uuids(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.sampled_from(RESERVED_KEYS), inner, max_size=5),
    max_leaves=20,
)


class TestValues:
    @given(VALUES)
    def test_values_survive_a_round_trip(self, value: Any) -> None:
        assert Anything.deserialize(Anything(value).serialize()).value == value

    @pytest.mark.parametrize("key", RESERVED_KEYS)
    def test_a_dictionary_with_a_reserved_key_comes_back(self, key: str) -> None:
        for value in ({key: None}, {key: b"x" * 16}, {"a": 1, key: [{key: 2}]}):
            assert Anything.deserialize(Anything(value).serialize()).value == value

    @pytest.mark.parametrize("key", RESERVED_KEYS[1:])
    def test_a_mark_without_its_value_is_an_error(self, key: str) -> None:
        with pytest.raises(MessageDeserializationError, match="field 'value'"):
            Anything.deserialize(msgpack.packb({"value": {key: None}}))

    @given(VALUES.filter(lambda value: not any(key in repr(value) for key in RESERVED_KEYS)))
    def test_the_bytes_match_the_package_msgpack(self, value: Any) -> None:
        def old(item: Any) -> Any:
            return {"__uuid_bin__": item.bytes}

        unpacked = msgpack.unpackb(Anything(value).serialize(), raw=False)
        assert unpacked["value"] == msgpack.unpackb(msgpack.packb(value, default=old), raw=False)

    @given(st.binary(max_size=60))
    def test_arbitrary_bytes_are_read_or_rejected(self, data: bytes) -> None:
        try:
            Sample.deserialize(data)
        except MessageDeserializationError as error:
            assert error.message_type is Sample

    @given(st.integers(0, len(SAMPLE_020) - 1), st.integers(0, 255))
    def test_bytes_with_one_change_are_read_or_rejected(self, index: int, byte: int) -> None:
        data = bytearray(SAMPLE_020)
        data[index] = byte
        with contextlib.suppress(MessageDeserializationError):
            Sample.deserialize(data)

    @pytest.mark.parametrize("length", range(len(SAMPLE_020)))
    def test_truncated_bytes_are_rejected(self, length: int) -> None:
        with pytest.raises(MessageDeserializationError):
            Sample.deserialize(SAMPLE_020[:length])

    @pytest.mark.parametrize(
        ("value", "read"),
        [
            (np.float32(1.5), 1.5),
            (np.int64(-3), -3),
            (np.bool_(True), True),
            ((1, 2), (1, 2)),
            (bytearray(b"ab"), b"ab"),
            (memoryview(b"ab"), b"ab"),
            (msgpack.ExtType(5, b"xyz"), msgpack.ExtType(5, b"xyz")),
            (msgpack.Timestamp(5, 7), msgpack.Timestamp(5, 7)),
        ],
    )
    def test_other_values(self, value: Any, read: Any) -> None:
        assert Anything.deserialize(Anything(value).serialize()).value == read

    @pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
    @pytest.mark.parametrize("dtype", ["<f8", "i4", "?", "c16"])
    def test_arrays(self, shape: tuple[int, ...], dtype: str) -> None:
        data = np.ones(shape, dtype)
        read = Frame.deserialize(Frame(data).serialize()).data
        assert read.dtype == data.dtype and read.shape == data.shape and (read == data).all()

    @pytest.mark.parametrize("value", [object(), 2**64, {1, object()}, np.array([object()]), lambda: 0])
    def test_the_error_for_an_unsupported_value_names_its_field(self, value: Any) -> None:
        with pytest.raises(MessageSerializationError, match="field 'value'") as caught:
            Anything(value).serialize()
        assert caught.value.message_type is Anything
        assert caught.value.__cause__ is caught.value.cause

    def test_a_list_that_contains_itself(self) -> None:
        loop: list[Any] = []
        loop.append(loop)
        with pytest.raises(MessageSerializationError, match="deep"):
            Anything(loop).serialize()

    def test_the_error_for_a_missing_field_names_it(self) -> None:
        with pytest.raises(MessageDeserializationError, match="celsius"):
            Reading.deserialize(msgpack.packb({"sensor": 1}))

    def test_unknown_fields_are_ignored_and_defaults_applied(self) -> None:
        read = Reading.deserialize(msgpack.packb({"sensor": 1, "celsius": 2.0, "unknown": [1, {"a": 2}]}))
        assert (read.sensor, read.celsius, read.name, read.extra, read.priority) == (1, 2.0, "?", [], 128)

    @pytest.mark.parametrize("data", [b"", b"\x93\x01\x02\x03", b"\xc1", b"\x81\x01\x02", b"\x80\x00", b"\xdf\xff\xff\xff\xff"])
    def test_invalid_bytes_raise(self, data: bytes) -> None:
        for read in (RingKernelMessage.deserialize, deserialize_message):
            with pytest.raises(MessageDeserializationError):
                read(data)

    def test_values_without_a_buffer_raise(self) -> None:
        with pytest.raises(MessageDeserializationError):
            Sample.deserialize(5)  # type: ignore[arg-type]

    def test_a_message_of_an_unknown_class_is_an_error_that_names_it(self) -> None:
        assert deserialize_message(SAMPLE_020) == Sample.deserialize(SAMPLE_020)
        other = msgpack.packb({"__type__": "Unregistered", "priority": 9})
        with pytest.raises(MessageDeserializationError, match="no message class 'Unregistered'; import the module"):
            deserialize_message(other)
        # A reader that names the class decides itself.
        assert RingKernelMessage.deserialize(other).priority == 9
        assert _core.unpack(other) == {"__type__": "Unregistered", "priority": 9}
        assert deserialize_message(msgpack.packb({"priority": 9})).priority == 9

    def test_a_message_without_fields_of_its_own(self) -> None:
        original = RingKernelMessage(priority=9)
        restored = deserialize_message(original.serialize())
        assert type(restored) is RingKernelMessage
        assert restored == original


class TestMessageClasses:
    def test_a_user_defined_constructor_is_not_replaced(self) -> None:
        @message
        class Doubled:
            x: int

            def __init__(self, x: int) -> None:
                self.x = 2 * x

        assert Doubled(2).x == 4

    def test_fields_named_like_variables_of_the_generated_constructor(self) -> None:
        @message
        class Named:
            self: int
            _lazy: int = 1
            _check: int = 2
            items: list[int] = dataclasses.field(default_factory=list)

        made = Named(5, priority=3)
        assert (made.self, made._lazy, made._check, made.items, made.priority) == (5, 1, 2, [], 3)

    def test_a_required_priority_field(self) -> None:
        @message
        class Urgent:
            priority: int
            x: int = 0

        assert Urgent(7).priority == 7
        with pytest.raises(TypeError, match="priority"):
            Urgent()
        with pytest.raises(ValueError, match="999"):
            Urgent(999)

    def test_pseudo_fields_of_a_base(self) -> None:
        @dataclasses.dataclass
        class Base:
            y: dataclasses.InitVar[int]

            def __post_init__(self, y: int) -> None:
                self.z = y

        @message
        class Derived(Base):
            x: int = 0

        assert Derived(3, x=1).z == 3

    def test_fields_outside_the_constructor(self) -> None:
        @message
        class Counted:
            x: int
            seen: int = dataclasses.field(init=False, default=0)

        counted = Counted(1)
        counted.seen = 9
        read = Counted.deserialize(counted.serialize())
        assert (read.x, read.seen) == (1, 9)

    def test_a_user_defined_setattr_is_called(self) -> None:
        @message
        class Clamped:
            x: int = 0

            def __setattr__(self, name: str, value: Any) -> None:
                object.__setattr__(self, name, min(value, 10) if name == "x" else value)

        data = Clamped(3).serialize().replace(b"\xa1x\x03", b"\xa1x\x63")
        assert Clamped.deserialize(data).x == 10

    @pytest.mark.parametrize("source", ["<string>", "<stdin>", "file.py"])
    def test_a_user_defined_constructor_runs_wherever_its_source_is(self, source: str) -> None:
        code = "@message\nclass Own:\n    x: int = 0\n    def __init__(self, x=0, **header):\n        self.x = x + 1\n"
        names: dict[str, Any] = {"message": message, "__name__": __name__}
        exec(compile(code, source, "exec"), names)
        own = names["Own"]
        assert own.deserialize(own(1).serialize()).x == 3


class TestContainers:
    def test_container_subclasses_may_hold_ids_and_arrays(self) -> None:
        Pair = collections.namedtuple("Pair", "a b")
        identity = uuid4()
        for container, plain in [
            (collections.OrderedDict(a=identity, b=[1]), {"a": identity, "b": [1]}),
            (collections.defaultdict(int, {"a": identity}), {"a": identity}),
            (Pair(identity, 2), (identity, 2)),
        ]:
            assert Anything.deserialize(Anything(container).serialize()).value == plain
        read = Anything.deserialize(Anything(collections.defaultdict(int, a=np.ones(1))).serialize()).value["a"]
        assert isinstance(read, np.ndarray)
        assert read.tolist() == [1.0]

    def test_a_dictionary_that_changes_during_serialization(self) -> None:
        grows: dict[int, Any] = {}

        class Array:
            dtype, shape = "u1", (1,)

            def tobytes(self) -> bytes:
                grows[len(grows)] = 0
                return b"\x05"

        grows[0], grows[1] = Array(), 3
        read = Anything.deserialize(Anything(grows).serialize()).value
        assert (read[0].tolist(), read[1], len(read)) == ([5], 3, 2)

    def test_a_list_that_changes_during_serialization(self) -> None:
        shrinks: list[Any] = []

        class Array:
            dtype, shape = "u1", (1,)

            def tobytes(self) -> bytes:
                shrinks.pop()
                return b"\x05"

        shrinks += [Array(), 3]
        with pytest.raises(MessageSerializationError, match="changed while it was written"):
            Anything(shrinks).serialize()

    def test_strings_with_surrogates_raise(self) -> None:
        with pytest.raises(MessageSerializationError, match=r"field 'value'.*surrogates not allowed"):
            Anything("\ud800").serialize()

    def test_the_deepest_values_fit_a_small_stack(self) -> None:
        value: Any = None
        for _ in range(500):
            value = {"a": value}
        read: list[Any] = []

        def through() -> None:
            read.append(Anything.deserialize(Anything(value).serialize()).value)

        before = threading.stack_size(512 * 1024)
        try:
            thread = threading.Thread(target=through)
            thread.start()
            thread.join()
        finally:
            threading.stack_size(before)
        assert str(read[0]) == str(value)
