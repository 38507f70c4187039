"""Validators: accepted values, and errors with the rejected value."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, List, Literal, Tuple  # noqa: UP035 - old annotations are checked too

import numpy as np
import pytest

from pydotcompute.decorators import validate_config, validate_message
from pydotcompute.decorators.validators import (
    RuntimeValidator,
    get_validator,
    validate_backpressure_strategy,
    validate_block_size,
    validate_grid_size,
    validate_priority,
    validate_queue_size,
)
from pydotcompute.exceptions import InvalidConfigurationError, TypeValidationError


@dataclass
class Serializable:
    value: float = 0.0

    def serialize(self) -> bytes:
        return b""


@dataclass
class Plain:
    value: float = 0.0


def test_a_message_must_be_a_dataclass_and_should_serialize() -> None:
    assert validate_message(Serializable) is Serializable
    with pytest.warns(UserWarning, match="'Plain' has no serialize method"):
        assert validate_message(Plain) is Plain
    with pytest.raises(TypeValidationError, match="must be a dataclass") as caught:
        validate_message(int)
    assert (caught.value.expected, caught.value.actual) == (type, int)


@dataclass
class Settings:
    kernel_id: str
    queue_size: int = 4096
    rate: float = 1.0
    label: str | None = None
    shape: tuple[int, ...] = ()
    pair: tuple[int, str] = (0, "")
    limits: dict[str, int] | None = None
    names: list[str] | None = None
    mode: Literal["fast", "exact"] = "fast"
    weights: Sequence[float] = ()
    tags: Set[str] | None = None
    table: Mapping[str, Sequence[int]] | None = None
    recent: deque[int] | None = None
    counts: Counter[str] | None = None
    kind: type[Exception] = ValueError
    values: Iterator[int] | None = None
    old_list: List = ()  # noqa: UP006
    old_tuple: Tuple = ()  # noqa: UP006
    nothing: tuple[()] = ()
    anything: Any = None


@validate_config(Settings)
def launch(kernel_id: str, **settings: object) -> str:
    return kernel_id


@validate_config(Settings)
def configure(
    kernel_id: Any = "k",
    queue_size: Any = 1,
    rate: Any = 1,
    label: Any = None,
    shape: Any = (),
    pair: Any = (0, ""),
    limits: Any = None,
    names: Any = None,
    mode: Any = "fast",
    weights: Any = (),
    tags: Any = None,
    table: Any = None,
    recent: Any = None,
    counts: Any = None,
    kind: Any = ValueError,
    values: Any = None,
    old_list: Any = [],  # noqa: B006
    old_tuple: Any = (),
    nothing: Any = (),
    unknown: Any = None,
) -> Any:
    """Returns its first arguments."""
    return kernel_id, queue_size


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"rate": 2},
        {"label": "x"},
        {"shape": (1, 2, 3)},
        {"pair": (1, "a")},
        {"limits": {"a": 1}},
        {"names": ["a"]},
        {"mode": "exact"},
        {"weights": [1, 2.5]},
        {"weights": range(3)},
        {"tags": {"a"}},
        {"table": {"a": (1, 2)}},
        {"recent": deque([1])},
        {"counts": Counter("aab")},
        {"kind": KeyError},
        {"values": iter("any")},
        {"old_list": [1, "a"]},
        {"old_tuple": (1, "a")},
        {"unknown": object()},
    ],
)
def test_arguments_of_the_declared_types_pass(arguments: dict[str, Any]) -> None:
    assert configure(**arguments) == ("k", 1)
    assert configure.__name__ == "configure" and configure.__doc__ == "Returns its first arguments."


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_id": 1},
        {"queue_size": "large"},
        {"rate": "1"},
        {"label": 1},
        {"shape": (1, "2")},
        {"pair": (1, 2)},
        {"pair": (1, "a", 2)},
        {"limits": {"a": "b"}},
        {"names": ["a", 1]},
        {"names": "a"},
        {"mode": "slow"},
        {"weights": [1.0, "2"]},
        {"weights": "12"},
        {"tags": {1}},
        {"table": {"a": (1, "2")}},
        {"recent": deque(["1"])},
        {"counts": Counter([1])},
        {"kind": int},
        {"values": [1]},
        {"old_list": (1,)},
        {"old_tuple": [1]},
        {"nothing": (1,)},
    ],
)
def test_errors_name_an_argument_of_another_type(arguments: dict[str, Any]) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(TypeValidationError, match=f"parameter '{name}'") as caught:
        configure(**arguments)
    assert caught.value.actual is type(value)
    assert caught.value.context == f"parameter '{name}'"


def test_a_wrong_call_is_still_a_type_error() -> None:
    assert launch("k", other=1) == "k"
    with pytest.raises(TypeError, match="kernel_id"):
        launch()  # type: ignore[call-arg]


def test_queue_sizes() -> None:
    assert [validate_queue_size(1), validate_queue_size(1_000_000)] == [1, 1_000_000]
    size = validate_queue_size(np.int64(7))  # type: ignore[arg-type]
    assert size == 7 and type(size) is int
    for wrong, reason in [
        (0, ">= 1"),
        (-1, ">= 1"),
        (1_000_001, "<= 1,000,000"),
        (1.5, "an integer"),
        ("9", "an integer"),
        (True, "an integer"),
    ]:
        with pytest.raises(InvalidConfigurationError, match=reason) as caught:
            validate_queue_size(wrong, "input_queue_size")  # type: ignore[arg-type]
        assert (caught.value.parameter, caught.value.value) == ("input_queue_size", wrong)


def test_grids_and_blocks() -> None:
    assert validate_grid_size(4) == (4,)
    assert validate_grid_size((4, 2, 1)) == (4, 2, 1)
    assert validate_block_size(1024) == (1024,)
    assert validate_block_size((32, 32)) == (32, 32)
    assert validate_block_size(2048, max_threads=2048) == (2048,)
    for validate in (validate_grid_size, validate_block_size):
        for wrong in (0, -1, (), (1, 0), (1, 1.5), (1, 1, 1, 1), [1, 2], "4", None):
            with pytest.raises(InvalidConfigurationError) as caught:
                validate(wrong)  # type: ignore[arg-type]
            assert caught.value.value == wrong
    with pytest.raises(InvalidConfigurationError, match=r"total threads \(1056\) exceeds max \(1024\)"):
        validate_block_size((33, 32))


def test_priorities() -> None:
    assert [validate_priority(0), validate_priority(255)] == [0, 255]
    for wrong in (-1, 256, 1.0, "high", None):
        with pytest.raises(InvalidConfigurationError, match="priority"):
            validate_priority(wrong)  # type: ignore[arg-type]


def test_backpressure_strategies() -> None:
    assert [validate_backpressure_strategy(name) for name in ("block", "reject", "drop_oldest")] == ["block", "reject", "drop_oldest"]
    with pytest.raises(InvalidConfigurationError, match="must be one of block, reject, drop_oldest") as caught:
        validate_backpressure_strategy("drop")
    assert caught.value.parameter == "backpressure_strategy"


def test_a_strict_validator_raises_and_a_lenient_one_collects() -> None:
    strict, lenient = RuntimeValidator(), RuntimeValidator(strict=False)
    assert strict.strict and not lenient.strict
    assert strict.validate_message_type(Plain) and lenient.validate_message_type(Plain)
    with pytest.raises(TypeValidationError):
        strict.validate_message_type(int)
    assert lenient.validate_message_type(int) is False
    found = lenient.warnings
    assert found == ["Message type 'int' should be a dataclass"]
    found.clear()
    assert lenient.warnings
    lenient.clear_warnings()
    assert lenient.warnings == []


def test_settings_of_a_ring_kernel_are_checked_and_returned() -> None:
    config = {"queue_size": 10, "grid_size": 2, "block_size": (8, 8), "backpressure_strategy": "reject", "label": "x"}
    checked = get_validator().validate_kernel_config(config)
    assert checked == {"queue_size": 10, "grid_size": (2,), "block_size": (8, 8), "backpressure_strategy": "reject", "label": "x"}
    for name in ("queue_size", "input_queue_size", "output_queue_size"):
        with pytest.raises(InvalidConfigurationError) as caught:
            get_validator(strict=False).validate_kernel_config({name: 0})
        assert caught.value.parameter == name


def test_validators_are_shared_per_strictness() -> None:
    assert get_validator() is get_validator(True)
    assert get_validator(False) is not get_validator(True)
    assert not get_validator(False).strict
