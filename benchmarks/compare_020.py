"""Run the same workloads on this release and on pydotcompute 0.2.0, side by side, and print the speedups.

The first run creates a second environment in `target/` with `pydotcompute==0.2.0` from PyPI, the same interpreter, and the same versions of
NumPy, msgpack and uvloop. Rounds then alternate between this release and the old one, each in a process of its own. A speedup is
computed within a round, so that temporary slowdowns of the machine affect both sides.

Every workload (see `_workloads.py`) checks its results, on both sides. Workloads that need an event loop run on uvloop, if it is
installed, and on asyncio's own loop.

    python benchmarks/compare_020.py            # about three minutes
    python benchmarks/compare_020.py --quick    # a smoke test, not a measurement
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from _harness import METHOD, ROOT, Machine, Series, arguments, command_line, emit, number, plot, progress, table
from _targets import TARGETS

OLD = "0.2.0"
WORKER = Path(__file__).with_name("_worker.py")
ON_A_LOOP = ["ask", "ask_timeout", "ask_rate", "ask_built", "stream"]
ROUND_LIMIT_S = 300


@dataclass
class Pair:
    """One workload on one event loop: the samples of both releases, one array per round, or the errors."""

    name: str
    new: list[NDArray[np.float64]]
    old: list[NDArray[np.float64]]
    errors: dict[str, str]

    def medians(self, side: str) -> NDArray[np.float64]:
        """Median of each round, of shape (rounds,)."""
        return np.array([np.median(samples) for samples in getattr(self, side)])

    def speedups(self) -> NDArray[np.float64]:
        """Speedup of this release in each round in which both sides have a result."""
        new, old = self.medians("new"), self.medians("old")
        rounds = min(len(new), len(old))
        return old[:rounds] / new[:rounds]

    def summary(self) -> dict[str, Any]:
        """Return the results for JSON."""
        summary: dict[str, Any] = {"name": self.name, "unit": "ns", **self.errors}
        for side in ("new", "old"):
            if samples := getattr(self, side):
                marks = np.percentile(np.concatenate(samples), (50, 99, 100)).round(2).tolist()
                summary[side] = {
                    "p50": round(float(np.median(self.medians(side))), 2),
                    "all_p50": marks[0],
                    "p99": marks[1],
                    "max": marks[2],
                }
        if len(speedups := self.speedups()):
            summary["times_faster"] = {"median": round(float(np.median(speedups)), 2), "rounds": speedups.round(2).tolist()}
        return summary


def has_uvloop() -> bool:
    """Whether uvloop is installed here, so that the old release's environment needs it too."""
    return importlib.util.find_spec("uvloop") is not None


def old_environment() -> Path:
    """Return the interpreter of the old release's environment. Creates the environment if it does not exist.

    Raises:
        SystemExit: The environment could not be created; the text includes pip's output.
    """
    names = ["numpy", "msgpack", *(["uvloop"] if has_uvloop() else [])]
    pins = [f"{name}=={metadata.version(name)}" for name in names]
    folder = ROOT / "target" / f"pydotcompute-{OLD}-{sys.implementation.cache_tag}"
    python = folder / "bin" / "python"
    pins_file = folder / "pins.txt"
    if pins_file.exists() and pins_file.read_text().split() == pins:
        return python
    print(f"creating an environment with pydotcompute {OLD} in {folder} (once)", file=sys.stderr)
    commands = [
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"pydotcompute=={OLD}", *pins],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(
                f"compare_020: creating an environment with pydotcompute {OLD}: `{' '.join(command)}` failed:\n{done.stdout}{done.stderr}"
            )
    pins_file.write_text("\n".join(pins))
    return python


