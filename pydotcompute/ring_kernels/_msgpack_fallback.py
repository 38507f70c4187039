"""The rare values of messages: those for which the package ``msgpack`` is asked instead of the extension."""

from __future__ import annotations

from typing import Any

import msgpack


def _plain(value: Any) -> Any:
    """What ``msgpack`` is given for a type that it does not know."""
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise TypeError(f"{kind} cannot be sent; convert it to numbers, texts, bytes, lists or an array")


def pack(value: Any) -> bytes:
    """The bytes of a value: an extension type, a time stamp, a memory view, a subclass of a plain type."""
    packed = msgpack.packb(value, default=_plain, strict_types=False)
    assert isinstance(packed, bytes)
    return packed


def unpack(data: bytes) -> Any:
    """The value of one extension type."""
    return msgpack.unpackb(data)
