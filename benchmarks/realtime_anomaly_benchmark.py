"""Anomaly detection on streams: events per second, and the latency from an event to its score.

The detector is that of `examples/anomaly_detection.py`. The data is NAB's if available, otherwise synthetic (the output says which, and
why). Every variant scores the same events in the same order, and must produce the same scores.

    python benchmarks/realtime_anomaly_benchmark.py --data ../shared/data/nab
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from _harness import CLOCK, Series, add_examples, arguments, check, collect_garbage, progress, report

add_examples()

from anomaly_detection import FORGET, WARM_UP, Detector, Measurement, Score  # noqa: E402
from pydotcompute import RingKernelMessage, RingKernelRuntime, message  # noqa: E402
from pydotcompute.native import HandlerContext, NativeKernel, state  # noqa: E402
from pydotcompute.ring_kernels import ThreadedKernelContext, ThreadedRingKernel  # noqa: E402
from series import TimeSeries, load  # noqa: E402

Scores = NDArray[np.float64]
WINDOW = 256
STREAMS = 64


def events(streams: list[TimeSeries], limit: int) -> list[Any]:
    """Return the first `limit` measurements, interleaved as live streams would be."""
    result: list[Any] = []
    for index in range(max(len(stream.values) for stream in streams)):
        for number, stream in enumerate(streams):
            if index < len(stream.values):
                result.append(Measurement(stream=number, index=index, value=float(stream.values[index])))
        if len(result) >= limit:
            break
    return result[:limit]


class Outcome:
    """Result of a variant: the scores in order, the latency of each single ask, and the streaming time."""

    def __init__(self, count: int) -> None:
        self.scores = np.full(count, np.nan)
        self.asks = np.zeros(count)
        self.seconds = 0.0


def direct(measurements: list[Any]) -> Outcome:
    """Call the detector as a plain function: the baseline of all other variants."""
    outcome = Outcome(len(measurements))
    detectors: dict[int, Detector] = {}
    start = CLOCK()
    for index, one in enumerate(measurements):
        before = CLOCK()
        outcome.scores[index] = detectors.setdefault(one.stream, Detector()).score(one.value)
        outcome.asks[index] = CLOCK() - before
    outcome.seconds = (CLOCK() - start) / 1e9
    return outcome


def on_asyncio(measurements: list[Any]) -> Outcome:
    """Use the example's ring kernel: first streaming `WINDOW` events at a time, then single asks of a new kernel."""

    async def run() -> Outcome:
        outcome = Outcome(len(measurements))
        async with RingKernelRuntime() as runtime:
            await runtime.launch("detector")
            await runtime.activate("detector")
            start = CLOCK()
            for first in range(0, len(measurements), WINDOW):
                window = measurements[first : first + WINDOW]
                for one in window:
                    await runtime.send("detector", one)
                for index in range(first, first + len(window)):
                    outcome.scores[index] = _in_order(await runtime.receive("detector"), measurements[index])
            outcome.seconds = (CLOCK() - start) / 1e9
        async with RingKernelRuntime() as runtime:
            await runtime.launch("detector")
            await runtime.activate("detector")
            for index, one in enumerate(measurements):
                before = CLOCK()
                score = await runtime.send_and_receive("detector", one)
                outcome.asks[index] = CLOCK() - before
                check(_in_order(score, one) == outcome.scores[index], f"event {index} has another score in a single ask")
        return outcome

    return asyncio.run(run())


def on_a_thread(measurements: list[Any]) -> Outcome:
    """Use the same detector as a ring kernel on a thread."""

    def kernel(ctx: ThreadedKernelContext[Any, Any]) -> None:
        detectors: dict[int, Detector] = {}
        while not ctx.should_terminate:
            one = ctx.receive(timeout=1.0)
            if one is not None:
                score = detectors.setdefault(one.stream, Detector()).score(one.value)
                ctx.send(Score(stream=one.stream, index=one.index, deviations=score))

    outcome = Outcome(len(measurements))
    with ThreadedRingKernel("detector", kernel) as streamed:
        start = CLOCK()
        for first in range(0, len(measurements), WINDOW):
            window = measurements[first : first + WINDOW]
            for one in window:
                streamed.send(one)
            for index in range(first, first + len(window)):
                outcome.scores[index] = _in_order(streamed.receive(timeout=5.0), measurements[index])
        outcome.seconds = (CLOCK() - start) / 1e9
    with ThreadedRingKernel("detector", kernel) as asked_kernel:
        for index, one in enumerate(measurements):
            before = CLOCK()
            asked_kernel.send(one)
            score = asked_kernel.receive(timeout=5.0)
            outcome.asks[index] = CLOCK() - before
            check(_in_order(score, one) == outcome.scores[index], f"event {index} has another score in a single ask")
    return outcome


@message
class Event(RingKernelMessage):
    """Input of the native ring kernel: a measurement."""

    stream: int
    index: int
    value: float


