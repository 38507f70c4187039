"""Validation of message classes, settings and arguments. Errors name the valid values."""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import is_dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin

from pydotcompute._type_aliases import without_aliases
from pydotcompute.exceptions import InvalidConfigurationError, TypeValidationError

__all__ = [
    "RuntimeValidator",
    "get_validator",
    "validate_backpressure_strategy",
    "validate_block_size",
    "validate_config",
    "validate_grid_size",
    "validate_message",
    "validate_priority",
    "validate_queue_size",
]

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

_MAX_QUEUE_SIZE = 1_000_000
_MAX_DIMENSIONS = 3
_STRATEGIES = ("block", "reject", "drop_oldest")


def validate_message(cls: C) -> C:
    """Class decorator that checks that a class can be a message.

    Args:
        cls: The class.

    Returns:
        The class, unchanged.

    Raises:
        TypeValidationError: The class is not a dataclass.

    Warns:
        UserWarning: The class has no ``serialize`` method, which ``@message`` adds.

    Example:
        >>> from pydotcompute import message
        >>> @validate_message
        ... @message
        ... class Reading:
        ...     celsius: float = 0.0
    """
    if not is_dataclass(cls):
        raise TypeValidationError(expected=type, actual=cls, context="Message must be a dataclass")
    if not hasattr(cls, "serialize"):
        text = f"Message class '{cls.__name__}' has no serialize method, so it cannot be sent to other processes; decorate it with @message"
        warnings.warn(text, stacklevel=2)
    return cls


def validate_config(config_cls: type) -> Callable[[F], F]:
    """Checks a function's arguments at each call, against the fields of the same names of a class.

    Args:
        config_cls: A class with annotated fields, for example ``RingKernelConfig``. Arguments without a field are not checked.

    Returns:
        The decorator. Decorated functions raise ``TypeValidationError`` for an argument that does not match the type of its field.

    Example:
        >>> from pydotcompute.ring_kernels.lifecycle import RingKernelConfig
        >>> @validate_config(RingKernelConfig)
        ... def launch(kernel_id, grid_size=1):
        ...     return kernel_id
        >>> launch("sensor")
        'sensor'
        >>> launch(7)
        Traceback (most recent call last):
        pydotcompute.exceptions.TypeValidationError: Type mismatch in parameter 'kernel_id': expected str, got int
    """

    def decorate(func: F) -> F:
        signature = inspect.signature(func)
        # Evaluated at the first call, when all annotated names are defined.
        fields = functools.cache(lambda: typing.get_type_hints(config_cls))

        @functools.wraps(func)
        def checked(*args: Any, **kwargs: Any) -> Any:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            for name, value in bound.arguments.items():
                expected = fields().get(name, Any)
                if not _has_type(value, expected):
                    raise TypeValidationError(expected=expected, actual=type(value), context=f"parameter '{name}'")
            return func(*args, **kwargs)

        return cast(F, checked)

    return decorate


def _has_type(value: Any, expected: Any) -> bool:
    """Whether a value matches an annotation. Parts that a value does not show, such as a callable's parameters, always match.

    Own code, not typeguard or beartype: the package needs NumPy and msgpack only, and the annotations of settings are plain. typeguard
    answers the same if it is told to check all items, in two to five times the time for a plain value. beartype checks one item of a
    collection, chosen at random, so that a wrong one is an error in some runs only, and refuses an `int` for a `float`.
    """
    expected = without_aliases(expected)
    if expected is Any or isinstance(expected, TypeVar):
        return True
    if expected is None:
        return value is None
    if expected is float:
        return isinstance(value, (int, float))  # As for a type checker.
    origin, args = get_origin(expected), get_args(expected)
    if origin is None:
        return isinstance(value, expected) if isinstance(expected, type) else True
    if origin is Annotated:
        return _has_type(value, args[0])
    if origin in (Union, types.UnionType):
        return any(_has_type(value, arg) for arg in args)
    if origin is Literal:
        return value in args
    if not isinstance(origin, type):
        return True  # A special form, such as `ClassVar[int]`.
    if not isinstance(value, origin):
        return False
    if not args:
        return expected != tuple[()] or value == ()  # Otherwise such as `typing.List`.
    return _has_items(value, origin, args)


_check_type = _has_type  # Only for the tests of 0.2, which import this name.


def _has_items(value: Any, origin: Any, args: tuple[Any, ...]) -> bool:
    """Whether the items of a collection match its annotation. The parameters of other generic classes say nothing about items."""
    if origin is type:
        return args[0] is Any or not isinstance(args[0], type) or issubclass(value, args[0])
    if origin.__module__ not in ("builtins", "collections", "collections.abc"):
        return True
    if origin is tuple and args[1:] != (Ellipsis,):
        return len(value) == len(args) and all(map(_has_type, value, args))
    if issubclass(origin, Mapping) and len(args) == 2:
        return all(_has_type(key, args[0]) and _has_type(item, args[1]) for key, item in value.items())
    # Not an iterator, which would be empty afterwards.
    return not issubclass(origin, Collection) or all(_has_type(item, args[0]) for item in value)


