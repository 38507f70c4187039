"""PageRank of a real graph, computed by ring kernels on threads, each of which owns a partition of the vertices.

The graph is the dependency graph of the Debian packages known to this machine: it ranks the packages that others depend on most.
`--edges FILE` ranks any other list of edges, one `source target` per line.

Each ring kernel handles one message per sweep: it reads the ranks of the previous sweep, writes those of its own vertices, and replies with
the total change. The program waits for all replies before the next sweep, so that no partition is read while it is written. With Numba the
inner loop is compiled and runs without the GIL, on all cores; otherwise it uses NumPy.

    python examples/pagerank.py --kernels 4 --top 10
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from graphs import Graph, debian, edge_list
from pydotcompute import message
from pydotcompute.ring_kernels import ThreadedKernelContext, ThreadedRingKernel

DAMPING = 0.85
Ranks = NDArray[np.float64]


@message
class Sweep:
    """One sweep over a ring kernel's partition: read the ranks of buffer `source`, write to the other buffer."""

    source: int
    teleport: float


@message
class Swept:
    """Reply to a sweep: sum of the absolute rank changes in the partition."""

    change: float


def sweep_share(
    starts: NDArray[np.int64], sources: NDArray[np.int32], shares: Ranks, teleport: float, old: Ranks, new: Ranks, first: int
) -> float:
    """Compute the ranks of a range of vertices, which starts at `first` and has one vertex per pair of neighbours in `starts`.

    Args:
        starts: Start of each vertex's sources, of shape (vertices + 1,).
        sources: Sources of the incoming edges, of shape (edges,).
        shares: Rank that each vertex passes along each of its edges, of shape (n,).
        teleport: Base rank of every vertex.
        old: Ranks of the previous sweep, of shape (n,).
        new: Output: the new ranks, of shape (n,).
        first: Index of the first vertex.

    Returns:
        Sum of the absolute changes.
    """
    change = 0.0
    for index in range(len(starts) - 1):
        total = 0.0
        for edge in range(starts[index], starts[index + 1]):
            total += shares[sources[edge]]
        rank = teleport + DAMPING * total
        change += abs(rank - old[first + index])
        new[first + index] = rank
    return change


def compiled() -> Callable[..., float]:
    """Return the inner loop: `sweep_share` compiled by Numba, or its NumPy equivalent without Numba."""
    try:
        from numba import njit
    except ImportError:
        return sweep_with_numpy
    return njit(nogil=True)(sweep_share)  # type: ignore[no-any-return]


def sweep_with_numpy(
    starts: NDArray[np.int64], sources: NDArray[np.int32], shares: Ranks, teleport: float, old: Ranks, new: Ranks, first: int
) -> float:
    """Equivalent of `sweep_share` without a Python loop."""
    owners = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    totals = np.bincount(owners, weights=shares[sources[starts[0] : starts[-1]]], minlength=len(starts) - 1)
    own = slice(first, first + len(totals))
    new[own] = teleport + DAMPING * totals
    return float(np.abs(new[own] - old[own]).sum())


