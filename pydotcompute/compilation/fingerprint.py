"""A hash of everything that affects how a function is compiled.

Numba's own cache considers only a function's file and bytecode. This hash also covers the values from outside that Numba freezes into
the machine code: module constants, variables of enclosing functions, the functions that it calls, and theirs.
"""

from __future__ import annotations

import dis
import enum
import hashlib
import importlib.util
import os
import pickle
import platform
import sys
import sysconfig
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Fingerprint:
    """Hash of a function.

    Attributes:
        digest: 32 hexadecimal digits.
        lasting: Whether another process computes the same hash. If not, the function refers to an object without a stable value, and the
            compiled code must not be cached on disk.
        identified: The objects without a stable value, which the hash covers by identity. A cache in memory must keep them alive, so
            that no other object gets the identity of one.
    """

    digest: str
    lasting: bool
    identified: tuple[object, ...] = field(default=(), repr=False, compare=False)


def fingerprint(func: Callable[..., Any], *settings: object) -> Fingerprint:
    """Hashes a function, everything that it refers to, the versions of Python and Numba, and compiler settings.

    Args:
        func: A plain function.
        settings: Further values that affect compilation: strings, numbers, NumPy types, ``None``.

    Returns:
        The hash; the same in every process if it is lasting.
    """
    digest = _Digest()
    digest.add((_platform(), np.__version__, settings))
    # The function itself, even if its module has the name of a library.
    digest.add_root(func)
    return Fingerprint(digest.hash.hexdigest()[:32], digest.lasting, tuple(digest.identified))


