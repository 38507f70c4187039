"""Type aliases in annotations. Code that reads annotations at run time sees the alias, not what it stands for."""

from __future__ import annotations

import sys
import typing
from typing import Any, get_args, get_origin

__all__ = ["without_aliases"]

# The class of `type X = ...`, which Python has from 3.12 on.
_ALIASES: tuple[Any, ...] = (getattr(typing, "TypeAliasType"),) if sys.version_info >= (3, 12) else ()  # noqa: B009


def without_aliases(annotation: Any) -> Any:
    """Returns what an annotation stands for, if it is a type alias; ``numpy.typing.NDArray`` is one from NumPy 2.5 on.

    Args:
        annotation: An annotation, such as ``Celsius`` after ``type Celsius = float``. Aliases inside it are kept.
    """
    while True:
        arguments = get_args(annotation)
        alias: Any = get_origin(annotation) if arguments else annotation
        if not isinstance(alias, _ALIASES):
            return annotation
        annotation = alias.__value__[arguments] if arguments else alias.__value__
