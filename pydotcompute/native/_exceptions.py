"""Builds Python exceptions from Numba's descriptions of exceptions raised in machine code.

Numba describes an exception by a pickled ``(class, arguments, (function, file, line))``. Arguments known only at run time
follow as machine values, with a function that converts them to Python objects.
"""

from __future__ import annotations

import ctypes
import os
import pickle
from typing import Any

__all__ = ["exception_at"]


class _Description(ctypes.Structure):
    """Numba's ``excinfo_t``."""

    _fields_ = (
        ("pickled", ctypes.c_void_p),
        ("length", ctypes.c_int32),
        ("arguments", ctypes.c_void_p),
        ("unwrap", ctypes.c_void_p),
        ("dynamic", ctypes.c_int32),
    )


def exception_at(address: int) -> tuple[BaseException, str]:
    """Builds the exception described at an address, and frees the description if it is on the heap.

    Args:
        address: Address of the description, as machine code returned it.

    Returns:
        The exception, and the source location that raised it, as ``file:line``.
    """
    description = _Description.from_address(address)
    cls, arguments, location = pickle.loads(ctypes.string_at(description.pickled, description.length))
    arguments = () if arguments is None else arguments
    if description.dynamic > 0:
        # `unwrap` also frees the machine values.
        unwrap = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)(description.unwrap)
        runtime_values = iter(unwrap(description.arguments))
        arguments = tuple(next(runtime_values, argument) if _is_placeholder(argument) else argument for argument in arguments)
        _free_description(address)
    exception: BaseException = cls(*arguments)
    if location is None:
        return exception, "somewhere in compiled code"
    _function, file, line = location
    return exception, f"{os.path.basename(file)}:{line}"


def _is_placeholder(argument: Any) -> bool:
    """Whether an argument is a placeholder for a run-time value. Numba represents these by LLVM constants."""
    return type(argument).__module__.startswith("llvmlite")


def _free_description(address: int) -> None:
    from numba.core.runtime import _nrt_python

    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_nrt_python.c_helpers["Free"])(address)
