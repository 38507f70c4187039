"""Run the same workloads on this release and on pydotcompute 0.2.0, side by side, and print the quotients.

A second environment with `pydotcompute==0.2.0` from PyPI, and with the same interpreter and the same versions of NumPy, msgpack and
uvloop as this one, is made once in `target/`. Then rounds are run in turn: this release, the old one, this release, and so on, each in
a process of its own. A quotient is taken within a round, so that whatever slows the machine for a while slows both.

Every workload (see `_workloads.py`) checks what comes out, on both sides. The workloads that need an event loop are run on uvloop, if it
is installed, and on asyncio's own.

    python benchmarks/compare_020.py            # some three minutes
    python benchmarks/compare_020.py --quick    # shows that it runs, not how fast
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

from _harness import ROOT, Machine, Series, arguments, number, picture, progress, table
from _targets import TARGETS

OLD = "0.2.0"
WORKER = Path(__file__).with_name("_worker.py")
ON_A_LOOP = ["ask", "ask_timeout", "ask_rate", "ask_built", "stream"]
ROUND_LIMIT_S = 300


@dataclass
class Pair:
    """One workload on one event loop: the samples of both releases, one array per round, or why there are none."""

    name: str
    new: list[NDArray[np.float64]]
    old: list[NDArray[np.float64]]
    errors: dict[str, str]

    def medians(self, side: str) -> NDArray[np.float64]:
        """The median of each round, of shape (rounds,)."""
        return np.array([np.median(samples) for samples in getattr(self, side)])

    def speedups(self) -> NDArray[np.float64]:
        """How many times faster this release was, round by round, where both sides have a result."""
        new, old = self.medians("new"), self.medians("old")
        rounds = min(len(new), len(old))
        return old[:rounds] / new[:rounds]

    def summary(self) -> dict[str, Any]:
        """What JSON shows of it."""
        figures: dict[str, Any] = {"name": self.name, "unit": "ns", **self.errors}
        for side in ("new", "old"):
            if samples := getattr(self, side):
                marks = np.percentile(np.concatenate(samples), (50, 99, 100)).round(2).tolist()
                figures[side] = {
                    "p50": round(float(np.median(self.medians(side))), 2),
                    "all_p50": marks[0],
                    "p99": marks[1],
                    "max": marks[2],
                }
        if len(speedups := self.speedups()):
            figures["times_faster"] = {"median": round(float(np.median(speedups)), 2), "rounds": speedups.round(2).tolist()}
        return figures


def has_uvloop() -> bool:
    """Whether uvloop is installed here, and so is to be installed beside the old release too."""
    return importlib.util.find_spec("uvloop") is not None


def old_environment() -> Path:
    """The interpreter of the environment with the old release, which is made if it is not there.

    Raises:
        SystemExit: If the environment cannot be made, with what pip said.
    """
    names = ["numpy", "msgpack", *(["uvloop"] if has_uvloop() else [])]
    pins = [f"{name}=={metadata.version(name)}" for name in names]
    folder = ROOT / "target" / f"pydotcompute-{OLD}-{sys.implementation.cache_tag}"
    python = folder / "bin" / "python"
    note = folder / "pins.txt"
    if note.exists() and note.read_text().split() == pins:
        return python
    print(f"making an environment with pydotcompute {OLD} in {folder} (once)", file=sys.stderr)
    commands = [
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"pydotcompute=={OLD}", *pins],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(
                f"compare_020: no environment with pydotcompute {OLD}: `{' '.join(command)}` failed:\n{done.stdout}{done.stderr}"
            )
    note.write_text("\n".join(pins))
    return python


def run_side(python: str, loop: str, names: Sequence[str], quick: bool) -> dict[str, dict[str, Any]]:
    """Run workloads in one environment, in a process of its own.

    Returns:
        By workload, what the worker printed: `samples`, or an `error`. A worker that dies or hangs leaves an error for the workloads
        that it had not finished.
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
    """Run all workloads on both sides, in turn, `rounds` times."""
    from _workloads import WORKLOADS

    names = [workload.name for workload in WORKLOADS if not only or workload.name in only]
    on_asyncio = [name for name in names if name in ON_A_LOOP]
    sessions = [("asyncio", names)]
    if has_uvloop():
        sessions = [("uvloop", names), *([("asyncio", on_asyncio)] if on_asyncio else [])]
    pairs = {(loop, name): Pair(_label(loop, name), [], [], {}) for loop, chosen in sessions for name in chosen}
    turns = [
        (loop, chosen, side, python)
        for _ in range(rounds)
        for loop, chosen in sessions
        for side, python in (("new", sys.executable), ("old", str(old_python)))
    ]
    for loop, chosen, side, python in progress(turns, "rounds"):
        for name, result in run_side(python, loop, chosen, quick).items():
            pair = pairs[loop, name]
            if "samples" in result:
                getattr(pair, side).append(np.array(result["samples"]))
            else:
                pair.errors[f"{side}_error"] = result["error"]
    return list(pairs.values())


def _label(loop: str, name: str) -> str:
    """The name to show: with the event loop, where the workload needs one."""
    return f"{name} ({loop})" if name in ON_A_LOOP else name


def verdict(pair: Pair) -> str:
    """Whether the goals of a workload were met; empty for one without a goal, or without a result."""
    target = TARGETS.get(pair.name.partition(" ")[0])
    if target is None or not pair.new:
        return ""
    speedups = pair.speedups()
    return target.evaluate(float(np.median(pair.medians("new"))) / 1000, float(np.median(speedups)) if len(speedups) else None)


def rows(pairs: Sequence[Pair]) -> list[list[str]]:
    """One row per workload: both medians, both p99, and the quotient with its range over the rounds."""
    laid_out = []
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
        laid_out.append([*cells, verdict(pair)])
    return laid_out


def main() -> int:
    """Compare, print, and say by the exit status whether every workload of this release ran."""
    parser = arguments(__doc__, "compare_020")
    parser.add_argument("--rounds", type=int, help="how often each side runs (default 7; with --quick 1)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORKLOAD", help="these workloads alone")
    options = parser.parse_args()
    rounds = options.rounds or (1 if options.quick else 7)
    machine = Machine.here()
    pairs = compare(old_environment(), rounds, options.quick, options.only)
    if not pairs:
        parser.error(f"no workload is called {' or '.join(options.only)}")
    shown = [
        Series(f"{pair.name} {label}", np.concatenate(samples), reference=label == OLD)
        for pair in pairs
        for label, samples in (("now", pair.new), (OLD, pair.old))
        if samples
    ]
    picture(options.png, f"this release (blue) and pydotcompute {OLD} (grey)", shown)
    if options.json:
        print(
            json.dumps(
                {"machine": asdict(machine), "old": OLD, "rounds": rounds, "workloads": [pair.summary() for pair in pairs]}, indent=2
            )
        )
    else:
        now = machine.packages["pydotcompute"]
        print(f"pydotcompute {now} and {OLD}, {rounds} interleaved rounds, each side in a process of its own\n{machine}")
        print("µs per operation: the median of the rounds' medians, p99 of all samples; quotients within a round: median and range\n")
        print(table(["", "p50 now", "p99 now", f"p50 {OLD}", f"p99 {OLD}", "times faster", "of the rounds", "goal"], rows(pairs)))
    for pair in pairs:
        for side, error in pair.errors.items():
            print(f"{pair.name}: {side.replace('_', ' ')}: {error}", file=sys.stderr)
    return 1 if any("new_error" in pair.errors for pair in pairs) else 0


if __name__ == "__main__":
    sys.exit(main())
