"""Performance targets of the workloads, as set before the implementation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """Maximum median in microseconds, and minimum speedup over 0.2.0 in the same run."""

    microseconds: float
    times: float | None = None

    def evaluate(self, microseconds: float, times: float | None = None) -> str:
        """Say whether a result reaches the target.

        Args:
            microseconds: The median.
            times: Speedup over 0.2.0, if measured.

        Returns:
            Each measured part of the target, with "met" or "NOT MET".
        """
        parts = [f"≤ {self.microseconds} µs: {'met' if microseconds <= self.microseconds else 'NOT MET'}"]
        if self.times is not None and times is not None:
            parts.append(f"≥ {self.times:g} ×: {'met' if times >= self.times else 'NOT MET'}")
        return ", ".join(parts)


TARGETS = {
    "ask": Target(2.0, 6.0),
    "ask_timeout": Target(2.0, 6.0),
    # 500,000 round trips per second.
    "ask_rate": Target(2.0),
    "threaded_ask": Target(10.0),
    "fast_queue": Target(0.3),
    "fast_spsc_queue": Target(0.1),
    "serialise": Target(0.5),
    "deserialise": Target(0.8),
    "cross_process": Target(0.5),
}
