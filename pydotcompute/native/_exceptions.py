"""Exceptions that machine code has raised: from Numba's description of one to the exception.

Numba describes an exception by a pickled ``(class, arguments, (function, file, line))``. Arguments that were only known when it was raised
follow as machine values, with a function that makes Python's objects of them.
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
    """Makes the exception that is described at an address. A description on the heap is freed.

    Args:
        address: Where the description is: machine code has just left it, or it was kept since.

    Returns:
        The exception, and where it was raised, as ``file:line``.
    """
    described = _Description.from_address(address)
    cls, arguments, place = pickle.loads(ctypes.string_at(described.pickled, described.length))
    arguments = () if arguments is None else arguments
    if described.dynamic > 0:
        # Frees the values as it makes objects of them.
        unwrap = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p)(described.unwrap)
        values = iter(unwrap(described.arguments))
        arguments = tuple(next(values, argument) if _is_open(argument) else argument for argument in arguments)
        _free(address)
    exception: BaseException = cls(*arguments)
    if place is None:
        return exception, "somewhere in compiled code"
    _function, file, line = place
    return exception, f"{os.path.basename(file)}:{line}"


def _is_open(argument: Any) -> bool:
    """Whether an argument stands for one that is only known at run time: Numba puts a constant of LLVM's in its place."""
    return type(argument).__module__.startswith("llvmlite")


def _free(address: int) -> None:
    from numba.core.runtime import _nrt_python

    ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_nrt_python.c_helpers["Free"])(address)
