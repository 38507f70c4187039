"""PageRank: from which size on does which way win? CPU and GPU, dense and sparse, with and without ring kernels.

Seeded Kronecker graphs of 1,024 to 1,048,576 vertices at three densities, and a real graph, are ranked from equal ranks until the total
change is below 1e-6 (`rank`), and again after 100 new edges (`update`). Beside NumPy, SciPy and Numba stand ring kernels that hold the
graph in their state; they are told the edges and asked for the ranks. All results are compared with a reference before anything is timed.

    python benchmarks/pagerank_benchmark.py                            # a few minutes
    python benchmarks/pagerank_benchmark.py --graph soc-Epinions1.txt  # a real graph from a file, in SNAP's format
    python benchmarks/pagerank_benchmark.py --max-edges 60e6           # also the densest of the largest graphs
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import numpy as np

from _harness import arguments, check, existing_file, progress
from _pagerank_arrays import (
    CompiledRanking,
    MatrixRanking,
    Ranking,
    Ranks,
    Subject,
    Vertices,
    counted_product,
    dense_matrix,
    sparse_matrix,
)
from _pagerank_graphs import EdgeList, kronecker, real
from _pagerank_kernels import AsyncioRanking, NativeRanking, RowsRanking, ThreadsRanking, state_bytes
from _scaling import NO_CUDA, Crossover, Device, Limits, Row, Scaling, crossover, sample
from _scaling_report import report_scaling
from pydotcompute.core.accelerator import cuda_available
from pydotcompute.exceptions import BackendNotAvailableError

NEW_EDGES = 100
# Pairs whose crossovers are printed: the first may be faster than the second.
PAIRS = [
    ("GPU", "CPU"),
    ("scipy-sparse", "numpy-dense"),
    ("numba-edges", "scipy-sparse"),
    ("numba-rows", "scipy-sparse"),
    ("ring-threads-2", "numba-rows"),
    ("ring-asyncio", "scipy-sparse"),
    ("ring-native", "scipy-sparse"),
]


@dataclass(frozen=True, eq=False)
class Entry:
    """A subject of the benchmark.

    Attributes:
        name: Name of the subject.
        make: Makes it for a graph.
        missing: Why it cannot be measured here; empty if it can.
        needed_bytes: Memory that it needs for a graph.
        device: Where it computes.
        is_timed: Whether it is timed, or only compared with the reference.
    """

    name: str
    make: Callable[[EdgeList], Subject]
    missing: str = ""
    needed_bytes: Callable[[EdgeList], float] = lambda graph: 0.0
    device: Device = "cpu"
    is_timed: bool = True


def without(package: str) -> str:
    """Return that a package is not installed; empty if it is."""
    return "" if importlib.util.find_spec(package) else f"{package} is not installed: pip install {package}"


def dense_bytes(graph: EdgeList) -> float:
    """Return the size of a dense matrix, twice while it is copied."""
    return 16.0 * graph.vertices**2


def scipy_ranking(graph: EdgeList) -> Subject:
    """Return the ranking by a sparse matrix of SciPy."""
    from scipy import sparse

    return MatrixRanking(graph, np, sparse_matrix(np, sparse))


def cupy_ranking(graph: EdgeList, dense: bool) -> Subject:
    """Return the ranking by a matrix of CuPy. The graph is on the GPU before the clock starts; the ranks come back."""
    import cupy
    from cupyx.scipy import sparse

    return MatrixRanking(graph, cupy, dense_matrix(cupy) if dense else sparse_matrix(cupy, sparse))


def entries(reserve: int) -> list[Entry]:
    """Return all subjects.

    Args:
        reserve: Edges that are added at most.
    """
    no_cuda = "" if cuda_available() else NO_CUDA
    no_cupy = no_cuda or without("cupy")
    no_numba = without("numba")
    return [
        Entry("numpy-dense", lambda graph: MatrixRanking(graph, np, dense_matrix(np)), needed_bytes=dense_bytes),
        Entry("numpy-sparse", lambda graph: MatrixRanking(graph, np, counted_product())),
        Entry("scipy-sparse", scipy_ranking, without("scipy")),
        Entry("numba-edges", lambda graph: CompiledRanking(graph, reserve), no_numba),
        Entry("numba-rows", RowsRanking, no_numba),
        Entry("ring-asyncio", lambda graph: AsyncioRanking(graph, reserve), no_numba),
        Entry("ring-threads-2", lambda graph: ThreadsRanking(graph, 2)),
        Entry("ring-native", lambda graph: NativeRanking(graph, reserve, "cpu"), no_numba, state_bytes),
        Entry("ring-emulated", lambda graph: NativeRanking(graph, reserve, "emulated"), no_numba, state_bytes, is_timed=False),
        # Before CuPy: the runtime must open the GPU before other libraries do.
        Entry("ring-cuda", lambda graph: NativeRanking(graph, reserve, "cuda"), no_cuda or no_numba, state_bytes, "gpu"),
        Entry("cupy-dense", partial(cupy_ranking, dense=True), no_cupy, dense_bytes, "gpu"),
        Entry("cupy-sparse", partial(cupy_ranking, dense=False), no_cupy, device="gpu"),
    ]


class NewEdges:
    """The same random edges for every subject, `NEW_EDGES` at a time."""

    def __init__(self, graph: EdgeList) -> None:
        self._vertices = graph.vertices
        self._random = np.random.default_rng(seed=graph.vertices)

    def next(self) -> tuple[Vertices, Vertices]:
        """Return sources and targets."""
        ends = self._random.integers(0, self._vertices, (2, NEW_EDGES), dtype=np.int32)
        return ends[0], ends[1]


@dataclass(frozen=True)
class Expected:
    """What every subject must return for a graph: its ranks, and those after the first `NEW_EDGES` new edges."""

    ranks: Ranks
    updated: Ranks

    @classmethod
    def of(cls, graph: EdgeList) -> Expected:
        """Rank with the reference: SciPy, or plain NumPy without it."""
        reference = MatrixRanking(graph, np, counted_product()) if without("scipy") else scipy_ranking(graph)
        ranks = reference.rank().ranks
        updated = reference.update(*NewEdges(graph).next()).ranks  # type: ignore[attr-defined]
        return cls(ranks, updated)


def compare(name: str, what: str, ranking: Ranking, expected: Ranks) -> None:
    """Stop the benchmark unless a subject's ranks are those of the reference."""
    difference = float(np.abs(ranking.ranks - expected).sum())
    check(abs(ranking.ranks.sum() - 1) < 1e-9, f"{name}, {what}: the ranks sum to {ranking.ranks.sum()}")
    check(difference < 1e-9, f"{name}, {what}: the ranks differ from the reference's by {difference} in total")


