"""Measurements over a range of sizes: rows of samples, limits on time and memory, crossovers, tables and JSON.

A benchmark that asks "which is faster, and from which size on" adds a `Row` per subject and size to a `Scaling`, and a `Skip` for what it
does not measure. `_scaling_report.py` prints and draws them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from _harness import collect_garbage, number, table

Device = Literal["cpu", "gpu"]
NO_CUDA = "no CUDA device"
# Parts into which the time of a row is divided; in each, every subject gets its turn.
ROUNDS = 5


@dataclass(frozen=True)
class Limits:
    """Limits of one row: what exceeds them is skipped, with a printed reason.

    Attributes:
        sampling_s: Time to spend on the calls of one row, in seconds.
        row_s: A row that would take longer than this is skipped, in seconds.
        memory_bytes: A subject that needs more memory than this is skipped.
        least: Least number of timed calls of one row, whatever they take.
        most: Number of timed calls of one row after which no more are started.
    """

    sampling_s: float
    row_s: float
    memory_bytes: float
    least: int = 3
    most: int = 2000

    def __str__(self) -> str:
        """The method, as printed with the results."""
        return (
            "one process. The first call of a row compiles and warms up; its result is checked and it is not timed. Then single calls are "
            "timed with time.perf_counter_ns, garbage collected before and frozen, for "
            f"{self.sampling_s:g} s, at least {self.least} and at most about {self.most:,} calls. The subjects of one size on the CPU take "
            f"turns, in {ROUNDS} rounds; those on a GPU run alone. p50 and p99 are percentiles of the single calls; the p99 of fewer than "
            "100 calls is close to their maximum. Rates are those of the median call"
        )


@dataclass(frozen=True)
class Row:
    """Samples of one subject at one size.

    Attributes:
        case: Data of the row, such as a density.
        operation: What one call does, one word.
        subject: Name of what is measured.
        size: Size, in the unit of the benchmark.
        samples: Nanoseconds of each timed call, of shape (calls,).
        items: Items that one call processes, for the rate.
        device: Where the work is done.
        transfer: Part of a call that passes data to and from where it is processed, 0 to 1; `None` if it was not measured.
    """

    case: str
    operation: str
    subject: str
    size: int
    samples: NDArray[np.float64]
    items: float
    device: Device = "cpu"
    transfer: float | None = None

    @property
    def p50(self) -> float:
        """Median of the calls, in nanoseconds."""
        return float(np.median(self.samples))

    @property
    def p99(self) -> float:
        """99th percentile of the calls, in nanoseconds."""
        return float(np.percentile(self.samples, 99))

    @property
    def rate(self) -> float:
        """Items per second in the median call."""
        return self.items / self.p50 * 1e9


@dataclass(frozen=True)
class Skip:
    """Something that was not measured.

    Attributes:
        case: Data of the row; empty for all.
        subject: Name of what would have been measured.
        size: Size; `None` for all.
        reason: Why.
    """

    case: str
    subject: str
    size: int | None
    reason: str


def sample(calls: Mapping[str, Callable[[], Sequence[int]]], limits: Limits) -> dict[str, NDArray[np.float64]]:
    """Call several subjects repeatedly within the limits, in rounds, so that a slow phase of the machine affects all of them.

    Args:
        calls: By subject: does the work at least once and returns the duration of each time, in nanoseconds.
        limits: Number of calls, and time to spend on those of one subject.

    Returns:
        By subject: nanoseconds of each call, of shape (calls,).
    """
    collect_garbage()
    samples: dict[str, list[int]] = {name: [] for name in calls}
    for finished in range(1, max(ROUNDS, limits.least) + 1):
        for name, call in calls.items():
            own = samples[name]
            spent = sum(own)
            while len(own) < min(limits.least, finished) or (
                spent < limits.sampling_s * 1e9 * finished / ROUNDS and len(own) < limits.most
            ):
                times = call()
                own += times
                spent += sum(times)
    return {name: np.array(own, dtype=np.float64) for name, own in samples.items()}


@dataclass
class Scaling:
    """The rows of a benchmark.

    Attributes:
        size_unit: Unit of the sizes, such as "vertices".
        item_unit: Unit of the items, such as "edges".
        limits: Limits of each row.
        rows: What was measured.
        skips: What was not.
        checks: Results compared with the reference, one sentence each.
        per_item: Whether the tables have columns of the time per item.
    """

    size_unit: str
    item_unit: str
    limits: Limits
    rows: list[Row] = field(default_factory=list)
    skips: list[Skip] = field(default_factory=list)
    checks: list[str] = field(default_factory=list)
    per_item: bool = False

    def skip(self, subject: str, reason: str, case: str = "", size: int | None = None) -> None:
        """Record and print, on standard error, what is not measured and why. The same reason is recorded once."""
        skipped = Skip(case, subject, size, reason)
        if skipped not in self.skips:
            self.skips.append(skipped)
            print(f"skipped: {self.describe(skipped)}", file=sys.stderr)

    def describe(self, skipped: Skip) -> str:
        """Return a skip as text."""
        where = [skipped.case] if skipped.case else []
        where += [] if skipped.size is None else [f"{skipped.size:,} {self.size_unit}"]
        return ", ".join([skipped.subject, *where]) + f": {skipped.reason}"

    def too_slow(self, case: str, operation: str, subject: str, items: float) -> str | None:
        """Return why a row would take too long, by the subject's rate at the next smaller size; `None` if it would not."""
        earlier = [row for row in self.rows if (row.case, row.operation, row.subject) == (case, operation, subject)]
        if not earlier:
            return None
        expected = items / earlier[-1].rate * (1 + self.limits.least)
        if expected <= self.limits.row_s:
            return None
        calls = f"{1 + self.limits.least} calls of `{operation}`"
        return f"{calls} would take about {number(expected)} s, over --row-limit {self.limits.row_s:g} s"

    def too_large(self, needed_bytes: float) -> str | None:
        """Return why a subject needs too much memory; `None` if it does not."""
        if needed_bytes <= self.limits.memory_bytes:
            return None
        return f"needs {number(needed_bytes / 2**30)} GiB, over --memory {self.limits.memory_bytes / 2**30:g} GiB"

    def groups(self) -> Iterator[tuple[str, str, list[Row]]]:
        """Yield the rows of each operation and case, in the order in which they were measured."""
        order = {key: place for place, key in enumerate(dict.fromkeys((row.operation, row.case) for row in self.rows))}
        rows = sorted(self.rows, key=lambda row: order[row.operation, row.case])
        for (operation, case), group in groupby(rows, key=lambda row: (row.operation, row.case)):
            yield operation, case, list(group)

    def tables(self) -> str:
        """Return one table per operation and case."""
        absent = [f"{one.subject}: {one.reason}" for one in self.skips if not one.case and one.size is None]
        return "\n\n".join(
            "\n".join([f"{operation}: {case}", self._table(sorted(rows, key=lambda row: row.size)), *absent])
            for operation, case, rows in self.groups()
        )

    def _table(self, rows: Sequence[Row]) -> str:
        has_transfer = any(row.transfer is not None for row in rows)
        cells = [
            [
                f"{row.size:,}",
                row.subject,
                number(row.p50 / 1000),
                number(row.p99 / 1000),
                str(len(row.samples)),
                *([number(row.p50 / row.items), number(row.p99 / row.items)] if self.per_item else []),
                number(row.rate / 1e6),
                *([_percent(row.transfer)] if has_transfer else []),
            ]
            for row in rows
        ]
        item = self.item_unit.removesuffix("s")
        per_item = [f"p50 ns/{item}", f"p99 ns/{item}"] if self.per_item else []
        transfer = ["transfer"] if has_transfer else []
        head = [self.size_unit, "subject", "p50 µs", "p99 µs", "calls", *per_item, f"M {self.item_unit}/s", *transfer]
        return table(head, cells)

    def document(self) -> dict[str, Any]:
        """Return rows, skips and checks for JSON."""
        rows = [
            {
                "case": row.case,
                "operation": row.operation,
                "subject": row.subject,
                "device": row.device,
                "size": row.size,
                "calls": len(row.samples),
                "items": row.items,
                "min": float(row.samples.min()),
                "p50": row.p50,
                "p99": row.p99,
                "max": float(row.samples.max()),
                "p50_per_item": row.p50 / row.items,
                "p99_per_item": row.p99 / row.items,
                "rate": row.rate,
                "transfer": row.transfer,
            }
            for row in self.rows
        ]
        units = {"size": self.size_unit, "items": self.item_unit, "min": "ns", "p50": "ns", "p99": "ns", "max": "ns"}
        units |= {"p50_per_item": "ns", "p99_per_item": "ns"}
        units |= {"rate": f"{self.item_unit}/s", "transfer": "share of the call"}
        skipped = [{"case": one.case, "subject": one.subject, "size": one.size, "reason": one.reason} for one in self.skips]
        return {"units": units, "rows": rows, "skipped": skipped, "checks": self.checks}


