"""Type variables for messages and replies. To a type checker, a class without arguments in brackets takes any messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    # Type checkers know this module, whether it is installed or not. `typing` has defaults from Python 3.13 on.
    from typing_extensions import TypeVar

    TIn = TypeVar("TIn", default=Any)
    TOut = TypeVar("TOut", default=Any)
    TIn_contra = TypeVar("TIn_contra", contravariant=True, default=Any)
    TOut_co = TypeVar("TOut_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    TIn = TypeVar("TIn")
    TOut = TypeVar("TOut")
    TIn_contra = TypeVar("TIn_contra", contravariant=True)
    TOut_co = TypeVar("TOut_co", covariant=True)

__all__ = ["TIn", "TIn_contra", "TOut", "TOut_co"]
