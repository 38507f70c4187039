"""Finds the line of the user's file that a compile error refers to."""

from __future__ import annotations

import inspect
import linecache
import os
import re
from collections.abc import Callable
from typing import Any

from pydotcompute.exceptions import KernelCompilationError

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOCATION = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+)')


def compilation_error(name: str, func: Callable[..., Any], cause: Exception) -> KernelCompilationError:
    """Creates the error for a function that does not compile.

    Args:
        name: Name of the kernel.
        func: The user's function.
        cause: Exception of the compiler.

    Returns:
        The error, whose text begins with file and line, to be raised ``from cause``.
    """
    error = KernelCompilationError(name, cause)
    file, line = locate(func, cause)
    source = linecache.getline(file, line).strip()
    where = f"{file}:{line}" + (f": {source}" if source else "")
    message = _COLOUR.sub("", str(cause)).strip() or type(cause).__name__
    error.args = (f"Failed to compile kernel '{name}' at {where}\n{message}",)
    return error


def locate(func: Callable[..., Any], cause: Exception) -> tuple[str, int]:
    """Finds the source location that a compile error refers to.

    Args:
        func: The user's function.
        cause: Exception of the compiler.

    Returns:
        File and line: the last location in the function that the compiler names, the innermost; else the first line of the function.
    """
    code = inspect.unwrap(func).__code__
    last = code.co_firstlineno + sum(1 for _ in _lines_of(func))
    file = os.path.abspath(code.co_filename) if os.path.exists(code.co_filename) else code.co_filename
    found = code.co_firstlineno
    for path, number in _locations(cause):
        if os.path.basename(path) == os.path.basename(file) and code.co_firstlineno <= number <= last:
            found = number
    return file, found


def _locations(cause: Exception) -> list[tuple[str, int]]:
    locations = [(match["file"], int(match["line"])) for match in _LOCATION.finditer(_COLOUR.sub("", str(cause)))]
    loc = getattr(cause, "loc", None)
    if loc is not None and loc.line is not None:
        locations.append((str(loc.filename), int(loc.line)))
    return locations


def _lines_of(func: Callable[..., Any]) -> list[str]:
    try:
        return inspect.getsourcelines(func)[0]
    except (OSError, TypeError):
        return []
