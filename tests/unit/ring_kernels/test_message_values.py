"""Values of message fields: the bytes of those that MessagePack has, and exact round trips of all others."""

import collections
import dataclasses
import enum
import pathlib
import threading
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal, NamedTuple, Optional
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import msgpack
import numpy as np
import pytest

from pydotcompute import _core
from pydotcompute.exceptions import MessageDeserializationError, MessageSerializationError
from pydotcompute.ring_kernels.array_message import ArrayMessage, array_message
from pydotcompute.ring_kernels.message import RingKernelMessage, deserialize_message, message


@message
class Box:
    value: Any = None


@message
class Wide(RingKernelMessage):
    flag: bool
    count: int
    ratio: float
    name: str
    raw: bytes
    maybe: int | None
    items: list[Any]
    table: dict[str, Any]
    numbers: list[float]


ID = UUID(int=1)
HEAD, TAIL = (
    "85a576616c7565",
    "aa6d6573736167655f696481ac5f5f757569645f62696e5f5fc41000000000000000000000000000000001a87072696f72697479cc80ae636f7272"
    "656c6174696f6e5f6964c0a85f5f747970655f5fa3426f78",
)

# With the bare names: no other test module may define message classes `Box` or `Wide`.
# Written before values of other types than MessagePack's could be sent: by field value, the bytes between HEAD and TAIL.
EARLIER_BYTES = [
    (None, "c0"),
    (True, "c3"),
    (
        [0, -1, 127, 128, -33, 65536, 2**63, 2**64 - 1, -(2**63)],
        "9900ff7fcc80d0dfce00010000cf8000000000000000cfffffffffffffffffd38000000000000000",
    ),
    ([0.0, -1.5, 1e300], "93cb0000000000000000cbbff8000000000000cb7e37e43c8800759c"),
    (
        "é" * 40,
        "d950c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3"
        "a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9c3a9",
    ),
    (
        b"\x00\xff" * 20,
        "c42800ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff00ff",
    ),
    (
        UUID(int=7),
        "81ac5f5f757569645f62696e5f5fc41000000000000000000000000000000007",
    ),
    ([[], {}, {"a": [{"b": None}]}, {1: 2, b"k": 3, "": ""}], "94908081a1619181a162c0830102c4016b03a0a0"),
    (
        np.arange(6, dtype=">i2").reshape(2, 3),
        "83ab5f5f6e6461727261795f5fc40c000000010002000300040005a56474797065a33e6932a57368617065920203",
    ),
    (
        np.asfortranarray(np.arange(4.0).reshape(2, 2)),
        "83ab5f5f6e6461727261795f5fc4200000000000000000000000000000f03f00000000000000400000000000000840a56474797065a7666c6f6174"
        "3634a57368617065920202",
    ),
    (
        np.array(["2024-01-01"], dtype="datetime64[D]"),
        "83ab5f5f6e6461727261795f5fc4080b4d000000000000a56474797065ad6461746574696d6536345b445da573686170659101",
    ),
    (
        np.array(["ab", "c"]),
        "83ab5f5f6e6461727261795f5fc41061000000620000006300000000000000a56474797065a33c5532a573686170659102",
    ),
    (
        np.array(5.0),
        "83ab5f5f6e6461727261795f5fc4080000000000001440a56474797065a7666c6f61743634a5736861706590",
    ),
    (
        np.zeros((0, 2), "?"),
        "83ab5f5f6e6461727261795f5fc400a56474797065a4626f6f6ca57368617065920002",
    ),
    (msgpack.ExtType(5, b"xyz"), "c7030578797a"),
    ({"__type__": "Box"}, "81a85f5f747970655f5fa3426f78"),
]

