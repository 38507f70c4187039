"""Says what is wrong with a handler that does not compile, and on which line."""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator
from typing import Any

from pydotcompute.compilation._source_location import compilation_error
from pydotcompute.exceptions import CompilationError, KernelCompilationError
from pydotcompute.native.handler import HandlerDeclaration

__all__ = ["check_returned", "uncompilable"]


class _NoSuchField(CompilationError):
    """A handler uses a field that no record has. Numba, asked for one, raises ``KeyError`` and does not say where.

    Attributes:
        loc: Where, as Numba's own errors say it.
    """

    def __init__(self, text: str, file: str, line: int) -> None:
        super().__init__(text)
        self.loc = types.SimpleNamespace(filename=file, line=line)


def uncompilable(declared: HandlerDeclaration, error: Exception) -> KernelCompilationError:
    """The error for a handler that does not compile.

    Args:
        declared: The handler.
        error: What the compiler raised.

    Returns:
        The error, to be raised ``from error``; its text begins with the user's file and line.
    """
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        line = next((line for name, line in _attributes(declared.func.__code__) if name == error.args[0]), None)
        if line is not None:
            there_are = "; ".join(f"{layout.cls.__name__}: {', '.join(f.name for f in layout.fields)}" for layout in declared.layouts)
            error = _NoSuchField(f"no field is called {error.args[0]!r}; there are {there_are}", declared.func.__code__.co_filename, line)
    return compilation_error(declared.name, declared.func, error)


def _attributes(code: types.CodeType) -> Iterator[tuple[str, int]]:
    """The attributes that a function reads and writes, with their lines."""
    line = code.co_firstlineno
    for instruction in dis.get_instructions(code):
        position = instruction.positions
        line = position.lineno if position is not None and position.lineno is not None else line
        if instruction.opname in ("LOAD_ATTR", "STORE_ATTR", "LOAD_METHOD"):
            yield str(instruction.argval), line


def check_returned(declared: HandlerDeclaration, returned: Any) -> bool:
    """Compares what a compiled handler returns, a type of Numba's, with what it declares.

    Returns:
        Whether it returns a message, always or at times.

    Raises:
        CompilationError: It returns something else than its annotation says.
    """
    if str(returned) == "none":
        return False
    value = getattr(returned, "type", returned) if type(returned).__name__ == "Optional" else returned
    cls = None if declared.output is None else declared.output.cls
    names = tuple(f.name for f in declared.output.fields) if declared.output is not None else ()
    if cls is not None and tuple(getattr(value, "fields", ())) == names:
        return True
    wanted = "nothing" if cls is None else f"a {cls.__name__}"
    raise CompilationError(f"{declared.name} returns {value}, and is annotated to return {wanted}; return a message of that class, or None")