@dataclass(frozen=True)
class Crossover:
    """From which size on one subject is faster than another, by their medians.

    Attributes:
        operation: What one call does.
        case: Data of the rows.
        faster: The subject that may win.
        slower: The subject that it is compared with.
        size: Smallest size from which on it wins at every measured size; `None` if it does not win at the largest.
        sizes: Sizes that both have, ascending; empty if there are none.
        ratio: Time of `slower` divided by that of `faster`, at the largest size.
        missing: Why there are no sizes, if that is known.
    """

    operation: str
    case: str
    faster: str
    slower: str
    size: int | None
    sizes: tuple[int, ...]
    ratio: float | None
    missing: str = ""

    def sentence(self, size_unit: str) -> str:
        """Return the crossover as text."""
        pair = f"{self.operation}, {self.case}: {self.faster} against {self.slower}: "
        if not self.sizes:
            return pair + (self.missing or "no size was measured with both")
        at_largest = f"{number(self.ratio or 0)} × at {self.sizes[-1]:,}"
        if self.size is None:
            return f"{pair}not faster at the largest size ({at_largest})"
        first = "every measured size" if self.size == self.sizes[0] else f"{self.size:,} {size_unit}"
        return f"{pair}faster from {first} on ({at_largest})"


def crossover(rows: Iterable[Row], operation: str, case: str, faster: str, slower: str) -> Crossover:
    """Compare two subjects at every size that both have.

    Args:
        rows: The rows of a benchmark.
        operation: The operation to compare.
        case: The data to compare.
        faster: Name of a subject, or "GPU" or "CPU" for the fastest subject on that device at each size.
        slower: The same for the subject that it is compared with.

    Returns:
        The crossover.
    """
    chosen = [row for row in rows if (row.operation, row.case) == (operation, case)]
    left, right = _medians(chosen, faster), _medians(chosen, slower)
    sizes = tuple(sorted(left.keys() & right.keys()))
    first = None
    for size in reversed(sizes):
        if left[size] >= right[size]:
            break
        first = size
    ratio = right[sizes[-1]] / left[sizes[-1]] if sizes else None
    missing = NO_CUDA if faster == "GPU" and not left else ""
    return Crossover(operation, case, faster, slower, first, sizes, ratio, missing)


def _medians(rows: Iterable[Row], subject: str) -> dict[int, float]:
    """Return the median by size of a subject, or of the fastest on a device."""
    medians: dict[int, float] = {}
    for row in rows:
        if row.subject == subject or row.device.upper() == subject:
            medians[row.size] = min(row.p50, medians.get(row.size, np.inf))
    return medians


def fastest(rows: Iterable[Row]) -> dict[int, str]:
    """Return the name of the subject with the lowest median, by size."""
    best: dict[int, Row] = {}
    for row in rows:
        if row.size not in best or row.p50 < best[row.size].p50:
            best[row.size] = row
    return {size: best[size].subject for size in sorted(best)}


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