def run_side(python: str, loop: str, names: Sequence[str], quick: bool) -> dict[str, dict[str, Any]]:
    """Run workloads in one environment, in a process of its own.

    Returns:
        The worker's output by workload: `samples`, or an `error`. If the worker dies or hangs, the workloads that it did not finish have
        an error.
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if loop == "asyncio":
        environment["PYDOTCOMPUTE_NO_UVLOOP"] = "1"
    command = [python, str(WORKER), "--loop", loop, *(["--quick"] if quick else []), *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ROUND_LIMIT_S, env=environment, check=False)
        printed, ending = done.stdout, f"the worker ended with {done.returncode}: {done.stderr.strip()[-500:]}"
    except subprocess.TimeoutExpired as error:
        printed = error.stdout.decode() if isinstance(error.stdout, bytes) else error.stdout or ""
        ending = f"no result within {ROUND_LIMIT_S} s"
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    results = {line["name"]: line for line in lines if "name" in line}
    return {name: results.get(name, {"error": ending}) for name in names}


def compare(old_python: Path, rounds: int, quick: bool, only: Sequence[str]) -> list[Pair]:
    """Run all workloads on both sides, alternating, `rounds` times."""
    from _workloads import WORKLOADS

    names = [workload.name for workload in WORKLOADS if not only or workload.name in only]
    on_asyncio = [name for name in names if name in ON_A_LOOP]
    sessions = [("asyncio", names)]
    if has_uvloop():
        sessions = [("uvloop", names), *([("asyncio", on_asyncio)] if on_asyncio else [])]
    pairs = {(loop, name): Pair(_label(loop, name), [], [], {}) for loop, chosen in sessions for name in chosen}
    runs = [
        (loop, chosen, side, python)
        for _ in range(rounds)
        for loop, chosen in sessions
        for side, python in (("new", sys.executable), ("old", str(old_python)))
    ]
    for loop, chosen, side, python in progress(runs, "rounds"):
        for name, result in run_side(python, loop, chosen, quick).items():
            pair = pairs[loop, name]
            if "samples" in result:
                getattr(pair, side).append(np.array(result["samples"]))
            else:
                pair.errors[f"{side}_error"] = result["error"]
    return list(pairs.values())


def _label(loop: str, name: str) -> str:
    """Return the displayed name: with the event loop, if the workload needs one."""
    return f"{name} ({loop})" if name in ON_A_LOOP else name


def target_result(pair: Pair) -> str:
    """Return whether a workload met its targets; empty without a target or a result."""
    target = TARGETS.get(pair.name.partition(" ")[0])
    if target is None or not pair.new:
        return ""
    speedups = pair.speedups()
    return target.evaluate(float(np.median(pair.medians("new"))) / 1000, float(np.median(speedups)) if len(speedups) else None)


def rows(pairs: Sequence[Pair]) -> list[list[str]]:
    """Return one row per workload: medians, p99, and the speedup with its range over the rounds."""
    cells_by_row = []
    for pair in pairs:
        cells = [pair.name]
        for side in ("new", "old"):
            samples = getattr(pair, side)
            cells += (
                [number(np.median(pair.medians(side)) / 1000), number(np.percentile(np.concatenate(samples), 99) / 1000)]
                if samples
                else ["failed", ""]
            )
        speedups = pair.speedups()
        cells += [f"{np.median(speedups):.2f} ×", f"{speedups.min():.2f} - {speedups.max():.2f}"] if len(speedups) else ["", ""]
        cells_by_row.append([*cells, target_result(pair)])
    return cells_by_row


def main() -> int:
    """Compare and print. The exit status says whether every workload of this release ran."""
    parser = arguments(__doc__, "compare_020")
    parser.add_argument("--rounds", type=int, help="number of rounds per side (default 7; with --quick 1)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORKLOAD", help="run only these workloads")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 7)
    machine = Machine.here()
    pairs = compare(old_environment(), rounds, options.quick, options.only)
    if not pairs:
        parser.error(f"no workload is named {' or '.join(options.only)}")
    shown = [
        Series(f"{pair.name} {label}", np.concatenate(samples), reference=label == OLD)
        for pair in pairs
        for label, samples in (("now", pair.new), (OLD, pair.old))
        if samples
    ]
    plot(options.png, f"this release (blue) and pydotcompute {OLD} (grey)", shown)
    now = machine.packages["pydotcompute"]
    document = {
        "command": command_line(),
        "machine": asdict(machine),
        "method": METHOD,
        "old": OLD,
        "rounds": rounds,
        "workloads": [pair.summary() for pair in pairs],
    }
    text = [
        f"pydotcompute {now} and {OLD}, {rounds} interleaved rounds, each side in a process of its own",
        f"Command: {command_line()}",
        f"Machine: {machine}",
        f"Method: {METHOD}",
        "µs per operation: the median of the rounds' medians, p99 of all samples; speedups within a round: median and range",
        "",
        table(["", "p50 now", "p99 now", f"p50 {OLD}", f"p99 {OLD}", "speedup", "range", "target"], rows(pairs)),
    ]
    emit(options, document, "\n".join(text))
    for pair in pairs:
        for side, error in pair.errors.items():
            print(f"{pair.name}: {side.replace('_', ' ')}: {error}", file=sys.stderr)
    return 1 if any("new_error" in pair.errors for pair in pairs) else 0


if __name__ == "__main__":
    sys.exit(main())