def measure(scaling: Scaling, group: dict[Entry, Subject], graph: EdgeList, expected: Expected) -> None:
    """Check subjects on one graph, and time in turn those that are to be timed."""
    items: dict[str, float] = {}
    for entry, subject in group.items():
        first = subject.rank()
        compare(entry.name, "rank", first, expected.ranks)
        items[entry.name] = float(graph.edges * first.sweeps)
    timed = {entry: subject for entry, subject in group.items() if entry.is_timed}
    ranked = sample({entry.name: partial(_rank_once, subject) for entry, subject in timed.items()}, scaling.limits)
    for entry in timed:
        scaling.rows.append(Row(graph.case, "rank", entry.name, graph.vertices, ranked[entry.name], items[entry.name], entry.device))

    updates: dict[Entry, Callable[[], list[int]]] = {}
    for entry, subject in group.items():
        if (update := getattr(subject, "update", None)) is not None:
            new_edges = NewEdges(graph)
            compare(entry.name, "rank again", subject.rank(), expected.ranks)
            compare(entry.name, "update", update(*new_edges.next()), expected.updated)
            updates[entry] = partial(_update_once, update, new_edges)
    updated = sample({entry.name: call for entry, call in updates.items() if entry.is_timed}, scaling.limits)
    for entry in updates:
        if entry.is_timed:
            scaling.rows.append(Row(graph.case, "update", entry.name, graph.vertices, updated[entry.name], NEW_EDGES, entry.device))


def _rank_once(subject: Subject) -> list[int]:
    return [subject.rank().elapsed_ns]


def _update_once(update: Callable[[Vertices, Vertices], Ranking], new_edges: NewEdges) -> list[int]:
    return [update(*new_edges.next()).elapsed_ns]


def skip_reason(scaling: Scaling, entry: Entry, graph: EdgeList) -> str | None:
    """Return why a subject is not measured on a graph; `None` if it is."""
    sweeps = 20  # About as many as the graphs need; the rate of the rows counts every sweep's edges.
    return scaling.too_large(entry.needed_bytes(graph)) or scaling.too_slow(graph.case, "rank", entry.name, float(graph.edges * sweeps))


