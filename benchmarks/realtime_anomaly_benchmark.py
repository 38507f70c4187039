"""Anomaly detection on streams: what does an event cost, and from which batch size on does which way win?

Batches of 1 to 10,000 events of seeded synthetic streams, and of the Numenta Anomaly Benchmark (NAB) where its data is, are scored against
a sliding window of each stream: by loops and array operations, by ring kernels that keep the windows in their state, and on a GPU also
with windows that are sent along with every batch. All scores are compared with a reference before anything is timed. Printed are p50 and
p99 of a batch and per event, events per second, and the share of the time that passes data to and from where it is scored.

    python benchmarks/realtime_anomaly_benchmark.py                        # two minutes
    python benchmarks/realtime_anomaly_benchmark.py --data path/to/nab     # NAB's folder with windows.json and CSV files
    python benchmarks/realtime_anomaly_benchmark.py --window 10000         # 0.2.0's window
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from _anomaly_detector import FLOOR, ArrayScorer, LoopScorer, Scorer, Values, compiled_loop, plain_loop, score_arrays
from _anomaly_kernels import AsyncioScorer, NativeScorer, ThreadScorer
from _harness import add_examples, arguments, check, progress
from _scaling import NO_CUDA, Crossover, Device, Limits, Row, Scaling, crossover, sample
from _scaling_report import report_scaling
from pydotcompute.core.accelerator import cuda_available
from pydotcompute.exceptions import BackendNotAvailableError

add_examples()

from series import load  # noqa: E402

ALERT = 4.0
# Pairs whose crossovers are printed: the first may be faster than the second.
PAIRS = [
    ("GPU", "CPU"),
    ("numpy", "python"),
    ("numba", "numpy"),
    ("ring-native-blocks", "ring-native-events"),
    ("ring-native-blocks", "numpy"),
    ("ring-asyncio", "numpy"),
]
# Subjects whose handler runs the loop of `numba`, and cannot read a clock: their transfer is what they take longer than it.
COMPARED_WITH_NUMBA = ("ring-native-events", "ring-native-blocks")


@dataclass(frozen=True, eq=False)
class Entry:
    """A subject of the benchmark.

    Attributes:
        name: Name of the subject.
        make: Makes it, for a number of streams and a length of the window.
        missing: Why it cannot be measured here; empty if it can.
        device: Where it computes.
        is_timed: Whether it is timed, or only compared with the reference.
    """

    name: str
    make: Callable[[int, int], Scorer]
    missing: str = ""
    device: Device = "cpu"
    is_timed: bool = True


@dataclass(frozen=True)
class Streams:
    """The series of one source.

    Attributes:
        case: Short description, for tables.
        series: The values of each stream.
        expected: The score of each value.
    """

    case: str
    series: list[Values]
    expected: list[Values]

    @classmethod
    def of(cls, case: str, series: list[Values], window: int) -> Streams:
        """Score the series with the reference: NumPy's array operations over each whole series."""
        expected = []
        for values in series:
            floor = FLOOR * max(abs(float(values[0])), 1.0)
            expected.append(score_arrays(np, np.zeros(window), values - values[0], 0, window, floor))
        return cls(case, series, expected)

    def batches(self, size: int) -> list[tuple[int, int]]:
        """Return all full batches as (stream, first value), interleaved as live streams would be."""
        firsts = range(0, max(map(len, self.series)), size)
        return [(stream, first) for first in firsts for stream, one in enumerate(self.series) if first + size <= len(one)]


def synthetic(streams: int, length: int) -> list[Values]:
    """Make series of slow waves with noise, and spikes of 15 standard deviations of the noise in one value of 1,000."""
    random = np.random.default_rng(seed=7)
    series = []
    for stream in range(streams):
        values = 50 + 5 * np.sin(np.arange(length) / 300 + stream) + random.normal(0, 1, length)
        values[random.random(length) < 0.001] += 15
        series.append(values)
    return series


def without(package: str) -> str:
    """Return that a package is not installed; empty if it is."""
    return "" if importlib.util.find_spec(package) else f"{package} is not installed: pip install {package}"


def cupy_scorer(streams: int, window: int, resident: bool) -> Scorer:
    """Return the array operations of CuPy."""
    import cupy

    return ArrayScorer(streams, window, cupy, resident)


