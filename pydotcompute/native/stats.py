"""Statistics of a native ring kernel."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Latency", "NativeStats"]


@dataclass(frozen=True)
class Latency:
    """Percentiles of a duration, in seconds, over the measured messages.

    Attributes:
        samples: Number of measured messages.
        p50: Median.
        p99: 99th percentile.
        p999: 99.9th percentile.
        max: Maximum.
    """

    samples: int
    p50: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class NativeStats:
    """Counters of a native ring kernel since launch.

    While no sender is active, ``sent == handled + dead_letters + queued``.

    Attributes:
        sent: Messages accepted.
        handled: Messages whose handler returned.
        queued: Messages in the queue.
        dead_letters: Messages accepted that will never be handled: the handler raised, or the ring kernel ended first.
        rejected: Messages not accepted because the queue was full.
        emitted: Outputs put on the output queue.
        undelivered: Outputs that could not be delivered because no receiver was left.
        replied: Replies delivered to callers.
        restarts: Number of times the state was rebuilt after an exception.
        queue_time: Time from sending to the start of handling.
        handle_time: Time in the handler.
    """

    sent: int
    handled: int
    queued: int
    dead_letters: int
    rejected: int
    emitted: int
    undelivered: int
    replied: int
    restarts: int
    queue_time: Latency
    handle_time: Latency