def _integer(value: Any) -> int | None:
    """Converts any integer, including NumPy's, to ``int``. Returns ``None`` for other values and for booleans."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def validate_queue_size(size: int, name: str = "queue_size") -> int:
    """Checks the capacity of a queue.

    Args:
        size: Number of messages, 1 to 1,000,000.
        name: Name of the parameter, for the error.

    Returns:
        The capacity.

    Raises:
        InvalidConfigurationError: The value is not an integer, or out of range.
    """
    number = _integer(size)
    if number is None:
        raise InvalidConfigurationError(name, size, "must be an integer")
    if number < 1:
        raise InvalidConfigurationError(name, size, "must be >= 1")
    if number > _MAX_QUEUE_SIZE:
        raise InvalidConfigurationError(name, size, f"must be <= {_MAX_QUEUE_SIZE:,}")
    return number


def _dimensions(size: Any, name: str) -> tuple[int, ...]:
    """Returns one to three positive integers as a tuple."""
    sizes = size if isinstance(size, tuple) else (size,)
    numbers = [number for number in map(_integer, sizes) if number is not None]
    if not isinstance(size, tuple) and not numbers:
        raise InvalidConfigurationError(name, size, "must be int or tuple of ints")
    if len(numbers) != len(sizes) or any(number < 1 for number in numbers):
        raise InvalidConfigurationError(name, size, "all dimensions must be positive integers")
    if not 1 <= len(numbers) <= _MAX_DIMENSIONS:
        raise InvalidConfigurationError(name, size, f"must have 1 to {_MAX_DIMENSIONS} dimensions (maximum {_MAX_DIMENSIONS} dimensions)")
    return tuple(numbers)


def validate_grid_size(size: int | tuple[int, ...], name: str = "grid_size") -> tuple[int, ...]:
    """Checks the size of a grid.

    Args:
        size: Number of blocks, or one number for each of one to three dimensions.
        name: Name of the parameter, for the error.

    Returns:
        The size, as a tuple.

    Raises:
        InvalidConfigurationError: A number is not a positive integer, or the number of dimensions is not 1 to 3.
    """
    return _dimensions(size, name)


def validate_block_size(size: int | tuple[int, ...], name: str = "block_size", max_threads: int = 1024) -> tuple[int, ...]:
    """Checks the size of a block.

    Args:
        size: Number of threads, or one number for each of one to three dimensions.
        name: Name of the parameter, for the error.
        max_threads: Maximum number of threads per block, over all dimensions.

    Returns:
        The size, as a tuple.

    Raises:
        InvalidConfigurationError: A number is not a positive integer, the number of dimensions is not 1 to 3, or the threads are too many.
    """
    dimensions = _dimensions(size, name)
    threads = 1
    for dimension in dimensions:
        threads *= dimension
    if threads > max_threads:
        raise InvalidConfigurationError(name, size, f"total threads ({threads}) exceeds max ({max_threads})")
    return dimensions


def validate_priority(priority: int) -> int:
    """Checks the priority of a message.

    Args:
        priority: 0 to 255; higher is more urgent.

    Returns:
        The priority.

    Raises:
        InvalidConfigurationError: The value is not an integer, or out of range.
    """
    number = _integer(priority)
    if number is None:
        raise InvalidConfigurationError("priority", priority, "must be an integer")
    if not 0 <= number <= 255:
        raise InvalidConfigurationError("priority", priority, "must be 0-255")
    return number


def validate_backpressure_strategy(strategy: str) -> str:
    """Checks the backpressure strategy of a queue.

    Args:
        strategy: ``"block"``, ``"reject"`` or ``"drop_oldest"``.

    Returns:
        The strategy.

    Raises:
        InvalidConfigurationError: The strategy is unknown.
    """
    if strategy not in _STRATEGIES:
        raise InvalidConfigurationError("backpressure_strategy", strategy, f"must be one of {', '.join(_STRATEGIES)}")
    return strategy


_SETTINGS: dict[str, Callable[[Any], Any]] = {
    "queue_size": validate_queue_size,
    "input_queue_size": functools.partial(validate_queue_size, name="input_queue_size"),
    "output_queue_size": functools.partial(validate_queue_size, name="output_queue_size"),
    "grid_size": validate_grid_size,
    "block_size": validate_block_size,
    "backpressure_strategy": validate_backpressure_strategy,
}


class RuntimeValidator:
    """Checks message classes and settings; raises or collects the violations.

    Example:
        >>> validator = RuntimeValidator(strict=False)
        >>> validator.validate_message_type(int)
        False
        >>> validator.warnings
        ["Message type 'int' should be a dataclass"]
    """

    def __init__(self, strict: bool = True) -> None:
        """Creates a validator.

        Args:
            strict: Whether an invalid message class is an error rather than a warning.
        """
        self._strict = strict
        self._warnings: list[str] = []

    @property
    def strict(self) -> bool:
        """Whether an invalid message class is an error."""
        return self._strict

    @property
    def warnings(self) -> list[str]:
        """The warnings collected so far, as a copy."""
        return self._warnings.copy()

    def validate_message_type(self, cls: type) -> bool:
        """Checks that a class can be a message.

        Args:
            cls: The class.

        Returns:
            Whether it can.

        Raises:
            TypeValidationError: It cannot, and the validator is strict.
        """
        if is_dataclass(cls):
            return True
        text = f"Message type '{cls.__name__}' should be a dataclass"
        if self._strict:
            raise TypeValidationError(type, cls, text)
        self._warnings.append(text)
        return False

    def validate_kernel_config(self, config: dict[str, Any]) -> dict[str, Any]:
        """Checks the settings of a ring kernel.

        Args:
            config: Settings by name.

        Returns:
            The settings, with grid and block sizes as tuples. Unknown settings are passed through.

        Raises:
            InvalidConfigurationError: A setting has an invalid value, whether the validator is strict or not.
        """
        return {name: _SETTINGS[name](value) if name in _SETTINGS else value for name, value in config.items()}

    def clear_warnings(self) -> None:
        """Removes the collected warnings."""
        self._warnings.clear()


@functools.cache
def _shared_validator(strict: bool) -> RuntimeValidator:
    return RuntimeValidator(strict)


def get_validator(strict: bool = True) -> RuntimeValidator:
    """Returns the strict or the lenient validator of this process.

    Args:
        strict: Whether an invalid message class is an error rather than a warning.
    """
    return _shared_validator(bool(strict))