def entries() -> list[Entry]:
    """Return all subjects."""
    no_cuda = "" if cuda_available() else NO_CUDA
    no_cupy = no_cuda or without("cupy")
    no_numba = without("numba")
    loop = plain_loop if no_numba else compiled_loop
    return [
        Entry("python", lambda streams, window: LoopScorer(streams, window, plain_loop())),
        Entry("numpy", lambda streams, window: ArrayScorer(streams, window, np, resident=True)),
        Entry("numba", lambda streams, window: LoopScorer(streams, window, compiled_loop()), no_numba),
        Entry("ring-asyncio", lambda streams, window: AsyncioScorer(streams, window, loop())),
        Entry("ring-thread", lambda streams, window: ThreadScorer(streams, window, loop())),
        Entry("ring-native-events", lambda streams, window: NativeScorer(streams, window, "cpu", blocks=False), no_numba),
        Entry("ring-native-blocks", lambda streams, window: NativeScorer(streams, window, "cpu", blocks=True), no_numba),
        Entry("ring-emulated", lambda streams, window: NativeScorer(streams, window, "emulated", blocks=True), no_numba, is_timed=False),
        # Before CuPy: the runtime must open the GPU before other libraries do.
        Entry("ring-cuda-events", lambda streams, window: NativeScorer(streams, window, "cuda", False), no_cuda or no_numba, "gpu"),
        Entry("ring-cuda-blocks", lambda streams, window: NativeScorer(streams, window, "cuda", True), no_cuda or no_numba, "gpu"),
        Entry("cupy-resident", lambda streams, window: cupy_scorer(streams, window, True), no_cupy, "gpu"),
        Entry("cupy-stateless", lambda streams, window: cupy_scorer(streams, window, False), no_cupy, "gpu"),
    ]


def verify(name: str, scorer: Scorer, streams: Streams, size: int, batches: list[tuple[int, int]]) -> None:
    """Stop the benchmark unless a subject's scores are those of the reference."""
    scored = scorer.score_all([(stream, streams.series[stream][first : first + size]) for stream, first in batches])
    for (stream, first), one in zip(batches, scored, strict=True):
        same = np.allclose(one.scores, streams.expected[stream][first : first + size], rtol=1e-6, atol=1e-6)
        check(bool(same), f"{name}: the scores of values {first} to {first + size - 1} of stream {stream} differ from NumPy's")


