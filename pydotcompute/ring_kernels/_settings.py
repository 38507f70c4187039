"""Settings of asyncio ring kernels, their states, and their dead letters."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from pydotcompute.ring_kernels.queue import BackpressureStrategy

__all__ = ["DeadLetter", "KernelState", "RingKernelConfig", "Supervision"]


class KernelState(Enum):
    """Lifecycle state of a ring kernel."""

    CREATED = auto()
    LAUNCHED = auto()
    ACTIVE = auto()
    DEACTIVATED = auto()
    TERMINATING = auto()
    TERMINATED = auto()
    FAILED = auto()
    """The function raised an exception, and supervision does not restart it."""


@dataclass(frozen=True)
class Supervision:
    """What happens after an exception in a ring kernel's function.

    In any case the current message becomes a dead letter, its caller gets ``KernelError``, and the exception is logged.

    Attributes:
        max_restarts: Maximum number of restarts of the function within the window; 0 for none, ``None`` for no limit. A restarted
            function continues with the queued messages.
        within: Length of the window, in seconds.
        backoff: Delay before the first restart, in seconds; doubles with each further restart.

    Example:
        >>> RingKernelConfig("sensor", supervision=Supervision(max_restarts=3, within=60.0)).supervision.max_restarts
        3
    """

    max_restarts: int | None = 0
    within: float = 60.0
    backoff: float = 0.0


@dataclass(frozen=True)
class DeadLetter:
    """A message that will never be handled.

    Attributes:
        message: The message.
        reason: ``"failed"``: the ring kernel raised while it handled the message, or before. ``"unhandled"``: it ended first.
            ``"dropped"``: a newer message took its place in the full input queue (``drop_oldest``). ``"undelivered"``: it was an output,
            and the connected ring kernel did not accept it.
        cause: The exception, if any.
    """

    message: Any
    reason: str
    cause: BaseException | None = None


@dataclass
class RingKernelConfig:
    """Settings of a ring kernel.

    Attributes:
        kernel_id: Name of the ring kernel.
        grid_size: Number of blocks, on a GPU.
        block_size: Number of threads per block, on a GPU.
        input_queue_size: Capacity of the input queue, in messages.
        output_queue_size: Capacity of the output queue, in messages.
        backpressure_strategy: What a full input queue does: ``"block"``, ``"reject"`` or ``"drop_oldest"``.
        use_fast_queue: Whether the input queue has four priority bands; otherwise it is strictly ordered by priority.
        supervision: What happens after an exception.
        dead_letter_capacity: Number of messages kept for ``dead_letters``: of dropped ones, and of others. All are counted. Large messages
            of a queue that drops the oldest may call for less.
    """

    kernel_id: str
    grid_size: int = 1
    block_size: int = 256
    input_queue_size: int = 4096
    output_queue_size: int = 4096
    backpressure_strategy: str = "block"
    use_fast_queue: bool = True
    supervision: Supervision = field(default_factory=Supervision)
    dead_letter_capacity: int = 1000

    def __post_init__(self) -> None:
        for name in ("grid_size", "block_size", "input_queue_size", "output_queue_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.dead_letter_capacity < 0:
            raise ValueError(f"dead_letter_capacity must be >= 0, got {self.dead_letter_capacity}")
        if self.backpressure_strategy.upper() not in BackpressureStrategy.__members__:
            valid = ", ".join(name.lower() for name in BackpressureStrategy.__members__)
            raise ValueError(f"backpressure_strategy must be one of {valid}, got {self.backpressure_strategy!r}")