# The types that the fields declare make these plain: a NumPy scalar, a bytearray, a tuple.
WIDE_BYTES = (
    "8daa6d6573736167655f696481ac5f5f757569645f62696e5f5fc41000000000000000000000000000000001a87072696f72697479cc80ae636f72"
    "72656c6174696f6e5f6964c0a4666c6167c3a5636f756e7403a5726174696fcb3ff8000000000000a46e616d65a16ea3726177c40172a56d617962"
    "65c0a56974656d739201a161a57461626c6581a16b9101a76e756d6265727392cb3fe0000000000000cb4000000000000000a85f5f747970655f5f"
    "a457696465"
)


class Color(enum.Enum):
    RED = 1
    GREEN = "g"


class Level(enum.IntEnum):
    LOW = 1


class Word(enum.StrEnum):
    YES = "yes"


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: int
    y: tuple[int, ...] = ()


@dataclass(frozen=True)
class Span:
    start: date
    end: date | None = None


@dataclass(slots=True)
class Checked:
    low: int
    high: int
    width: int = field(init=False)

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low exceeds high")
        self.width = self.high - self.low


@message
class Inner(RingKernelMessage):
    a: int = 0
    when: datetime | None = None


@message
class Special(Inner):
    b: int = 0


@message
class Outer(RingKernelMessage):
    color: Color
    inner: Inner | None = None
    many: list[Inner] = field(default_factory=list)
    by_name: dict[str, Inner] = field(default_factory=dict)
    when: Optional[datetime] = None  # noqa: UP045 - both forms of the annotation
    kind: Literal["a", "b"] = "a"


def sent(value: Any) -> Any:
    """Returns a value as a reader gets it, in a field without a type."""
    return Box.deserialize(Box(value).serialize()).value


class TestEarlierBytes:
    @pytest.mark.parametrize(("value", "expected"), EARLIER_BYTES, ids=[str(index) for index in range(len(EARLIER_BYTES))])
    def test_values_that_messagepack_has_are_written_as_before(self, value: Any, expected: str) -> None:
        assert Box(value, message_id=ID).serialize().hex() == HEAD + expected + TAIL
        np.testing.assert_equal(Box.deserialize(bytes.fromhex(HEAD + expected + TAIL)).value, value)

    def test_values_that_stand_for_the_declared_type_are_written_as_before(self) -> None:
        numbers: Any = [np.float32(0.5), 2.0]
        given: list[Any] = [np.int64(3), np.float64(1.5), "n", bytearray(b"r"), None, (1, "a"), {"k": [1]}, numbers]
        wide = Wide(True, *given, message_id=ID)
        assert wide.serialize().hex() == WIDE_BYTES
        read = Wide.deserialize(wide.serialize())
        plain: list[Any] = [3, 1.5, "n", b"r", None, [1, "a"], {"k": [1]}, [0.5, 2.0]]
        values = [getattr(read, f.name) for f in dataclasses.fields(read)[4:]]
        assert values == plain and list(map(type, values)) == list(map(type, plain)) and type(read.numbers[0]) is float

    def test_subclasses_of_the_declared_type_are_plain(self) -> None:
        table: Any = collections.OrderedDict({Word.YES: Level.LOW, np.str_("n"): np.int64(1)})

        @message
        class Plain:
            table: dict[str, int]
            level: int
            word: str
            record: np.ndarray
            ids: dict[int, float]

        given = Plain(table, Level.LOW, Word.YES, np.rec.array([(1, 2)]), {np.int64(3): 1.0})  # type: ignore[dict-item]
        read = Plain.deserialize(given.serialize())
        assert (read.table, type(read.table), type(read.level), type(read.word)) == ({"yes": 1, "n": 1}, dict, int, str)
        assert type(read.record) is np.ndarray and type(next(iter(read.ids))) is int
        assert msgpack.unpackb(given.serialize(), strict_map_key=False)["ids"] == {3: 1.0}


