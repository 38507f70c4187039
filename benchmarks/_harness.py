"""Shared parts of the benchmarks: series of samples, tables, plots, and the description of the machine.

Needs only NumPy at import. tqdm and matplotlib are imported on use, because `_worker.py` also runs this module in the environment of the
old release, which has neither.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Item = TypeVar("Item")

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path("benchmark-results")
CLOCK = time.perf_counter_ns
# How `time_blocks` and the workloads measure; printed with the results, because it is not pyperf's method.
METHOD = (
    "one process per run; warm-up calls first, garbage collected and frozen, then every operation timed with time.perf_counter_ns, "
    "singly, or in blocks of 1,000 where it takes less than about a microsecond (a sample is then the mean of a block). Percentiles are "
    "those of all samples"
)


class CheckFailed(AssertionError):
    """A benchmark's own check found that the work was not done, so its times are meaningless."""


def check(condition: bool, what: str) -> None:
    """Stop the benchmark unless `condition` holds. Unlike `assert`, this also works under `python -O`.

    Args:
        condition: Condition that the results must meet.
        what: Text of the error.

    Raises:
        CheckFailed: `condition` is false.
    """
    if not condition:
        raise CheckFailed(what)


@dataclass(frozen=True)
class Series:
    """Samples of one quantity.

    Attributes:
        name: Name of the quantity, one word.
        samples: One value per measurement, of shape (n,).
        unit: "ns" for a time per operation, or a rate such as "M/s"; higher rates are better.
        what: One sentence that describes one operation.
        reference: Whether it is a baseline rather than a measurement of pydotcompute.
        target: Targets with their outcome, as text; empty if there are none.
    """

    name: str
    samples: NDArray[np.float64]
    unit: str = "ns"
    what: str = ""
    reference: bool = False
    target: str = ""

    def percentile(self, q: float) -> float:
        """Percentile `q` of the samples, interpolated linearly."""
        return float(np.percentile(self.samples, q))

    def summary(self) -> dict[str, Any]:
        """Return name, unit, number of samples and percentiles, for JSON."""
        marks = {"min": 0, "p50": 50, "p99": 99, "p99.9": 99.9, "max": 100}
        percentiles = {mark: round(self.percentile(q), 3) for mark, q in marks.items()}
        return {
            "name": self.name,
            "what": self.what,
            "unit": self.unit,
            "reference": self.reference,
            "samples": len(self.samples),
            **percentiles,
        }


def collect_garbage() -> None:
    """Collect garbage now and freeze the surviving objects, so that a measurement does not pay for earlier work."""
    gc.collect()
    gc.freeze()


def time_blocks(block: Callable[[], None], operations: int, blocks: int) -> NDArray[np.float64]:
    """Time an operation that is too short to be timed alone.

    Args:
        block: Runs and checks `operations` operations. It is called twice beforehand to warm up.
        operations: Number of operations per call of `block`.
        blocks: Number of calls to time.

    Returns:
        Nanoseconds per operation, one mean per block, of shape (blocks,).
    """
    block()
    block()
    collect_garbage()
    samples = np.empty(blocks)
    for index in range(blocks):
        start = CLOCK()
        block()
        samples[index] = (CLOCK() - start) / operations
    return samples


def add_examples() -> None:
    """Make the modules of `examples/` importable. Some benchmarks measure their algorithms and use their data."""
    sys.path.append(str(ROOT / "examples"))


@dataclass(frozen=True)
class Machine:
    """Machine and software of a measurement."""

    processor: str
    cores: int
    system: str
    python: str
    packages: dict[str, str]
    load: float | None = field(default=None)

    @classmethod
    def here(cls) -> Machine:
        """Describe this machine and this interpreter."""
        packages = {}
        for name in ("pydotcompute", "numpy", "scipy", "msgpack", "uvloop", "numba", "mlx", "cupy-cuda13x"):
            try:
                packages[name] = metadata.version(name)
            except metadata.PackageNotFoundError:
                packages[name] = "absent"
        if packages["pydotcompute"] == "absent":
            # Imported from the source folder, without being installed.
            packages["pydotcompute"] = str(getattr(importlib.import_module("pydotcompute"), "__version__", "absent"))
        load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        python = f"{platform.python_implementation()} {platform.python_version()}"
        return cls(_cpu_name(), cores, f"{platform.system()} {platform.release()}", python, packages, load)

    def __str__(self) -> str:
        packages = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        load = "" if self.load is None else f"; load {self.load} before"
        return f"{self.processor}, {self.cores} cores; {self.system}; {self.python}; {packages}{load}"


