"""Compiled kernels on disk, so that a program that starts again does not compile again.

Any number of threads and processes may share a folder. An entry is one file (:mod:`pydotcompute.compilation._cache_file`), put in its place
in one step and read with suspicion: a file that is cut off, changed, or another one than its name says counts as absent and is removed.
Reading takes no lock; whoever changes the folder holds a lock on a file in it, which the system releases when a process dies.

A cache never makes a program fail: where the folder cannot be written to, :meth:`KernelCache.store` returns ``False`` and the reason goes
to the logger ``pydotcompute.compilation.cache``.

Whoever may write to the folder decides what code runs: it is to be the user's own, and is made so.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydotcompute.compilation import _cache_file
from pydotcompute.compilation._cache_file import CorruptEntryError, Entry
from pydotcompute.exceptions import InvalidConfigurationError, KernelCompilationError

__all__ = ["CacheEntry", "KernelCache", "get_kernel_cache", "warmup_kernels"]

_log = logging.getLogger(__name__)

_LOCK = "lock"
_TAG = "CACHEDIR.TAG"
# https://bford.info/cachedir/: backup programs leave out folders with this file.
_TAG_TEXT = b"Signature: 8a477f597d28d172789f06886806bc55\n# Compiled kernels of pydotcompute; may be deleted at any time.\n"


@dataclass
class CacheEntry:
    """What the cache knows of one entry.

    Attributes:
        kernel_name: The kernel's name.
        source_hash: The hash of all that decides what is compiled.
        signature: The types it was compiled for, if they were given.
        ptx_path: Its file.
        metadata: What was stored beside it.
        created_timestamp: When it was stored, in seconds since 1970.
        last_accessed: When it was last stored or loaded, by any process, in seconds since 1970.
        hit_count: How often this process has loaded it.
    """

    kernel_name: str
    source_hash: str
    signature: str | None
    ptx_path: Path | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    created_timestamp: float = 0.0
    last_accessed: float = 0.0
    hit_count: int = 0


class KernelCache:
    """A folder of compiled kernels, bounded in number and size; the least recently used go first.

    Example:
        >>> import tempfile
        >>> cache = KernelCache(tempfile.mkdtemp())
        >>> cache.store("add", "4f1d", b".version 8.0 ...")
        True
        >>> cache.load("add", "4f1d")
        b'.version 8.0 ...'
    """

    def __init__(self, cache_dir: str | Path | None = None, max_entries: int = 128, max_size_mb: int = 256) -> None:
        """Opens the cache in a folder, which is made if it is not there.

        Args:
            cache_dir: The folder. By default ``python`` in ``$DOTCOMPUTE_CACHE`` or, if that is not set, in the user's own cache folder
                (``$XDG_CACHE_HOME/dotcompute`` or ``~/.cache/dotcompute``).
            max_entries: How many entries are kept at the most.
            max_size_mb: How many MiB their files have at the most, together.

        Raises:
            InvalidConfigurationError: If a limit is below 1, or there is a file where the folder should be.
        """
        for name, value in (("max_entries", max_entries), ("max_size_mb", max_size_mb)):
            if value < 1:
                raise InvalidConfigurationError(name, value, "must be at least 1: a cache that holds nothing is no cache")
        self._folder = Path(cache_dir) if cache_dir is not None else _default_folder()
        self._max_entries = max_entries
        self._max_bytes = max_size_mb * 1024 * 1024
        self._counts = threading.Lock()
        self._hits: Counter[str] = Counter()
        self._misses = 0
        self._corrupt = 0
        try:
            self._make_folder()
        except FileExistsError as error:
            raise InvalidConfigurationError("cache_dir", str(self._folder), "must be a folder, and there is a file of that name") from error
        except OSError as error:
            _log.warning("cannot make the cache folder %s: %s; compiled kernels are not kept", self._folder, error)

    def store(
        self,
        kernel_name: str,
        source_hash: str,
        ptx: bytes | str,
        *,
        signature: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Keeps what was compiled, in the place of what was kept under this name and hash, and makes room for it.

        Args:
            kernel_name: The kernel's name.
            source_hash: The hash of all that decides what is compiled.
            ptx: What was compiled: PTX, a cubin, machine code.
            signature: The types it was compiled for.
            metadata: What is to be kept beside it; values that JSON knows.

        Returns:
            Whether it is kept. If not, the log says why: the folder cannot be written to, or the entry alone is larger than the cache.

        Raises:
            TypeError: If the metadata holds something that JSON has no word for.
        """
        payload = ptx.encode() if isinstance(ptx, str) else bytes(ptx)
        data = _cache_file.encode(Entry(kernel_name, source_hash, signature, metadata or {}, time.time(), payload))
        if len(data) > self._max_bytes:
            _log.warning("kernel %r has %d bytes, more than the whole cache (%d): not kept", kernel_name, len(data), self._max_bytes)
            return False
        path = self._path(kernel_name, source_hash)
        try:
            with self._locked():
                _cache_file.write(path, data, time.time_ns())
                self._evict(newest=path)
        except OSError as error:
            _log.warning("cannot keep kernel %r in %s: %s", kernel_name, self._folder, error)
            return False
        return True

    def load(self, kernel_name: str, source_hash: str) -> bytes | None:
        """Finds what was compiled.

        Args:
            kernel_name: The kernel's name.
            source_hash: The hash of all that decides what is compiled.

        Returns:
            It, or ``None`` if it is not there or its file is corrupt, which is then removed.
        """
        path = self._path(kernel_name, source_hash)
        entry = self._read(path)
        with self._counts:
            if entry is None:
                self._misses += 1
                return None
            self._hits[path.name] += 1
        now = time.time_ns()
        try:
            os.utime(path, ns=(now, now))
        except OSError as error:
            # Evicted meanwhile, or a folder that may only be read: the entry is good all the same.
            _log.debug("cannot note the use of %s: %s", path, error)
        return entry.payload

    def contains(self, kernel_name: str, source_hash: str) -> bool:
        """Whether there is an entry of this name and hash, and it is whole."""
        return self._read(self._path(kernel_name, source_hash)) is not None

    def remove(self, kernel_name: str, source_hash: str) -> bool:
        """Removes an entry.

        Returns:
            Whether there was one, and it is gone.
        """
        try:
            with self._locked():
                self._path(kernel_name, source_hash).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            _log.warning("cannot remove kernel %r from %s: %s", kernel_name, self._folder, error)
            return False
        return True

    def clear(self) -> int:
        """Removes every entry.

        Returns:
            How many were removed.
        """
        removed = 0
        try:
            with self._locked():
                for path in self._files():
                    path.unlink(missing_ok=True)
                    removed += 1
        except OSError as error:
            _log.warning("cannot clear %s: %s", self._folder, error)
        return removed

    def entries(self) -> list[CacheEntry]:
        """Every entry that is whole, the least recently used first."""
        found = []
        for _, _, path in self._by_age():
            entry = self._read(path)
            if entry is not None:
                found.append(self._describe(path, entry))
        return found

    def get_stats(self) -> dict[str, Any]:
        """What the folder holds, and what this object has seen.

        Returns:
            ``entries``, ``max_entries``, ``total_size_bytes``, ``max_size_bytes`` and ``cache_dir`` of the folder, which other processes
            may change at any time; ``total_hits``, ``total_misses`` and ``corrupt_entries`` of this object.
        """
        files = self._by_age()
        with self._counts:
            return {
                "entries": len(files),
                "max_entries": self._max_entries,
                "total_size_bytes": sum(size for _, size, _ in files),
                "max_size_bytes": self._max_bytes,
                "total_hits": self._hits.total(),
                "total_misses": self._misses,
                "corrupt_entries": self._corrupt,
                "cache_dir": str(self._folder),
            }

    def __repr__(self) -> str:
        stats = self.get_stats()
        return f"KernelCache(entries={stats['entries']}/{stats['max_entries']}, size={stats['total_size_bytes'] // 1024}KB)"

    def _path(self, kernel_name: str, source_hash: str) -> Path:
        return self._folder / _cache_file.file_name(kernel_name, source_hash)

    def _make_folder(self) -> None:
        """Makes the folder, for the user alone: machine code that others could change must not be run."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        tag = self._folder / _TAG
        if not tag.exists():
            tag.write_bytes(_TAG_TEXT)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the folder's lock against other threads and processes. The folder is made again if somebody has deleted it.

        Raises:
            OSError: If the folder cannot be written to, or its file system has no locks.
        """
        self._make_folder()
        with open(self._folder / _LOCK, "wb") as lock:
            # Each open file has a lock of its own, between threads too; closing releases it, and so does the end of the process.
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self, path: Path) -> Entry | None:
        """Reads an entry; removes it if it is corrupt."""
        try:
            return _cache_file.read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("cannot read %s: %s; compiling again", path, error)
            return None
        except CorruptEntryError as error:
            _log.warning("the cache entry %s is corrupt: %s; compiling again", path, error)
        with self._counts:
            self._corrupt += 1
        self._remove_corrupt(path)
        return None

    def _remove_corrupt(self, path: Path) -> None:
        try:
            with self._locked():
                try:
                    _cache_file.read(path)  # Another process may have put a good one there since.
                except CorruptEntryError:
                    path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            _log.warning("cannot remove the corrupt cache entry %s: %s", path, error)

    def _files(self) -> Iterator[Path]:
        """The files of entries."""
        try:
            yield from self._folder.glob(f"*{_cache_file.SUFFIX}")
        except OSError as error:
            _log.warning("cannot list %s: %s", self._folder, error)

    def _by_age(self) -> list[tuple[int, int, Path]]:
        """When each entry was last used (nanoseconds), its bytes and its file; the least recently used first."""
        aged = []
        for path in self._files():
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # Another process has removed it.
            aged.append((status.st_mtime_ns, status.st_size, path))
        aged.sort()
        return aged

    def _evict(self, newest: Path) -> None:
        """Keeps the limits, and removes what a process left that died while writing. Under the lock, so that nobody writes now."""
        for unfinished in self._folder.glob(f"*{_cache_file.UNFINISHED}"):
            unfinished.unlink(missing_ok=True)
        aged = self._by_age()
        count, total = len(aged), sum(size for _, size, _ in aged)
        for _, size, path in aged:
            if count <= self._max_entries and total <= self._max_bytes:
                return
            if path != newest:
                path.unlink(missing_ok=True)
                count, total = count - 1, total - size

    def _describe(self, path: Path, entry: Entry) -> CacheEntry:
        try:
            accessed = path.stat().st_mtime_ns / 1e9
        except FileNotFoundError:
            accessed = entry.created
        with self._counts:
            hits = self._hits[path.name]
        return CacheEntry(entry.kernel_name, entry.source_hash, entry.signature, path, entry.metadata, entry.created, accessed, hits)


