"""Which functions a ring kernel can run."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from pydotcompute.exceptions import InvalidConfigurationError

__all__ = ["check_function"]


def check_function(function: Any) -> None:
    """Raises ``InvalidConfigurationError`` if a ring kernel cannot run this function."""
    if not callable(function):
        raise InvalidConfigurationError("kernel_func", function, "it is not callable; pass an `async def` function that takes the context")
    inner = inspect.unwrap(function)
    while isinstance(inner, functools.partial):
        inner = inspect.unwrap(inner.func)
    is_async = inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(getattr(type(inner), "__call__", None))  # noqa: B004
    # A lambda may return a coroutine.
    if not is_async and getattr(inner, "__name__", "") != "<lambda>":
        reason = "it is a plain function, which would block the event loop; define it with `async def`, or run it with ThreadedRingKernel"
        raise InvalidConfigurationError("kernel_func", function, reason)
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        reason = f"it must accept one argument, the context: {error}"
        raise InvalidConfigurationError("kernel_func", function, reason) from error
    except ValueError:
        pass  # It has no signature, like functions of some extensions.
