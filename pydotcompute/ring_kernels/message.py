"""Messages: typed values with a header, and their serialization.

A message is a dataclass with three additional fields: ``message_id``, ``priority`` and ``correlation_id``.

Example:
    >>> @message
    ... class Reading(RingKernelMessage):
    ...     sensor: int
    ...     celsius: float
    >>> reading = Reading(sensor=7, celsius=21.5)
    >>> Reading.deserialize(reading.serialize()) == reading
    True

A class that derives from :class:`RingKernelMessage` is fully typed for type checkers. A class that is only decorated has the same fields
and methods at run time, but its own fields come first.

The serialized form is MessagePack: a map of the fields by name, with the class name as ``__type__``. UUIDs are
``{"__uuid_bin__": 16 bytes}``, NumPy arrays ``{"__ndarray__": bytes, "dtype": str, "shape": list}``, and values of other types, such as
nested messages, dates and tuples, ``{"__py__": kind, "v": payload}``. A value that would not come back as it is raises an error in
``serialize``. The page "Messages" of the documentation has the whole format.

Sending a message to a ring kernel or a queue of the same process does not serialize it: the receiver gets the same object. Do not change a
message, or an array in it, after it was sent. To keep changing it, send a copy: ``copy.deepcopy(message)``.
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
from pydotcompute.ring_kernels._class_names import qualified_name
from pydotcompute.ring_kernels._message_classes import MAIN_MODULE, MessageClasses, class_mark
from pydotcompute.ring_kernels._message_methods import compare, is_generated, represent
from pydotcompute.ring_kernels._message_values import declared_types

__all__ = ["RingKernelMessage", "deserialize_message", "get_message_type", "message"]

T = TypeVar("T", bound="RingKernelMessage")
_C = TypeVar("_C")

# File name that tracebacks show for generated constructors.
_GENERATED = "<pydotcompute.message>"

# Message classes, for deserialization without a known class.
_message_registry = MessageClasses()

# A forked child must not reuse ids that its parent generated in advance.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_core.discard_spare_ids)


def _check_priority(priority: int) -> None:
    if not 0 <= priority <= 255:
        raise ValueError(f"Priority must be 0-255, got {priority}")


def _add_methods(cls: type[Any]) -> None:
    """Adds the methods of messages that `dataclass` would generate otherwise: it generates only those that a class lacks."""
    for name, method in (("__eq__", compare), ("__repr__", represent)):
        if name not in cls.__dict__:
            setattr(cls, name, method)


@dataclass
class RingKernelMessage:  # noqa: PLW1641 - mutable, hence without a hash
    """Base class of all messages.

    The id of a message is generated on first access, since most ids are never read. Messages are equal if their classes and all their
    fields are, arrays included. They are mutable and therefore not hashable.

    Attributes:
        message_id: Id of this message; random (UUID version 4).
        priority: 0 to 255, higher is more urgent; 128 is normal.
        correlation_id: Id of the message that this one replies to.

    Example:
        >>> RingKernelMessage(priority=200).priority
        200
    """

    if TYPE_CHECKING:
        # Keyword-only, so that fields of subclasses need no defaults.
        message_id: UUID = field(default_factory=_core.lazy_message_id, kw_only=True)
        priority: int = field(default=128, kw_only=True)
        correlation_id: UUID | None = field(default=None, kw_only=True)
    else:
        message_id: UUID = field(default_factory=_core.lazy_message_id)
        priority: int = field(default=128)
        correlation_id: UUID | None = field(default=None)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _message_registry.register(cls)
        _add_methods(cls)

    def __post_init__(self) -> None:
        _check_priority(self.priority)

    __eq__ = compare
    __repr__ = represent

    def serialize(self) -> bytes:
        """Serializes the message.

        Returns:
            MessagePack bytes: a map of all fields by name, and ``__type__``.

        Raises:
            MessageSerializationError: A field holds a value that would not come back as it is; the error names the field.
        """
        return _core.encode_message(self)

    @classmethod
    def deserialize(cls: type[T], data: bytes) -> T:
        """Deserializes a message.

        Fields unknown to this class are ignored, and fields missing from the bytes get their defaults, so that classes can evolve. The base
        class reads the header of any message.

        Args:
            data: Output of :meth:`serialize`; any object that supports the buffer protocol.

        Returns:
            A message of this class.

        Raises:
            MessageDeserializationError: The bytes are not a message of this class, the class rejects a value, or a field without default is
                missing.
        """
        return _core.decode_message(cls, data)

    def with_correlation(self: T, correlation_id: UUID) -> T:
        """Returns a copy of this message, with the same id, that replies to another message.

        Args:
            correlation_id: Id of the message that it replies to.

        Returns:
            The copy.
        """
        return dataclasses.replace(self, correlation_id=correlation_id)

    def reply(self: T, **kwargs: Any) -> T:
        """Creates a reply to this message: a new message whose correlation id is this message's id.

        Args:
            **kwargs: Fields of the reply, and optionally ``response_class``, its class; by default the class of this message.

        Returns:
            The reply.
        """
        response_class: type[T] = kwargs.pop("response_class", type(self))
        return response_class(**{"correlation_id": self.message_id, **kwargs})

    def __getstate__(self) -> dict[str, Any]:
        # Generate the id before copying: a copy is the same message and must have the same id.
        _ = self.message_id
        return dict(self.__dict__)


_message_registry.register(RingKernelMessage)
_post_init: Any = RingKernelMessage.__post_init__


def _install_lazy_id(cls: type[Any]) -> None:
    """Replaces the field ``message_id`` by the descriptor that generates ids on first access."""
    cls._message_id = None
    cls.message_id = _core.MessageIdField()


_install_lazy_id(RingKernelMessage)


def _is_plain(cls: type[Any]) -> bool:
    """Whether messages of this class can be built field by field, without calling their constructor."""
    initialize = getattr(cls.__init__, "__code__", None)
    return (
        initialize is not None
        and (initialize.co_filename == _GENERATED or is_generated(cls.__init__))
        and getattr(cls, "__post_init__", None) is _post_init
        and not any({"__new__", "__setattr__"} & base.__dict__.keys() or base.__dict__.get("__slots__") for base in cls.__mro__[:-1])
        and all(f.init for f in dataclasses.fields(cls))
    )


def _make_codec(cls: type[Any]) -> _core.MessageCodec:
    """Registers the layout of a class with the extension, which then serializes and deserializes its messages."""
    if not dataclasses.is_dataclass(cls):
        raise TypeError(f"{cls.__name__} is not a message: decorate it with @message")
    declared = declared_types(cls)
    fields = [(f.name, f.default is not dataclasses.MISSING, f.default, f.init, declared.get(f.name, 0)) for f in dataclasses.fields(cls)]
    written = _message_registry.written_name(cls)
    names = (qualified_name(cls), written != cls.__name__, class_mark(cls))
    attribute = next((base.__dict__["message_id"] for base in cls.__mro__ if "message_id" in base.__dict__), None)
    is_standard = getattr(cls, "serialize", None) is RingKernelMessage.serialize
    is_lazy, is_base = isinstance(attribute, _core.MessageIdField), cls is RingKernelMessage
    codec = _core.MessageCodec(cls, fields, names, is_lazy, _is_plain(cls), is_base, is_standard)
    cls._codec = codec  # type: ignore[attr-defined]
    return codec


def _add_header(cls: type[Any]) -> bool:
    """Adds the header fields that a class lacks. Returns whether its ids are generated on first access."""
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
    """Replaces the generated constructor by an equivalent one that takes half the time.

    The constructor that ``dataclass`` generates calls one function to create a placeholder id and another to check the priority.
    """
    fields = dataclasses.fields(cls)
    # Unsupported: pseudo-fields (`InitVar`), names that the generated code uses itself, and a priority without default.
    pseudo = any(f not in fields and f._field_type is not dataclasses._FIELD_CLASSVAR for f in cls.__dataclass_fields__.values())  # type: ignore[attr-defined]
    conflict = any(f.name == "self" or f.name.startswith(("_lazy", "_check", "_make_", "_default_")) for f in fields)
    required = any(f.name == "priority" and f.default is dataclasses.MISSING for f in fields)
    if pseudo or conflict or required or not all(f.init for f in fields):
        return
    scope: dict[str, Any] = {"_lazy": _core.lazy_message_id(), "_check": _check_priority}
    positional: list[str] = []
    keyword_only: list[str] = []
    body: list[str] = []
    for f in fields:
        parameter = f.name
        if f.name == "message_id":
            parameter += "=_lazy"
            body.append(" if message_id is not _lazy: self.message_id = message_id")
        elif f.default_factory is not dataclasses.MISSING:
            scope[f"_make_{f.name}"] = f.default_factory
            parameter += "=_lazy"
            body.append(f" self.{f.name} = _make_{f.name}() if {f.name} is _lazy else {f.name}")
        else:
            if f.default is not dataclasses.MISSING:
                scope[f"_default_{f.name}"] = f.default
                parameter += f"=_default_{f.name}"
            body.append(f" self.{f.name} = {f.name}")
        (keyword_only if f.kw_only else positional).append(parameter)
    body.append(" if priority is not _default_priority: _check(priority)")
    parameters = ", ".join(["self", *positional, *(["*", *keyword_only] if keyword_only else [])])
    source = "\n".join([f"def __init__({parameters}):", *body])
    exec(compile(source, _GENERATED, "exec"), scope)
    init = scope["__init__"]
    init.__qualname__, init.__module__ = f"{cls.__qualname__}.__init__", cls.__module__
    init.__annotations__ = cls.__init__.__annotations__
    cls.__init__ = init


def _decorate(cls: type[_C]) -> type[_C]:
    lazy = False
    if "__dataclass_fields__" not in cls.__dict__:
        own_post_init, own_init = hasattr(cls, "__post_init__"), "__init__" in cls.__dict__
        lazy = _add_header(cls)
        if not own_post_init:
            # Set it before calling `dataclass`: the generated constructor calls `__post_init__` only if it exists by then.
            cls.__post_init__ = RingKernelMessage.__post_init__  # type: ignore[attr-defined]
        _add_methods(cls)
        cls = dataclass(cls)
        if lazy and not own_post_init and not own_init:
            _write_init(cls)
    if lazy:
        _install_lazy_id(cls)
    if not issubclass(cls, RingKernelMessage):
        for name in ("serialize", "with_correlation", "reply", "__getstate__"):
            if name not in cls.__dict__ and (name != "__getstate__" or lazy):
                setattr(cls, name, RingKernelMessage.__dict__[name])
        if not hasattr(cls, "deserialize"):
            cls.deserialize = classmethod(RingKernelMessage.deserialize.__func__)  # type: ignore[attr-defined]
    _message_registry.register(cls)
    return cls


# A message without fields of its own.
_message_registry[RingKernelMessage.__name__] = RingKernelMessage


@overload
def message(cls: type[_C]) -> type[_C]: ...
@overload
def message(cls: None = None) -> Callable[[type[_C]], type[_C]]: ...


@dataclass_transform(field_specifiers=(field,))
def message(cls: type[_C] | None = None) -> type[_C] | Callable[[type[_C]], type[_C]]:
    """Makes a class a message: a dataclass with the header fields and the methods of :class:`RingKernelMessage`.

    The class is also registered under its module and name, for :func:`deserialize_message`.

    Args:
        cls: The class; its annotations declare the fields.

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
    """Returns the message class last registered under a name.

    Args:
        name: Name of the class, alone or as ``module:qualified name``.

    Returns:
        The class, or ``None``.
    """
    return _message_registry.get(name)