def _cpu_name() -> str:
    """Return the model name of the CPU."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # Not Linux: fall back to `platform`.
    return platform.processor() or platform.machine()


def existing_file(text: str) -> Path:
    """Parse an argument that names a file.

    Args:
        text: The path.

    Returns:
        The path of a file that exists.

    Raises:
        argparse.ArgumentTypeError: There is no such file.
    """
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def arguments(description: str | None, stem: str) -> argparse.ArgumentParser:
    """Create a parser with the options that all benchmarks share.

    Args:
        description: Docstring of the benchmark; the help shows its first line.
        stem: Name of the benchmark; the plot goes to `benchmark-results/{stem}.png` by default.

    Returns:
        A parser with `--quick`, `--json` and `--plot`; `--png` is another name of the latter.
    """
    parser = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="run for a few seconds: a smoke test, not a measurement")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="write one JSON object to FILE; without FILE, print it instead of tables"
    )
    parser.add_argument("--plot", "--png", dest="png", type=Path, default=RESULTS / f"{stem}.png", help="path of the plot (%(default)s)")
    return parser


def progress(items: Sequence[Item], what: str) -> Iterable[Item]:
    """Iterate over `items` with a progress bar on standard error, if that is a terminal."""
    from tqdm import tqdm

    return tqdm(items, desc=what, file=sys.stderr, disable=None, leave=False)


def number(value: float) -> str:
    """Format a value with three significant digits and without exponent."""
    if value == 0 or not np.isfinite(value):
        return str(value)
    digits = max(0, 2 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{digits}f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format rows under a header: first column left-aligned, others right-aligned."""
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if index == 0 else cell.rjust(width) for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(padded).rstrip()

    return "\n".join([line(head), line(["-" * width for width in widths]), *map(line, rows)])


def series_table(series: Sequence[Series]) -> str:
    """Return a table of the percentiles of several series, baselines last and marked."""
    ordered = sorted(series, key=lambda one: one.reference)
    rows = []
    for one in ordered:
        marks = [number(one.percentile(q)) for q in (50, 99, 100)] if one.unit == "ns" else [number(one.percentile(50)), "", ""]
        rows.append([("reference: " if one.reference else "") + one.name, one.unit, *marks, str(len(one.samples)), one.target])
    return table(["", "unit", "p50", "p99", "max", "samples", "target" if any(one.target for one in series) else ""], rows)


def plot(path: Path, title: str, series: Sequence[Series]) -> None:
    """Plot the distributions of times as PNG: box from p25 to p75, whiskers from p1 to p99, line at p50.

    Args:
        path: Path of the file; its folder is created.
        title: Title of the plot.
        series: The series. Rates are omitted, because they do not share an axis with times.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    times = [one for one in series if one.unit == "ns"][::-1]
    if not times:
        return
    figure, axes = pyplot.subplots(figsize=(10, 0.42 * len(times) + 1.6), layout="constrained")
    boxes = axes.boxplot(
        [one.samples / 1000 for one in times], orientation="horizontal", whis=(1, 99), showfliers=False, patch_artist=True, widths=0.6
    )
    for index, one in enumerate(times):
        color = "#8a8a8a" if one.reference else "#1f77b4"
        boxes["boxes"][index].set(facecolor=color, edgecolor=color, alpha=0.5)
        # Two whiskers and two caps per box. They are coloured too, because many boxes are too narrow to show their colour.
        for line in (boxes["medians"][index], *boxes["whiskers"][2 * index :][:2], *boxes["caps"][2 * index :][:2]):
            line.set(color=color, linewidth=1.5)
    axes.set_yticks(range(1, len(times) + 1), [one.name for one in times])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("µs per operation; box p25 to p75, whiskers p1 to p99; references in grey")
    axes.set_title(title)
    axes.grid(axis="x", which="both", alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def command_line() -> str:
    """Return the command that started this program, relative to the folder that it was started in."""
    return " ".join(["python", *sys.argv])


def emit(options: argparse.Namespace, document: dict[str, Any], text: str) -> None:
    """Print the results as text, or as JSON; with `--json FILE`, print text and write the file.

    Args:
        options: Options parsed by the parser of `arguments`.
        document: The results for JSON.
        text: The results as text.
    """
    written = json.dumps(document, indent=2)
    if options.json == "-":
        print(written)
        return
    if options.json is not None:
        path = Path(options.json)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(written + "\n")
        text += f"\nJSON: {path}"
    print(text)


def report(options: argparse.Namespace, title: str, series: Sequence[Series], notes: Sequence[str] = ()) -> None:
    """Print measurements as a table or as JSON, and write their plot.

    Args:
        options: Options parsed by the parser of `arguments`.
        title: Title of the benchmark.
        series: The measurements.
        notes: Sentences that explain the results.
    """
    machine = Machine.here()
    plot(options.png, title, series)
    document = {
        "title": title,
        "command": command_line(),
        "machine": asdict(machine),
        "method": METHOD,
        "notes": list(notes),
        "series": [one.summary() for one in series],
    }
    head = [title, f"Command: {command_line()}", f"Machine: {machine}", f"Method: {METHOD}", *notes]
    emit(options, document, "\n".join([*head, "", series_table(series), "", f"Distributions: {options.png}"]))
