"""What the workloads have to reach, as it was set before they were written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A median of at most so many microseconds, and at least so many times the speed of 0.2.0 in the same run."""

    microseconds: float
    times: float | None = None

    def evaluate(self, microseconds: float, times: float | None = None) -> str:
        """Say whether a result reaches the goal.

        Args:
            microseconds: The median.
            times: How many times faster than 0.2.0 it was, if that was measured.

        Returns:
            Each part of the goal that was measured, with "met" or "NOT MET".
        """
        parts = [f"≤ {self.microseconds} µs: {'met' if microseconds <= self.microseconds else 'NOT MET'}"]
        if self.times is not None and times is not None:
            parts.append(f"≥ {self.times:g} ×: {'met' if times >= self.times else 'NOT MET'}")
        return ", ".join(parts)


TARGETS = {
    "ask": Target(2.0, 6.0),
    "ask_timeout": Target(2.0, 6.0),
    # 500,000 round trips a second.
    "ask_rate": Target(2.0),
    "threaded_ask": Target(10.0),
    "fast_queue": Target(0.3),
    "fast_spsc_queue": Target(0.1),
    "serialise": Target(0.5),
    "deserialise": Target(0.8),
    "cross_process": Target(0.5),
}
