"""Values of message fields that MessagePack does not know: how they are written and read.

Such a value is written as the map ``{"__py__": kind, "v": payload}``. The extension writes and reads tuples, sets, dictionaries and nested
messages itself, and calls `describe` and `restore` for all other kinds. `docs/messages.md` lists the kinds.
"""

from __future__ import annotations

import collections
import dataclasses
import datetime
import enum
import pathlib
import typing
import zoneinfo
from collections.abc import Callable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, get_args, get_origin
from uuid import UUID

import msgpack
import numpy as np

from pydotcompute.ring_kernels._class_names import find_class, remember

__all__ = ["declared_types", "describe", "describe_dtype", "dtype_of", "restore"]

# Bits of `PlainTypes` in the extension (crates/dotcompute-python/src/message/encode.rs): types that MessagePack knows, and arrays.
PLAIN_BITS: dict[type[Any], int] = {
    bool: 1,
    int: 2,
    float: 4,
    str: 8,
    bytes: 16,
    list: 32,
    dict: 64,
    np.ndarray: 128,
    UUID: 256,
}


def declared_types(cls: type[Any]) -> dict[str, int]:
    """Returns the plain types that the annotation of each field of a class names, as bits of `PLAIN_BITS`."""
    try:
        hints = typing.get_type_hints(cls)
    except Exception:
        # A name in an annotation is not defined where the class is. Resolve the other annotations.
        hints = {}
        for f in dataclasses.fields(cls):
            holder = type("holder", (), {"__annotations__": {f.name: f.type}, "__module__": cls.__module__})
            try:
                hints.update(typing.get_type_hints(holder))
            except Exception:
                continue
    return {name: _plain_bits(hint) for name, hint in hints.items()}


def _plain_bits(hint: Any) -> int:
    named = list(_named_types(hint))
    # With a class such as an `IntEnum` beside `int`, only a mark tells which one a value is of.
    if any(issubclass(cls, tuple(PLAIN_BITS)) and cls not in PLAIN_BITS for cls in named) or any(issubclass(c, np.generic) for c in named):
        return 0
    return sum(PLAIN_BITS[cls] for cls in {*named} & PLAIN_BITS.keys())


def _named_types(hint: Any) -> typing.Iterator[type[Any]]:
    """Yields the classes that an annotation names."""
    if isinstance(hint, typing.NewType):
        yield from _named_types(hint.__supertype__)
    elif (origin := get_origin(hint)) is typing.Literal:
        yield from map(type, get_args(hint))
    elif origin is not None:
        yield from _named_types(origin)
        # The arguments of an array's type describe its elements, which are not values of the field.
        for argument in () if origin is np.ndarray else get_args(hint):
            yield from _named_types(argument)
    elif isinstance(hint, type):
        if hint.__module__ != "builtins":
            remember(hint)
        yield hint


def describe(value: Any, declared: int) -> tuple[str, Any]:
    """Converts a value that the extension does not write itself.

    Args:
        value: The value.
        declared: Plain types that the field's annotation names, as bits of `PLAIN_BITS`.

    Returns:
        The kind and the payload. The kind ``plain`` stands for a payload that is written as it is, ``array`` for an array, ``packed`` for
        a payload that is MessagePack already.

    Raises:
        TypeError: The value would not come back as it is.
    """
    cls = type(value)
    for base, bit in PLAIN_BITS.items():
        if declared & bit and (plain := _as_plain(value, base)) is not None:
            return ("plain", plain)
    if cls in (msgpack.ExtType, msgpack.Timestamp):
        return ("packed", msgpack.packb(value))
    if (writer := _WRITERS.get(cls)) is not None:
        return (cls.__name__, writer(value))
    if isinstance(value, pathlib.PurePath) and getattr(pathlib, cls.__name__, None) is cls:
        return ("Path", [cls.__name__, str(value)])
    if isinstance(value, enum.Enum):
        return ("enum", [remember(cls), _member(value)])
    if isinstance(value, np.generic):
        return ("scalar", _zero_dimensional(value))
    if isinstance(value, np.ndarray):
        _check_array(value, declared)
        return ("array", None)
    if hasattr(cls, "__dataclass_fields__"):
        return ("dataclass", [remember(cls), _dataclass_fields(value)])
    if isinstance(value, tuple) and hasattr(cls, "_fields"):
        return ("namedtuple", [remember(cls), list(value)])
    if all(hasattr(value, name) for name in ("tobytes", "dtype", "shape")):
        return ("array", None)
    raise _not_serializable(value)


def _as_plain(value: Any, base: type[Any]) -> Any:
    """Converts a value to a plain type that its field declares and that it stands for. Returns `None` if it stands for another type."""
    if isinstance(value, np.generic):
        item = value.item()
        return item if type(item) is base else None
    if base is bytes:
        return bytes(value) if isinstance(value, (bytes, bytearray, memoryview)) else None
    return _BASE_COPIES[base](value) if base in _BASE_COPIES and isinstance(value, base) else None


