"""A pipeline of ring kernels: parse lines, compute a running average per sensor, report the sensors that are too hot.

Each stage is an actor with bounded queues, so that a slow stage slows the stages before it and memory use stays bounded. Invalid lines do
not stop the pipeline; they are counted separately.

    python examples/streaming_pipeline.py --lines 20000
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from typing import Any

from pydotcompute import RingKernelRuntime, message, ring_kernel

LIMIT_CELSIUS = 30.0
HOT = 3


@message
class Line:
    """An input line."""

    text: str


@message
class Reading:
    """A parsed line; `sensor` is -1 for an invalid line."""

    sensor: int
    celsius: float


@message
class Average:
    """Average of a sensor so far."""

    sensor: int
    celsius: float
    readings: int


@ring_kernel(kernel_id="parse", input_type=Line, output_type=Reading, queue_size=256)
async def parse(ctx: Any) -> None:
    """Parse lines into readings."""
    while not ctx.should_terminate:
        line = await ctx.receive()
        sensor, _, celsius = line.text.partition(" ")
        try:
            await ctx.send(Reading(sensor=int(sensor), celsius=float(celsius)))
        except ValueError:
            await ctx.send(Reading(sensor=-1, celsius=0.0))


@ring_kernel(kernel_id="average", input_type=Reading, output_type=Average, queue_size=256)
async def average(ctx: Any) -> None:
    """Maintain sum and count per sensor. This state is private to the ring kernel."""
    sums: dict[int, tuple[float, int]] = {}
    while not ctx.should_terminate:
        reading = await ctx.receive()
        total, count = sums.get(reading.sensor, (0.0, 0))
        total, count = total + reading.celsius, count + 1
        sums[reading.sensor] = total, count
        await ctx.send(Average(sensor=reading.sensor, celsius=total / count, readings=count))


def lines(count: int) -> list[str]:
    """Generate lines of eight sensors at about 20 °C, one of them at about 40 °C; every hundredth line is invalid."""
    numbers = random.Random(1)
    result = []
    for index in range(count):
        sensor = index % 8
        celsius = numbers.gauss(40.0 if sensor == HOT else 20.0, 2.0)
        result.append("?" if index % 100 == 99 else f"{sensor} {celsius:.2f}")
    return result


async def forward(runtime: RingKernelRuntime, source: str, target: str, count: int) -> None:
    """Forward the outputs of one ring kernel to the next."""
    for _ in range(count):
        await runtime.send(target, await runtime.receive(source))


async def run(texts: list[str]) -> dict[int, Average]:
    """Send all lines through the pipeline.

    Args:
        texts: The lines.

    Returns:
        The last average of every sensor.
    """
    latest: dict[int, Average] = {}

    async def feed() -> None:
        for text in texts:
            await runtime.send("parse", Line(text=text))

    async def collect() -> None:
        for _ in texts:
            result = await runtime.receive("average")
            latest[result.sensor] = result

    async with RingKernelRuntime() as runtime:
        for name in ("parse", "average"):
            await runtime.launch(name)
            await runtime.activate(name)
        await asyncio.gather(feed(), forward(runtime, "parse", "average", len(texts)), collect())
    return latest


def main() -> int:
    """Run the pipeline, and verify its averages against the input."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--lines", type=int, default=20_000, help="number of lines (%(default)s)")
    texts = lines(parser.parse_args().lines)
    latest = asyncio.run(run(texts))

    invalid = latest.pop(-1, None)
    for sensor, result in sorted(latest.items()):
        values = [float(text.split()[1]) for text in texts if text.startswith(f"{sensor} ")]
        if result.readings != len(values) or abs(result.celsius - sum(values) / len(values)) > 1e-9:
            print(f"wrong: sensor {sensor} averages {result.celsius} over {result.readings} readings", file=sys.stderr)
            return 1
        warning = "  too hot" if result.celsius > LIMIT_CELSIUS else ""
        print(f"sensor {sensor}: {result.celsius:6.2f} °C over {result.readings} readings{warning}")
    print(f"{len(texts)} lines, {invalid.readings if invalid else 0} of them invalid")
    hot = [sensor for sensor, result in latest.items() if result.celsius > LIMIT_CELSIUS]
    return 0 if hot == [HOT] and (invalid.readings if invalid else 0) == texts.count("?") else 1


if __name__ == "__main__":
    sys.exit(main())