EXACT = [
    (1, "a", None),
    (),
    ((1, 2), [(3,), {"k": (4,)}]),
    {"a": (1, 2)},
    {1, 2, (3, 4)},
    set(),
    frozenset({1, "b"}),
    bytearray(b"q"),
    1 + 2j,
    complex("nan+infj"),
    datetime(2024, 1, 2, 3, 4, 5, 678),
    datetime(2024, 1, 1, tzinfo=UTC),
    datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-3, microseconds=5), "here")),
    datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
    datetime.max,
    date(1, 1, 1),
    time(23, 59, 59, 1, fold=1),
    time(1, tzinfo=UTC),
    timedelta(days=-1, microseconds=1),
    ZoneInfo("UTC"),
    Decimal("-0.00"),
    Decimal("1E+400"),
    Decimal("NaN"),
    Fraction(1, 3),
    uuid4(),
    pathlib.Path("/x/y"),
    pathlib.PureWindowsPath("c:/x"),
    Color.RED,
    Color.GREEN,
    Level.LOW,
    Word.YES,
    Access.READ | Access.WRITE,
    Access(0),
    Point(1, (2,)),
    Span(date(2024, 1, 1)),
    Checked(1, 5),
    collections.OrderedDict(b=1, a=(2,)),
    collections.Counter("aab"),
    collections.defaultdict(list, {1: [2]}),
    collections.defaultdict(None, {1: 2}),
    collections.deque([1, (2,)], maxlen=3),
    {(1, 2): "tuple", 1.5: "float", None: "none", True: "bool", Color.RED: "enum", date(2024, 1, 1): "date", uuid4(): "id"},
    {"__py__": "tuple", "v": [1]},
    {"__uuid_bin__": b"x" * 16},
    {"__uuid__": "x"},
    {"__ndarray__": b""},
    {"v": {"__py__": 1}},
    np.float32(1.5),
    np.float64(1.5),
    np.int64(3),
    np.bool_(True),
    np.complex64(1j),
    np.datetime64("2024-01-01T00:00:00", "ns"),
    np.timedelta64(5, "s"),
    np.str_("é"),
    np.longdouble(1) / 3,
    np.bytes_(b"a"),
    Inner(a=1, when=datetime(2024, 1, 1, tzinfo=UTC)),
    [Inner(a=1), Special(2, b=3)],
    {"k": Outer(Color.RED, Inner(5))},
]


