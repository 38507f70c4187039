"""From the user's handler to functions that Numba compiles: the same for processors and GPUs.

Three things differ between the handler as Python would run it and as it is compiled:

- The class of its answers is replaced by a function that makes a tuple of the fields, each of the type that was declared.
- Plain functions that it calls are compiled too.
- ``float`` literals become ``float32`` where all its fields are.

Around it comes the *entry*, which has the form that both loops call: ``entry(ctx, state, msg, reply) -> int32``, where 1 says that the
reply was filled in.
"""

from __future__ import annotations

import dataclasses
import types
from collections import namedtuple
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from pydotcompute.native.fields import RecordField, RecordLayout
from pydotcompute.native.handler import HandlerDeclaration

__all__ = ["entry_source", "shape_text", "translate"]

Compile = Callable[[types.FunctionType], Any]


def translate(declared: HandlerDeclaration, compile_function: Compile) -> types.FunctionType:
    """The handler as it is compiled.

    Args:
        declared: The handler.
        compile_function: Makes a function that compiled code can call.

    Returns:
        A function with the user's code, file and line numbers, whose globals and closure are replaced where they have to be.
    """
    made: dict[Any, Any] = {}
    if declared.output is not None:
        made[declared.output.cls] = compile_function(_constructor(declared.output))
    return _rebind(declared.func, made, compile_function, declared.literals_are_float32)


def _rebind(func: Any, made: dict[Any, Any], compile_function: Compile, narrow: bool) -> types.FunctionType:
    """A copy of a function whose classes and functions are those of compiled code. ``made`` has those that there are."""

    def replaced(value: Any) -> Any:
        if isinstance(value, type) and value in made:
            return made[value]
        if not isinstance(value, types.FunctionType) or value.__module__.partition(".")[0] in ("numpy", "numba", "math"):
            return value
        if value not in made:
            # Entered first: a function may call itself, which Numba resolves by its name.
            made[value] = value
            made[value] = compile_function(_rebind(value, made, compile_function, narrow))
        return made[value]

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
    """The code with its ``float`` literals as ``float32``."""

    def narrow(constant: Any) -> Any:
        if type(constant) is float:
            return np.float32(constant)
        if type(constant) is tuple:
            return tuple(narrow(item) for item in constant)
        return constant

    return code.replace(co_consts=tuple(narrow(constant) for constant in code.co_consts))


def _constructor(layout: RecordLayout) -> types.FunctionType:
    """A function with the signature of the class's constructor that makes a tuple of the fields."""
    defaults = {f.name: f.default for f in dataclasses.fields(layout.cls)}
    required, optional, values = [], [], []
    scope: dict[str, Any] = {"np": np, "_record": namedtuple(layout.cls.__name__, [f.name for f in layout.fields])}
    for f in layout.fields:
        cast = "bool" if f.dtype == np.bool_ else f"np.{f.dtype.name}"
        values.append(f.name if f.shape else f"{cast}({f.name})")
        default = defaults[f.name]
        if isinstance(default, (bool, int, float, np.generic)) and not f.shape:
            # Once one has a default, those that follow have to be given by name or have one too.
            optional.append(f"{f.name}={default!r}" if not isinstance(default, np.generic) else f"{f.name}={default.item()!r}")
        else:
            required.append((f.name, bool(optional)))
    if any(after for _, after in required):
        optional = [part.partition("=")[0] for part in optional]
    parameters = ", ".join([f.name for f in layout.fields] if any(a for _, a in required) else [n for n, _ in required] + optional)
    name = layout.cls.__name__
    exec(compile(f"def {name}({parameters}):\n    return _record({', '.join(values)})\n", f"<{name}>", "exec"), scope)
    function: types.FunctionType = scope[name]
    return function


def shape_text(declared: HandlerDeclaration, f: RecordField) -> str:
    """What is said of an answer whose array has another shape than its field."""
    assert declared.output is not None
    return f"the array for {declared.output.cls.__name__}.{f.name} has another shape than {f.shape}"


def entry_source(
    declared: HandlerDeclaration, answers: bool, complain: Callable[[str], str] = lambda text: f"raise ValueError({text!r})"
) -> str:
    """The text of the entry. It calls ``handler``, which its globals have to hold.

    Args:
        declared: The handler.
        answers: Whether the compiled handler returns a message, always or at times.
        complain: Makes the statement for an array of another shape than its field.
    """
    call = f"handler(ctx, {'None' if declared.state is None else 'state'}, msg)"
    if not answers or declared.output is None:
        return f"def entry(ctx, state, msg, reply):\n    {call}\n    return 0\n"
    lines = ["def entry(ctx, state, msg, reply):", f"    value = {call}", "    if value is None:", "        return 0"]
    for f in declared.output.fields:
        indices = "".join(f"[i{depth}]" for depth in range(len(f.shape)))
        if f.shape:
            lines += [f"    if value.{f.name}.shape != {f.shape}:", f"        {complain(shape_text(declared, f))}"]
        lines += [f"    {'    ' * depth}for i{depth} in range({count}):" for depth, count in enumerate(f.shape)]
        if len(f.shape) > 1:
            indices = "[" + ", ".join(f"i{depth}" for depth in range(len(f.shape))) + "]"
        lines.append(f"    {'    ' * len(f.shape)}reply.{f.name}{indices} = value.{f.name}{indices}")
    return "\n".join([*lines, "    return 1", ""])
