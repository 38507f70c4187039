"""Checks of messages and settings."""

from dataclasses import dataclass
from typing import Any

from pydotcompute.decorators.validators import (
    RuntimeValidator,
    get_validator,
    validate_backpressure_strategy,
    validate_block_size,
    validate_config,
    validate_grid_size,
    validate_message,
    validate_priority,
    validate_queue_size,
)


@validate_message
@dataclass
class Reading:
    celsius: float = 0.0


@validate_config(Reading)
def convert(celsius: float) -> float:
    return celsius * 1.8 + 32


def use() -> None:
    fahrenheit: float = convert(Reading(celsius=20.0).celsius)
    size: int = validate_queue_size(16, name="queue_size")
    grid: tuple[int, ...] = validate_grid_size((1, 2), name="grid_size")
    block: tuple[int, ...] = validate_block_size(32, name="block_size", max_threads=1024)
    priority: int = validate_priority(128)
    strategy: str = validate_backpressure_strategy("reject")
    validator: RuntimeValidator = get_validator(strict=True)
    strict: bool = RuntimeValidator(strict=False).strict
    valid: bool = validator.validate_message_type(Reading)
    config: dict[str, Any] = validator.validate_kernel_config({"queue_size": 16})
    warnings: list[str] = validator.warnings
    validator.clear_warnings()
    print(fahrenheit, size, grid, block, priority, strategy, strict, valid, config, warnings)
