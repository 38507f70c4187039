"""Run workloads in one environment and print each one's samples as a line of JSON: what `compare_020.py` starts on both sides."""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import metadata

from _workloads import WORKLOADS, RunConfig


def main() -> int:
    """Run the workloads named on the command line, in that order; one that fails is reported and the next goes on."""
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
            # The comparison has to name what failed and why, and measure the rest.
            outcome["error"] = f"{type(error).__name__}: {error}"
        outcome["seconds"] = round(time.perf_counter() - start, 3)
        print(json.dumps(outcome), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