def measure_graph(scaling: Scaling, graph: EdgeList, subjects: list[Entry], emulate: bool) -> None:
    """Measure every subject on one graph: those on the CPU in turn, each on a GPU alone."""
    expected = Expected.of(graph)
    compared = []
    timed_on_cpu = [entry for entry in subjects if entry.device == "cpu" and entry.is_timed]
    for group in [timed_on_cpu, *([entry] for entry in subjects if entry not in timed_on_cpu)]:
        with ExitStack() as stack:
            made: dict[Entry, Subject] = {}
            for entry in group:
                if (subject := make(scaling, entry, graph, emulate)) is not None:
                    stack.callback(subject.close)
                    made[entry] = subject
            measure(scaling, made, graph, expected)
            compared += [entry.name if entry.is_timed else f"{entry.name} (not timed)" for entry in made]
    reference = "NumPy" if without("scipy") else "SciPy"
    scaling.checks.append(
        f"Checked on {graph.case}, {graph.vertices:,} vertices, {graph.edges:,} edges: ranks equal to {reference}'s: {', '.join(compared)}."
    )


def make(scaling: Scaling, entry: Entry, graph: EdgeList, emulate: bool) -> Subject | None:
    """Make a subject for a graph, or record why not."""
    if entry.missing:
        scaling.skip(entry.name, entry.missing)
        return None
    if not entry.is_timed and not emulate:
        return None
    if reason := skip_reason(scaling, entry, graph):
        scaling.skip(entry.name, reason, graph.case, graph.vertices)
        return None
    try:
        return entry.make(graph)
    except BackendNotAvailableError as error:
        scaling.skip(entry.name, str(error))
        return None


def graphs(scaling: Scaling, options: argparse.Namespace) -> Iterator[EdgeList]:
    """Make one graph after the other, and skip those with too many edges."""
    planned = [(scale, degree) for degree in options.degrees for scale in options.scales]
    for scale, degree in progress(planned, "graphs"):
        if (drawn := degree << scale) > options.max_edges:
            case = f"Kronecker, {degree} edges per vertex"
            scaling.skip("all", f"{drawn:,} edges, over --max-edges {options.max_edges:,.0f}", case, 1 << scale)
        else:
            yield kronecker(scale, degree)


def crossovers(scaling: Scaling) -> list[Crossover]:
    """Return the crossovers of `PAIRS`, for every case with several sizes."""
    found = []
    for operation, case, rows in scaling.groups():
        if len({row.size for row in rows}) > 1:
            found += [crossover(rows, operation, case, faster, slower) for faster, slower in PAIRS]
    return [one for one in found if one.sizes or one.faster == "GPU"]


def parse() -> argparse.Namespace:
    """Parse the command line."""
    parser = arguments(__doc__, "pagerank")
    parser.add_argument("--graph", "--edges", type=existing_file, help="the real graph: a file with one edge, `source target`, per line")
    parser.add_argument("--scales", type=int, nargs="+", help="graphs of 2 ** SCALE vertices (10 12 14 16 18 20; with --quick 8 10)")
    parser.add_argument("--degrees", type=int, nargs="+", help="edges per vertex (2 10 50; with --quick 10)")
    parser.add_argument("--max-edges", type=float, default=4e6, help="skip graphs with more edges (%(default)g)")
    parser.add_argument("--row-limit", type=float, default=15, help="skip rows that would take longer, in seconds (%(default)g)")
    parser.add_argument("--memory", type=float, default=1, help="skip subjects that need more memory, in GiB (%(default)g)")
    parser.add_argument("--sampling", type=float, help="time to spend on each row, in seconds (0.3; with --quick 0.01)")
    options = parser.parse_args()
    options.scales = options.scales or ([8, 10] if options.quick else [10, 12, 14, 16, 18, 20])
    options.degrees = options.degrees or ([10] if options.quick else [2, 10, 50])
    return options


def main() -> int:
    """Measure and report."""
    options = parse()
    sampling = options.sampling or (0.01 if options.quick else 0.3)
    scaling = Scaling("vertices", "edges", Limits(sampling, options.row_limit, options.memory * 2**30))
    # Warm-up and check add edges too.
    subjects = entries(NEW_EDGES * (scaling.limits.most + 2))
    notes = [
        "rank: from equal ranks to a total change below 1e-6; its items are the edges of all sweeps. "
        f"update: {NEW_EDGES} new edges, then from the present ranks on; its items are the new edges."
    ]
    for place, graph in enumerate(graphs(scaling, options)):
        measure_graph(scaling, graph, subjects, emulate=place == 0)
    if options.graph is None and options.quick:
        scaling.skip("all", "left out by --quick; --graph FILE measures it", "the real graph")
    else:
        graph, origin = real(options.graph)
        notes.append(origin)
        measure_graph(scaling, graph, subjects, emulate=False)
    report_scaling(options, "PageRank", scaling, crossovers(scaling), notes, "one ranking or update")
    return 0


if __name__ == "__main__":
    sys.exit(main())
