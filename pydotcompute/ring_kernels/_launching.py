"""What :meth:`RingKernelRuntime.launch` accepts, for type checkers, and the names of functions."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Generic, TypedDict

from pydotcompute.exceptions import InvalidConfigurationError
from pydotcompute.ring_kernels._context import KernelContext
from pydotcompute.ring_kernels._settings import RingKernelConfig
from pydotcompute.ring_kernels._type_variables import TIn, TOut

__all__ = ["KernelFunction", "LaunchSettings", "NativeHandler", "name_of"]

# The function of an asyncio ring kernel, and the handler of a native one.
KernelFunction = Callable[[KernelContext[TIn, TOut]], Any]
NativeHandler = Callable[[Any, Any, TIn], TOut]


class LaunchSettings(TypedDict, Generic[TIn, TOut], total=False):
    """Further parameters of ``launch``."""

    config: RingKernelConfig | None
    input_type: type[TIn] | None
    output_type: type[TOut] | None


def name_of(function: Any) -> str:
    """Returns the name under which a function is launched if no name is given.

    Raises:
        InvalidConfigurationError: It has none.
    """
    meta = getattr(function, "_ring_kernel_meta", None)
    if meta is not None:
        return str(meta["kernel_id"])
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", None)
    if not callable(function) or name is None or name == "<lambda>":
        reason = "it is neither a name nor a function with a name; pass both, as launch('name', function)"
        raise InvalidConfigurationError("kernel_id", function, reason)
    return str(name)
