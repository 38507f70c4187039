"""PageRank without ring kernels: NumPy, SciPy and CuPy, dense and sparse, and a loop compiled by Numba.

Every subject starts at equal ranks and repeats the same sweep until the ranks change by less than `TOLERANCE` in total, so that all need
the same number of sweeps. Vertices without outgoing edges pass their rank to all vertices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from _harness import CLOCK
from _pagerank_graphs import EdgeList

DAMPING = 0.85
TOLERANCE = 1e-6
MOST_SWEEPS = 100

Ranks = NDArray[np.float64]
Vertices = NDArray[np.int32]


@dataclass(frozen=True)
class Ranking:
    """Answer of a subject.

    Attributes:
        ranks: The ranks, of shape (vertices,); they sum to 1.
        sweeps: Number of sweeps until the ranks changed by less than `TOLERANCE`.
        elapsed_ns: Duration, from the question until `ranks` were in the host's memory, in nanoseconds.
    """

    ranks: Ranks
    sweeps: int
    elapsed_ns: int


class Subject(Protocol):
    """Something that ranks one graph. A subject with `update` keeps its ranks between the calls."""

    def rank(self) -> Ranking:
        """Rank from equal ranks."""
        ...

    def close(self) -> None:
        """Release what the subject holds."""
        ...


class Updatable(Subject, Protocol):
    """A subject whose graph can grow."""

    def update(self, sources: Vertices, targets: Vertices) -> Ranking:
        """Add edges, then rank from the present ranks."""
        ...


def until_stable(sweep: Callable[[], float]) -> int:
    """Repeat a sweep, which returns the total change of the ranks, until that is below the tolerance.

    Returns:
        The number of sweeps.
    """
    for count in range(1, MOST_SWEEPS + 1):
        if sweep() < TOLERANCE:
            return count
    return MOST_SWEEPS


class MatrixRanking:
    """PageRank as products of a matrix and a vector, on NumPy's or CuPy's arrays.

    The matrix cannot grow, so an update makes a new one from all edges, and goes on from the ranks before.
    """

    def __init__(self, graph: EdgeList, arrays: ModuleType, matrix: Callable[[EdgeList], Any]) -> None:
        """Make the matrix.

        Args:
            graph: The graph.
            arrays: `numpy` or `cupy`.
            matrix: Makes the matrix of a graph: column s has 1 / (out-degree of s) in the rows of the targets of s.
        """
        self._arrays, self._matrix_of = arrays, matrix
        self._load(graph)
        self._ranks = self._equal()

    def _load(self, graph: EdgeList) -> None:
        self._graph = graph
        self._matrix = self._matrix_of(graph)
        self._sinks = self._arrays.asarray(graph.out_degrees == 0)

    def _equal(self) -> Any:
        return self._arrays.full(self._graph.vertices, 1 / self._graph.vertices)

    def _sweep(self) -> float:
        base = (1 - DAMPING + DAMPING * self._ranks[self._sinks].sum()) / self._graph.vertices
        new = base + DAMPING * (self._matrix @ self._ranks)
        change = float(self._arrays.abs(new - self._ranks).sum())
        self._ranks = new
        return change

    def _on_host(self) -> Ranks:
        ranks: Ranks = self._ranks if self._arrays is np else self._arrays.asnumpy(self._ranks)
        return ranks

    def rank(self) -> Ranking:
        """Rank from equal ranks."""
        start = CLOCK()
        self._ranks = self._equal()
        sweeps = until_stable(self._sweep)
        ranks = self._on_host()
        return Ranking(ranks, sweeps, CLOCK() - start)

    def update(self, sources: Vertices, targets: Vertices) -> Ranking:
        """Make a new matrix with additional edges, and rank from the present ranks."""
        start = CLOCK()
        self._load(self._graph.grown(sources, targets))
        sweeps = until_stable(self._sweep)
        ranks = self._on_host()
        return Ranking(ranks, sweeps, CLOCK() - start)

    def close(self) -> None:
        """Release the matrix."""
        self._matrix = None


def _weights(graph: EdgeList) -> Ranks:
    weights: Ranks = 1 / graph.out_degrees[graph.sources]
    return weights


def dense_matrix(arrays: ModuleType) -> Callable[[EdgeList], Any]:
    """Return the maker of a dense matrix of NumPy or CuPy."""

    def make(graph: EdgeList) -> Any:
        matrix = np.zeros((graph.vertices, graph.vertices))
        np.add.at(matrix, (graph.targets, graph.sources), _weights(graph))
        return arrays.asarray(matrix)

    return make


def sparse_matrix(arrays: ModuleType, sparse: ModuleType) -> Callable[[EdgeList], Any]:
    """Return the maker of a matrix in compressed sparse rows of SciPy or CuPy. Repeated edges count as often as they occur."""

    def make(graph: EdgeList) -> Any:
        shape = (graph.vertices, graph.vertices)
        places = (arrays.asarray(graph.targets), arrays.asarray(graph.sources))
        return sparse.coo_matrix((arrays.asarray(_weights(graph)), places), shape=shape).tocsr()

    return make


class _CountedProduct:
    """The product of a graph's matrix and a vector without SciPy: `numpy.bincount` adds what the edges carry."""

    def __init__(self, graph: EdgeList) -> None:
        self._graph, self._weights = graph, _weights(graph)

    def __matmul__(self, ranks: Ranks) -> Ranks:
        graph = self._graph
        return np.bincount(graph.targets, weights=self._weights * ranks[graph.sources], minlength=graph.vertices)


