"""File format of a cache entry. Readers validate every byte.

An entry is one self-describing file, so there is no index that could become inconsistent::

    8 bytes    b"PDCKERN1"
    32 bytes   SHA-256 of everything that follows
    4 bytes    length of the header, little-endian
    header     JSON: kernel_name, source_hash, signature, metadata, created
    rest       the compiled code
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
TEMPORARY = ".unfinished"
_CHECKSUM = slice(len(MAGIC), len(MAGIC) + 32)
_BODY = _CHECKSUM.stop
_LENGTH = struct.Struct("<I")


class CorruptEntryError(Exception):
    """A file is not an entry, is incomplete, or holds a different entry than its name says. Never leaves the package."""


@dataclass(frozen=True)
class Entry:
    """Content of an entry's file.

    Attributes:
        kernel_name: Name of the kernel.
        source_hash: Hash of everything that affects compilation.
        signature: Types that it was compiled for, if given.
        metadata: JSON values that the caller stores with it.
        created: Time of creation, in seconds since 1970.
        payload: The compiled code.
    """

    kernel_name: str
    source_hash: str
    signature: str | None
    metadata: dict[str, Any]
    created: float
    payload: bytes


def file_name(kernel_name: str, source_hash: str) -> str:
    """Returns the name of an entry's file. It is a hash, because kernel names may be long or contain path separators."""
    return hashlib.sha256(f"{kernel_name}\0{source_hash}".encode()).hexdigest()[:40] + SUFFIX


def encode(entry: Entry) -> bytes:
    """Encodes an entry as the content of its file.

    Raises:
        TypeError: The metadata holds a value that JSON does not support.
    """
    header = json.dumps(
        {
            "kernel_name": entry.kernel_name,
            "source_hash": entry.source_hash,
            "signature": entry.signature,
            "metadata": entry.metadata,
            "created": entry.created,
        }
    ).encode()
    body = _LENGTH.pack(len(header)) + header + entry.payload
    return MAGIC + hashlib.sha256(body).digest() + body


def decode(data: bytes) -> Entry:
    """Decodes the content of a file.

    Raises:
        CorruptEntryError: The bytes are not the output of :func:`encode`; the checksum covers every byte.
    """
    if data[: len(MAGIC)] != MAGIC:
        raise CorruptEntryError("the file does not start with the magic number of an entry")
    body = data[_BODY:]
    if hashlib.sha256(body).digest() != data[_CHECKSUM]:
        raise CorruptEntryError("the checksum does not match: the file was truncated or changed")
    try:
        (length,) = _LENGTH.unpack_from(body)
        header = json.loads(body[_LENGTH.size : _LENGTH.size + length])
        return Entry(payload=body[_LENGTH.size + length :], **header)
    except (struct.error, ValueError, TypeError) as error:
        raise CorruptEntryError(f"the header is invalid: {error}") from error


def read(path: Path) -> Entry:
    """Reads the entry in a file.

    Raises:
        CorruptEntryError: The file is not an entry, or holds a different entry than its name says.
        OSError: The file cannot be read.
    """
    entry = decode(path.read_bytes())
    if file_name(entry.kernel_name, entry.source_hash) != path.name:
        raise CorruptEntryError(f"the file holds kernel {entry.kernel_name!r}, which belongs in another file")
    return entry


def write(path: Path, data: bytes, accessed_ns: int) -> None:
    """Writes a file atomically: readers see either the old or the new content, even after a crash.

    Args:
        path: Path of the file.
        data: Its content.
        accessed_ns: Modification time to set, in nanoseconds since 1970.

    Raises:
        OSError: Writing failed; the old file is unchanged.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.utime(temporary, ns=(accessed_ns, accessed_ns))
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
