"""Reads what a handler declares in its signature: its messages, its replies and its state."""

from __future__ import annotations

import builtins
import dataclasses
import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Union, get_args, get_origin

import numpy as np

from pydotcompute._type_aliases import without_aliases
from pydotcompute.exceptions import TypeValidationError
from pydotcompute.native.fields import RecordLayout, initial_record, layout_of

__all__ = ["HandlerContext", "HandlerDeclaration", "declare"]


class HandlerContext:
    """First parameter of a handler: describes the current message. Machine code reads it; Python never has an instance.

    Attributes:
        wants_reply: 1 if the caller waits for a reply, else 0.
        priority: Priority of the message, 0 to 255.
        sequence: Number of messages handled before this one, since launch or the last restart.
        thread: Index of this thread in its block; 0 on a CPU.
        threads: Number of threads in the block; 1 on a CPU.
        block: Index of this block; 0 on a CPU.
        blocks: Number of blocks; 1 on a CPU.
    """

    wants_reply: int
    priority: int
    sequence: int
    thread: int
    threads: int
    block: int
    blocks: int


#: Layout of the context in compiled handlers. Must match ``native/handler.rs`` and, on GPUs, ``context.cuh``.
CONTEXT_DTYPE = np.dtype(
    [
        ("thread", np.uint32),
        ("threads", np.uint32),
        ("block", np.uint32),
        ("blocks", np.uint32),
        ("wants_reply", np.uint32),
        ("priority", np.uint32),
        ("sequence", np.uint64),
    ],
    align=True,
)


@dataclass(frozen=True, eq=False)
class HandlerDeclaration:
    """A handler and the types that it declares.

    Attributes:
        func: The user's function.
        name: Name of the function.
        input: Layout of the messages.
        output: Layout of the replies; ``None`` if the handler never replies.
        state: Layout of the state; ``None`` if the handler is stateless.
        initial: Record of the state at launch, a zero-dimensional array; an empty array if the handler is stateless.
        fast_math: Whether floating-point arithmetic on a GPU may be fused and approximated.
    """

    func: Callable[..., Any]
    name: str
    input: RecordLayout
    output: RecordLayout | None
    state: RecordLayout | None
    initial: np.ndarray[Any, Any]
    fast_math: bool = False

    @cached_property
    def layouts(self) -> list[RecordLayout]:
        """The layouts of messages, replies and state, as far as the handler has them."""
        return [layout for layout in (self.input, self.output, self.state) if layout is not None]

    @cached_property
    def literals_are_float32(self) -> bool:
        """Whether literals such as ``0.5`` are ``float32`` in this handler.

        They are if it has ``float32`` fields and no ``float64`` fields. A ``float64`` literal would silently promote all arithmetic to
        ``float64``, which many GPUs execute at a fraction of the speed.
        """
        numbers = {f.dtype for layout in self.layouts for f in layout.fields}
        return np.dtype(np.float32) in numbers and np.dtype(np.float64) not in numbers


def declare(
    func: Callable[..., Any],
    *,
    state: Any = None,
    input_type: type[Any] | None = None,
    output_type: type[Any] | None = None,
    fast_math: bool = False,
) -> HandlerDeclaration:
    """Reads the signature of a handler.

    Args:
        func: A plain function ``handler(ctx, state, msg: Request) -> Reply``. Annotate it ``-> None``, or leave the annotation out, if it
            never replies; annotate it ``-> Reply | None`` if it replies to some messages only.
        state: Initial state: see :func:`~pydotcompute.native.fields.initial_record`. ``None`` for a stateless handler.
        input_type: Class of the messages, if the annotation cannot be evaluated.
        output_type: Class of the replies, if the annotation cannot be evaluated.
        fast_math: Whether floating-point arithmetic on a GPU may be fused and approximated.

    Returns:
        The declaration.

    Raises:
        TypeValidationError: The function is not a handler, or a class cannot be stored as a record.
    """
    func = inspect.unwrap(func)
    name = getattr(func, "__name__", repr(func))
    if not isinstance(func, types.FunctionType) or inspect.iscoroutinefunction(func) or inspect.isgeneratorfunction(func):
        raise TypeValidationError(
            types.FunctionType, type(func), f"{name}: the handler of a native ring kernel must be a plain function handler(ctx, state, msg)"
        )
    parameters = list(inspect.signature(func).parameters.values())
    if len(parameters) != 3 or any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters):
        raise TypeValidationError(
            types.FunctionType, type(func), f"{name}: the handler of a native ring kernel must have the parameters (ctx, state, msg)"
        )
    input_cls = input_type or _class_of(func, parameters[2].annotation, f"{name}'s parameter {parameters[2].name!r}")
    if input_cls is None:
        raise TypeValidationError(
            type, type(None), f"{name}: annotate the third parameter with the class of the messages, as in `msg: Reading`"
        )
    output_cls = output_type or _class_of(func, inspect.signature(func).return_annotation, f"{name}'s return value")
    layout, initial = (None, np.zeros(0, np.uint8)) if state is None else initial_record(state)
    output = None if output_cls is None else layout_of(output_cls)
    return HandlerDeclaration(func, name, layout_of(input_cls), output, layout, initial, fast_math)


def _class_of(func: types.FunctionType, annotation: Any, what: str) -> type[Any] | None:
    """Returns the class that an annotation names; ``Reply`` for ``Reply | None``. ``None`` if there is no annotation."""
    if isinstance(annotation, str):
        annotation = _evaluate(func, annotation, what)
    annotation = without_aliases(annotation)
    if annotation in (inspect.Signature.empty, None, type(None)):
        return None
    if get_origin(annotation) in (Union, types.UnionType):
        others = [part for part in get_args(annotation) if part is not type(None)]
        if len(others) == 1:
            annotation = others[0]
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return annotation
    kind = annotation if isinstance(annotation, type) else type(annotation)
    raise TypeValidationError(object, kind, f"{what}, annotated as {annotation!r}: expected a class decorated with @message")


def _evaluate(func: types.FunctionType, annotation: str, what: str) -> Any:
    names = {**vars(builtins), **func.__globals__, **inspect.getclosurevars(func).nonlocals}
    try:
        return eval(annotation, names)
    except NameError as error:
        raise TypeValidationError(
            type,
            str,
            f"{what}: the annotation {annotation!r} cannot be evaluated ({error}); define the class at module level, or pass "
            "input_type= and output_type=",
        ) from error
