"""What has happened in a native ring kernel."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Latency", "NativeStats"]


@dataclass(frozen=True)
class Latency:
    """Percentiles of a time, in seconds, over the messages that were timed.

    Attributes:
        samples: How many messages were timed.
        p50: Half took at most this.
        p99: 99 % took at most this.
        p999: 99.9 % took at most this.
        max: The longest.
    """

    samples: int
    p50: float
    p99: float
    p999: float
    max: float


@dataclass(frozen=True)
class NativeStats:
    """What has happened in a native ring kernel so far.

    Once senders rest, ``sent == handled + dead_letters + queued``.

    Attributes:
        sent: Messages accepted.
        handled: Messages whose handler returned.
        queued: Messages waiting.
        dead_letters: Messages accepted that will never be handled: the handler raised, or the ring kernel ended before.
        rejected: Messages not accepted because the queue was full.
        emitted: Outputs put on the output queue.
        undelivered: Outputs that nobody could take any more.
        replied: Answers given to askers.
        restarts: Times that the state was made anew after an exception.
        queue_time: From sending to the start of handling.
        handle_time: In the handler.
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