def deserialize_message(data: bytes) -> RingKernelMessage:
    """Deserializes a message of the class that the bytes name.

    Args:
        data: Output of a message's ``serialize``.

    Returns:
        A message of the class that ``__type__`` names in the bytes. If they name no class, a :class:`RingKernelMessage` with the header
        fields only.

    Raises:
        MessageDeserializationError: The bytes are not a message, or name a class that this process does not know or has several of.
    """
    return _deserialize_marked(data, None)


def _deserialize_marked(data: bytes, mark: int | None) -> RingKernelMessage:
    """Deserializes a message whose class the transport may mark beside the bytes."""
    try:
        name = _core.message_type_name(data)
        cls: type[RingKernelMessage] = _find_message_class(name, mark) if name else RingKernelMessage
    except Exception as error:
        raise MessageDeserializationError(RingKernelMessage, error) from error
    if mark is not None and MAIN_MODULE in (mark, class_mark(cls)) and cls.serialize is RingKernelMessage.serialize:
        # The sender's class may be another one with this name, unless it has the same fields.
        return _core.decode_message(cls, data, True)
    return cls.deserialize(data)


def _find_message_class(name: str, mark: int | None = None) -> type[Any]:
    """Returns the class that bytes name. The extension calls it for nested messages."""
    return _message_registry.find(name, mark)