@cache
def _platform() -> tuple[object, ...]:
    """Returns the versions of everything that turns a function into machine code."""
    versions = tuple(_version(package) for package in ("pydotcompute", "numba", "numba-cuda", "llvmlite"))
    # Packages that register further types and functions with Numba.
    extensions = sorted((point.value, point.dist.version if point.dist else "") for point in entry_points(group="numba_extensions"))
    return (*sys.version_info[:3], sys.implementation.cache_tag, sys.abiflags, platform.machine(), *versions, tuple(extensions))


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
        self.identified: list[object] = []
        self.lasting = True
        self._seen: dict[int, int] = {}

    def add_root(self, func: Callable[..., Any]) -> None:
        """Adds the function that is compiled."""
        if isinstance(func, types.FunctionType):
            self._seen[id(func)] = len(self._seen)
            self._add_code_and_references(func)
        else:
            self.add(func)

    def add(self, value: Any) -> None:
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            self._add_tagged(type(value).__name__, repr(value))
        elif isinstance(value, (tuple, list, frozenset, set, dict)):
            self._add_collection(value)
        elif isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
            self.add(value.dtype)
            self._add_tagged("array", str(value.shape))
            self.hash.update(value.tobytes())
        elif isinstance(value, np.dtype):
            self._add_dtype(value)
        elif isinstance(value, types.CodeType):
            self._add_code(value)
        elif isinstance(value, types.ModuleType):
            self._add_tagged("module", value.__name__)
        elif isinstance(value, type):
            self._add_class(value)
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
        # The fields of a named tuple have names.
        self._add_tagged(type(value).__name__, f"{len(items)} {getattr(value, '_fields', '')}")
        for item in items:
            self.add(item)

    def _add_dtype(self, dtype: np.dtype[Any]) -> None:
        if dtype.subdtype is not None:
            element, shape = dtype.subdtype
            self._add_tagged("subarray", str(shape))
            self.add(element)
            return
        self._add_tagged("dtype", f"{dtype.str} {dtype.itemsize} {dtype.alignment} {dtype.isalignedstruct}")
        for name in dtype.names or ():
            inner, offset = dtype.fields[name][:2]  # type: ignore[index]
            self._add_tagged("field", f"{offset} {name}")
            self.add(inner)

    def _add_class(self, cls: type[Any]) -> None:
        self._add_tagged("class", f"{cls.__module__}.{cls.__qualname__}")
        if issubclass(cls, enum.Enum):
            for name, member in cls.__members__.items():
                self._add_tagged("member", name)
                self.add(member.value)
        elif issubclass(cls, tuple):
            self._add_tagged("fields", repr(getattr(cls, "_fields", None)))
        elif type(cls).__module__.partition(".")[0] == "numba" or any(base.__module__.startswith("numba.") for base in cls.__mro__[1:]):
            # Numba compiles the methods of such a class.
            self._add_identity(cls)
        elif issubclass(cls, BaseException) and (cls.__module__ == "__main__" or "<locals>" in cls.__qualname__):
            # Numba stores a copy of the class in the machine code, which another process would raise instead of its own class.
            self._add_identity(cls)

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
        elif isinstance(value, (types.BuiltinFunctionType, np.ufunc)):
            self._add_builtin(value)
        else:
            self._add_opaque(value)

    def _add_builtin(self, value: Any) -> None:
        module = getattr(value, "__module__", None) or "numpy"
        self._add_tagged("builtin", f"{module}.{value.__name__}")
        if not _is_library_module(module):
            # Its code is not visible, and the version of its library is not part of the hash.
            self._add_identity(value)

    def _add_function(self, func: types.FunctionType) -> None:
        if _is_library_module(func.__module__):
            # The library's version is part of the hash; following its functions would read half of NumPy.
            self._add_tagged("library", f"{func.__module__}.{func.__qualname__}")
        else:
            self._add_code_and_references(func)

    def _add_code_and_references(self, func: types.FunctionType) -> None:
        self._add_tagged("function", func.__name__)
        self.add(func.__code__)
        self.add(func.__defaults__)
        self.add(func.__kwdefaults__)
        for name, cell in zip(func.__code__.co_freevars, func.__closure__ or (), strict=True):
            self._add_tagged("variable", name)
            self._add_reference(_content(cell), func.__code__)
        for name in _global_names(func.__code__):
            if name in func.__globals__:
                self._add_tagged("global", name)
                self._add_reference(func.__globals__[name], func.__code__)

    def _add_reference(self, value: Any, code: types.CodeType) -> None:
        """Adds what a variable of a function refers to."""
        self.add(value)
        if isinstance(value, types.ModuleType) and not _is_library_module(value.__name__) and id(value) not in self._seen:
            self._seen[id(value)] = len(self._seen)
            # Numba freezes `settings.RATE` and `package.settings.RATE` like a constant of the function's own module.
            for name in sorted(_names(code) & vars(value).keys()):
                self._add_tagged("attribute", name)
                self._add_reference(vars(value)[name], code)
            del self._seen[id(value)]

    def _add_code(self, code: types.CodeType) -> None:
        self._add_tagged("code", f"{code.co_names} {code.co_varnames} {code.co_freevars} {code.co_flags} {code.co_argcount}")
        # An exception names the line that raised it; the machine code contains file and line.
        self._add_tagged("file", f"{os.path.basename(code.co_filename)}:{code.co_firstlineno}")
        for part in (code.co_linetable, code.co_exceptiontable, code.co_code):
            self._add_tagged("bytes", str(len(part)))
            self.hash.update(part)
        for constant in code.co_consts:
            self.add(constant)

    def _add_opaque(self, value: Any) -> None:
        try:
            data = pickle.dumps(value, protocol=5)
        except Exception:
            # Pickling may raise anything. The object then has no value that is stable across processes.
            self._add_identity(value)
            return
        self._add_tagged("pickled", str(len(data)))
        self.hash.update(data)

    def _add_identity(self, value: object) -> None:
        self.lasting = False
        self.identified.append(value)
        self._add_tagged("identity", str(id(value)))


def _content(cell: types.CellType) -> Any:
    """Returns the value of a variable of an enclosing function; a text if it has none yet."""
    try:
        return cell.cell_contents
    except ValueError:
        return "<unbound>"


def _names(code: types.CodeType) -> set[str]:
    """Returns all names in a function and its nested functions, those of attributes included."""
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names |= _names(constant)
    return names


@lru_cache(maxsize=1024)
def _global_names(code: types.CodeType) -> tuple[str, ...]:
    """Returns the names of the global variables that a function and its nested functions read, sorted."""
    names = {str(instruction.argval) for instruction in dis.get_instructions(code) if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(_global_names(constant))
    return tuple(sorted(names))


@cache
def _is_library_module(module: str | None) -> bool:
    """Whether a module is part of Python or of a library whose version is hashed."""
    top = (module or "").partition(".")[0]
    if top in {"numpy", "numba", "llvmlite", "pydotcompute"}:
        return True
    if top == "__main__" or top not in sys.stdlib_module_names:
        return False
    # A module of the user may have the name of a module of Python.
    file = getattr(sys.modules.get(top), "__file__", None)
    folders = tuple(sysconfig.get_path(which) + os.sep for which in ("stdlib", "platstdlib"))
    return file is None or (file.startswith(folders) and "-packages" not in file)


def is_installed(package: str) -> bool:
    """Whether a package can be imported, determined without importing it."""
    if package in sys.modules:
        return sys.modules[package] is not None
    return importlib.util.find_spec(package) is not None
