"""Rewrites a user's handler into functions that Numba can compile, for CPUs and GPUs alike.

The compiled handler differs from the Python handler in three ways:

- A function that builds a tuple of the fields, each of its declared type, replaces the class of the replies.
- Plain functions that the handler calls are compiled too.
- ``float`` literals become ``float32`` if all floating-point fields are ``float32``.

The *entry* wraps the handler in the signature that both loops call: ``entry(ctx, state, msg, reply) -> int32``. It returns 1 if it filled
in the reply.
"""

from __future__ import annotations

import dataclasses
import math
import types
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pydotcompute.native.fields import RecordField, RecordLayout
from pydotcompute.native.handler import HandlerDeclaration

__all__ = ["constructor_source", "entry_source", "shape_error", "translate"]

Compile = Callable[[types.FunctionType], Any]


def translate(declared: HandlerDeclaration, compile_function: Compile) -> types.FunctionType:
    """Returns the handler in the form that Numba compiles.

    Args:
        declared: The handler.
        compile_function: Returns a function that compiled code can call.

    Returns:
        A function with the user's code, file and line numbers, in which globals and closure cells are replaced where needed.
    """
    replacements: dict[Any, Any] = {}
    if declared.output is not None:
        replacements[declared.output.cls] = compile_function(_constructor(declared.output))
    return _rebind(declared.func, replacements, compile_function, declared.literals_are_float32)


def _rebind(func: Any, replacements: dict[Any, Any], compile_function: Compile, narrow: bool) -> types.FunctionType:
    """Copies a function and replaces its classes and functions by compiled ones. ``replacements`` caches those made so far."""

    def replaced(value: Any) -> Any:
        if isinstance(value, type) and value in replacements:
            return replacements[value]
        if not isinstance(value, types.FunctionType) or value.__module__.partition(".")[0] in ("numpy", "numba", "math"):
            return value
        if value not in replacements:
            # Register before compiling: a recursive function refers to itself, and Numba resolves that reference by name.
            replacements[value] = value
            replacements[value] = compile_function(_rebind(value, replacements, compile_function, narrow))
        return replacements[value]

    names = set(_names(func.__code__))
    scope = dict(func.__globals__)
    scope.update({name: replaced(scope[name]) for name in names if name in scope and scope[name] is not func})
    code = _narrowed(func.__code__) if narrow else func.__code__
    closure = None
    if func.__closure__ is not None:
        closure = tuple(types.CellType(replaced(cell.cell_contents)) for cell in func.__closure__)
    copy = types.FunctionType(code, scope, func.__name__, func.__defaults__, closure)
    copy.__kwdefaults__ = func.__kwdefaults__
    copy.__module__ = func.__module__
    copy.__qualname__ = func.__qualname__
    return copy


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _narrowed(code: types.CodeType) -> types.CodeType:
    """Returns the code object with its ``float`` literals as ``float32``."""

    def narrow(constant: Any) -> Any:
        if type(constant) is float:
            return np.float32(constant)
        if type(constant) is tuple:
            return tuple(narrow(item) for item in constant)
        return constant

    return code.replace(co_consts=tuple(narrow(constant) for constant in code.co_consts))


def _constructor(layout: RecordLayout) -> types.FunctionType:
    """Returns a function with the signature of the class's constructor that builds a tuple of the fields."""
    name = layout.cls.__name__
    record = namedtuple(name, [f.name for f in layout.fields])  # type: ignore[misc]
    scope: dict[str, Any] = {"np": np, "nan": math.nan, "inf": math.inf, "_record": record}
    exec(compile(constructor_source(layout), f"<{name}>", "exec"), scope)
    function: types.FunctionType = scope[name]
    return function


def constructor_source(layout: RecordLayout) -> str:
    """Returns the source of the function that replaces the class of the replies. It contains the fields, their types and defaults."""
    defaults = {f.name: f.default for f in dataclasses.fields(layout.cls)}
    required, optional, values = [], [], []
    for f in layout.fields:
        cast = "bool" if f.dtype == np.bool_ else f"np.{f.dtype.name}"
        values.append(f.name if f.shape else f"{cast}({f.name})")
        default = defaults[f.name]
        if isinstance(default, (bool, int, float, np.generic)) and not f.shape:
            # After a parameter with a default, each parameter is keyword-only or has a default too.
            optional.append(f"{f.name}={default!r}" if not isinstance(default, np.generic) else f"{f.name}={default.item()!r}")
        else:
            required.append((f.name, bool(optional)))
    if any(after for _, after in required):
        optional = [part.partition("=")[0] for part in optional]
    parameters = ", ".join([f.name for f in layout.fields] if any(a for _, a in required) else [n for n, _ in required] + optional)
    return f"def {layout.cls.__name__}({parameters}):\n    return _record({', '.join(values)})\n"


def shape_error(declared: HandlerDeclaration, f: RecordField) -> str:
    """Returns the error text for a reply array whose shape differs from its field."""
    assert declared.output is not None
    return f"the array for {declared.output.cls.__name__}.{f.name} does not have the declared shape {f.shape}"


def entry_source(
    declared: HandlerDeclaration, replies: bool, raise_statement: Callable[[str], str] = lambda text: f"raise ValueError({text!r})"
) -> str:
    """Returns the source of the entry. The source calls ``handler``, which must be in its globals.

    Args:
        declared: The handler.
        replies: Whether the compiled handler returns a message in at least one case.
        raise_statement: Returns the statement that reports an array whose shape differs from its field.
    """
    call = f"handler(ctx, {'None' if declared.state is None else 'state'}, msg)"
    if not replies or declared.output is None:
        return f"def entry(ctx, state, msg, reply):\n    {call}\n    return 0\n"
    lines = ["def entry(ctx, state, msg, reply):", f"    value = {call}", "    if value is None:", "        return 0"]
    for f in declared.output.fields:
        indices = "".join(f"[i{depth}]" for depth in range(len(f.shape)))
        if f.shape:
            lines += [f"    if value.{f.name}.shape != {f.shape}:", f"        {raise_statement(shape_error(declared, f))}"]
        lines += [f"    {'    ' * depth}for i{depth} in range({count}):" for depth, count in enumerate(f.shape)]
        if len(f.shape) > 1:
            indices = "[" + ", ".join(f"i{depth}" for depth in range(len(f.shape))) + "]"
        lines.append(f"    {'    ' * len(f.shape)}reply.{f.name}{indices} = value.{f.name}{indices}")
    return "\n".join([*lines, "    return 1", ""])
