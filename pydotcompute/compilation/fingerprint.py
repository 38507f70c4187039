"""A hash of everything that affects how a function is compiled.

Numba's own cache considers only a function's file and bytecode. This hash also covers the values from outside that Numba freezes into
the machine code: module constants, variables of enclosing functions, the functions that it calls, and theirs.
"""

from __future__ import annotations

import hashlib
import importlib.util
import pickle
import platform
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fingerprint:
    """Hash of a function.

    Attributes:
        digest: 32 hexadecimal digits.
        lasting: Whether another process computes the same hash. If not, the function refers to an object without a stable value, and the
            compiled code must not be cached on disk.
    """

    digest: str
    lasting: bool


def fingerprint(func: Callable[..., Any], *settings: object) -> Fingerprint:
    """Hashes a function, everything that it refers to, the versions of Python and Numba, and compiler settings.

    Args:
        func: A plain function.
        settings: Further values that affect compilation: strings, numbers, ``None``.

    Returns:
        The hash; the same in every process if it is lasting.
    """
    digest = _Digest()
    digest.add((sys.version_info[:3], platform.machine(), _version("numba"), _version("numba-cuda"), np.__version__, settings))
    digest.add(func)
    return Fingerprint(digest.hash.hexdigest()[:32], digest.lasting)


@cache
def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class _Digest:
    """Feeds values into a hash, each with its kind and length, so that different values never have the same encoding."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()
        self.lasting = True
        self._seen: dict[int, int] = {}

    def add(self, value: Any) -> None:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            self._add_tagged(type(value).__name__, repr(value))
        elif isinstance(value, (tuple, list, frozenset, set, dict)):
            self._add_collection(value)
        elif isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
            self._add_tagged("array", f"{value.dtype.descr} {value.shape}")
            self.hash.update(value.tobytes())
        elif isinstance(value, np.dtype):
            self._add_tagged("dtype", f"{value.descr} {value.itemsize} {value.alignment} {value.isalignedstruct}")
        elif isinstance(value, types.CodeType):
            self._add_code(value)
        elif isinstance(value, types.ModuleType):
            self._add_tagged("module", value.__name__)
        elif isinstance(value, type):
            self._add_tagged("class", f"{value.__module__}.{value.__qualname__}")
        else:
            self._add_object(value)

    def _add_tagged(self, kind: str, text: str) -> None:
        self.hash.update(f"{kind}:{len(text)}:{text};".encode())

    def _add_collection(self, value: Any) -> None:
        if isinstance(value, dict):
            items = list(value.items())
        else:
            # The iteration order of a set differs between processes.
            items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else list(value)
        self._add_tagged(type(value).__name__, str(len(items)))
        for item in items:
            self.add(item)

    def _add_object(self, value: Any) -> None:
        """Adds a function, a wrapper of one, or any other object."""
        if id(value) in self._seen:  # Functions may be mutually recursive.
            self._add_tagged("seen", str(self._seen[id(value)]))
            return
        self._seen[id(value)] = len(self._seen)
        inner = getattr(value, "py_func", None) or getattr(value, "_original_func", None)
        if isinstance(inner, types.FunctionType):
            self._add_tagged("compiled", repr(sorted(getattr(value, "targetoptions", {}).items())))
            self.add(inner)
        elif isinstance(value, types.FunctionType):
            self._add_function(value)
        elif isinstance(value, types.BuiltinFunctionType):
            self._add_tagged("builtin", f"{value.__module__}.{value.__qualname__}")
        else:
            self._add_opaque(value)

    def _add_function(self, func: types.FunctionType) -> None:
        self._add_tagged("function", func.__name__)
        if _is_library_module(func.__module__):
            # The library's version is part of the hash; following its functions would read half of NumPy.
            return
        self.add(func.__code__)
        self.add(func.__defaults__)
        self.add(func.__kwdefaults__)
        self.add(tuple(cell.cell_contents for cell in func.__closure__ or ()))
        for name in sorted(_names(func.__code__)):
            if name in func.__globals__:
                self._add_tagged("global", name)
                self._add_global(func.__globals__[name], func.__code__)

    def _add_global(self, value: Any, code: types.CodeType) -> None:
        self.add(value)
        if isinstance(value, types.ModuleType) and not _is_library_module(value.__name__):
            # Numba freezes `settings.RATE` like a constant of the function's own module.
            for name in sorted(_names(code) & vars(value).keys()):
                self._add_tagged("attribute", name)
                self.add(vars(value)[name])

    def _add_code(self, code: types.CodeType) -> None:
        self._add_tagged("code", f"{code.co_names} {code.co_varnames} {code.co_freevars} {code.co_flags} {code.co_argcount}")
        self.hash.update(code.co_code)
        for constant in code.co_consts:
            self.add(constant)

    def _add_opaque(self, value: Any) -> None:
        try:
            data = pickle.dumps(value, protocol=5)
        except Exception:
            # Pickling may raise anything. The object then has no value that is stable across processes.
            self.lasting = False
            self._add_tagged("identity", str(id(value)))
            return
        self._add_tagged("pickled", str(len(data)))
        self.hash.update(data)


def _names(code: types.CodeType) -> set[str]:
    """Returns all names in a function and its nested functions."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


@cache
def _is_library_module(module: str | None) -> bool:
    """Whether a module is part of Python or of a library whose version is hashed."""
    top = (module or "").partition(".")[0]
    return top in {"numpy", "numba", "llvmlite", "pydotcompute"} or top in sys.stdlib_module_names - {"__main__"}


def is_installed(package: str) -> bool:
    """Whether a package can be imported, determined without importing it."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None
