"""Record layouts of messages and states: fields, offsets and initial values.

A native ring kernel reads messages as records: numbers and fixed-size arrays at fixed offsets. Annotations declare them:

================================================  ==========================================
annotation                                        field of the record
================================================  ==========================================
``int``, ``float``, ``bool``                      ``int64``, ``float64``, ``bool``
``int8`` … ``uint64``, ``float32``, ``float64``   number of that type (names of ``pydotcompute.native``)
``numpy.float32`` and so on                       number of that type
``Annotated[NDArray[numpy.float32], 8]``          array of 8 ``float32``
``Annotated[NDArray[numpy.int64], (4, 4)]``       array of 4 × 4 ``int64``
================================================  ==========================================
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, TypeVar, dataclass_transform, get_args, get_origin, get_type_hints, overload
from weakref import WeakKeyDictionary

import numpy as np

from pydotcompute import _core
from pydotcompute._type_aliases import without_aliases
from pydotcompute.exceptions import TypeValidationError

__all__ = ["RecordField", "RecordLayout", "initial_record", "layout_of", "state"]

_C = TypeVar("_C")

# The header of a message is stored beside its record.
_HEADER = frozenset({"message_id", "priority", "correlation_id"})

_PYTHON_NUMBERS: dict[Any, str] = {int: "int64", float: "float64", bool: "bool"}

_NUMBERS = frozenset({"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32", "float64"})


@dataclass(frozen=True)
class RecordField:
    """A field of a record.

    Attributes:
        name: Name of the attribute.
        dtype: Type of each element.
        shape: Dimensions; empty for a single number.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class RecordLayout:
    """Layout of the records of a class.

    Attributes:
        cls: Class of the messages or the state.
        fields: Fields, in order.
    """

    cls: type[Any]
    fields: tuple[RecordField, ...]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """NumPy type of the record. Fields have C alignment, so that CPUs and GPUs read each with one access."""
        descriptions = [(f.name, f.dtype, f.shape) if f.shape else (f.name, f.dtype) for f in self.fields]
        return np.dtype(descriptions, align=True)

    @cached_property
    def has_float64(self) -> bool:
        """Whether any field is a ``float64``."""
        return any(f.dtype == np.float64 for f in self.fields)

    @cached_property
    def codec(self) -> _core.RecordCodec:
        """Codec that packs instances of the class into records and unpacks them."""
        from pydotcompute.ring_kernels.message import _is_plain

        descriptions = []
        for f in self.fields:
            offset = self.dtype.fields[f.name][1]  # type: ignore[index]
            descriptions.append((f.name, int(offset), f.dtype.name, (f.dtype, f.shape) if f.shape else None))
        return _core.RecordCodec(self.cls, self.dtype.itemsize, self.dtype.alignment, descriptions, _is_plain(self.cls))


_layouts: WeakKeyDictionary[type[Any], RecordLayout] = WeakKeyDictionary()


def layout_of(cls: type[Any]) -> RecordLayout:
    """Returns the record layout of a message or state class.

    Args:
        cls: A class decorated with ``@message`` or :func:`state`, or any dataclass.

    Returns:
        The layout; the same object on each call.

    Raises:
        TypeValidationError: The class is not a dataclass, has no fields of its own, or has a field that is neither a number nor a
            fixed-size array.
    """
    cached = _layouts.get(cls)
    if cached is not None:
        return cached
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        kind = cls if isinstance(cls, type) else type(cls)
        raise TypeValidationError(
            object, kind, f"{kind.__name__}: not a dataclass; decorate it with @message, or with @state if it is a state"
        )
    hints = get_type_hints(cls, include_extras=True)
    fields = tuple(_field(cls, f.name, hints[f.name]) for f in dataclasses.fields(cls) if f.name not in _HEADER)
    if not fields:
        raise TypeValidationError(object, cls, f"{cls.__name__}, which has no fields of its own; add one")
    return _layouts.setdefault(cls, RecordLayout(cls, fields))


def _field(cls: type[Any], name: str, declared: Any) -> RecordField:
    annotation = without_aliases(declared)
    number = _number(annotation)
    if number is not None:
        return RecordField(name, number)
    if get_origin(annotation) is Annotated:
        base, *extras = get_args(annotation)
        shape = next((_shape(extra) for extra in extras if _shape(extra)), None)
        element = _element(base)
        if shape and element is not None:
            return RecordField(name, element, shape)
    raise TypeValidationError(
        float,
        annotation if isinstance(annotation, type) else type(annotation),
        f"{cls.__name__}.{name}, declared as {declared!r}: fields of a native ring kernel's messages and state must be numbers (int, "
        "float, bool, pydotcompute.native.float32, …) or fixed-size arrays (Annotated[NDArray[numpy.float32], 8])",
    )