class TestExactRoundTrips:
    @pytest.mark.parametrize("value", EXACT, ids=lambda value: type(value).__name__)
    def test_a_value_comes_back_as_it_is(self, value: Any) -> None:
        read = sent(value)
        assert type(read) is type(value)
        # A NaN differs from itself.
        assert read == value or (value != value and repr(read) == repr(value))
        assert type(getattr(read, "tzinfo", None)) is type(getattr(value, "tzinfo", None))
        assert getattr(read, "fold", 0) == getattr(value, "fold", 0)

    def test_keys_keep_their_types(self) -> None:
        keys: list[Any] = [(1, 2), 1.5, None, False, Color.RED, 7]
        assert [type(key) for key in sent(dict.fromkeys(keys))] == [type(key) for key in keys]

    @pytest.mark.parametrize(
        "dtype",
        [
            "f4,i4",
            [("a", "<f4", (2,)), ("b", [("c", "i2"), ("d", "U3")])],
            np.dtype([("a", "i1"), ("b", "f8")], align=True),
            np.dtype({"names": ["x"], "formats": ["f4"], "offsets": [4], "itemsize": 16}),
            [(("a title", "name"), ">i4")],
            ">f8",
            "datetime64[ns]",
            "timedelta64[3D]",
            "U5",
            "S3",
            "V4",
            "f2",
            "longdouble",
        ],
    )
    def test_arrays_keep_their_element_type(self, dtype: Any) -> None:
        array = np.zeros((2, 3), dtype)
        read = sent({"arrays": [array]})["arrays"][0]
        assert (read.dtype, read.shape, type(read)) == (array.dtype, array.shape, np.ndarray)
        assert (read == array).all() and read.flags.writeable

    def test_fields_of_declared_types(self) -> None:
        outer = Outer(Color.GREEN, Inner(1), [Inner(2), Special(3, b=4)], {"k": Inner(5)}, datetime(2024, 1, 1), "b")
        read = Outer.deserialize(outer.serialize())
        assert read == outer and type(read.many[1]) is Special
        assert read.inner is not None and outer.inner is not None and read.inner.message_id == outer.inner.message_id
        assert deserialize_message(outer.serialize()) == outer

    def test_classes_of_a_function(self) -> None:
        class Shade(enum.Enum):
            DARK = 1

        @dataclass
        class Pair:
            one: Shade

        @message
        class Local:
            pair: "Pair"
            shade: Shade

        local = Local(Pair(Shade.DARK), Shade.DARK)
        assert Local.deserialize(local.serialize()) == local

    def test_a_dataclass_whose_fields_changed(self) -> None:
        data = Box(Span(date(2024, 1, 1))).serialize()
        assert Box.deserialize(data.replace(b"\xa3end\xc0", b"\xa3xyz\xc0")).value == Span(date(2024, 1, 1))
        with pytest.raises(MessageDeserializationError, match=r"field 'value'.*start"):
            Box.deserialize(data.replace(b"\xa5start", b"\xa5other"))

    def test_a_dataclass_rejects_invalid_values(self) -> None:
        data = Box(Checked(1, 5)).serialize().replace(b"\xa3low\x01", b"\xa3low\x09")
        with pytest.raises(MessageDeserializationError, match=r"field 'value': low exceeds high"):
            Box.deserialize(data)

    def test_a_nested_message_with_a_serialize_of_its_own(self) -> None:
        @array_message
        class Handles(ArrayMessage):
            data: np.ndarray

        handles = Handles(np.ones(3))
        read = sent([handles])[0]
        assert type(read) is Handles and read.data is handles.data
        assert read.release_arrays() == 1

    def test_array_messages_hold_the_same_values(self) -> None:
        @array_message
        class Holder(ArrayMessage):
            data: np.ndarray
            value: Any
            ratio: float = 0.0

        for value in EXACT:
            holder = Holder(np.ones(1), value, np.float64(2.0))
            read = Holder.deserialize(holder.serialize())
            assert type(read.value) is type(value) and (read.value == value or value != value)
            assert type(read.ratio) is float
            read.release_arrays()
        structured = np.zeros(2, "f4,i4")
        assert Holder.deserialize(Holder(np.ones(1), [structured]).serialize()).value[0].dtype == structured.dtype


class Quiet(str):
    pass


class Moment(datetime):
    pass


