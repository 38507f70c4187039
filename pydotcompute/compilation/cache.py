"""Disk cache of compiled kernels, so that a restarted program does not compile again.

Any number of threads and processes may share a folder. An entry is one file (:mod:`pydotcompute.compilation._cache_file`), written
atomically and validated on reading. A file that is truncated, changed, or holds a different entry than its name says counts as absent and
is removed. Reading takes no lock; writers hold a lock on a file in the folder, which the system releases when a process dies.

The cache never makes a program fail. If the folder is not writable, :meth:`KernelCache.store` returns ``False`` and logs the reason to
``pydotcompute.compilation.cache``.

Write access to the folder is permission to run code. The folder must therefore belong to the user, and is created with access for the user
only.

Own code, not the library `diskcache`: its index is an SQLite database, which one damaged page makes unreadable as a whole and which needs
locks that network file systems lack, and its values have no checksum. Machine code must not run unchecked. Numba's own cache has no
checksum either, and stores code beside the sources; see :mod:`pydotcompute.compilation.host_object`.
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
# https://bford.info/cachedir/: backup programs skip folders that contain this file.
_TAG_TEXT = b"Signature: 8a477f597d28d172789f06886806bc55\n# Compiled kernels of pydotcompute; may be deleted at any time.\n"


@dataclass
class CacheEntry:
    """Description of a cache entry.

    Attributes:
        kernel_name: Name of the kernel.
        source_hash: Hash of everything that affects compilation.
        signature: Types that it was compiled for, if given.
        ptx_path: Path of the file.
        metadata: Values stored with it.
        created_timestamp: Time of creation, in seconds since 1970.
        last_accessed: Time of the last store or load, by any process, in seconds since 1970.
        hit_count: Number of loads by this process.
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
    """A folder of compiled kernels, limited in number and size; evicts the least recently used first.

    Example:
        >>> import tempfile
        >>> cache = KernelCache(tempfile.mkdtemp())
        >>> cache.store("add", "4f1d", b".version 8.0 ...")
        True
        >>> cache.load("add", "4f1d")
        b'.version 8.0 ...'
    """

    def __init__(self, cache_dir: str | Path | None = None, max_entries: int = 128, max_size_mb: int = 256) -> None:
        """Opens the cache in a folder, and creates the folder if it does not exist.

        Args:
            cache_dir: The folder. By default ``python`` in ``$DOTCOMPUTE_CACHE`` or, if that is not set, in the user's cache folder
                (``$XDG_CACHE_HOME/dotcompute`` or ``~/.cache/dotcompute``).
            max_entries: Maximum number of entries.
            max_size_mb: Maximum total size of the files, in MiB.

        Raises:
            InvalidConfigurationError: A limit is less than 1, or the path of the folder is a file.
        """
        for name, value in (("max_entries", max_entries), ("max_size_mb", max_size_mb)):
            if value < 1:
                raise InvalidConfigurationError(name, value, "must be at least 1")
        self._cache_dir = Path(cache_dir) if cache_dir is not None else _default_folder()
        self._max_entries = max_entries
        self._max_size_bytes = max_size_mb * 1024 * 1024
        self._counts = threading.Lock()
        self._hits: Counter[str] = Counter()
        self._misses = 0
        self._corrupt = 0
        try:
            self._make_folder()
        except FileExistsError as error:
            raise InvalidConfigurationError(
                "cache_dir", str(self._cache_dir), "must be a folder, but there is a file of that name"
            ) from error
        except OSError as error:
            _log.warning("creating the cache folder %s failed: %s; compiled kernels are not cached", self._cache_dir, error)

    def store(
        self,
        kernel_name: str,
        source_hash: str,
        ptx: bytes | str,
        *,
        signature: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> bool:
        """Stores a compiled kernel. Replaces an entry of the same name and hash, and evicts others if needed.

        Args:
            kernel_name: Name of the kernel.
            source_hash: Hash of everything that affects compilation.
            ptx: The compiled code: PTX, a cubin, or machine code.
            signature: Types that it was compiled for.
            metadata: JSON values to store with it.

        Returns:
            Whether it was stored. If not, the log gives the reason: the folder is not writable, or the entry alone exceeds the size limit.

        Raises:
            TypeError: The metadata holds a value that JSON does not support.
        """
        payload = ptx.encode() if isinstance(ptx, str) else bytes(ptx)
        data = _cache_file.encode(Entry(kernel_name, source_hash, signature, metadata or {}, time.time(), payload))
        if len(data) > self._max_size_bytes:
            _log.warning(
                "kernel %r is not cached: its %d bytes exceed the cache's limit (%d)", kernel_name, len(data), self._max_size_bytes
            )
            return False
        path = self._path(kernel_name, source_hash)
        try:
            with self._locked():
                _cache_file.write(path, data, time.time_ns())
                self._evict(newest=path)
        except OSError as error:
            _log.warning("storing kernel %r in %s failed: %s", kernel_name, self._cache_dir, error)
            return False
        return True

    def load(self, kernel_name: str, source_hash: str) -> bytes | None:
        """Loads a compiled kernel.

        Args:
            kernel_name: Name of the kernel.
            source_hash: Hash of everything that affects compilation.

        Returns:
            The compiled code; ``None`` if it is not in the cache. A corrupt file is removed and counts as absent.
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
            # The file was evicted since, or the folder is read-only: the entry is valid all the same.
            _log.debug("updating the access time of %s failed: %s", path, error)
        return entry.payload

    def contains(self, kernel_name: str, source_hash: str) -> bool:
        """Whether there is a valid entry of this name and hash.

        Args:
            kernel_name: Name of the kernel.
            source_hash: Hash of everything that affects compilation.
        """
        return self._read(self._path(kernel_name, source_hash)) is not None

    def remove(self, kernel_name: str, source_hash: str) -> bool:
        """Removes an entry.

        Args:
            kernel_name: Name of the kernel.
            source_hash: Hash of everything that affects compilation.

        Returns:
            Whether there was an entry and it was removed.
        """
        try:
            with self._locked():
                self._path(kernel_name, source_hash).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            _log.warning("removing kernel %r from %s failed: %s", kernel_name, self._cache_dir, error)
            return False
        return True

    def clear(self) -> int:
        """Removes all entries.

        Returns:
            The number of entries removed.
        """
        removed = 0
        try:
            with self._locked():
                for path in self._files():
                    path.unlink(missing_ok=True)
                    removed += 1
        except OSError as error:
            _log.warning("clearing %s failed: %s", self._cache_dir, error)
        return removed

    def entries(self) -> list[CacheEntry]:
        """Returns all valid entries, least recently used first."""
        found = []
        for _, _, path in self._by_age():
            entry = self._read(path)
            if entry is not None:
                found.append(self._describe(path, entry))
        return found

    def get_stats(self) -> dict[str, Any]:
        """Returns the content of the folder and the counters of this object.

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
                "max_size_bytes": self._max_size_bytes,
                "total_hits": self._hits.total(),
                "total_misses": self._misses,
                "corrupt_entries": self._corrupt,
                "cache_dir": str(self._cache_dir),
            }

    def __repr__(self) -> str:
        stats = self.get_stats()
        return f"KernelCache(entries={stats['entries']}/{stats['max_entries']}, size={stats['total_size_bytes'] // 1024}KB)"

    def _path(self, kernel_name: str, source_hash: str) -> Path:
        return self._get_ptx_path(self._get_cache_key(kernel_name, source_hash))

    def _get_cache_key(self, kernel_name: str, source_hash: str) -> str:
        return _cache_file.file_name(kernel_name, source_hash)

    def _get_ptx_path(self, cache_key: str) -> Path:
        return self._cache_dir / cache_key

    @property
    def _entries(self) -> dict[str, CacheEntry]:
        # Only for the tests of 0.2, whose cache had an index.
        return {self._get_cache_key(entry.kernel_name, entry.source_hash): entry for entry in self.entries()}

    def _make_folder(self) -> None:
        """Creates the folder, accessible by the user only: machine code that others could change must not run."""
        self._cache_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        tag = self._cache_dir / _TAG
        if not tag.exists():
            tag.write_bytes(_TAG_TEXT)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the folder's lock against other threads and processes. Creates the folder again if it was deleted.

        Raises:
            OSError: The folder is not writable, or its file system does not support locks.
        """
        self._make_folder()
        with open(self._cache_dir / _LOCK, "wb") as lock:
            # `flock` locks belong to the open file, so they also exclude other threads. Closing the file or exiting releases them.
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _read(self, path: Path) -> Entry | None:
        """Reads an entry; removes it if it is corrupt."""
        try:
            return _cache_file.read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            _log.warning("reading %s failed: %s; compiling again", path, error)
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
                    _cache_file.read(path)  # Another process may have replaced it since.
                except CorruptEntryError:
                    path.unlink()
        except FileNotFoundError:
            return
        except OSError as error:
            _log.warning("removing the corrupt cache entry %s failed: %s", path, error)

    def _files(self) -> Iterator[Path]:
        """Yields the files of all entries."""
        try:
            yield from self._cache_dir.glob(f"*{_cache_file.SUFFIX}")
        except OSError as error:
            _log.warning("listing %s failed: %s", self._cache_dir, error)

    def _by_age(self) -> list[tuple[int, int, Path]]:
        """Returns last use (nanoseconds), size and path of each entry, least recently used first."""
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
        """Enforces the limits, and removes temporary files of processes that died while writing. The caller holds the lock."""
        for temporary in self._cache_dir.glob(f"*{_cache_file.TEMPORARY}"):
            temporary.unlink(missing_ok=True)
        aged = self._by_age()
        count, total = len(aged), sum(size for _, size, _ in aged)
        for _, size, path in aged:
            if count <= self._max_entries and total <= self._max_size_bytes:
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
    """Returns the default folder, beside the Rust core's cache of GPU code."""
    if folder := os.environ.get("DOTCOMPUTE_CACHE"):
        return Path(folder) / "python"
    user_cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(user_cache) if user_cache and os.path.isabs(user_cache) else Path.home() / ".cache") / "dotcompute" / "python"


_global_cache: KernelCache | None = None
_cache_lock = threading.Lock()


def get_kernel_cache() -> KernelCache:
    """Returns the cache of the package, in the default folder. The first call opens it."""
    global _global_cache
    with _cache_lock:
        if _global_cache is None:
            _global_cache = KernelCache()
        return _global_cache


def warmup_kernels(kernels: list[Callable[..., Any]]) -> None:
    """Compiles kernels now, so that their first calls do not wait.

    A kernel with a signature is compiled for it. Other kernels are compiled at their first call; for them this loads from the cache what
    earlier runs compiled.

    Args:
        kernels: Functions, decorated or plain.

    Raises:
        KernelCompilationError: A kernel does not compile. The other kernels are still compiled; further failures are added as notes.
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