class PageRank:
    """The ranks of a graph, and the ring kernels that compute them. A context manager that starts and stops the kernels.

    Attributes:
        graph: The graph.
        ranks: The ranks after the last sweep, of shape (n,); they sum to 1.
    """

    def __init__(self, graph: Graph, kernels: int) -> None:
        """Partition the graph into parts of similar size in edges and vertices, with one ring kernel each.

        Args:
            graph: The graph.
            kernels: Number of ring kernels.
        """
        count = len(graph.names)
        self.graph = graph
        self._buffers = np.full((2, count), 1 / count)
        self._source = 0
        self._shares = np.zeros(count)
        self._sinks = graph.out_degrees == 0
        sweep = compiled()
        work = graph.starts + np.arange(count + 1)
        cuts = np.searchsorted(work, np.linspace(0, work[-1], kernels + 1))
        self._kernels = [
            ThreadedRingKernel(f"share-{index}", self._share(sweep, int(first), int(last)))
            for index, (first, last) in enumerate(pairwise(cuts))
        ]

    def _share(self, sweep: Callable[..., float], first: int, last: int) -> Callable[[ThreadedKernelContext[Any, Any]], None]:
        """Return the function of the ring kernel that owns the vertices `first` to `last`, exclusive."""
        starts = self.graph.starts[first : last + 1]

        def kernel(ctx: ThreadedKernelContext[Any, Any]) -> None:
            while not ctx.should_terminate:
                request = ctx.receive(timeout=1.0)
                if request is not None:
                    old, new = self._buffers[request.source], self._buffers[1 - request.source]
                    change = sweep(starts, self.graph.sources, self._shares, request.teleport, old, new, first)
                    ctx.send(Swept(change=change))

        return kernel

    def __enter__(self) -> PageRank:
        for kernel in self._kernels:
            kernel.launch()
            kernel.activate()
        return self

    def __exit__(self, *_: object) -> None:
        for kernel in self._kernels:
            kernel.terminate()

    @property
    def ranks(self) -> Ranks:
        """The ranks after the last sweep."""
        ranks: Ranks = self._buffers[self._source]
        return ranks

    def sweep(self) -> float:
        """Run one sweep on all ring kernels.

        Returns:
            Sum of the absolute changes of all ranks.

        Raises:
            RuntimeError: A ring kernel does not reply within a minute.
        """
        old = self.ranks
        np.divide(old, self.graph.out_degrees, out=self._shares, where=~self._sinks)
        teleport = float(1 - DAMPING + DAMPING * old[self._sinks].sum()) / len(old)
        for kernel in self._kernels:
            kernel.send(Sweep(source=self._source, teleport=teleport))
        change = 0.0
        for kernel in self._kernels:
            swept = kernel.receive(timeout=60.0)
            if swept is None:
                raise RuntimeError(f"sweeping the graph: {kernel!r} did not reply within 60 s")
            change += swept.change
        self._source = 1 - self._source
        return change


def sweep_once(graph: Graph, ranks: Ranks) -> Ranks:
    """Run one sweep over the whole graph in NumPy, for verification.

    Args:
        graph: The graph.
        ranks: The ranks before, of shape (n,).

    Returns:
        The ranks after, of shape (n,).
    """
    sinks = graph.out_degrees == 0
    shares = np.divide(ranks, graph.out_degrees, out=np.zeros_like(ranks), where=~sinks)
    new = np.empty_like(ranks)
    sweep_with_numpy(graph.starts, graph.sources, shares, float(1 - DAMPING + DAMPING * ranks[sinks].sum()) / len(ranks), ranks, new, 0)
    return new


def main() -> int:
    """Rank the vertices, verify the ranks, and print the highest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--edges", type=Path, help="file of edges; by default the dependencies of Debian packages")
    parser.add_argument("--kernels", type=int, default=2, help="number of ring kernels (%(default)s)")
    parser.add_argument("--top", type=int, default=10, help="number of vertices to print (%(default)s)")
    parser.add_argument("--tolerance", type=float, default=1e-10, help="stop when the ranks change by less (%(default)s)")
    options = parser.parse_args()
    graph = edge_list(options.edges) if options.edges else debian()
    if graph is None:
        parser.error("there is no graph to rank: this machine has no dpkg; pass a file with --edges")
    print(graph)

    with PageRank(graph, options.kernels) as pagerank:
        sweeps = 1
        while pagerank.sweep() > options.tolerance and sweeps < 1000:
            sweeps += 1
        ranks = pagerank.ranks

    residual = float(np.abs(sweep_once(graph, ranks) - ranks).sum())
    if abs(ranks.sum() - 1) > 1e-9 or residual > 2 * options.tolerance:
        print(f"wrong: the ranks sum to {ranks.sum()} and one more sweep would change them by {residual:.1e}", file=sys.stderr)
        return 1
    print(f"{sweeps} sweeps by {options.kernels} ring kernels; the ranks sum to 1 and one more sweep changes them by {residual:.0e}")
    for vertex in np.argsort(-ranks, kind="stable")[: options.top]:
        print(f"{ranks[vertex]:10.6f}  {graph.names[vertex]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