class Zone(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta:
        return timedelta(0)


@dataclass
class Forgetful:
    kept: int
    given: dataclasses.InitVar[int]


class TestErrors:
    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (Quiet("x"), r"Quiet is not serializable, since it would come back as str; convert it, or declare the field as str"),
            (Forgetful(1, 2), "does not keep 'given'"),
            (collections.defaultdict(lambda: 0), "a defaultdict of .* is not serializable"),
            (np.ma.masked_array([1, 2], [True, False]), "MaskedArray is not serializable.*mask in two fields"),
            (np.rec.array([(1, 2)]), r"would come back as numpy\.ndarray"),
            (np.array([None]), r"Python objects \(dtype object\) cannot be sent"),
            (np.zeros(1, [("a", object)]), "Python objects"),
            (memoryview(np.zeros((2, 2))), "memoryview of more than one dimension"),
            (Moment(2024, 1, 1), "Moment is not serializable, since it would come back as datetime; convert it"),
            (datetime(2024, 1, 1, tzinfo=Zone()), r"Zone is not serializable; use datetime\.timezone or zoneinfo\.ZoneInfo"),
            (np.str_("a\0"), r"numpy\.str_ is not serializable"),
            (object(), "builtins.object is not serializable; convert it"),
            (range(3), "builtins.range is not serializable"),
            (int, "builtins.type is not serializable"),
            ({(1, object()): 2}, "object is not serializable"),
            ([{"a": {1, 2**64}}], "more than 64 bits"),
            (date.today, "is not serializable"),
        ],
    )
    def test_what_would_not_come_back_raises_at_serialize(self, value: Any, text: str) -> None:
        with pytest.raises(MessageSerializationError, match=f"type 'Box': field 'value': .*{text}") as caught:
            Box(value).serialize()
        assert caught.value.message_type is Box
        with pytest.raises(MessageSerializationError, match=r"type 'Inner': .*field 'when': .*is not serializable"):
            Inner(when=object()).serialize()  # type: ignore[arg-type]

    def test_the_error_in_a_nested_message_names_both_fields(self) -> None:
        with pytest.raises(MessageSerializationError, match=r"type 'Box': field 'value': field 'a': builtins\.object"):
            Box(Inner(a=object())).serialize()  # type: ignore[arg-type]

    def test_a_message_that_contains_itself(self) -> None:
        box = Box()
        box.value = (box,)
        with pytest.raises(MessageSerializationError, match="deep"):
            box.serialize()

    @pytest.mark.parametrize(
        ("kind", "payload", "text"),
        [
            ("tomorrow's", 1, 'unknown kind "tomorrow\'s"; the bytes are from a newer version'),
            ("enum", ["nowhere:Color", "RED"], "no class 'nowhere:Color'; import the module"),
            ("enum", ["decimal:Decimal", "RED"], "'decimal:Decimal' is not derived from Enum"),
            ("dataclass", ["os:system", {}], "no class 'os:system'"),
            ("dataclass", ["decimal:Decimal", {}], "not a dataclass"),
            ("namedtuple", ["decimal:Decimal", []], "not derived from tuple"),
            ("Path", ["os", "x"], "not a class of paths"),
            ("message", ["Nowhere", {}], "no message class 'Nowhere'"),
            ("message", {}, "expected a list"),
            ("tuple", 1, "expected a list"),
            ("set", [[]], "unhashable"),
            ("dict", [1], "a key without a value"),
            ("ZoneInfo", "No/Where", "No/Where"),
            ("timedelta", "x", ""),
            ("scalar", 1, ""),
        ],
    )
    def test_payloads_that_do_not_fit_raise_at_deserialize(self, kind: str, payload: Any, text: str) -> None:
        data = msgpack.packb({"value": {"__py__": kind, "v": payload}})
        with pytest.raises(MessageDeserializationError, match=f"field 'value'.*{text}"):
            Box.deserialize(data)

    @pytest.mark.parametrize("make", [lambda v: (v,), lambda v: {None: v}, Box, lambda v: [Checked(0, v)]])
    def test_what_is_written_can_be_read_however_deep(self, make: Any) -> None:
        value: Any = 1
        written: list[int] = []
        for depth in range(600):
            try:
                data = Box(value).serialize()
            except MessageSerializationError:
                break
            written.append(depth)
            Box.deserialize(data)
            value = make(value) if not isinstance(value, list) else [value]
        assert 100 < len(written) < 600

    def test_the_deepest_messages_fit_a_small_stack(self) -> None:
        box = Box()
        for _ in range(120):
            box = Box((box,))
        read: list[Any] = []
        before = threading.stack_size(512 * 1024)
        try:
            thread = threading.Thread(target=lambda: read.append(sent(box)))
            thread.start()
            thread.join()
        finally:
            threading.stack_size(before)
        assert len(read) == 1

    def test_a_tag_has_the_documented_form(self) -> None:
        assert _core.unpack(msgpack.packb({"__py__": "tuple", "v": [1]})) == (1,)
        assert msgpack.unpackb(Box((1, 2)).serialize())["value"] == {"__py__": "tuple", "v": [1, 2]}
        # Other maps with this key are dictionaries.
        assert _core.unpack(msgpack.packb({"__py__": "tuple"})) == {"__py__": "tuple"}
