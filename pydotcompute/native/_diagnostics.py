"""Reports why a handler does not compile, with the source line."""

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
    """A handler uses a field that no record has. Numba raises ``KeyError`` for it, without a source location.

    Attributes:
        loc: Source location, in the form of Numba's own errors.
    """

    def __init__(self, text: str, file: str, line: int) -> None:
        super().__init__(text)
        self.loc = types.SimpleNamespace(filename=file, line=line)


def uncompilable(declared: HandlerDeclaration, error: Exception) -> KernelCompilationError:
    """Returns the error for a handler that does not compile.

    Args:
        declared: The handler.
        error: Exception of the compiler.

    Returns:
        The error, to be raised ``from error``; its text begins with the user's file and line.
    """
    if isinstance(error, KeyError) and error.args and isinstance(error.args[0], str):
        line = next((line for name, line in _attributes(declared.func.__code__) if name == error.args[0]), None)
        if line is not None:
            fields = "; ".join(f"{layout.cls.__name__}: {', '.join(f.name for f in layout.fields)}" for layout in declared.layouts)
            error = _NoSuchField(f"no field is named {error.args[0]!r}; the fields are {fields}", declared.func.__code__.co_filename, line)
    return compilation_error(declared.name, declared.func, error)


def _attributes(code: types.CodeType) -> Iterator[tuple[str, int]]:
    """Yields the attributes that a function reads and writes, with their lines."""
    line = code.co_firstlineno
    for instruction in dis.get_instructions(code):
        position = instruction.positions
        line = position.lineno if position is not None and position.lineno is not None else line
        if instruction.opname in ("LOAD_ATTR", "STORE_ATTR", "LOAD_METHOD"):
            yield str(instruction.argval), line


def check_returned(declared: HandlerDeclaration, returned: Any) -> bool:
    """Compares the Numba type that a compiled handler returns with its declaration.

    Returns:
        Whether the handler returns a message in at least one case.

    Raises:
        CompilationError: The returned type differs from the annotation.
    """
    if str(returned) == "none":
        return False
    value = getattr(returned, "type", returned) if type(returned).__name__ == "Optional" else returned
    cls = None if declared.output is None else declared.output.cls
    names = tuple(f.name for f in declared.output.fields) if declared.output is not None else ()
    if cls is not None and tuple(getattr(value, "fields", ())) == names:
        return True
    expected = "nothing" if cls is None else f"a {cls.__name__}"
    raise CompilationError(
        f"{declared.name} returns {value}, but is annotated to return {expected}; return a message of that class, or None"
    )
