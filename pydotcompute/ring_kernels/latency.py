"""Distributions of latencies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydotcompute import _core

__all__ = ["LatencySummary"]

_QUANTILES = [0.5, 0.9, 0.99]
# What the extension has a histogram of, by its number there.
TOTAL, QUEUE, HANDLE, ASK = SUBJECTS = range(4)

# The values of one histogram: their sum, and each value with its count.
Counts = tuple[int, list[tuple[int, int]]]


@dataclass(frozen=True)
class LatencySummary:
    """Distribution of a duration, in nanoseconds; zeros without samples. All but the mean have two significant digits.

    The first 1,024 durations are all measured, and then one in eight, which counts eightfold.

    Attributes:
        samples: Number of durations.
        min_ns: Lowest one.
        mean_ns: Mean.
        p50_ns: Median.
        p90_ns: 90th percentile.
        p99_ns: 99th percentile.
        max_ns: Highest one; at most an hour.
    """

    samples: int = 0
    min_ns: int = 0
    mean_ns: float = 0.0
    p50_ns: int = 0
    p90_ns: int = 0
    p99_ns: int = 0
    max_ns: int = 0


def summarize(counters: _core.RingKernelTelemetry, subject: int) -> LatencySummary:
    """Returns a summary of one histogram."""
    samples, total, lowest, highest, (p50, p90, p99) = counters._latency_summary(subject, _QUANTILES)
    return LatencySummary(samples, lowest, total / samples if samples else 0.0, p50, p90, p99, highest)


def counts_of(counters: _core.RingKernelTelemetry) -> list[Counts]:
    """Returns the values of all histograms."""
    return [counters._latency_counts(subject) for subject in SUBJECTS]


def add_counts(counters: _core.RingKernelTelemetry, counts: Iterable[Counts]) -> None:
    """Adds the values that :func:`counts_of` has returned."""
    for subject, (total, values) in enumerate(counts):
        counters._add_latency_counts(subject, total, values)