def _number(annotation: Any) -> np.dtype[Any] | None:
    annotation = without_aliases(annotation)
    if annotation in _PYTHON_NUMBERS:
        return np.dtype(_PYTHON_NUMBERS[annotation])
    if get_origin(annotation) is Annotated:
        base, *extras = get_args(annotation)
        return next((_number(extra) for extra in extras if isinstance(extra, type)), None) if base in _PYTHON_NUMBERS else None
    if isinstance(annotation, type) and issubclass(annotation, np.generic):
        try:
            dtype = np.dtype(annotation)
        except TypeError:
            return None
        return dtype if dtype.name in _NUMBERS else None
    return None


def _shape(extra: Any) -> tuple[int, ...] | None:
    counts = extra if isinstance(extra, tuple) else (extra,)
    fits = all(isinstance(count, int) and not isinstance(count, bool) and count > 0 for count in counts)
    return counts if counts and fits else None


def _element(base: Any) -> np.dtype[Any] | None:
    """Returns the element type of an array annotation: ``NDArray[float32]`` is ``ndarray[shape, dtype[float32]]``."""
    base = without_aliases(base)
    if get_origin(base) is not np.ndarray:
        return None
    arguments = get_args(get_args(base)[-1])
    return _number(arguments[0]) if arguments else None


@overload
def state(cls: type[_C]) -> type[_C]: ...
@overload
def state(cls: None = None) -> Callable[[type[_C]], type[_C]]: ...


@dataclass_transform(field_specifiers=(field,))
def state(cls: type[_C] | None = None) -> type[_C] | Callable[[type[_C]], type[_C]]:
    """Makes a class the state of a native ring kernel: a dataclass whose fields are zero unless they have a default.

    Args:
        cls: The class; its annotations declare the fields.

    Returns:
        The same class.

    Raises:
        TypeValidationError: A field is neither a number nor a fixed-size array.

    Example:
        >>> @state
        ... class Best:
        ...     celsius: float = -273.15
        ...     sensor: int
        >>> Best()
        Best(celsius=-273.15, sensor=0)
    """
    return _as_state if cls is None else _as_state(cls)


def _as_state(cls: type[_C]) -> type[_C]:
    hints = get_type_hints(cls, include_extras=True)
    for name in inspect.get_annotations(cls):
        if name not in cls.__dict__:
            setattr(cls, name, _zero(_field(cls, name, hints[name])))
    decorated = dataclass(cls)
    layout_of(decorated)
    return decorated


def _zero(declared: RecordField) -> Any:
    if declared.shape:
        return field(default_factory=lambda: np.zeros(declared.shape, declared.dtype))
    return declared.dtype.type(0).item()


def initial_record(declared: Any) -> tuple[RecordLayout, np.ndarray[Any, Any]]:
    """Returns the layout of a state, and its record at launch.

    Args:
        declared: An instance of a class decorated with :func:`state` (or of any dataclass of numbers and arrays), such a class with a
            default for every field, or a NumPy structured scalar.

    Returns:
        The layout, and a zero-dimensional array that holds the record.

    Raises:
        TypeValidationError: The argument is none of these, or a field is neither a number nor a fixed-size array.
        MessageSerializationError: A value does not fit its field.
    """
    if isinstance(declared, np.void) and declared.dtype.names:
        return _structured(declared)
    instance = declared() if isinstance(declared, type) else declared
    layout = layout_of(type(instance))
    record = np.zeros((), layout.dtype)
    record[...] = np.frombuffer(layout.codec.pack(instance), layout.dtype)[0]
    return layout, record


def _structured(scalar: np.void) -> tuple[RecordLayout, np.ndarray[Any, Any]]:
    fields = []
    for name in scalar.dtype.names or ():
        dtype = scalar.dtype[name]
        element, shape = dtype.subdtype or (dtype, ())
        if element.name not in _NUMBERS or not math.prod(shape):
            raise TypeValidationError(
                float, type(scalar[name]), f"the state's field {name!r}, which is neither a number nor a fixed-size array of numbers"
            )
        fields.append(RecordField(name, element.newbyteorder("="), tuple(shape)))
    layout = RecordLayout(np.void, tuple(fields))
    record = np.zeros((), layout.dtype)
    for f in fields:
        record[f.name] = scalar[f.name]
    return layout, record
