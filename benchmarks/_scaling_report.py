"""Reports of measurements over a range of sizes: text, JSON, and plots of latency (p50 and p99), throughput and transfer on log axes."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from _harness import Machine, command_line, emit
from _scaling import Crossover, Row, Scaling, fastest


def report_scaling(
    options: argparse.Namespace,
    title: str,
    scaling: Scaling,
    crossovers: Sequence[Crossover],
    notes: Sequence[str],
    latency: str = "one call",
) -> None:
    """Print tables, crossovers and what was skipped, or JSON, and write the plot.

    Args:
        options: Options parsed by the parser of `arguments`.
        title: Title of the benchmark.
        scaling: The measurements.
        crossovers: The comparisons to print.
        notes: Sentences that explain the results.
        latency: What the latency is that of, for the plot.
    """
    machine = Machine.here()
    plot_scaling(options.png, title, scaling, latency)
    best = [
        f"{operation}, {case}: " + ", ".join(f"{subject} at {size:,}" for size, subject in fastest(rows).items())
        for operation, case, rows in scaling.groups()
    ]
    document = {
        "title": title,
        "command": command_line(),
        "machine": asdict(machine),
        "method": str(scaling.limits),
        "notes": list(notes),
        **scaling.document(),
        "crossovers": [asdict(one) for one in crossovers],
    }
    parts = [
        "\n".join([title, f"Command: {command_line()}", f"Machine: {machine}", f"Method: {scaling.limits}.", *notes, *scaling.checks]),
        scaling.tables(),
        "\n".join(["Fastest by the median:", *best]),
        "\n".join(["Crossovers:", *(one.sentence(scaling.size_unit) for one in crossovers)]),
        "\n".join(["Skipped:", *map(scaling.describe, scaling.skips)]) if scaling.skips else "Skipped: nothing",
        f"Plot: {options.png}" if options.png.exists() else "Plot: none, because it needs several sizes",
    ]
    emit(options, document, "\n\n".join(parts))


def plot_scaling(path: Path, title: str, scaling: Scaling, latency: str = "one call") -> None:
    """Plot the rows as PNG: a row of panels for each operation and case that has several sizes.

    Args:
        path: Path of the file; its folder is created.
        title: Title of the plot.
        scaling: The measurements.
        latency: What the latency is that of, for the axis.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    groups = [group for group in scaling.groups() if len({row.size for row in group[2]}) > 1]
    if not groups:
        return
    has_transfer = any(row.transfer is not None for row in scaling.rows)
    columns = 3 if has_transfer else 2
    subjects = list(dict.fromkeys(row.subject for row in scaling.rows))
    colors = {subject: f"C{place}" if place < 10 else "black" for place, subject in enumerate(subjects)}
    figure, grid = pyplot.subplots(
        len(groups), columns, figsize=(5.6 * columns + 1, 3.4 * len(groups) + 0.9), layout="constrained", squeeze=False
    )
    for axes, (operation, case, rows) in zip(grid, groups, strict=True):
        _latency(axes[0], rows, colors)
        axes[0].set_ylabel(f"latency of {latency} [µs]")
        _lines(axes[1], rows, colors, [row.rate for row in rows])
        axes[1].set_ylabel(f"throughput [{scaling.item_unit}/s]")
        if has_transfer:
            _transfer(axes[2], rows, colors)
        for panel in axes:
            panel.set_xscale("log")
            panel.set_xlabel(f"size [{scaling.size_unit}]")
            panel.set_title(f"{operation}: {case}", fontsize=10)
            panel.grid(which="both", alpha=0.25)
        for panel in axes[:2]:
            panel.set_yscale("log")
    figure.suptitle(title)
    _legend(figure, colors)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def _by_subject(rows: Sequence[Row], values: Sequence[float | None]) -> dict[str, list[tuple[int, float]]]:
    """Return the points of each subject, by size."""
    points: dict[str, list[tuple[int, float]]] = {}
    for row, value in zip(rows, values, strict=True):
        if value is not None:
            points.setdefault(row.subject, []).append((row.size, value))
    return {subject: sorted(line) for subject, line in points.items()}


def _lines(axes: Any, rows: Sequence[Row], colors: dict[str, str], values: Sequence[float | None], style: str = "o-") -> None:
    for subject, points in _by_subject(rows, values).items():
        sizes, line = zip(*points, strict=True)
        axes.plot(sizes, line, style, color=colors[subject], markersize=4, linewidth=1.4)


def _latency(axes: Any, rows: Sequence[Row], colors: dict[str, str]) -> None:
    """Draw p50 as a line and p99 as a dashed line."""
    _lines(axes, rows, colors, [row.p50 / 1000 for row in rows])
    _lines(axes, rows, colors, [row.p99 / 1000 for row in rows], "^--")


def _transfer(axes: Any, rows: Sequence[Row], colors: dict[str, str]) -> None:
    _lines(axes, rows, colors, [None if row.transfer is None else 100 * row.transfer for row in rows])
    axes.set_ylim(-3, 103)
    axes.set_ylabel("share of transfer in a call [%]")


def _legend(figure: Any, colors: dict[str, str]) -> None:
    """Draw one legend for all panels: a colour per subject, and the marks of p50 and p99."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=color, linewidth=3, label=subject) for subject, color in colors.items()]
    handles += [
        Line2D([], [], color="#555555", linestyle="-", marker="o", markersize=4, label="p50 (median)"),
        Line2D([], [], color="#555555", linestyle="--", marker="^", markersize=4, label="p99"),
    ]
    figure.legend(handles=handles, loc="outside right upper", fontsize=9)