def counted_product() -> Callable[[EdgeList], Any]:
    """Return the maker of a sparse product in plain NumPy."""
    return _CountedProduct


def sweep_edges(
    sources: Vertices, targets: Vertices, edges: int, degrees: Vertices, ranks: Ranks, new: Ranks, shares: Ranks, damping: float
) -> float:
    """Sweep once over a list of edges. Numba compiles it; the native handler has the same loops.

    Args:
        sources: Source of each edge, of shape (capacity,).
        targets: Target of each edge, of shape (capacity,).
        edges: Number of edges in use.
        degrees: Number of outgoing edges of each vertex, of shape (n,).
        ranks: The ranks, of shape (n,); replaced by the new ones.
        new: Scratch, of shape (n,).
        shares: Scratch, of shape (n,).
        damping: Damping factor.

    Returns:
        Sum of the absolute changes.
    """
    count = len(ranks)
    sinks = 0.0
    for vertex in range(count):
        new[vertex] = 0.0
        if degrees[vertex] == 0:
            sinks += ranks[vertex]
            shares[vertex] = 0.0
        else:
            shares[vertex] = ranks[vertex] / degrees[vertex]
    for edge in range(edges):
        new[targets[edge]] += shares[sources[edge]]
    base = (1.0 - damping + damping * sinks) / count
    change = 0.0
    for vertex in range(count):
        rank = base + damping * new[vertex]
        change += abs(rank - ranks[vertex])
        ranks[vertex] = rank
    return change


@lru_cache(maxsize=1)
def compiled_sweep() -> Callable[..., float]:
    """Return `sweep_edges` compiled by Numba; it runs without the GIL.

    Raises:
        ImportError: Numba is not installed.
    """
    from numba import njit

    compiled: Callable[..., float] = njit(nogil=True)(sweep_edges)
    return compiled


class EdgeStore:
    """A graph that grows, and its ranks, swept by `compiled_sweep`."""

    def __init__(self, graph: EdgeList, reserve: int) -> None:
        """Copy a graph.

        Args:
            graph: The graph.
            reserve: Number of edges that can be added.
        """
        self.edges, self._vertices = graph.edges, graph.vertices
        room = np.zeros(reserve, dtype=np.int32)
        self._sources, self._targets = np.concatenate([graph.sources, room]), np.concatenate([graph.targets, room])
        self._degrees = graph.out_degrees.copy()
        self.ranks = np.full(graph.vertices, 1 / graph.vertices)
        self._new, self._shares = np.empty_like(self.ranks), np.empty_like(self.ranks)
        self._compiled = compiled_sweep()

    def add(self, sources: Vertices, targets: Vertices) -> None:
        """Append edges.

        Raises:
            ValueError: They exceed the reserve.
        """
        end = self.edges + len(sources)
        if end > len(self._sources):
            raise ValueError(f"adding {len(sources)} edges: the store has room for {len(self._sources) - self.edges}")
        self._sources[self.edges : end] = sources
        self._targets[self.edges : end] = targets
        np.add.at(self._degrees, sources, 1)
        self.edges = end

    def restart(self) -> None:
        """Make all ranks equal."""
        self.ranks[:] = 1 / self._vertices

    def sweep(self) -> float:
        """Sweep once, and return the total change."""
        return self._compiled(self._sources, self._targets, self.edges, self._degrees, self.ranks, self._new, self._shares, DAMPING)


class CompiledRanking:
    """A loop over the edges, compiled by Numba, called as a function: what the ring kernels add to it is the price of a message."""

    def __init__(self, graph: EdgeList, reserve: int) -> None:
        self._store = EdgeStore(graph, reserve)

    def rank(self) -> Ranking:
        """Rank from equal ranks."""
        start = CLOCK()
        self._store.restart()
        sweeps = until_stable(self._store.sweep)
        return Ranking(self._store.ranks.copy(), sweeps, CLOCK() - start)

    def update(self, sources: Vertices, targets: Vertices) -> Ranking:
        """Append edges, and rank from the present ranks."""
        start = CLOCK()
        self._store.add(sources, targets)
        sweeps = until_stable(self._store.sweep)
        return Ranking(self._store.ranks.copy(), sweeps, CLOCK() - start)

    def close(self) -> None:
        """Nothing to release."""
