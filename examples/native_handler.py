"""Find anomalies with a handler that is compiled: plain Python in the source, machine code on a Rust thread when it runs.

The detector is the one of `anomaly_detection.py`. There it is a coroutine, here a function `detect(ctx, state, msg)`: Numba compiles it
when the ring kernel is launched, and from then on no interpreter is involved in handling a message. One state holds what is remembered
of up to 64 streams.

The program sends the measurements in the three ways there are: one question at a time, in an event loop through the runtime, and as an
array. All three give the same scores. `--device cuda` runs the same handler in a resident kernel on a GPU.

    python examples/native_handler.py --series 5
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from pydotcompute import RingKernelRuntime, message, ring_kernel
from pydotcompute.exceptions import BackendNotAvailableError
from pydotcompute.native import HandlerContext, NativeKernel, state
from series import TimeSeries, load

STREAMS = 64
FORGET = 0.02
WARM_UP = 100
THRESHOLD = 6.0


@message
class Measurement:
    """One value of one stream."""

    stream: int
    value: float


@message
class Score:
    """How far a measurement lay from what was expected, in standard deviations; `seen` counts the stream's values before it."""

    stream: int
    seen: int
    deviations: float


@state
class Memory:
    """What is remembered of each stream: its mean and variance, of late. Begins as zeros."""

    seen: Annotated[NDArray[np.int64], STREAMS]
    mean: Annotated[NDArray[np.float64], STREAMS]
    variance: Annotated[NDArray[np.float64], STREAMS]


def detect(ctx: HandlerContext, state: Memory, msg: Measurement) -> Score:
    """Score a measurement against what came before it in its stream, and remember it."""
    if msg.stream < 0 or msg.stream >= STREAMS:
        raise ValueError("no such stream")
    seen = state.seen[msg.stream]
    away = msg.value - state.mean[msg.stream] if seen > 0 else 0.0
    spread = math.sqrt(state.variance[msg.stream])
    deviations = abs(away) / spread if seen >= WARM_UP and spread > 0 else 0.0
    # Over the first values the plain mean; later ones count less, the longer ago they were.
    weight = max(FORGET, 1 / (seen + 1))
    state.mean[msg.stream] = state.mean[msg.stream] + weight * away if seen > 0 else msg.value
    state.variance[msg.stream] = (1 - weight) * (state.variance[msg.stream] + weight * away * away)
    state.seen[msg.stream] = seen + 1
    return Score(msg.stream, seen, deviations)


def interleave(streams: list[TimeSeries], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The measurements of all series in the order they would come: one of each in turn.

    Args:
        streams: The series.
        dtype: The record of a measurement.

    Returns:
        An array of records.
    """
    order = sorted((index, number) for number, stream in enumerate(streams) for index in range(len(stream.values)))
    records = np.zeros(len(order), dtype)
    records["stream"] = [number for _, number in order]
    records["value"] = [streams[number].values[index] for index, number in order]
    return records


async def through_the_runtime(records: NDArray[Any], device: str) -> list[float]:
    """Ask for the score of each measurement in an event loop, in a runtime beside whatever else runs there.

    Args:
        records: The measurements.
        device: Where the handler runs.

    Returns:
        The scores.
    """
    detector = ring_kernel(kernel_id="detector", device=device, state=Memory)(detect)
    async with RingKernelRuntime() as runtime, runtime.kernel_scope("detector", detector) as kernel:
        measurements = (Measurement(int(record["stream"]), float(record["value"])) for record in records)
        return [(await kernel.ask(measurement)).deviations for measurement in measurements]


def one_at_a_time(records: NDArray[Any], device: str) -> tuple[list[float], float]:
    """Ask for the score of each measurement, and wait for it.

    Args:
        records: The measurements.
        device: Where the handler runs.

    Returns:
        The scores, and how long an ask took on average, in seconds.
    """
    measurements = [Measurement(int(record["stream"]), float(record["value"])) for record in records]
    with NativeKernel(detect, state=Memory, device=device) as kernel:
        began = time.perf_counter()
        scores = [kernel.ask(measurement).deviations for measurement in measurements]
        return scores, (time.perf_counter() - began) / len(measurements)


def main() -> int:
    """Detect in three ways, compare them, and print what was found in the labelled windows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a folder with NAB's windows.json and CSV files")
    parser.add_argument("--series", type=int, default=5, help=f"how many series at most, up to {STREAMS} (%(default)s)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="where the handler runs (%(default)s)")
    options = parser.parse_args()
    streams, origin = load(options.data, min(options.series, STREAMS))
    print(origin)

    try:
        kernel = NativeKernel(detect, state=Memory, device=options.device)
    except BackendNotAvailableError as error:
        print(error, file=sys.stderr)
        return 2
    with kernel:
        records = interleave(streams, kernel.input_dtype)
        began = time.perf_counter()
        scores = kernel.ask_many(records)
        rate = len(records) / (time.perf_counter() - began)
        memory = kernel.state
    print(f"{len(records)} measurements as an array: {rate:,.0f} a second")
    asked, seconds = one_at_a_time(records, options.device)
    print(f"one at a time: {seconds * 1e6:.2f} µs each")
    awaited = asyncio.run(through_the_runtime(records, options.device))
    if asked != scores["deviations"].tolist() or awaited != asked:
        print("wrong: the three ways give different scores", file=sys.stderr)
        return 1

    for number, stream in enumerate(streams):
        of_stream = scores[scores["stream"] == number]
        if memory.seen[number] != len(stream.values) or of_stream["seen"].tolist() != list(range(len(stream.values))):
            print(f"wrong: {stream.name}: measurements are missing, or came out of order", file=sys.stderr)
            return 1
        alerts = np.flatnonzero(of_stream["deviations"] > THRESHOLD)
        found = sum(bool(((alerts >= first) & (alerts <= last)).any()) for first, last in stream.windows)
        outside = sum(not any(first <= alert <= last for first, last in stream.windows) for alert in alerts)
        print(f"{stream.name}: {len(of_stream)} values, {found} of {len(stream.windows)} anomalies found, {outside} alerts elsewhere")
    return 0


if __name__ == "__main__":
    sys.exit(main())
