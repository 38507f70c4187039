"""The file that holds one entry of the cache, and how it is read with suspicion.

An entry is one file and says itself what it is, so that no index has to agree with it::

    8 bytes    b"PDCKERN1"
    32 bytes   SHA-256 of all that follows
    4 bytes    length of the head, little-endian
    head       JSON: kernel_name, source_hash, signature, metadata, created
    rest       what was compiled
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"PDCKERN1"
SUFFIX = ".kernel"
UNFINISHED = ".unfinished"
_CHECKSUM = slice(len(MAGIC), len(MAGIC) + 32)
_BODY = _CHECKSUM.stop
_LENGTH = struct.Struct("<I")


class CorruptEntryError(Exception):
    """A file is not an entry, not all of one, or another entry than its name says. Never leaves the package."""


@dataclass(frozen=True)
class Entry:
    """What an entry's file holds.

    Attributes:
        kernel_name: The kernel's name.
        source_hash: The hash of all that decides what is compiled.
        signature: The types it was compiled for, if they were given.
        metadata: What the caller wants to be kept beside it; JSON values.
        created: When it was stored, in seconds since 1970.
        payload: What was compiled.
    """

    kernel_name: str
    source_hash: str
    signature: str | None
    metadata: dict[str, Any]
    created: float
    payload: bytes


def file_name(kernel_name: str, source_hash: str) -> str:
    """The name of an entry's file. A hash, since a kernel may be called ``../x`` or by 300 letters."""
    return hashlib.sha256(f"{kernel_name}\0{source_hash}".encode()).hexdigest()[:40] + SUFFIX


def encode(entry: Entry) -> bytes:
    """Turns an entry into the bytes of its file.

    Raises:
        TypeError: If the metadata holds something that JSON has no word for.
    """
    head = json.dumps(
        {
            "kernel_name": entry.kernel_name,
            "source_hash": entry.source_hash,
            "signature": entry.signature,
            "metadata": entry.metadata,
            "created": entry.created,
        }
    ).encode()
    body = _LENGTH.pack(len(head)) + head + entry.payload
    return MAGIC + hashlib.sha256(body).digest() + body


def decode(data: bytes) -> Entry:
    """Turns the bytes of a file into an entry.

    Raises:
        CorruptEntryError: If they are not what :func:`encode` made; the checksum covers every byte.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise CorruptEntryError("it does not begin as an entry does")
    body = data[_BODY:]
    if hashlib.sha256(body).digest() != data[_CHECKSUM]:
        raise CorruptEntryError("its checksum is wrong: it was cut off or changed")
    try:
        (length,) = _LENGTH.unpack_from(body)
        head = json.loads(body[_LENGTH.size : _LENGTH.size + length])
        return Entry(payload=body[_LENGTH.size + length :], **head)
    except (struct.error, ValueError, TypeError) as error:
        raise CorruptEntryError(f"its head cannot be read: {error}") from error


def read(path: Path) -> Entry:
    """Reads the entry in a file.

    Raises:
        CorruptEntryError: If the file is not an entry, or not the one that its name says.
        OSError: If the file cannot be read.
    """
    entry = decode(path.read_bytes())
    if file_name(entry.kernel_name, entry.source_hash) != path.name:
        raise CorruptEntryError(f"it holds kernel {entry.kernel_name!r}, which belongs into another file")
    return entry


def write(path: Path, data: bytes, accessed_ns: int) -> None:
    """Puts a file in its place in one step: whoever reads sees the old file or the new one, never a part, not even after a crash.

    Args:
        path: Where.
        data: All of it.
        accessed_ns: What the file's time is set to, in nanoseconds since 1970.

    Raises:
        OSError: If it cannot be written; what stood at ``path`` still stands there.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.utime(unfinished, ns=(accessed_ns, accessed_ns))
        os.replace(unfinished, path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
