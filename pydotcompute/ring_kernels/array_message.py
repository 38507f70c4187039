"""Messages with arrays, which are passed by handle: the bytes of such a message say which array is meant, and the array is not copied.

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

The bytes are those of other messages (MessagePack), with ``{"__array_ref__": id, "shape", "dtype", "device"}`` in the place of an array.
They mean something only in the process that wrote them. To send arrays to another process, use a plain ``@message``, whose bytes hold them.
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
from pydotcompute.ring_kernels.buffer_registry import get_buffer_registry
from pydotcompute.ring_kernels.message import RingKernelMessage, message

__all__ = ["ArrayMessage", "array_message"]

T = TypeVar("T", bound="ArrayMessage")
_C = TypeVar("_C")

_MARKS = ("__type__", "__array_msg__", "__array_refs__")


@dataclass
class ArrayMessage(RingKernelMessage):
    """A message whose arrays are passed by handle.

    A field is such an array if it holds one of NumPy's, a :class:`~pydotcompute.UnifiedBuffer`, or what speaks DLPack: arrays of CuPy's,
    MLX's and JAX's, tensors. Whoever receives the message gets the same object, so that both see what either writes.

    Each :meth:`serialize` counts one reference to each array in the buffer registry, which keeps the array until somebody gives it up with
    :meth:`release_arrays`: the receiver, usually, when it is done.
    """

    _array_buffer_ids: dict[str, UUID] = field(default_factory=dict, init=False, repr=False, compare=False)

    def serialize(self) -> bytes:
        """The message as bytes, with its arrays as handles.

        Returns:
            MessagePack: a map of all fields by name, ``__array_refs__``, ``__type__`` and ``__array_msg__``.

        Raises:
            MessageSerializationError: A field holds something that has no bytes. No array is kept then.
        """
        held: dict[str, UUID] = {}
        try:
            content: dict[str, Any] = {}
            for name in _field_names(type(self)):
                value = getattr(self, name)
                content[name] = self._handed_over(name, value, held) if _is_array(value) else value
            content["__array_refs__"] = {name: buffer_id.hex for name, buffer_id in held.items()}
            content["__type__"] = type(self).__name__
            content["__array_msg__"] = True
            data: bytes = msgpack.packb(content, default=_encode)
        except Exception as error:
            for buffer_id in held.values():
                get_buffer_registry().decrement_ref(buffer_id)
            raise MessageSerializationError(type(self), error) from error
        self._array_buffer_ids.update(held)
        return data

    def _handed_over(self, name: str, array: Any, held: dict[str, UUID]) -> dict[str, Any]:
        """Counts a reference to an array, and describes it for the bytes."""
        registry = get_buffer_registry()
        buffer_id = self._array_buffer_ids.get(name)
        if buffer_id is None or registry.get(buffer_id) is not array or not registry.increment_ref(buffer_id):
            buffer_id = registry.register(array).buffer_id
        held[name] = buffer_id
        handle = registry.get_handle(buffer_id)
        assert handle is not None, "it is held"
        return {"__array_ref__": buffer_id.hex, "shape": list(handle.shape), "dtype": handle.dtype, "device": handle.device}

    @classmethod
    def deserialize(cls: type[T], data: bytes) -> T:
        """The message that was written as these bytes, with the very arrays that it was written with.

        Args:
            data: What :meth:`serialize` gave, in this process.

        Returns:
            A message of this class.

        Raises:
            MessageDeserializationError: The bytes are not a message, a field without default is missing, or an array was given up, or is in
                another process.
        """
        try:
            content = msgpack.unpackb(data, object_hook=_decode, strict_map_key=False)
            if not isinstance(content, dict):
                raise TypeError(f"a message is a map of its fields, and this is {type(content).__name__}")
            for mark in _MARKS:
                content.pop(mark, None)
            _restore_ids(content)
            held: dict[str, UUID] = {}
            known = {name: _taken_over(name, content[name], held) for name in _field_names(cls) if name in content}
            made = cls(**known)
        except Exception as error:
            raise MessageDeserializationError(cls, error) from error
        made._array_buffer_ids.update(held)
        return made

    def release_arrays(self) -> int:
        """Gives up one reference to each array that this message was written or read with. With the last, the registry lets go of it.

        Arrays stay good for whoever has them; only bytes that nobody has read yet cannot be read any more once they are gone.

        Returns:
            How many references were given up.
        """
        registry = get_buffer_registry()
        released = 0
        for name, buffer_id in list(self._array_buffer_ids.items()):
            left = registry.decrement_ref(buffer_id)
            released += left >= 0
            if left <= 0:
                del self._array_buffer_ids[name]
        return released


def _field_names(cls: type[Any]) -> list[str]:
    return [f.name for f in dataclasses.fields(cls) if not f.name.startswith("_")]


def _is_array(value: Any) -> bool:
    if isinstance(value, np.ndarray):
        return True
    return hasattr(type(value), "__dlpack__") and all(hasattr(value, name) for name in ("shape", "dtype", "nbytes"))


def _encode(value: Any) -> Any:
    """What MessagePack does not know."""
    if isinstance(value, UUID):
        return {"__uuid_bin__": value.bytes}
    if isinstance(value, np.ndarray):
        # Within a list or a map: its elements go into the bytes.
        if value.dtype.hasobject:
            raise TypeError(f"an array of {value.dtype} has no bytes")
        return {"__array_fallback__": True, "data": value.tobytes(), "shape": list(value.shape), "dtype": str(value.dtype)}
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a value of {type(value).__name__} has no bytes; use numbers, texts, bytes, lists, maps, UUIDs and arrays")


def _decode(content: dict[Any, Any]) -> Any:
    if "__uuid_bin__" in content:
        return UUID(bytes=content["__uuid_bin__"])
    if "__uuid__" in content:
        return UUID(content["__uuid__"])
    elements = content.get("data") if "__array_fallback__" in content else content.get("__ndarray__")
    if elements is not None:
        # A copy, since the bytes cannot be written to.
        return np.frombuffer(elements, dtype=content["dtype"]).reshape(content["shape"]).copy()
    return content


def _restore_ids(content: dict[Any, Any]) -> None:
    """Ids that were written as text or as bare bytes."""
    for name in ("message_id", "correlation_id"):
        value = content.get(name)
        if isinstance(value, str):
            content[name] = UUID(value)
        elif isinstance(value, bytes):
            content[name] = UUID(bytes=value)


def _taken_over(name: str, value: Any, held: dict[str, UUID]) -> Any:
    """The array that a handle stands for; any other value as it is."""
    if not (isinstance(value, dict) and "__array_ref__" in value):
        return value
    buffer_id = UUID(hex=value["__array_ref__"])
    array = get_buffer_registry().get(buffer_id)
    if array is None:
        what = f"an array of {value.get('dtype')} and shape {tuple(value.get('shape', ()))}"
        raise LookupError(
            f"'{name}' is {what} that is not registered here: it was released, or the bytes are of another process; "
            "release arrays after they were received, and use a plain @message between processes"
        )
    held[name] = buffer_id
    return array


@overload
def array_message(cls: type[_C]) -> type[_C]: ...
@overload
def array_message(cls: None = None) -> Callable[[type[_C]], type[_C]]: ...


@dataclass_transform(field_specifiers=(field,))
def array_message(cls: type[_C] | None = None) -> type[_C] | Callable[[type[_C]], type[_C]]:
    """Makes a class a message whose arrays are passed by handle: a dataclass with the header's fields and :class:`ArrayMessage`'s methods.

    Type checkers know these methods of a class that derives from :class:`ArrayMessage`.

    Args:
        cls: The class; its annotations are the fields.

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
        plain._handed_over = ArrayMessage._handed_over
        plain.release_arrays = ArrayMessage.release_arrays
    return cast("type[_C]", message(cls))
