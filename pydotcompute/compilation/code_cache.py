"""Compiled code that this process compiles or loads once, and that other processes find on disk."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pydotcompute.compilation.cache import get_kernel_cache
from pydotcompute.compilation.fingerprint import Fingerprint

__all__ = ["Artifact", "CodeCache"]

_log = logging.getLogger(__name__)

_C = TypeVar("_C")


@dataclass(frozen=True)
class Artifact(Generic[_C]):
    """Result of a compilation.

    Attributes:
        code: The compiled code.
        data: Its form on disk; ``None`` if other processes cannot use it.
    """

    code: _C
    data: bytes | None


class CodeCache(Generic[_C]):
    """Cache in memory and on disk of the code of functions, by fingerprint. Thread-safe.

    Code stays in memory until the process ends, as Numba's does.
    """

    def __init__(self, load: Callable[[bytes], _C | None]) -> None:
        """Creates an empty cache.

        Args:
            load: Creates code from its form on disk; returns ``None`` if this process cannot use it.
        """
        self._load = load
        self._lock = threading.RLock()
        # With the objects that the fingerprint identifies by their address, which must not be used again for another.
        self._codes: dict[str, tuple[_C, tuple[object, ...]]] = {}
        _caches.add(self)

    def get(self, name: str, fingerprint: Fingerprint, compile_code: Callable[[], Artifact[_C]]) -> _C:
        """Returns the code of a function. Compiles it if neither this process nor, on this machine, an earlier one has.

        Args:
            name: Name of the function.
            fingerprint: Its hash, which must cover everything that the code depends on.
            compile_code: Compiles the function; called at most once per fingerprint, unless it raises.

        Returns:
            The code.
        """
        with self._lock:
            cached = self._codes.get(fingerprint.digest)
            if cached is not None:
                return cached[0]
            code = self._from_disk(name, fingerprint) if fingerprint.lasting else None
            if code is None:
                artifact = compile_code()
                code = artifact.code
                if not fingerprint.lasting or artifact.data is None:
                    _log.info("%r refers to memory of this process, so its code is not cached on disk", name)
                else:
                    get_kernel_cache().store(name, fingerprint.digest, artifact.data)
            self._codes[fingerprint.digest] = (code, fingerprint.identified)
            return code

    def clear(self) -> None:
        """Forgets the code in memory; code in use and the disk cache are kept."""
        with self._lock:
            self._codes.clear()

    def _from_disk(self, name: str, fingerprint: Fingerprint) -> _C | None:
        data = get_kernel_cache().load(name, fingerprint.digest)
        if data is None:
            return None
        try:
            return self._load(data)
        except Exception as error:
            # The checksum was correct, so a different version of some library wrote the entry.
            _log.warning("loading the cached code of %r failed: %r; compiling again", name, error)
            return None


_caches: weakref.WeakSet[CodeCache[Any]] = weakref.WeakSet()


def _renew_locks() -> None:
    """Frees the locks in a forked child: a thread of the parent, which the child lacks, may have held them. Code stays valid."""
    for one in _caches:
        one._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)
