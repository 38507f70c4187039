"""Messages: typed values with a header, and their bytes.

A message is a dataclass with three fields more: ``message_id``, ``priority`` and ``correlation_id``.

Example:
    >>> @message
    ... class Reading(RingKernelMessage):
    ...     sensor: int
    ...     celsius: float
    >>> reading = Reading(sensor=7, celsius=21.5)
    >>> Reading.deserialize(reading.serialize()) == reading
    True

Type checkers know all of a class that derives from :class:`RingKernelMessage`. A class that is only decorated has the same fields and
methods at run time; its own fields then come first.

The bytes are MessagePack: a map of the fields by name, and the class's name as ``__type__``. UUIDs are ``{"__uuid_bin__": 16 bytes}``,
NumPy arrays ``{"__ndarray__": bytes, "dtype": str, "shape": list}``.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, dataclass_transform, overload
from uuid import UUID

from pydotcompute import _core
from pydotcompute.exceptions import MessageDeserializationError

__all__ = ["RingKernelMessage", "deserialize_message", "get_message_type", "message"]

T = TypeVar("T", bound="RingKernelMessage")
_C = TypeVar("_C")

# The file, as far as tracebacks know, of the constructors that are written here.
_WRITTEN = "<pydotcompute.message>"

# By name, for bytes whose class only they know.
_message_registry: dict[str, type[Any]] = {}

# A forked child must not give out its parent's ids.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_core.discard_spare_ids)


def _check_priority(priority: int) -> None:
    if not 0 <= priority <= 255:
        raise ValueError(f"Priority must be 0-255, got {priority}")


@dataclass
class RingKernelMessage:
    """What all messages have.

    The id of a message is made when it is first read, or written: most never are.

    Attributes:
        message_id: Identifies this message; random (UUID version 4).
        priority: 0 to 255, higher is more urgent; 128 is normal.
        correlation_id: The id of the message that this one answers.

    Example:
        >>> RingKernelMessage(priority=200).priority
        200
    """

    if TYPE_CHECKING:
        # By name only, so that fields of subclasses need no defaults.
        message_id: UUID = field(default_factory=_core.lazy_message_id, kw_only=True)
        priority: int = field(default=128, kw_only=True)
        correlation_id: UUID | None = field(default=None, kw_only=True)
    else:
        message_id: UUID = field(default_factory=_core.lazy_message_id)
        priority: int = field(default=128)
        correlation_id: UUID | None = field(default=None)

    def __post_init__(self) -> None:
        _check_priority(self.priority)

    def serialize(self) -> bytes:
        """The message as bytes.

        Returns:
            MessagePack: a map of all fields by name, and ``__type__``.

        Raises:
            MessageSerializationError: A field holds something that has no bytes; the error names the field.
        """
        return _core.encode_message(self)

    @classmethod
    def deserialize(cls: type[T], data: bytes) -> T:
        """The message that was written as these bytes.

        Fields that this class does not have are passed over, and fields that the bytes do not have get their defaults, so that classes
        may grow.

        Args:
            data: What :meth:`serialize` gave; any object with a buffer of bytes.

        Returns:
            A message of this class.

        Raises:
            MessageDeserializationError: The bytes are not a message, the class refuses a value, or a field without default is missing.
        """
        return _core.decode_message(cls, data)

    def with_correlation(self: T, correlation_id: UUID) -> T:
        """A copy of this message, with the same id, that answers another.

        Args:
            correlation_id: The id of the message that is answered.

        Returns:
            The copy.
        """
        return dataclasses.replace(self, correlation_id=correlation_id)

    def reply(self: T, **kwargs: Any) -> T:
        """An answer to this message: a new message whose correlation id is this one's id.

        Args:
            **kwargs: The fields of the answer; and ``response_class``, its class, if that is not this message's.

        Returns:
            The answer.
        """
        response_class: type[T] = kwargs.pop("response_class", type(self))
        return response_class(**{"correlation_id": self.message_id, **kwargs})

    def __getstate__(self) -> dict[str, Any]:
        # A copy is the same message: its id has to exist before there are two.
        _ = self.message_id
        return dict(self.__dict__)


_post_init: Any = RingKernelMessage.__post_init__


def _keep_ids_lazily(cls: type[Any]) -> None:
    """Puts the descriptor in the place of the field ``message_id``."""
    cls._message_id = None
    cls.message_id = _core.MessageIdField()


_keep_ids_lazily(RingKernelMessage)


def _is_plain(cls: type[Any]) -> bool:
    """Whether messages of this class can be put together field by field, past their constructor."""
    initialize = getattr(cls.__init__, "__code__", None)
    return (
        initialize is not None
        # By `_write_init`, or by `dataclass`, whose functions are made inside one of its own.
        and (initialize.co_filename == _WRITTEN or initialize.co_qualname.startswith("__create_fn__."))
        and getattr(cls, "__post_init__", None) is _post_init
        and not any({"__new__", "__setattr__"} & base.__dict__.keys() or base.__dict__.get("__slots__") for base in cls.__mro__[:-1])
        and all(f.init for f in dataclasses.fields(cls))
    )


def _make_codec(cls: type[Any]) -> _core.MessageCodec:
    """Describes a class to the extension, which then reads and writes its messages."""
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a message: decorate it with @message")
    fields = [(f.name, f.default is not dataclasses.MISSING, f.default, f.init) for f in dataclasses.fields(cls)]
    attribute = next((base.__dict__["message_id"] for base in cls.__mro__ if "message_id" in base.__dict__), None)
    codec = _core.MessageCodec(cls, fields, isinstance(attribute, _core.MessageIdField), _is_plain(cls))
    cls._codec = codec  # type: ignore[attr-defined]
    return codec


def _add_header(cls: type[Any]) -> bool:
    """Gives a class the fields of the header that it does not have. Returns whether its ids are made when they are read."""
    annotations = dict(inspect.get_annotations(cls))
    inherits = issubclass(cls, RingKernelMessage)
    lazy = "message_id" not in annotations
    defaults: dict[str, tuple[Any, Any]] = {
        "message_id": (UUID, field(default_factory=_core.lazy_message_id, kw_only=inherits)),
        "priority": (int, field(default=128, kw_only=inherits)),
        "correlation_id": (UUID | None, field(default=None, kw_only=inherits)),
    }
    for name, (annotation, default) in defaults.items():
        if name not in annotations:
            annotations[name] = annotation
            if inherits or not hasattr(cls, name):
                setattr(cls, name, default)
    cls.__annotations__ = annotations
    return lazy


def _write_init(cls: type[Any]) -> None:
    """Replaces the constructor by one that does the same in half the time.

    The one that ``dataclass`` writes calls a function for the id, to be told that there is none yet, and one that looks at the priority.
    """
    fields = dataclasses.fields(cls)
    # Left as it is: what has pseudo-fields (`InitVar`), names that the code below uses itself, or a priority that must be given.
    pseudo = any(f not in fields and f._field_type is not dataclasses._FIELD_CLASSVAR for f in cls.__dataclass_fields__.values())  # type: ignore[attr-defined]
    taken = any(f.name == "self" or f.name.startswith(("_lazy", "_check", "_make_", "_default_")) for f in fields)
    required = any(f.name == "priority" and f.default is dataclasses.MISSING for f in fields)
    if pseudo or taken or required or not all(f.init for f in fields):
        return
    known: dict[str, Any] = {"_lazy": _core.lazy_message_id(), "_check": _check_priority}
    by_position: list[str] = []
    by_name: list[str] = []
    body: list[str] = []
    for f in fields:
        parameter = f.name
        if f.name == "message_id":
            parameter += "=_lazy"
            body.append(" if message_id is not _lazy: self.message_id = message_id")
        elif f.default_factory is not dataclasses.MISSING:
            known[f"_make_{f.name}"] = f.default_factory
            parameter += "=_lazy"
            body.append(f" self.{f.name} = _make_{f.name}() if {f.name} is _lazy else {f.name}")
        else:
            if f.default is not dataclasses.MISSING:
                known[f"_default_{f.name}"] = f.default
                parameter += f"=_default_{f.name}"
            body.append(f" self.{f.name} = {f.name}")
        (by_name if f.kw_only else by_position).append(parameter)
    body.append(" if priority is not _default_priority: _check(priority)")
    parameters = ", ".join(["self", *by_position, *(["*", *by_name] if by_name else [])])
    written = "\n".join([f"def __init__({parameters}):", *body])
    exec(compile(written, _WRITTEN, "exec"), known)
    init = known["__init__"]
    init.__qualname__, init.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    init.__annotations__ = cls.__init__.__annotations__
    cls.__init__ = init


def _decorate(cls: type[_C]) -> type[_C]:
    lazy = False
    if "__dataclass_fields__" not in cls.__dict__:
        own_post_init, own_init = hasattr(cls, "__post_init__"), "__init__" in cls.__dict__
        lazy = _add_header(cls)
        if not own_post_init:
            # Before `dataclass` looks for it: the constructor calls what there is.
            cls.__post_init__ = RingKernelMessage.__post_init__  # type: ignore[attr-defined]
        cls = dataclass(cls)
        if lazy and not own_post_init and not own_init:
            _write_init(cls)
    if lazy:
        _keep_ids_lazily(cls)
    if not issubclass(cls, RingKernelMessage):
        for name in ("serialize", "with_correlation", "reply", "__getstate__"):
            if name not in cls.__dict__ and (name != "__getstate__" or lazy):
                setattr(cls, name, RingKernelMessage.__dict__[name])
        if not hasattr(cls, "deserialize"):
            cls.deserialize = classmethod(RingKernelMessage.deserialize.__func__)  # type: ignore[attr-defined]
    _message_registry[cls.__name__] = cls
    return cls


@overload
def message(cls: type[_C]) -> type[_C]: ...
@overload
def message(cls: None = None) -> Callable[[type[_C]], type[_C]]: ...


@dataclass_transform(field_specifiers=(field,))
def message(cls: type[_C] | None = None) -> type[_C] | Callable[[type[_C]], type[_C]]:
    """Makes a class a message: a dataclass with the header's fields and :class:`RingKernelMessage`'s methods.

    The class is also registered under its name, for :func:`deserialize_message`.

    Args:
        cls: The class; its annotations are the fields.

    Returns:
        The same class.

    Example:
        >>> @message
        ... class Add:
        ...     a: float
        ...     b: float
        >>> Add(1.0, b=2.0, priority=200).priority
        200
    """
    return _decorate if cls is None else _decorate(cls)


def get_message_type(name: str) -> type[RingKernelMessage] | None:
    """The message class that was last registered under a name, if there is one.

    Args:
        name: The name of the class.

    Returns:
        The class, or ``None``.
    """
    return _message_registry.get(name)


def deserialize_message(data: bytes) -> RingKernelMessage:
    """A message whose class the bytes name.

    Args:
        data: What a message's ``serialize`` gave.

    Returns:
        A message of the class registered under the bytes' ``__type__``; of :class:`RingKernelMessage`, with the header alone, if there
        is none.

    Raises:
        MessageDeserializationError: The bytes are not a message.
    """
    try:
        name = _core.message_type_name(data)
    except Exception as error:
        raise MessageDeserializationError(RingKernelMessage, error) from error
    cls: type[RingKernelMessage] = _message_registry.get(name or "", RingKernelMessage)
    return cls.deserialize(data)
