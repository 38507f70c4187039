"""Series to look for anomalies in: those of the Numenta Anomaly Benchmark (NAB) where they are, or made ones."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

BESIDE_THE_PROJECT = Path(__file__).resolve().parents[2] / "shared" / "data" / "nab"


@dataclass(frozen=True)
class TimeSeries:
    """One series of measurements, and where something was wrong.

    Attributes:
        name: What was measured.
        values: The measurements in order, of shape (n,).
        windows: First and last index of each stretch that people labelled as anomalous.
    """

    name: str
    values: NDArray[np.float64]
    windows: list[tuple[int, int]]


def load(folder: Path | None = None, limit: int | None = None) -> tuple[list[TimeSeries], str]:
    """NAB's series from a folder, or made ones if it is not there.

    Args:
        folder: A folder with NAB's `windows.json` and CSV files; by default `../shared/data/nab` beside the project.
        limit: How many series at most.

    Returns:
        The series, and a sentence that says which they are and why.

    Raises:
        FileNotFoundError: If a folder was named and has no `windows.json`.
    """
    place = folder or BESIDE_THE_PROJECT
    if folder is None and not (place / "windows.json").exists():
        return made(limit or 8), "made series: there is no NAB data in ../shared/data/nab beside the project, and --data names none"
    labels = json.loads((place / "windows.json").read_text())
    paths = sorted(place.glob("*/*.csv"))[:limit]
    series = [_read(path, labels.get(f"{path.parent.name}/{path.name}", [])) for path in paths]
    return series, f"{len(series)} series of the Numenta Anomaly Benchmark"


def _read(path: Path, windows: list[list[str]]) -> TimeSeries:
    """Read one CSV file of NAB, and find its windows' times among its rows."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    times = [row["timestamp"] for row in rows]
    # Times are written alike, the windows' with fractions, so that text sorts as time does.
    spans = [(int(np.searchsorted(times, first[:19])), int(np.searchsorted(times, last[:19], side="right")) - 1) for first, last in windows]
    return TimeSeries(path.stem, np.array([float(row["value"]) for row in rows]), spans)


def made(count: int, length: int = 4000) -> list[TimeSeries]:
    """Series of slow waves with noise, each with three spikes of fifteen times the noise.

    Args:
        count: How many series.
        length: How many values each has.

    Returns:
        The series; the same on every call.
    """
    random = np.random.default_rng(seed=7)
    series = []
    for index in range(count):
        values = 50 + 5 * np.sin(np.arange(length) / 300 + index) + random.normal(0, 1, length)
        spikes = np.sort(random.choice(np.arange(500, length - 10), 3, replace=False))
        values[spikes] += 15
        series.append(TimeSeries(f"made-{index}", values, [(int(spike), int(spike)) for spike in spikes]))
    return series