class Timing:
    """Calls of one scorer with one batch after the other, and their times."""

    def __init__(self, scorer: Scorer, streams: Streams, size: int, batches: list[tuple[int, int]]) -> None:
        self._scorer = scorer
        self._batches = cycle([(stream, streams.series[stream][first : first + size]) for stream, first in batches])
        # Several batches per call, because a first ask pays for entering the event loop; programs that stay in it do not.
        self._per_call = max(20, min(100, 1000 // size))
        self._shares: list[float] = []

    def call(self) -> list[int]:
        """Score the next batches, and return the duration of each in nanoseconds."""
        scored = self._scorer.score_all(list(islice(self._batches, self._per_call)))
        self._shares += [one.transfer_ns / one.elapsed_ns for one in scored if one.transfer_ns is not None]
        return [one.elapsed_ns for one in scored]

    def transfer(self) -> float | None:
        """Return the median of the calls' shares of transfer; `None` if the scorer does not measure it."""
        return float(np.median(self._shares)) if self._shares else None


def measure(scaling: Scaling, group: dict[Entry, Scorer], streams: Streams, size: int, window: int) -> None:
    """Check subjects at one batch size, and time in turn those that are to be timed."""
    batches = streams.batches(size)
    # Enough for every stream's window to fill, and to forget its first values.
    checked = batches[: len(streams.series) * -(-(window + 200) // size)]
    timings: dict[str, Timing] = {}
    for entry, scorer in group.items():
        verify(entry.name, scorer, streams, size, checked)
        if entry.is_timed:
            timings[entry.name] = Timing(scorer, streams, size, batches)
    samples = sample({name: timing.call for name, timing in timings.items()}, scaling.limits)
    for entry, scorer in group.items():
        if entry.is_timed:
            own = samples[entry.name]
            share = timings[entry.name].transfer()
            if entry.name in COMPARED_WITH_NUMBA:
                share = max(0.0, 1 - float(np.median(samples["numba"])) / float(np.median(own)))
            elif isinstance(scorer, NativeScorer) and (handled := scorer.handler_ns(size)) is not None:
                share = max(0.0, 1 - handled / float(np.median(own)))
            scaling.rows.append(Row(streams.case, "score", entry.name, size, own, size, entry.device, share))


def measure_streams(scaling: Scaling, streams: Streams, sizes: list[int], window: int) -> None:
    """Measure every subject at every batch size: those on the CPU in turn, each on a GPU alone."""
    subjects = entries()
    compared: dict[str, None] = {}
    timed_on_cpu = [entry for entry in subjects if entry.device == "cpu" and entry.is_timed]
    for place, size in enumerate(progress(sizes, f"batch sizes, {streams.case}")):
        if not streams.batches(size):
            scaling.skip("all", "no series is so long", streams.case, size)
            continue
        # The emulated device takes long for each message, so it is compared at the largest batch only.
        alone = [entry for entry in subjects if entry not in timed_on_cpu and (entry.is_timed or place == len(sizes) - 1)]
        for group in [timed_on_cpu, *([entry] for entry in alone)]:
            with ExitStack() as stack:
                made: dict[Entry, Scorer] = {}
                for entry in group:
                    if (scorer := make(scaling, entry, streams, size, window)) is not None:
                        stack.callback(scorer.close)
                        made[entry] = scorer
                measure(scaling, made, streams, size, window)
                compared |= {entry.name if entry.is_timed else f"{entry.name} (not timed)": None for entry in made}
    alerts = sum(int((scores > ALERT).sum()) for scores in streams.expected)
    events = sum(map(len, streams.series))
    scaling.checks.append(
        f"Checked on {streams.case}, {len(streams.series)} streams, {events:,} events, {alerts:,} of them scored above {ALERT:g}: "
        f"scores equal to NumPy's: {', '.join(compared)}."
    )


def make(scaling: Scaling, entry: Entry, streams: Streams, size: int, window: int) -> Scorer | None:
    """Make a subject, or record why not."""
    if entry.missing:
        scaling.skip(entry.name, entry.missing)
        return None
    if reason := scaling.too_slow(streams.case, "score", entry.name, size):
        scaling.skip(entry.name, reason, streams.case, size)
        return None
    try:
        return entry.make(len(streams.series), window)
    except BackendNotAvailableError as error:
        scaling.skip(entry.name, str(error))
        return None


def sources(scaling: Scaling, options: argparse.Namespace) -> Iterator[Streams]:
    """Yield the synthetic streams, and those of NAB if its data is there."""
    length = 2000 if options.quick else 40_000
    yield Streams.of("synthetic", synthetic(4, length), options.window)
    if options.data is None and options.quick:
        scaling.skip("all", "left out by --quick; --data FOLDER measures it", "NAB")
        return
    series, origin = load(options.data)
    if origin.startswith("synthetic"):
        scaling.skip("all", "no data in ../shared/data/nab beside the project, and no --data FOLDER", "NAB")
    else:
        yield Streams.of("NAB", [one.values for one in series], options.window)


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = arguments(__doc__, "realtime_anomaly")
    parser.add_argument("--data", type=Path, help="a folder with NAB's windows.json and CSV files")
    parser.add_argument("--batches", type=int, nargs="+", help="batch sizes (1 10 100 1000 10000; with --quick 1 100)")
    parser.add_argument("--window", type=int, help="values in the window of a stream (1000; with --quick 150)")
    parser.add_argument("--row-limit", type=float, default=15, help="skip rows that would take longer, in seconds (%(default)g)")
    parser.add_argument("--sampling", type=float, help="time to spend on each row, in seconds (0.5; with --quick 0.01)")
    options = parser.parse_args()
    if options.data is not None and not (options.data / "windows.json").is_file():
        parser.error(f"{options.data} has no windows.json; --data takes the folder of the Numenta Anomaly Benchmark")
    options.batches = options.batches or ([1, 100] if options.quick else [1, 10, 100, 1000, 10_000])
    options.window = options.window or (150 if options.quick else 1000)
    return options


def crossovers(scaling: Scaling) -> list[Crossover]:
    """Return the crossovers of `PAIRS`."""
    found = [crossover(scaling.rows, operation, case, *pair) for operation, case, _ in scaling.groups() for pair in PAIRS]
    return [one for one in found if one.sizes or one.faster == "GPU"]


def main() -> int:
    """Measure and report."""
    options = parse()
    limits = Limits(options.sampling or (0.01 if options.quick else 0.5), options.row_limit, float("inf"), least=5, most=5000)
    scaling = Scaling("events per batch", "events", limits, per_item=True)
    for streams in sources(scaling, options):
        measure_streams(scaling, streams, options.batches, options.window)
    notes = [
        f"Window: {options.window:,} values of each stream.",
        "An event's score is there when its batch is answered: p50 and p99 in µs are the latency of each event of the batch, without the "
        "time in which the batch fills; those in ns are its cost, the batch's time divided by its events.",
        "transfer: for ring-asyncio and ring-thread, the call without the loop, which the ring kernel times itself; for ring-native, the "
        "call beyond the median of numba, whose loop the handler runs; for ring-cuda, the call beyond the handler's time by the device's "
        "clock; for cupy, the copies there and back, each awaited.",
    ]
    report_scaling(options, "Anomaly detection", scaling, crossovers(scaling), notes, "a batch, and of each event in it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
