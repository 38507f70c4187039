"""PageRank of a real graph with NumPy, Numba, and ring kernels that partition the graph, in edges per second.

The graph is that of `examples/pagerank.py`: the dependencies of the Debian packages known to this machine, or `--edges FILE`. All
variants run the same number of sweeps, in turn, and must produce the same ranks.

    python benchmarks/pagerank_benchmark.py --rounds 15
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from _harness import CLOCK, Series, add_examples, arguments, check, collect_garbage, progress, report

add_examples()

from graphs import Graph, debian, edge_list  # noqa: E402
from pagerank import DAMPING, PageRank, Ranks, sweep_once, sweep_share  # noqa: E402


class SingleThread:
    """Sweeps by one function on this thread, with the interface of `PageRank`."""

    def __init__(self, graph: Graph, sweep: Callable[[Graph, Ranks], Ranks]) -> None:
        self.graph = graph
        self.ranks = np.full(len(graph.names), 1 / len(graph.names))
        self._sweep = sweep

    def __enter__(self) -> SingleThread:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sweep(self) -> float:
        """Run one sweep, and return the total rank change."""
        new = self._sweep(self.graph, self.ranks)
        change = float(np.abs(new - self.ranks).sum())
        self.ranks = new
        return change


def numba_sweep() -> Callable[[Graph, Ranks], Ranks] | None:
    """Return a sweep with the example's inner loop over the whole graph, or `None` without Numba."""
    try:
        from numba import njit
    except ImportError:
        return None
    compiled = njit(nogil=True)(sweep_share)

    def sweep(graph: Graph, ranks: Ranks) -> Ranks:
        sinks = graph.out_degrees == 0
        shares = np.divide(ranks, graph.out_degrees, out=np.zeros_like(ranks), where=~sinks)
        new = np.empty_like(ranks)
        compiled(graph.starts, graph.sources, shares, float(1 - DAMPING + DAMPING * ranks[sinks].sum()) / len(ranks), ranks, new, 0)
        return new

    return sweep


def variants(graph: Graph, kernels: list[int]) -> dict[str, Callable[[], SingleThread | PageRank]]:
    """Return the factories of the variants, by name; each round creates new objects."""
    factories: dict[str, Callable[[], SingleThread | PageRank]] = {"numpy": partial(SingleThread, graph, sweep_once)}
    if (by_numba := numba_sweep()) is not None:
        factories["numba"] = partial(SingleThread, graph, by_numba)
    for count in kernels:
        factories[f"ring-kernels-{count}"] = partial(PageRank, graph, count)
    return factories


def measure(graph: Graph, kernels: list[int], rounds: int, sweeps: int) -> list[Series]:
    """Time every variant in every round, and compare the resulting ranks.

    Args:
        graph: The graph.
        kernels: Numbers of ring kernels to try.
        rounds: Number of rounds.
        sweeps: Sweeps per round.

    Returns:
        Per variant: its rate in M edges/s, one sample per round, and the times of its sweeps.
    """
    compared = variants(graph, kernels)
    rates: dict[str, list[float]] = {name: [] for name in compared}
    times: dict[str, list[float]] = {name: [] for name in compared}
    expected: Ranks | None = None
    for _ in progress(range(rounds), "rounds"):
        for name, make in compared.items():
            with make() as ranking:
                ranking.sweep()  # Warm-up: compiles, and touches the memory.
                collect_garbage()
                start = CLOCK()
                for _ in range(sweeps):
                    before = CLOCK()
                    ranking.sweep()
                    times[name].append(CLOCK() - before)
                rates[name].append(len(graph.sources) * sweeps / (CLOCK() - start) * 1000)
                ranks = ranking.ranks.copy()
            expected = ranks if expected is None else expected
            difference = float(np.abs(ranks - expected).sum())
            check(abs(ranks.sum() - 1) < 1e-9, f"{name}: the ranks sum to {ranks.sum()}")
            check(difference < 1e-9, f"{name}: the ranks differ from NumPy's by {difference}")
    what = "one sweep over the graph"
    series = [Series(f"{name} sweep", np.array(samples), what=what, reference=name == "numba") for name, samples in times.items()]
    return series + [Series(name, np.array(samples), unit="M edges/s", reference=name == "numba") for name, samples in rates.items()]


def main() -> int:
    """Measure and report."""
    parser = arguments(__doc__, "pagerank")
    parser.add_argument("--edges", type=Path, help="file of edges, one `source target` per line")
    parser.add_argument("--rounds", type=int, help="number of rounds (default 15; with --quick 2)")
    parser.add_argument("--sweeps", type=int, default=20, help="sweeps per round (%(default)s)")
    parser.add_argument("--kernels", type=int, nargs="+", default=[1, 2], help="numbers of ring kernels (1 2)")
    options = parser.parse_args()
    graph = edge_list(options.edges) if options.edges else debian()
    if graph is None:
        parser.error("there is no graph to rank: this machine has no dpkg; pass a file with --edges")
    series = measure(graph, options.kernels, options.rounds or (2 if options.quick else 15), options.sweeps)
    notes = [str(graph), "The reference is the same inner loop on one thread, without ring kernels. All variants produced the same ranks."]
    report(options, "PageRank", series, notes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