def _default_folder() -> Path:
    """Where the Rust core keeps what it compiles for GPUs, in a folder beside it."""
    if own := os.environ.get("DOTCOMPUTE_CACHE"):
        return Path(own) / "python"
    users = os.environ.get("XDG_CACHE_HOME")
    return (Path(users) if users and os.path.isabs(users) else Path.home() / ".cache") / "dotcompute" / "python"


_cache: KernelCache | None = None
_cache_lock = threading.Lock()


def get_kernel_cache() -> KernelCache:
    """The cache that the package itself uses, in the default folder; it is opened at the first call."""
    global _cache
    with _cache_lock:
        if _cache is None:
            _cache = KernelCache()
        return _cache


def warmup_kernels(kernels: list[Callable[..., Any]]) -> None:
    """Compiles kernels now, so that their first calls need not wait.

    A kernel that was declared with a signature is compiled for it. Any other is compiled for the types that it is first called with; what
    earlier runs compiled for it is brought in from the cache.

    Args:
        kernels: Functions, decorated or plain.

    Raises:
        KernelCompilationError: If one does not compile; the others are compiled all the same. Notes name further ones that failed.
    """
    from pydotcompute.compilation.compiler import get_compiler

    failures = []
    for kernel in kernels:
        try:
            get_compiler().warm_up(kernel)
        except KernelCompilationError as error:
            failures.append(error)
    if failures:
        for other in failures[1:]:
            failures[0].add_note(f"also: {other}")
        raise failures[0]
