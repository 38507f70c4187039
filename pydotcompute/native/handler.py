"""What a handler declares, read from its signature: the messages it takes and gives, and the state it keeps."""

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

from pydotcompute.exceptions import TypeValidationError
from pydotcompute.native.fields import RecordLayout, initial_record, layout_of

__all__ = ["HandlerContext", "HandlerDeclaration", "declare"]


class HandlerContext:
    """What a handler is told of its message, as its first parameter. There are no instances in Python: handlers read it in machine code.

    Attributes:
        wants_reply: 1 if somebody waits for the answer, else 0.
        priority: The message's priority, 0 to 255.
        sequence: How many messages came before it, since the launch or the last restart.
        thread: The number of this thread in its block; 0 on a processor.
        threads: Threads of the block; 1 on a processor.
        block: The number of this block; 0 on a processor.
        blocks: Blocks there are; 1 on a processor.
    """

    wants_reply: int
    priority: int
    sequence: int
    thread: int
    threads: int
    block: int
    blocks: int


#: The context as compiled handlers read it. The same in ``native/handler.rs`` and, on GPUs, ``context.cuh``.
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
    """A handler and what it declares.

    Attributes:
        func: The function, as the user wrote it.
        name: Its name.
        input: The layout of its messages.
        output: The layout of its answers; ``None`` if it gives none.
        state: The layout of its state; ``None`` if it keeps none.
        initial: The state's record at launch, an array of no dimensions; of no bytes if there is no state.
    """

    func: Callable[..., Any]
    name: str
    input: RecordLayout
    output: RecordLayout | None
    state: RecordLayout | None
    initial: np.ndarray[Any, Any]

    @cached_property
    def layouts(self) -> list[RecordLayout]:
        """All layouts there are."""
        return [layout for layout in (self.input, self.output, self.state) if layout is not None]

    @cached_property
    def literals_are_float32(self) -> bool:
        """Whether literals such as ``0.5`` are ``float32`` in this handler.

        They are where it has ``float32`` fields and no ``float64`` ones: a ``float64`` literal would silently make its whole arithmetic
        ``float64``, which many GPUs do at a fraction of the speed.
        """
        numbers = {f.dtype for layout in self.layouts for f in layout.fields}
        return np.dtype(np.float32) in numbers and np.dtype(np.float64) not in numbers


def declare(
    func: Callable[..., Any],
    *,
    state: Any = None,
    input_type: type[Any] | None = None,
    output_type: type[Any] | None = None,
) -> HandlerDeclaration:
    """Reads a handler's signature.

    Args:
        func: A plain function ``handler(ctx, state, msg: Question) -> Answer``; ``-> None`` or no annotation if it never answers,
            ``-> Answer | None`` if it answers at times.
        state: What its state begins as: see :func:`~pydotcompute.native.fields.initial_record`. ``None`` if it keeps none.
        input_type: The class of its messages, where the annotation cannot be read.
        output_type: The class of its answers, where the annotation cannot be read.

    Returns:
        What it declares.

    Raises:
        TypeValidationError: It is not such a function, or a class cannot be a record.
    """
    func = inspect.unwrap(func)
    name = getattr(func, "__name__", repr(func))
    if not isinstance(func, types.FunctionType) or inspect.iscoroutinefunction(func) or inspect.isgeneratorfunction(func):
        raise TypeValidationError(
            types.FunctionType, type(func), f"{name}: the handler of a native ring kernel is a plain function handler(ctx, state, msg)"
        )
    parameters = list(inspect.signature(func).parameters.values())
    if len(parameters) != 3 or any(p.kind is not p.POSITIONAL_OR_KEYWORD for p in parameters):
        raise TypeValidationError(
            types.FunctionType, type(func), f"{name}: the handler of a native ring kernel has the parameters (ctx, state, msg)"
        )
    taken = input_type or _class_of(func, parameters[2].annotation, f"{name}'s parameter {parameters[2].name!r}")
    if taken is None:
        raise TypeValidationError(
            type, type(None), f"{name}: annotate its third parameter with the class of its messages, as in `msg: Reading`"
        )
    given = output_type or _class_of(func, inspect.signature(func).return_annotation, f"{name}'s return value")
    layout, initial = (None, np.zeros(0, np.uint8)) if state is None else initial_record(state)
    return HandlerDeclaration(func, name, layout_of(taken), None if given is None else layout_of(given), layout, initial)


def _class_of(func: types.FunctionType, annotation: Any, what: str) -> type[Any] | None:
    """The class that an annotation names; for ``Answer | None`` the ``Answer``. ``None`` if there is none."""
    if isinstance(annotation, str):
        annotation = _evaluate(func, annotation, what)
    if annotation in (inspect.Signature.empty, None, type(None)):
        return None
    if get_origin(annotation) in (Union, types.UnionType):
        others = [part for part in get_args(annotation) if part is not type(None)]
        if len(others) == 1:
            annotation = others[0]
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return annotation
    kind = annotation if isinstance(annotation, type) else type(annotation)
    raise TypeValidationError(object, kind, f"{what}, annotated as {annotation!r}: it has to be a class decorated with @message")


def _evaluate(func: types.FunctionType, annotation: str, what: str) -> Any:
    names = {**vars(builtins), **func.__globals__, **inspect.getclosurevars(func).nonlocals}
    try:
        return eval(annotation, names)
    except NameError as error:
        raise TypeValidationError(
            type,
            str,
            f"{what}: its annotation {annotation!r} cannot be read here ({error}); define the class at the top of the module, or pass "
            "input_type= and output_type=",
        ) from error