# A subclass may override its conversions: these copy the data of the base class.
_BASE_COPIES: dict[type[Any], Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    list: list.copy,
    dict: lambda value: dict(value.items()),
    UUID: lambda value: UUID(int=value.int),
}


def _not_serializable(value: Any) -> TypeError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    plain = next((base.__name__ for base in PLAIN_BITS if isinstance(value, base)), None)
    if plain is not None:
        return TypeError(f"{kind} is not serializable, since it would come back as {plain}; convert it, or declare the field as {plain}")
    if isinstance(value, datetime.tzinfo):
        return TypeError(f"{kind} is not serializable; use datetime.timezone or zoneinfo.ZoneInfo")
    bases: list[type[Any]] = [*_WRITERS, set, frozenset, tuple]
    base = next((base.__name__ for base in bases if isinstance(value, base)), None)
    if base is not None:
        return TypeError(f"{kind} is not serializable, since it would come back as {base}; convert it")
    return TypeError(f"{kind} is not serializable; convert it to numbers, strings, bytes, lists or an array, or make it a dataclass")


def _member(value: enum.Enum) -> Any:
    """Returns the name of a member, or the value of a combination of flags."""
    name = value.name
    if name is not None and type(value).__members__.get(name) is value:
        return name
    return value.value


def _dataclass_fields(value: Any) -> dict[str, Any]:
    cls = type(value)
    names = [f.name for f in dataclasses.fields(cls)]
    for name, f in cls.__dataclass_fields__.items():
        if name not in names and f._field_type is dataclasses._FIELD_INITVAR:  # type: ignore[attr-defined]
            raise TypeError(f"{cls.__qualname__} is not serializable, since it does not keep '{name}', a parameter of its constructor")
    return {name: getattr(value, name) for name in names}


def _check_array(array: np.ndarray[Any, Any], declared: int) -> None:
    """Raises if an array of a subclass would come back as another value."""
    is_data_alone = not isinstance(array, np.ma.MaskedArray)
    if not (is_data_alone and (declared & PLAIN_BITS[np.ndarray] or isinstance(array, np.memmap))):
        what_to_do = "convert it with numpy.asarray" if is_data_alone else "send its data and its mask in two fields"
        raise TypeError(f"{type(array).__qualname__} is not serializable, since it would come back as numpy.ndarray; {what_to_do}")


def _zero_dimensional(scalar: Any) -> np.ndarray[Any, Any]:
    array = np.asarray(scalar)
    again: Any = array[()]
    # NumPy drops zeros at the end of a text.
    if type(again) is not type(scalar) or (isinstance(scalar, (str, bytes)) and len(again) != len(scalar)):
        raise TypeError(f"this numpy.{type(scalar).__name__} is not serializable; convert it to a Python value")
    return array


def _memoryview(view: memoryview) -> bytes:
    if view.ndim != 1 or view.format != "B":
        raise TypeError("a memoryview of more than one dimension, or of other items than bytes, is not serializable; send an array")
    return view.tobytes()


def _defaultdict(value: collections.defaultdict[Any, Any]) -> list[Any]:
    factory: Any = value.default_factory
    name = None if factory is None else factory.__name__ if factory in _FACTORIES.values() else ""
    if name == "":
        raise TypeError(f"a defaultdict of {factory!r} is not serializable; use one of {', '.join(_FACTORIES)}, or convert it with dict")
    return [name, dict(value)]


_FACTORIES: dict[str, Any] = {cls.__name__: cls for cls in (bool, int, float, str, bytes, list, dict, set, tuple)}


def _zone(zone: zoneinfo.ZoneInfo) -> str:
    if zone.key is None:
        raise TypeError("a ZoneInfo without a key is not serializable; create it with ZoneInfo(key)")
    return zone.key


def _clock(value: datetime.datetime | datetime.time) -> list[Any]:
    return [value.replace(tzinfo=None).isoformat(), value.fold, value.tzinfo]


def _offset(zone: datetime.timezone) -> list[Any]:
    return list(zone.__getinitargs__())  # type: ignore[attr-defined]


# By class: the payload of a value. The name of the class is the kind.
_WRITERS: dict[type[Any], Callable[[Any], Any]] = {
    bytearray: bytes,
    memoryview: _memoryview,
    complex: lambda value: [value.real, value.imag],
    Decimal: str,
    Fraction: str,
    datetime.datetime: _clock,
    datetime.date: datetime.date.isoformat,
    datetime.time: _clock,
    datetime.timedelta: lambda value: [value.days, value.seconds, value.microseconds],
    datetime.timezone: _offset,
    zoneinfo.ZoneInfo: _zone,
    collections.OrderedDict: lambda value: [[key, item] for key, item in value.items()],
    collections.Counter: dict,
    collections.defaultdict: _defaultdict,
    collections.deque: lambda value: [list(value), value.maxlen],
}


