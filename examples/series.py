"""Time series for anomaly detection: those of the Numenta Anomaly Benchmark (NAB), or synthetic ones."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "nab"


@dataclass(frozen=True)
class TimeSeries:
    """A series of measurements with labelled anomalies.

    Attributes:
        name: Name of the series.
        values: The measurements in order, of shape (n,).
        windows: First and last index of each interval labelled as anomalous.
    """

    name: str
    values: NDArray[np.float64]
    windows: list[tuple[int, int]]


def load(folder: Path | None = None, limit: int | None = None) -> tuple[list[TimeSeries], str]:
    """Load NAB's series from a folder, or generate synthetic series if it does not exist.

    Args:
        folder: A folder with NAB's `windows.json` and CSV files; by default `../shared/data/nab` beside the project.
        limit: Maximum number of series.

    Returns:
        The series, and a sentence that describes their origin.

    Raises:
        FileNotFoundError: An explicit folder has no `windows.json`.
    """
    data_folder = folder or DEFAULT_FOLDER
    if folder is None and not (data_folder / "windows.json").exists():
        return synthetic(limit or 8), "synthetic series: no NAB data in ../shared/data/nab beside the project, and no --data"
    labels = json.loads((data_folder / "windows.json").read_text())
    paths = sorted(data_folder.glob("*/*.csv"))[:limit]
    series = [_read(path, labels.get(f"{path.parent.name}/{path.name}", [])) for path in paths]
    return series, f"{len(series)} series of the Numenta Anomaly Benchmark"


def _read(path: Path, windows: list[list[str]]) -> TimeSeries:
    """Read one NAB CSV file, and map the times of its windows to row indices."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    times = [row["timestamp"] for row in rows]
    # All times have the same text format (those of windows with fractions), so text order is time order.
    spans = [(int(np.searchsorted(times, first[:19])), int(np.searchsorted(times, last[:19], side="right")) - 1) for first, last in windows]
    return TimeSeries(path.stem, np.array([float(row["value"]) for row in rows]), spans)


def synthetic(count: int, length: int = 4000) -> list[TimeSeries]:
    """Generate series of slow waves with noise, each with three spikes of 15 standard deviations of the noise.

    Args:
        count: Number of series.
        length: Number of values per series.

    Returns:
        The series; the same on every call.
    """
    random = np.random.default_rng(seed=7)
    series = []
    for index in range(count):
        values = 50 + 5 * np.sin(np.arange(length) / 300 + index) + random.normal(0, 1, length)
        spikes = np.sort(random.choice(np.arange(500, length - 10), 3, replace=False))
        values[spikes] += 15
        series.append(TimeSeries(f"synthetic-{index}", values, [(int(spike), int(spike)) for spike in spikes]))
    return series
