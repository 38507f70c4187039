"""Messages that pass arrays by handle: the serialized message refers to the array, and the array is not copied.

Example:
    >>> import numpy as np
    >>> @array_message
    ... class Batch:
    ...     features: np.ndarray
    ...     number: int = 0
    >>> batch = Batch(features=np.ones((1000, 100)), number=7)
    >>> received = Batch.deserialize(batch.serialize())
    >>> received.features is batch.features
    True
    >>> received.release_arrays()
    1

The serialized form is MessagePack, as for other messages, with ``{"__array_ref__": id, "shape", "dtype", "device"}`` in place of an
array. It is valid only in the process that wrote it. To send arrays to another process, use a plain ``@message``, which copies them.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast, dataclass_transform, overload
from uuid import UUID

import msgpack
import numpy as np

from pydotcompute.exceptions import MessageDeserializationError, MessageSerializationError
from pydotcompute.ring_kernels._class_names import qualified_name
from pydotcompute.ring_kernels._message_values import PLAIN_BITS, declared_types, describe, describe_dtype, dtype_of, restore
from pydotcompute.ring_kernels.buffer_registry import get_buffer_registry
from pydotcompute.ring_kernels.message import RingKernelMessage, _find_message_class, _message_registry, message

__all__ = ["ArrayMessage", "array_message"]

T = TypeVar("T", bound="ArrayMessage")
_C = TypeVar("_C")

_MARKS = ("__type__", "__array_msg__", "__array_refs__")
# Keys of maps that are not dictionaries.
_RESERVED_KEYS = frozenset({"__py__", "__uuid_bin__", "__uuid__", "__array_fallback__", "__ndarray__", "__array_ref__"})


@dataclass
class ArrayMessage(RingKernelMessage):
    """A message whose arrays are passed by handle.

    A field is passed by handle if it holds a NumPy array, a :class:`~pydotcompute.UnifiedBuffer`, or an object that supports DLPack:
    CuPy, MLX and JAX arrays and PyTorch tensors. The receiver gets the same object, so that writes are visible to sender and receiver.

    Each :meth:`serialize` takes one reference to each array in the buffer registry. The registry holds the array until every reference is
    released with :meth:`release_arrays`, which the receiver usually calls when it is done.
    """

    _array_buffer_ids: dict[str, UUID] = field(default_factory=dict, init=False, repr=False, compare=False)

    def serialize(self) -> bytes:
        """Serializes the message, with its arrays as handles.

        Returns:
            MessagePack bytes: a map of all fields by name, ``__array_refs__``, ``__type__`` and ``__array_msg__``.

        Raises:
            MessageSerializationError: A field holds a value that is not serializable. The registry holds no array then.
        """
        held: dict[str, UUID] = {}
        try:
            content: dict[str, Any] = {}
            declared = declared_types(type(self))
            for name in _field_names(type(self)):
                value = getattr(self, name)
                content[name] = self._export_handle(name, value, held) if _is_array(value) else _encode_field(name, value, declared)
            content["__array_refs__"] = {name: buffer_id.hex for name, buffer_id in held.items()}
            content["__type__"] = _message_registry.written_name(type(self))
            content["__array_msg__"] = True
            data: bytes = msgpack.packb(content)
        except Exception as error:
            for buffer_id in held.values():
                get_buffer_registry().decrement_ref(buffer_id)
            raise MessageSerializationError(type(self), error) from error
        self._array_buffer_ids.update(held)
        return data

    def _export_handle(self, name: str, array: Any, held: dict[str, UUID]) -> dict[str, Any]:
        """Takes a reference to an array, and returns its serialized handle."""
        registry = get_buffer_registry()
        buffer_id = self._array_buffer_ids.get(name)
        if buffer_id is None or registry.get(buffer_id) is not array or not registry.increment_ref(buffer_id):
            buffer_id = registry.register(array).buffer_id
        held[name] = buffer_id
        handle = registry.get_handle(buffer_id)
        assert handle is not None, "a reference was just taken"
        return {"__array_ref__": buffer_id.hex, "shape": list(handle.shape), "dtype": handle.dtype, "device": handle.device}

    @classmethod
    def deserialize(cls: type[T], data: bytes) -> T:
        """Deserializes a message, with the same array objects as the original.

        Args:
            data: Output of :meth:`serialize` in this process.

        Returns:
            A message of this class.

        Raises:
            MessageDeserializationError: The bytes are not a message of this class, a field without default is missing, or an array was
                released or is in another process.
        """
        try:
            content = msgpack.unpackb(data, object_hook=_decode, strict_map_key=False)
            if not isinstance(content, dict):
                raise TypeError(f"expected a map of the message's fields, got {type(content).__name__}")
            _check_type(cls, content.get("__type__"))
            for mark in _MARKS:
                content.pop(mark, None)
            _restore_ids(content)
            held: dict[str, UUID] = {}
            values = {name: _resolve_handle(name, content[name], held) for name in _field_names(cls) if name in content}
            restored = cls(**values)
        except Exception as error:
            raise MessageDeserializationError(cls, error) from error
        restored._array_buffer_ids.update(held)
        return restored

    def release_arrays(self) -> int:
        """Releases one reference to each array that this message was serialized or deserialized with.

        The registry drops an array with its last reference. Arrays stay valid for code that holds them; only serialized messages that
        refer to a dropped array can no longer be deserialized.

        Returns:
            The number of references released.
        """
        registry = get_buffer_registry()
        released = 0
        for name, buffer_id in list(self._array_buffer_ids.items()):
            remaining = registry.decrement_ref(buffer_id)
            released += remaining >= 0
            if remaining <= 0:
                del self._array_buffer_ids[name]
        return released


def _field_names(cls: type[Any]) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if not f.name.startswith("_")]


def _is_array(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return True
    return hasattr(type(value), "__dlpack__") and all(hasattr(value, name) for name in ("shape", "dtype", "nbytes"))


def _encode_field(name: str, value: Any, declared: dict[str, int]) -> Any:
    try:
        return _encode(value, declared.get(name, 0))
    except (TypeError, ValueError) as error:
        raise type(error)(f"field '{name}': {error}") from error


def _encode(value: Any, declared: int = 0) -> Any:
    """Converts a value to what MessagePack supports, as the extension does for other messages."""
    cls = type(value)
    if value is None or cls in (int, float, str, bool, bytes):
        return value
    if cls is dict:
        return _encode_dict(value, declared)
    if cls in (list, tuple, set, frozenset):
        items = [_encode(item, declared) for item in value]
        return items if cls is list or (cls is tuple and declared & PLAIN_BITS[list]) else _tagged(cls.__name__, items)
    if isinstance(value, UUID):
        return {"__uuid_bin__": value.bytes}
    if hasattr(cls, "with_correlation"):
        return _tagged("message", [_message_registry.written_name(cls), value.serialize()])
    kind, payload = ("array", None) if cls is np.ndarray else describe(value, declared)
    if kind == "array":
        # An array inside a list or map is copied into the bytes.
        if value.dtype.hasobject:
            raise TypeError(f"an array of {value.dtype} is not serializable")
        return {"__array_fallback__": True, "data": value.tobytes(), "shape": list(value.shape), "dtype": describe_dtype(value.dtype)}
    if kind == "packed":
        return value
    return _encode(payload, declared) if kind == "plain" else _tagged(kind, _encode(payload))


def _encode_dict(value: dict[Any, Any], declared: int) -> dict[Any, Any]:
    entries = [(_encode(key, declared), _encode(item, declared)) for key, item in value.items()]
    if all(type(key) in (str, bytes, int) and key not in _RESERVED_KEYS for key, _ in entries):
        return dict(entries)
    return _tagged("dict", [part for entry in entries for part in entry])


def _tagged(kind: str, payload: Any) -> dict[str, Any]:
    return {"__py__": kind, "v": payload}


_CONTAINERS: dict[str, Any] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": lambda flat: dict(zip(flat[::2], flat[1::2], strict=True)),
}


def _decode(content: dict[Any, Any]) -> Any:
    if content.keys() == {"__py__", "v"}:
        kind, payload = content["__py__"], content["v"]
        if kind == "message":
            return _find_message_class(payload[0]).deserialize(payload[1])
        return _CONTAINERS[kind](payload) if kind in _CONTAINERS else restore(kind, payload)
    if "__uuid_bin__" in content:
        return UUID(bytes=content["__uuid_bin__"])
    if "__uuid__" in content:
        return UUID(content["__uuid__"])
    elements = content.get("data") if "__array_fallback__" in content else content.get("__ndarray__")
    if elements is not None:
        # Copied, because arrays backed by bytes are read-only.
        return np.frombuffer(elements, dtype=dtype_of(content["dtype"])).reshape(content["shape"]).copy()
    return content


def _check_type(cls: type[Any], name: str | None) -> None:
    if cls is not ArrayMessage and name is not None and name not in (cls.__name__, qualified_name(cls)):
        raise TypeError(f"the bytes are a message of the class '{name}', not of {qualified_name(cls)}; call the deserialize of that class")


def _restore_ids(content: dict[Any, Any]) -> None:
    """Converts ids that were serialized as text or as raw bytes."""
    for name in ("message_id", "correlation_id"):
        value = content.get(name)
        if isinstance(value, str):
            content[name] = UUID(value)
        elif isinstance(value, bytes):
            content[name] = UUID(bytes=value)


def _resolve_handle(name: str, value: Any, held: dict[str, UUID]) -> Any:
    """Returns the array that a handle refers to, or any other value unchanged."""
    if not (isinstance(value, dict) and "__array_ref__" in value):
        return value
    buffer_id = UUID(hex=value["__array_ref__"])
    array = get_buffer_registry().get(buffer_id)
    if array is None:
        what = f"an array of {value.get('dtype')} and shape {tuple(value.get('shape', ()))}"
        raise LookupError(
            f"'{name}' is {what} that is not registered in this process: it was released, or the bytes are from another process; "
            "release arrays only after they were received, and use a plain @message between processes"
        )
    held[name] = buffer_id
    return array


@overload
def array_message(cls: type[_C]) -> type[_C]: ...
@overload
def array_message(cls: None = None) -> Callable[[type[_C]], type[_C]]: ...


@dataclass_transform(field_specifiers=(field,))
def array_message(cls: type[_C] | None = None) -> type[_C] | Callable[[type[_C]], type[_C]]:
    """Makes a class a message that passes arrays by handle: a dataclass with the header fields and :class:`ArrayMessage`'s methods.

    Type checkers see these methods only on classes that derive from :class:`ArrayMessage`.

    Args:
        cls: The class; its annotations declare the fields.

    Returns:
        The same class.
    """
    return _decorate if cls is None else _decorate(cls)


def _decorate(cls: type[_C]) -> type[_C]:
    if not issubclass(cls, ArrayMessage):
        plain: Any = cls
        annotations = inspect.get_annotations(plain)
        if "_array_buffer_ids" not in annotations:
            plain.__annotations__ = {**annotations, "_array_buffer_ids": dict[str, UUID]}
            plain._array_buffer_ids = field(default_factory=dict, init=False, repr=False, compare=False)
        plain.serialize = ArrayMessage.serialize
        plain.deserialize = classmethod(ArrayMessage.__dict__["deserialize"].__func__)
        plain._export_handle = ArrayMessage._export_handle
        plain.release_arrays = ArrayMessage.release_arrays
    return cast("type[_C]", message(cls))
