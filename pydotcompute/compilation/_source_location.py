"""Says which line of the user's file a compile error is about."""

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
    """Makes the error for a function that does not compile.

    Args:
        name: The kernel's name.
        func: The user's function.
        cause: What the compiler raised.

    Returns:
        The error, whose text begins with the file and the line, to be raised ``from cause``.
    """
    error = KernelCompilationError(name, cause)
    file, line = locate(func, cause)
    source = linecache.getline(file, line).strip()
    where = f"{file}:{line}" + (f": {source}" if source else "")
    said = _COLOUR.sub("", str(cause)).strip() or type(cause).__name__
    error.args = (f"Failed to compile kernel '{name}' at {where}\n{said}",)
    return error


def locate(func: Callable[..., Any], cause: Exception) -> tuple[str, int]:
    """Finds the place that a compile error is about.

    Args:
        func: The user's function.
        cause: What the compiler raised.

    Returns:
        The file and the line: the one in the function that the compiler names last, which is the innermost, or else the function's first.
    """
    code = inspect.unwrap(func).__code__
    last = code.co_firstlineno + sum(1 for _ in _lines_of(func))
    file = os.path.abspath(code.co_filename) if os.path.exists(code.co_filename) else code.co_filename
    found = code.co_firstlineno
    for place in _locations(cause):
        if os.path.basename(place[0]) == os.path.basename(file) and code.co_firstlineno <= place[1] <= last:
            found = place[1]
    return file, found


def _locations(cause: Exception) -> list[tuple[str, int]]:
    places = [(match["file"], int(match["line"])) for match in _LOCATION.finditer(_COLOUR.sub("", str(cause)))]
    location = getattr(cause, "loc", None)
    if location is not None and location.line is not None:
        places.append((str(location.filename), int(location.line)))
    return places


def _lines_of(func: Callable[..., Any]) -> list[str]:
    try:
        return inspect.getsourcelines(func)[0]
    except (OSError, TypeError):
        return []
