"""Graphs for the PageRank benchmark: seeded Kronecker graphs of any size, and real graphs.

A Kronecker graph has few vertices with very many edges and many with few, as webs and social networks do. The parameters are those of
Graph500: each bit of an edge's ends selects a quadrant of the matrix with probability 0.57, 0.19, 0.19 or 0.05, and the vertices are
renumbered at random.

The real graph is `--graph FILE` (SNAP's format: an edge `source target` per line, comments with #), or the dependencies of the Debian
packages known to this machine, or elsewhere the imports among the modules of Python's standard library, which is part of every
installation. None of them needs a download.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from _harness import add_examples

add_examples()

from graphs import Graph, debian, edge_list  # noqa: E402

INITIATOR = (0.57, 0.19, 0.19)


@dataclass(frozen=True)
class EdgeList:
    """A directed graph as a list of edges, sorted by target, then by source.

    Attributes:
        case: Short description, for tables.
        vertices: Number of vertices.
        sources: Source of each edge, of shape (edges,).
        targets: Target of each edge, of shape (edges,).
    """

    case: str
    vertices: int
    sources: NDArray[np.int32]
    targets: NDArray[np.int32]

    @property
    def edges(self) -> int:
        """Number of edges."""
        return len(self.sources)

    @cached_property
    def out_degrees(self) -> NDArray[np.int32]:
        """Number of outgoing edges of each vertex, of shape (vertices,)."""
        return np.bincount(self.sources, minlength=self.vertices).astype(np.int32)

    def grown(self, sources: NDArray[np.int32], targets: NDArray[np.int32]) -> EdgeList:
        """Return the graph with additional edges, at the end of the list."""
        return EdgeList(self.case, self.vertices, np.concatenate([self.sources, sources]), np.concatenate([self.targets, targets]))

    def compressed(self) -> Graph:
        """Return the graph in the form of `examples/graphs.py`, whose vertices have names."""
        starts = np.zeros(self.vertices + 1, dtype=np.int64)
        np.cumsum(np.bincount(self.targets, minlength=self.vertices), out=starts[1:])
        names = [""] * self.vertices
        return Graph(self.case, names, starts, self.sources, self.out_degrees.astype(np.int64))


def kronecker(scale: int, degree: int, seed: int = 500) -> EdgeList:
    """Make a Kronecker graph.

    Args:
        scale: The graph has 2 ** scale vertices.
        degree: Edges to draw per vertex. Loops and repeated edges are removed, so the graph has fewer.
        seed: Seed of the random numbers; the same seed gives the same graph.

    Returns:
        The graph.
    """
    random = np.random.default_rng([seed, scale, degree])
    vertices, drawn = 1 << scale, degree << scale
    first, second, third = np.cumsum(INITIATOR)
    sources, targets = np.zeros(drawn, np.int64), np.zeros(drawn, np.int64)
    for _ in range(scale):
        quadrant = random.random(drawn, dtype=np.float32)
        sources = 2 * sources + (quadrant >= second)
        targets = 2 * targets + ((quadrant >= first) & (quadrant < second) | (quadrant >= third))
    numbers = random.permutation(vertices)
    sources, targets = numbers[sources], numbers[targets]
    # One number per edge: sorting it sorts by target and source, and equal numbers are repeated edges.
    keys = np.unique((targets << scale | sources)[sources != targets])
    case = f"Kronecker, {degree} edges per vertex"
    return EdgeList(case, vertices, (keys & (vertices - 1)).astype(np.int32), (keys >> scale).astype(np.int32))


def real(path: Path | None) -> tuple[EdgeList, str]:
    """Read a real graph: see the module's text.

    Args:
        path: File of edges; `None` for the graph of this machine.

    Returns:
        The graph, and a sentence about its origin.
    """
    graph = edge_list(path) if path is not None else debian()
    if graph is None:
        graph = standard_library()
    targets = np.repeat(np.arange(len(graph.names), dtype=np.int32), np.diff(graph.starts))
    return EdgeList(graph.origin, len(graph.names), graph.sources, targets), f"The real graph is {graph}."


def standard_library() -> Graph:
    """Return the graph of the imports in the standard library of this Python, without its tests."""
    version = ".".join(map(str, sys.version_info[:2]))
    return imports_among(Path(sysconfig.get_path("stdlib")), f"imports in the standard library of Python {version}")


def imports_among(root: Path, origin: str) -> Graph:
    """Return the graph of the imports among the modules below a folder: each module points to those that it imports.

    Args:
        root: The folder that `import` would search.
        origin: Description of the graph.
    """
    paths = {
        _module_name(path.relative_to(root)): path
        for path in sorted(root.rglob("*.py"))
        if not {"test", "tests", "site-packages", "idle_test", "lib2to3"} & set(path.relative_to(root).parts)
    }
    numbers = {name: number for number, name in enumerate(paths)}
    edges = [
        (number, numbers[imported])
        for name, number in numbers.items()
        for imported in _imports(paths[name])
        if imported in numbers and imported != name
    ]
    return Graph.of_edges(origin, list(numbers), edges)


def _module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    """Yield the absolute module names that a source file imports."""
    try:
        tree = ast.parse(path.read_bytes())
    except SyntaxError:
        return  # Some files of the standard library are templates, or deliberately wrong.
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
