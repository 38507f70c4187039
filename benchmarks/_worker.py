"""Run workloads in one environment and print the samples of each as a line of JSON. `compare_020.py` starts it on both sides."""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import metadata

from _workloads import WORKLOADS, RunConfig


def main() -> int:
    """Run the workloads named on the command line, in that order. A failure is reported, and the next workload runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loop", choices=["uvloop", "asyncio"], required=True)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("names", nargs="+", choices=[workload.name for workload in WORKLOADS])
    options = parser.parse_args()
    config = RunConfig(quick=options.quick, loop=options.loop)
    by_name = {workload.name: workload for workload in WORKLOADS}
    print(json.dumps({"release": metadata.version("pydotcompute"), "python": sys.version.split()[0]}), flush=True)
    for name in options.names:
        start = time.perf_counter()
        outcome: dict[str, object] = {"name": name}
        try:
            outcome["samples"] = by_name[name].run(config).round(2).tolist()
        except Exception as error:
            # Any failure is reported with its reason, and the other workloads are still measured.
            outcome["error"] = f"{type(error).__name__}: {error}"
        outcome["seconds"] = round(time.perf_counter() - start, 3)
        print(json.dumps(outcome), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
