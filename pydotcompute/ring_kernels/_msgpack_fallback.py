"""Encodes and decodes rare message values with the package ``msgpack``. The extension handles all others."""

from __future__ import annotations

from typing import Any

import msgpack


def _plain(value: Any) -> Any:
    """Converts a value of a type that ``msgpack`` does not support."""
    item = getattr(value, "item", None)
    if callable(item):
        return item()
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    raise TypeError(f"{kind} is not serializable; convert it to numbers, strings, bytes, lists or an array")


def pack(value: Any) -> bytes:
    """Packs a value: an extension type, a timestamp, a memoryview, a subclass of a plain type."""
    packed = msgpack.packb(value, default=_plain, strict_types=False)
    assert isinstance(packed, bytes)
    return packed


def unpack(data: bytes) -> Any:
    """Unpacks a value of an extension type."""
    return msgpack.unpackb(data)
