"""The anomaly detector of the benchmark: z-scores of each value against the window of values before it.

A stream's state is its last `window` values and their sums. A value's score is its distance from the mean of the window, in standard
deviations of the window. It is 0 while fewer than `WARM_UP` values are known. Values are relative to the first of their stream, so that
sums of squares stay exact enough; a floor on the deviation keeps constant streams from dividing by zero.

Two forms compute the same scores: a loop, plain or compiled by Numba (`LoopScorer`), and array operations of NumPy or CuPy
(`ArrayScorer`). `_anomaly_kernels.py` has the loop behind messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from _harness import CLOCK

WARM_UP = 100
# Smallest standard deviation, as a part of the first value (or of 1): the resolution of the sensor.
FLOOR = 1e-3

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """Scores of one batch.

    Attributes:
        scores: One score per value, in order.
        elapsed_ns: Duration, from the batch in the host's memory until its scores were there, in nanoseconds.
        transfer_ns: Part of it that passed the batch and its scores to and from where they are computed; `None` if the scorer cannot tell.
    """

    scores: Values
    elapsed_ns: int
    transfer_ns: int | None = 0


class Scorer(Protocol):
    """Something that scores the batches of several streams, and keeps their state."""

    def score_all(self, batches: Sequence[tuple[int, Values]]) -> list[Scored]:
        """Score batches, each the number of a stream and its next values, one after the other."""
        ...

    def close(self) -> None:
        """Release what the scorer holds."""
        ...


def score_value(ring: Any, sums: Any, value: float) -> float:
    """Score the next value of a stream, and update the stream's state. Also part of the native handlers, so it takes no objects.

    Args:
        ring: The last values relative to the first, of shape (window,); updated.
        sums: Number of values seen, first value, sum and sum of squares of `ring`, of shape (4,); updated.
        value: The value.

    Returns:
        The score.
    """
    window = len(ring)
    seen = int(sums[0])
    if seen == 0:
        sums[1] = value
    relative = value - sums[1]
    known = min(seen, window)
    score = 0.0
    if known >= WARM_UP:
        mean = sums[2] / known
        variance = max(sums[3] / known - mean * mean, 0.0)
        floor = FLOOR * max(abs(sums[1]), 1.0)
        score = abs(relative - mean) / math.sqrt(variance + floor * floor)
    place = seen % window
    leaving = ring[place]
    sums[2] += relative - leaving
    sums[3] += relative * relative - leaving * leaving
    ring[place] = relative
    sums[0] = seen + 1
    return score


def plain_loop() -> Callable[..., Values]:
    """Return the loop over a batch in plain Python: `loop(values, ring, sums)`, which returns one score per value."""
    return lambda values, ring, sums: np.array([score_value(ring, sums, value) for value in values.tolist()])


@lru_cache(maxsize=1)
def compiled_loop() -> Callable[..., Values]:
    """Return the loop over a batch compiled by Numba; it runs without the GIL.

    Raises:
        ImportError: Numba is not installed.
    """
    from numba import njit

    score = njit(nogil=True)(score_value)

    def score_batch(values: Values, ring: Values, sums: Values) -> Values:
        scores = np.empty(len(values))
        for index in range(len(values)):
            scores[index] = score(ring, sums, values[index])
        return scores

    compiled: Callable[..., Values] = njit(nogil=True)(score_batch)
    return compiled


class OneByOne:
    """Base of the scorers whose `score` can be called directly."""

    def score(self, stream: int, values: Values) -> Scored:
        """Score the next values of a stream."""
        raise NotImplementedError

    def score_all(self, batches: Sequence[tuple[int, Values]]) -> list[Scored]:
        """Score batches one after the other."""
        return [self.score(stream, values) for stream, values in batches]

    def close(self) -> None:
        """Release nothing, by default."""


class LoopScorer(OneByOne):
    """A loop over the values, plain or compiled."""

    def __init__(self, streams: int, window: int, loop: Callable[..., Values]) -> None:
        self._rings, self._sums = np.zeros((streams, window)), np.zeros((streams, 4))
        self._loop = loop

    def score(self, stream: int, values: Values) -> Scored:
        """Score the next values of a stream."""
        start = CLOCK()
        scores = self._loop(values, self._rings[stream], self._sums[stream])
        return Scored(scores, CLOCK() - start)


def score_arrays(arrays: ModuleType, known_values: Any, values: Any, seen: int, window: int, floor: float) -> Any:
    """Score a batch with array operations.

    Args:
        arrays: `numpy` or `cupy`.
        known_values: The `window` values before the batch, relative to the first; zeros before the first value.
        values: The batch, relative to the first value.
        seen: Number of values before the batch.
        window: Length of the window.
        floor: Smallest standard deviation.

    Returns:
        One score per value.
    """
    count = len(values)
    leaving = arrays.concatenate([known_values, values])[: count - 1]
    entering = values[:-1]
    sums = arrays.empty(count)
    squares = arrays.empty(count)
    sums[0], squares[0] = known_values.sum(), (known_values * known_values).sum()
    sums[1:] = sums[0] + arrays.cumsum(entering - leaving)
    squares[1:] = squares[0] + arrays.cumsum(entering * entering - leaving * leaving)
    known = arrays.minimum(seen + arrays.arange(count), window)
    divisor = arrays.maximum(known, 1)
    mean = sums / divisor
    variance = arrays.maximum(squares / divisor - mean * mean, 0.0)
    scores = arrays.abs(values - mean) / arrays.sqrt(variance + floor * floor)
    return arrays.where(known >= WARM_UP, scores, 0.0)


class ArrayScorer(OneByOne):
    """Array operations of NumPy or CuPy. The window stays where the arrays are, or is sent with every batch."""

    def __init__(self, streams: int, window: int, arrays: ModuleType, resident: bool) -> None:
        """Create the scorer.

        Args:
            streams: Number of streams.
            window: Length of the window.
            arrays: `numpy` or `cupy`.
            resident: Whether the window stays on the device between the batches.
        """
        self._arrays, self._window = arrays, window
        self._home = arrays if resident else np
        self._windows = self._home.zeros((streams, window))
        self._seen, self._first = [0] * streams, [0.0] * streams

    def _synchronize(self) -> None:
        if self._arrays is not np:
            self._arrays.cuda.get_current_stream().synchronize()

    def score(self, stream: int, values: Values) -> Scored:
        """Score the next values of a stream, and measure the copies to and from the device."""
        arrays = self._arrays
        start = CLOCK()
        if self._seen[stream] == 0:
            self._first[stream] = float(values[0])
        first, seen = self._first[stream], self._seen[stream]
        copying = CLOCK()
        window, batch = arrays.asarray(self._windows[stream]), arrays.asarray(values)
        self._synchronize()
        copied = CLOCK()
        relative = batch - first
        scores = score_arrays(arrays, window, relative, seen, self._window, FLOOR * max(abs(first), 1.0))
        self._append(stream, relative if self._home is arrays else values - first)
        self._seen[stream] = seen + len(values)
        self._synchronize()
        computed = CLOCK()
        on_host = scores if arrays is np else arrays.asnumpy(scores)
        end = CLOCK()
        return Scored(on_host, end - start, 0 if arrays is np else copied - copying + end - computed)

    def _append(self, stream: int, values: Any) -> None:
        """Move the window forward: its last values are the newest."""
        window = self._windows[stream]
        if len(values) >= self._window:
            window[:] = values[-self._window :]
        else:
            window[: -len(values)] = window[len(values) :].copy()
            window[-len(values) :] = values
