"""Detect anomalies with a compiled handler: plain Python source, run as machine code on a Rust thread.

The detector is that of `anomaly_detection.py`, here a function `detect(ctx, state, msg)` instead of a coroutine. Numba compiles it when the
ring kernel is launched; after that, handling a message does not take the GIL. One state serves at most 64 streams.

The program sends the measurements in three ways: one ask at a time, from an event loop through the runtime, and as an array. All three
give the same scores. `--device cuda` runs the same handler in a resident kernel on a GPU.

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
    """Deviation of a measurement in standard deviations; `seen` is the number of earlier values of the stream."""

    stream: int
    seen: int
    deviations: float


@state
class Memory:
    """State of all streams: exponentially weighted mean and variance of each, initially zero."""

    seen: Annotated[NDArray[np.int64], STREAMS]
    mean: Annotated[NDArray[np.float64], STREAMS]
    variance: Annotated[NDArray[np.float64], STREAMS]


def detect(ctx: HandlerContext, state: Memory, msg: Measurement) -> Score:
    """Score a measurement against the earlier values of its stream, and update the state."""
    if msg.stream < 0 or msg.stream >= STREAMS:
        raise ValueError("no such stream")
    seen = state.seen[msg.stream]
    deviation = msg.value - state.mean[msg.stream] if seen > 0 else 0.0
    spread = math.sqrt(state.variance[msg.stream])
    deviations = abs(deviation) / spread if seen >= WARM_UP and spread > 0 else 0.0
    # Plain mean over the first values; exponential forgetting afterwards.
    weight = max(FORGET, 1 / (seen + 1))
    state.mean[msg.stream] = state.mean[msg.stream] + weight * deviation if seen > 0 else msg.value
    state.variance[msg.stream] = (1 - weight) * (state.variance[msg.stream] + weight * deviation * deviation)
    state.seen[msg.stream] = seen + 1
    return Score(msg.stream, seen, deviations)


def interleave(streams: list[TimeSeries], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Interleave the measurements of all series, as live streams would be.

    Args:
        streams: The series.
        dtype: Record type of a measurement.

    Returns:
        An array of records.
    """
    order = sorted((index, number) for number, stream in enumerate(streams) for index in range(len(stream.values)))
    records = np.zeros(len(order), dtype)
    records["stream"] = [number for _, number in order]
    records["value"] = [streams[number].values[index] for index, number in order]
    return records


async def through_the_runtime(records: NDArray[Any], device: str) -> list[float]:
    """Ask for the score of each measurement from an event loop, through the runtime.

    Args:
        records: The measurements.
        device: Device of the handler.

    Returns:
        The scores.
    """
    detector = ring_kernel(kernel_id="detector", device=device, state=Memory)(detect)
    async with RingKernelRuntime() as runtime, runtime.kernel_scope("detector", detector) as kernel:
        measurements = (Measurement(int(record["stream"]), float(record["value"])) for record in records)
        return [(await kernel.ask(measurement)).deviations for measurement in measurements]


def one_at_a_time(records: NDArray[Any], device: str) -> tuple[list[float], float]:
    """Ask for the score of each measurement, one at a time.

    Args:
        records: The measurements.
        device: Device of the handler.

    Returns:
        The scores, and the mean duration of an ask, in seconds.
    """
    measurements = [Measurement(int(record["stream"]), float(record["value"])) for record in records]
    with NativeKernel(detect, state=Memory, device=device) as kernel:
        start = time.perf_counter()
        scores = [kernel.ask(measurement).deviations for measurement in measurements]
        return scores, (time.perf_counter() - start) / len(measurements)


def main() -> int:
    """Detect anomalies in three ways, compare the results, and print the hits in the labelled windows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, help="a folder with NAB's windows.json and CSV files")
    parser.add_argument("--series", type=int, default=5, help=f"maximum number of series, up to {STREAMS} (%(default)s)")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"], help="device of the handler (%(default)s)")
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
        start = time.perf_counter()
        scores = kernel.ask_many(records)
        rate = len(records) / (time.perf_counter() - start)
        memory = kernel.state
    print(f"{len(records)} measurements as an array: {rate:,.0f} per second")
    asked_singly, seconds = one_at_a_time(records, options.device)
    print(f"one at a time: {seconds * 1e6:.2f} µs each")
    awaited = asyncio.run(through_the_runtime(records, options.device))
    if asked_singly != scores["deviations"].tolist() or awaited != asked_singly:
        print("wrong: the three ways give different scores", file=sys.stderr)
        return 1

    for number, stream in enumerate(streams):
        stream_scores = scores[scores["stream"] == number]
        if memory.seen[number] != len(stream.values) or stream_scores["seen"].tolist() != list(range(len(stream.values))):
            print(f"wrong: {stream.name}: measurements are missing or out of order", file=sys.stderr)
            return 1
        alerts = np.flatnonzero(stream_scores["deviations"] > THRESHOLD)
        found = sum(bool(((alerts >= first) & (alerts <= last)).any()) for first, last in stream.windows)
        outside = sum(not any(first <= alert <= last for first, last in stream.windows) for alert in alerts)
        print(f"{stream.name}: {len(stream_scores)} values, {found} of {len(stream.windows)} anomalies found, {outside} alerts elsewhere")
    return 0


if __name__ == "__main__":
    sys.exit(main())