@message
class EventScore(RingKernelMessage):
    """Reply of the native ring kernel: the score of an event."""

    stream: int
    index: int
    deviations: float


@state
class Memory:
    """State of `Detector` for up to 64 streams."""

    seen: Annotated[NDArray[np.int64], STREAMS]
    mean: Annotated[NDArray[np.float64], STREAMS]
    variance: Annotated[NDArray[np.float64], STREAMS]


def score_event(ctx: HandlerContext, state: Memory, msg: Event) -> EventScore:
    """Compiled equivalent of `Detector.score`."""
    stream, seen = msg.stream, state.seen[msg.stream]
    deviation = msg.value - state.mean[stream] if seen > 0 else 0.0
    spread = math.sqrt(state.variance[stream])
    deviations = abs(deviation) / spread if seen >= WARM_UP and spread > 0.0 else 0.0
    weight = max(FORGET, 1.0 / (seen + 1))
    state.mean[stream] = state.mean[stream] + weight * deviation if seen > 0 else msg.value
    state.variance[stream] = (1.0 - weight) * (state.variance[stream] + weight * deviation * deviation)
    state.seen[stream] = seen + 1
    return EventScore(stream, msg.index, deviations)


def native(measurements: list[Any]) -> Outcome:
    """Use the same detector as machine code: first streaming records, `WINDOW` per call, then single asks."""
    outcome = Outcome(len(measurements))
    with NativeKernel(score_event, state=Memory) as streamed:
        records = np.array([(one.stream, one.index, one.value) for one in measurements], streamed.input_dtype)
        start = CLOCK()
        for first in range(0, len(records), WINDOW):
            window = records[first : first + WINDOW]
            event_scores = streamed.ask_many(window)
            check(np.array_equal(event_scores["index"], window["index"]), f"scores of the window at event {first} are out of order")
            outcome.scores[first : first + len(window)] = event_scores["deviations"]
        outcome.seconds = (CLOCK() - start) / 1e9
    events = [Event(stream=one.stream, index=one.index, value=one.value) for one in measurements]
    with NativeKernel(score_event, state=Memory) as asked_kernel:
        for index, event in enumerate(events):
            before = CLOCK()
            event_score = asked_kernel.ask(event)
            outcome.asks[index] = CLOCK() - before
            check(_in_order(event_score, event) == outcome.scores[index], f"event {index} has another score in a single ask")
    return outcome


def _in_order(score: Any, measurement: Any) -> float:
    """Return the value of a score after checking that it belongs to the measurement."""
    check(score is not None, f"no score for value {measurement.index} of stream {measurement.stream} within 5 s")
    same = (score.stream, score.index) == (measurement.stream, measurement.index)
    check(same, f"the score of value {score.index} of stream {score.stream} are out of order")
    return float(score.deviations)


VARIANTS: dict[str, Callable[[list[Any]], Outcome]] = {"function": direct, "asyncio": on_asyncio, "thread": on_a_thread, "native": native}


def main() -> int:
    """Measure and report."""
    parser = arguments(__doc__, "realtime_anomaly")
    parser.add_argument("--data", type=Path, help="a folder with NAB's windows.json and CSV files")
    parser.add_argument("--events", type=int, help="events per round (default 50,000; with --quick 2,000)")
    parser.add_argument("--rounds", type=int, help="number of rounds (default 5; with --quick 1)")
    options = parser.parse_args()
    streams, origin = load(options.data, limit=STREAMS)
    measurements = events(streams, options.events or (2000 if options.quick else 50_000))
    rounds = options.rounds or (1 if options.quick else 5)

    outcomes: dict[str, list[Outcome]] = {name: [] for name in VARIANTS}
    for _ in progress(range(rounds), "rounds"):
        for name, run in VARIANTS.items():
            collect_garbage()
            outcome = run(measurements)
            expected = outcomes["function"][0].scores if outcomes["function"] else outcome.scores
            check(not np.isnan(outcome.scores).any(), f"{name}: an event has no score")
            # Compiled code may round sums differently in the last place.
            same = np.allclose(outcome.scores, expected, rtol=1e-9, atol=1e-12)
            check(bool(same), f"{name}: the scores differ from those of the plain function")
            outcomes[name].append(outcome)

    series = []
    for name, runs in outcomes.items():
        asks = np.concatenate([one.asks for one in runs])
        rates = np.array([len(measurements) / one.seconds / 1e6 for one in runs])
        series += [
            Series(f"{name} ask", asks, what="one event, until its score", reference=name == "function"),
            Series(f"{name} stream", rates, unit="M events/s", reference=name == "function"),
        ]
    alerts = int((outcomes["function"][0].scores > 6).sum())
    notes = [
        origin,
        f"{len(measurements):,} events of {len(streams)} streams, {alerts} of them scored above 6; all variants produced the same scores",
    ]
    report(options, "Anomaly detection", series, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
