"""Every tier of pydotcompute on this machine, beside what Python itself takes for the like.

    python benchmarks/extended_benchmark.py                 # on uvloop, where it is installed
    python benchmarks/extended_benchmark.py --loop asyncio  # on asyncio's own event loop
    python benchmarks/extended_benchmark.py --only ask serialise

What each name stands for is printed by `--list`. Every workload checks what comes out.
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
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these alone")
    parser.add_argument("--list", action="store_true", help="print what is measured, and end")
    options = parser.parse_args()
    if options.loop == "asyncio":
        os.environ["PYDOTCOMPUTE_NO_UVLOOP"] = "1"

    # Here, because pydotcompute looks for uvloop when it is imported.
    from _baselines import BASELINES
    from _new_workloads import NEW_WORKLOADS
    from _workloads import WORKLOADS, RunConfig

    subjects = [*WORKLOADS, *NEW_WORKLOADS, *BASELINES]
    if options.list:
        print(table(["", "what one operation is"], [[one.name, one.what] for one in subjects]))
        return 0
    chosen = [one for one in subjects if not options.only or one.name in options.only]
    if not chosen:
        parser.error(f"nothing is called {' or '.join(options.only)}; --list prints the names")

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
        [f"Event loop: {options.loop}. Times include reading the clock, where each operation is timed alone."],
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