def restore(kind: str, payload: Any) -> Any:
    """Restores a value from its kind and payload.

    Args:
        kind: The kind that `describe` returned.
        payload: The payload.

    Returns:
        The value.

    Raises:
        ValueError: The kind is unknown, or the payload does not fit it.
        LookupError: This process has no class of the name in the payload.
    """
    reader = _READERS.get(kind)
    if reader is None:
        raise ValueError(f"a value of the unknown kind {kind!r}; the bytes are from a newer version of pydotcompute")
    return reader(payload)


def _restored_class(name: str, base: type[Any]) -> type[Any]:
    cls = find_class(name)
    if not issubclass(cls, base):
        raise TypeError(f"the class '{name}' is not derived from {base.__name__}")
    return cls


def _read_enum(payload: list[Any]) -> Any:
    name, member = payload
    cls = _restored_class(name, enum.Enum)
    return cls.__members__[member] if isinstance(member, str) and member in cls.__members__ else cls(member)


def _read_dataclass(payload: list[Any]) -> Any:
    cls = find_class(payload[0])
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"the class '{payload[0]}' is not a dataclass")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {name: value for name, value in payload[1].items() if name in fields}
    # The constructor rejects invalid values and sets fields that the bytes lack.
    made = cls(**{name: value for name, value in values.items() if fields[name].init})
    for name, value in values.items():
        object.__setattr__(made, name, value)
    return made


def _read_namedtuple(payload: list[Any]) -> Any:
    cls = _restored_class(payload[0], tuple)
    return tuple.__new__(cls, payload[1])


def _read_path(payload: list[str]) -> pathlib.PurePath:
    if payload[0] not in ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath"):
        raise ValueError(f"{payload[0]} is not a class of paths")
    path: pathlib.PurePath = getattr(pathlib, payload[0])(payload[1])
    return path


def _read_clock(cls: type[Any]) -> Callable[[Any], Any]:
    def read(payload: list[Any]) -> Any:
        text, fold, zone = payload
        return cls.fromisoformat(text).replace(fold=fold, tzinfo=zone)

    return read


_READERS: dict[str, Callable[[Any], Any]] = {
    "enum": _read_enum,
    "dataclass": _read_dataclass,
    "namedtuple": _read_namedtuple,
    "scalar": lambda payload: payload[()],
    "Path": _read_path,
    "bytearray": bytearray,
    "memoryview": memoryview,
    "complex": lambda payload: complex(*payload),
    "Decimal": Decimal,
    "Fraction": Fraction,
    "date": datetime.date.fromisoformat,
    "time": _read_clock(datetime.time),
    "datetime": _read_clock(datetime.datetime),
    "timedelta": lambda payload: datetime.timedelta(*payload),
    "timezone": lambda payload: datetime.timezone(*payload),
    "ZoneInfo": zoneinfo.ZoneInfo,
    "OrderedDict": collections.OrderedDict,
    "Counter": collections.Counter,
    "defaultdict": lambda payload: collections.defaultdict(payload[0] and _FACTORIES[payload[0]], payload[1]),
    "deque": lambda payload: collections.deque(payload[0], payload[1]),
}


def describe_dtype(dtype: np.dtype[Any]) -> str | list[Any]:
    """Returns what stands for an element type in the bytes: its name, or its fields as NumPy's file format describes them.

    Raises:
        TypeError: The type would not come back as it is.
    """
    described: Any = str(dtype) if dtype.names is None else np.lib.format.dtype_to_descr(dtype)
    try:
        same = dtype.itemsize > 0 and dtype_of(described) == dtype
    except (TypeError, ValueError):
        same = False
    if not same:
        raise TypeError(f"an array of {dtype} cannot be sent; use a numeric dtype, or a structured one of named fields")
    return described if isinstance(described, str) else _as_lists(described)


def _as_lists(described: Any) -> Any:
    return [_as_lists(item) for item in described] if isinstance(described, (list, tuple)) else described


def dtype_of(described: str | Sequence[Any]) -> np.dtype[Any]:
    """Returns the element type that `describe_dtype` described."""
    if isinstance(described, str):
        return np.dtype(described)
    return np.lib.format.descr_to_dtype([_as_field(field) for field in described])


def _as_field(field: Sequence[Any]) -> tuple[Any, ...]:
    """Converts a field of a structured type, whose tuples are lists in the bytes: (name, type) or (name, type, shape)."""
    name, kind, *shape = field
    nested = [_as_field(inner) for inner in kind] if isinstance(kind, (list, tuple)) else kind
    return (tuple(name) if isinstance(name, (list, tuple)) else name, nested, *map(tuple, shape))
