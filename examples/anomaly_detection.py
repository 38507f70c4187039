"""Find anomalies in streams as they come: one ring kernel, one state per stream, one message per measurement.

The data is that of the Numenta Anomaly Benchmark where it is (`--data FOLDER`, or `../shared/data/nab` beside the project), and otherwise
made. The detector is a running mean and variance with exponential forgetting: what lies many standard deviations from what it expects
is an alert.

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
    """One value of one stream; `index` counts them from 0."""

    stream: int
    index: int
    value: float


@message
class Score:
    """How far a measurement lay from what was expected, in standard deviations."""

    stream: int
    index: int
    deviations: float


class Detector:
    """What is remembered of one stream: its mean and variance, of late."""

    def __init__(self) -> None:
        self.seen = 0
        self.mean = 0.0
        self.variance = 0.0

    def score(self, value: float) -> float:
        """Score a value against what came before it, and remember it.

        Args:
            value: The next value of the stream.

        Returns:
            Its distance from the mean in standard deviations; 0 while there is too little to compare with.
        """
        away = value - self.mean if self.seen else 0.0
        spread = math.sqrt(self.variance)
        deviations = abs(away) / spread if self.seen >= WARM_UP and spread > 0 else 0.0
        # Over the first values the plain mean; later ones count less, the longer ago they were.
        weight = max(FORGET, 1 / (self.seen + 1))
        self.mean = self.mean + weight * away if self.seen else value
        self.variance = (1 - weight) * (self.variance + weight * away * away)
        self.seen += 1
        return deviations


@ring_kernel(kernel_id="detector", input_type=Measurement, output_type=Score)
async def detector(ctx: Any) -> None:
    """Score every measurement with its stream's own detector."""
    detectors: dict[int, Detector] = {}
    while not ctx.should_terminate:
        measurement = await ctx.receive()
        known = detectors.setdefault(measurement.stream, Detector())
        await ctx.send(Score(stream=measurement.stream, index=measurement.index, deviations=known.score(measurement.value)))


async def detect(streams: list[TimeSeries]) -> list[list[float]]:
    """Send the series through the ring kernel, one value of each in turn, as they would come.

    Args:
        streams: The series.

    Returns:
        The scores of each series.

    Raises:
        RuntimeError: If a score comes out of order.
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
                raise RuntimeError(f"stream {score.stream}: score {score.index} came where {len(scores[score.stream])} was due")
            scores[score.stream].append(score.deviations)

    async with RingKernelRuntime() as runtime:
        await runtime.launch("detector")
        await runtime.activate("detector")
        await asyncio.gather(feed(runtime), collect(runtime))
    return scores


def main() -> int:
    """Detect, compare with the detector called directly, and print what was found in the labelled windows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a folder with NAB's windows.json and CSV files")
    parser.add_argument("--series", type=int, default=5, help="how many series at most (%(default)s)")
    options = parser.parse_args()
    streams, origin = load(options.data, options.series)
    print(origin)
    scores = asyncio.run(detect(streams))

    for stream, of_kernel in zip(streams, scores, strict=True):
        alone = Detector()
        if of_kernel != [alone.score(float(value)) for value in stream.values]:
            print(f"wrong: {stream.name}: the ring kernel's scores are not the detector's", file=sys.stderr)
            return 1
        alerts = [index for index, deviations in enumerate(of_kernel) if deviations > THRESHOLD]
        found = sum(any(first <= alert <= last for alert in alerts) for first, last in stream.windows)
        outside = sum(not any(first <= alert <= last for first, last in stream.windows) for alert in alerts)
        print(f"{stream.name}: {len(of_kernel)} values, {found} of {len(stream.windows)} anomalies found, {outside} alerts elsewhere")
    return 0


if __name__ == "__main__":
    sys.exit(main())
