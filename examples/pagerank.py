"""PageRank of a real graph by ring kernels on threads, each of which owns a share of the vertices.

The graph is that of the Debian packages this machine knows of: which package do others rest on most? With `--edges FILE` it is any
list of edges, one `source target` a line.

Every ring kernel keeps its share and answers one message a sweep: it reads the ranks of the sweep before, writes those of its own
vertices, and replies how much they changed. The program waits for all replies before it begins the next sweep, so that no share is
read while it is written. Where Numba is installed the inner loop is compiled and runs without the interpreter's lock, on all cores
at once; otherwise it is NumPy's.

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
    """One sweep over a ring kernel's share: read the ranks of array `source`, write those of the other one."""

    source: int
    teleport: float


@message
class Swept:
    """The reply: by how much the share's ranks changed, summed."""

    change: float


def sweep_share(
    starts: NDArray[np.int64], sources: NDArray[np.int32], shares: Ranks, teleport: float, old: Ranks, new: Ranks, first: int
) -> float:
    """Compute the ranks of the vertices from `first` on, one for each pair of neighbours in `starts`.

    Args:
        starts: Where the sources of each vertex begin, of shape (vertices + 1,).
        sources: The vertices that point at each, of shape (edges,).
        shares: What each vertex hands along each of its edges, of shape (n,).
        teleport: What every vertex gets besides.
        old: The ranks of the sweep before, of shape (n,).
        new: Where the ranks go, of shape (n,).
        first: The number of the first vertex.

    Returns:
        The sum of the absolute changes.
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
    """The inner loop: `sweep_share` through Numba, or its like in NumPy where Numba is not installed."""
    try:
        from numba import njit
    except ImportError:
        return sweep_with_numpy
    return njit(nogil=True)(sweep_share)  # type: ignore[no-any-return]


def sweep_with_numpy(
    starts: NDArray[np.int64], sources: NDArray[np.int32], shares: Ranks, teleport: float, old: Ranks, new: Ranks, first: int
) -> float:
    """The same as `sweep_share`, without a loop in Python."""
    owners = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    totals = np.bincount(owners, weights=shares[sources[starts[0] : starts[-1]]], minlength=len(starts) - 1)
    mine = slice(first, first + len(totals))
    new[mine] = teleport + DAMPING * totals
    return float(np.abs(new[mine] - old[mine]).sum())


class PageRank:
    """The ranks of a graph's vertices, and the ring kernels that compute them; a context manager that starts and stops those.

    Attributes:
        graph: The graph.
        ranks: The ranks after the last sweep, of shape (n,); they sum to 1.
    """

    def __init__(self, graph: Graph, kernels: int) -> None:
        """Divide the graph into shares of about as many edges and vertices each, and make a ring kernel for each.

        Args:
            graph: The graph.
            kernels: How many ring kernels.
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
        """The function of the ring kernel that owns the vertices from `first` to before `last`."""
        starts = self.graph.starts[first : last + 1]

        def kernel(ctx: ThreadedKernelContext[Any, Any]) -> None:
            while not ctx.should_terminate:
                order = ctx.receive(timeout=1.0)
                if order is not None:
                    old, new = self._buffers[order.source], self._buffers[1 - order.source]
                    change = sweep(starts, self.graph.sources, self._shares, order.teleport, old, new, first)
                    ctx.send(Swept(change=change))

        return kernel

    def __enter__(self) -> PageRank:
        for kernel in self._kernels:
            kernel.start()
        return self

    def __exit__(self, *_: object) -> None:
        for kernel in self._kernels:
            kernel.stop()

    @property
    def ranks(self) -> Ranks:
        """The ranks after the last sweep."""
        ranks: Ranks = self._buffers[self._source]
        return ranks

    def sweep(self) -> float:
        """Have every ring kernel go over its share once.

        Returns:
            The sum of the absolute changes of all ranks.

        Raises:
            RuntimeError: If a ring kernel does not reply within a minute.
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
    """One sweep over the whole graph in NumPy, for checking.

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
    """Rank the vertices, check the ranks, and print the highest."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--edges", type=Path, help="a file of edges; by default the dependencies of Debian packages")
    parser.add_argument("--kernels", type=int, default=2, help="ring kernels (%(default)s)")
    parser.add_argument("--top", type=int, default=10, help="how many to print (%(default)s)")
    parser.add_argument("--tolerance", type=float, default=1e-10, help="stop when the ranks change by less (%(default)s)")
    options = parser.parse_args()
    graph = edge_list(options.edges) if options.edges else debian()
    if graph is None:
        parser.error("this machine has no dpkg, so there is no graph to rank: name a file with --edges")
    print(graph)

    with PageRank(graph, options.kernels) as pagerank:
        sweeps = 1
        while pagerank.sweep() > options.tolerance and sweeps < 1000:
            sweeps += 1
        ranks = pagerank.ranks

    left = float(np.abs(sweep_once(graph, ranks) - ranks).sum())
    if abs(ranks.sum() - 1) > 1e-9 or left > 2 * options.tolerance:
        print(f"wrong: the ranks sum to {ranks.sum()} and one more sweep would change them by {left:.1e}", file=sys.stderr)
        return 1
    print(f"{sweeps} sweeps by {options.kernels} ring kernels; the ranks sum to 1 and one more sweep changes them by {left:.0e}")
    for vertex in np.argsort(-ranks, kind="stable")[: options.top]:
        print(f"{ranks[vertex]:10.6f}  {graph.names[vertex]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
