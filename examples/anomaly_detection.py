"""Detect anomalies in data streams with one ring kernel: one state per stream, one message per measurement.

The data is the Numenta Anomaly Benchmark (`--data FOLDER`, by default `../shared/data/nab` beside the project), or synthetic series if it
is not available. The detector keeps a running mean and variance with exponential forgetting. A value many standard deviations away from the
mean is an alert.

    python examples/anomaly_detection.py --series 5
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
from pathlib import Path
from typing import Any

from pydotcompute import RingKernelRuntime, message, ring_kernel
from series import TimeSeries, load

FORGET = 0.02
WARM_UP = 100
THRESHOLD = 6.0


@message
class Measurement:
    """One value of one stream; `index` counts the values from 0."""

    stream: int
    index: int
    value: float


@message
class Score:
    """Deviation of a measurement from the expected value, in standard deviations."""

    stream: int
    index: int
    deviations: float


class Detector:
    """State of one stream: its exponentially weighted mean and variance."""

    def __init__(self) -> None:
        self.seen = 0
        self.mean = 0.0
        self.variance = 0.0

    def score(self, value: float) -> float:
        """Score a value against the earlier values, and update the state.

        Args:
            value: Next value of the stream.

        Returns:
            Deviation from the mean, in standard deviations; 0 during the warm-up.
        """
        deviation = value - self.mean if self.seen else 0.0
        spread = math.sqrt(self.variance)
        deviations = abs(deviation) / spread if self.seen >= WARM_UP and spread > 0 else 0.0
        # Plain mean over the first values; exponential forgetting afterwards.
        weight = max(FORGET, 1 / (self.seen + 1))
        self.mean = self.mean + weight * deviation if self.seen else value
        self.variance = (1 - weight) * (self.variance + weight * deviation * deviation)
        self.seen += 1
        return deviations


@ring_kernel(kernel_id="detector", input_type=Measurement, output_type=Score)
async def detector(ctx: Any) -> None:
    """Score every measurement with the detector of its stream."""
    detectors: dict[int, Detector] = {}
    while not ctx.should_terminate:
        measurement = await ctx.receive()
        stream_detector = detectors.setdefault(measurement.stream, Detector())
        await ctx.send(Score(stream=measurement.stream, index=measurement.index, deviations=stream_detector.score(measurement.value)))


async def detect(streams: list[TimeSeries]) -> list[list[float]]:
    """Send the series through the ring kernel, interleaved as live streams would be.

    Args:
        streams: The series.

    Returns:
        The scores of each series.

    Raises:
        RuntimeError: A score arrives out of order.
    """
    total = sum(len(stream.values) for stream in streams)
    scores: list[list[float]] = [[] for _ in streams]

    async def feed(runtime: RingKernelRuntime) -> None:
        for index in range(max(len(stream.values) for stream in streams)):
            for number, stream in enumerate(streams):
                if index < len(stream.values):
                    await runtime.send("detector", Measurement(stream=number, index=index, value=float(stream.values[index])))

    async def collect(runtime: RingKernelRuntime) -> None:
        for _ in range(total):
            score = await runtime.receive("detector")
            if score.index != len(scores[score.stream]):
                raise RuntimeError(f"stream {score.stream}: expected score {len(scores[score.stream])}, got {score.index}")
            scores[score.stream].append(score.deviations)

    async with RingKernelRuntime() as runtime:
        await runtime.launch("detector")
        await runtime.activate("detector")
        await asyncio.gather(feed(runtime), collect(runtime))
    return scores


def main() -> int:
    """Detect anomalies, compare with the detector called directly, and print the hits in the labelled windows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a folder with NAB's windows.json and CSV files")
    parser.add_argument("--series", type=int, default=5, help="maximum number of series (%(default)s)")
    options = parser.parse_args()
    streams, origin = load(options.data, options.series)
    print(origin)
    scores = asyncio.run(detect(streams))

    for stream, kernel_scores in zip(streams, scores, strict=True):
        reference = Detector()
        if kernel_scores != [reference.score(float(value)) for value in stream.values]:
            print(f"wrong: {stream.name}: the scores of the ring kernel and the detector differ", file=sys.stderr)
            return 1
        alerts = [index for index, deviations in enumerate(kernel_scores) if deviations > THRESHOLD]
        found = sum(any(first <= alert <= last for alert in alerts) for first, last in stream.windows)
        outside = sum(not any(first <= alert <= last for first, last in stream.windows) for alert in alerts)
        print(f"{stream.name}: {len(kernel_scores)} values, {found} of {len(stream.windows)} anomalies found, {outside} alerts elsewhere")
    return 0


if __name__ == "__main__":
    sys.exit(main())
