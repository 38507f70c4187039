"""Measure every tier of pydotcompute on this machine, with plain-Python baselines.

    python benchmarks/extended_benchmark.py                 # on uvloop, if installed
    python benchmarks/extended_benchmark.py --loop asyncio  # on asyncio's own event loop
    python benchmarks/extended_benchmark.py --only ask serialise

`--list` explains the names. Every workload checks its results.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import numpy as np

from _harness import Series, arguments, check, progress, report, table
from _targets import TARGETS


def main() -> int:
    """Measure and report."""
    parser = arguments(__doc__, "extended")
    installed = importlib.util.find_spec("uvloop") is not None
    parser.add_argument(
        "--loop", choices=["uvloop", "asyncio"], default="uvloop" if installed else "asyncio", help="event loop (%(default)s)"
    )
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="measure only these")
    parser.add_argument("--list", action="store_true", help="list the measurements and exit")
    options = parser.parse_args()
    if options.loop == "asyncio":
        os.environ["PYDOTCOMPUTE_NO_UVLOOP"] = "1"

    # Imported here, after the environment variable is set: importing pydotcompute installs uvloop.
    from _baselines import BASELINES
    from _new_workloads import NEW_WORKLOADS
    from _workloads import WORKLOADS, RunConfig

    subjects = [*WORKLOADS, *NEW_WORKLOADS, *BASELINES]
    if options.list:
        print(table(["", "one operation"], [[one.name, one.what] for one in subjects]))
        return 0
    chosen = [one for one in subjects if not options.only or one.name in options.only]
    if not chosen:
        parser.error(f"no measurement is named {' or '.join(options.only)}; --list prints the names")

    config = RunConfig(quick=options.quick, loop=options.loop)
    series = []
    for subject in progress(chosen, "workloads"):
        samples = subject.run(config)
        check(len(samples) > 0 and bool((samples >= 0).all()), f"{subject.name}: no samples, or negative ones")
        target = TARGETS[subject.name].evaluate(float(np.median(samples)) / 1000) if subject.name in TARGETS else ""
        series.append(Series(subject.name, samples, what=subject.what, reference=subject in BASELINES, target=target))
    report(
        options,
        "pydotcompute",
        series,
        [f"Event loop: {options.loop}. Times of operations that are timed singly include reading the clock."],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
