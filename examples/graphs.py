"""Graphs for the PageRank example and its benchmark: the dependencies of Debian packages, or any list of edges."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

DPKG_STATUS = Path("/var/lib/dpkg/status")
APT_LISTS = Path("/var/lib/apt/lists")
APT_HELPER = Path("/usr/lib/apt/apt-helper")


@dataclass(frozen=True)
class Graph:
    """A directed graph in compressed form, with the incoming edges of each vertex.

    Attributes:
        origin: Description of the data source.
        names: Name of each vertex, of length n.
        starts: Start of each vertex's sources in `sources`, of shape (n + 1,).
        sources: Sources of the edges into vertex 0, then of those into vertex 1, and so on, of shape (edges,).
        out_degrees: Number of outgoing edges of each vertex, of shape (n,).
    """

    origin: str
    names: list[str]
    starts: NDArray[np.int64]
    sources: NDArray[np.int32]
    out_degrees: NDArray[np.int64]

    @classmethod
    def of_edges(cls, origin: str, names: list[str], edges: Iterable[tuple[int, int]]) -> Graph:
        """Build a graph from pairs (source, target). Duplicate pairs count once.

        Args:
            origin: Description of the data source.
            names: Name of each vertex.
            edges: Pairs of indices into `names`.

        Returns:
            The graph.
        """
        pairs = np.array(sorted({(target, source) for source, target in edges}), dtype=np.int32).reshape(-1, 2)
        targets, sources = pairs[:, 0], np.ascontiguousarray(pairs[:, 1])
        starts = np.zeros(len(names) + 1, dtype=np.int64)
        np.cumsum(np.bincount(targets, minlength=len(names)), out=starts[1:])
        return cls(origin, names, starts, sources, np.bincount(sources, minlength=len(names)))

    def __str__(self) -> str:
        return f"{self.origin}: {len(self.names):,} vertices, {len(self.sources):,} edges"


def edge_list(path: Path) -> Graph:
    """Read a graph from a text file with one edge, `source target`, per line. Lines that start with # or % are comments.

    Args:
        path: Path of the file.

    Returns:
        The graph, with the vertex names of the file.

    Raises:
        ValueError: A line has fewer than two words.
    """
    numbers: dict[str, int] = {}
    edges = []
    for index, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.strip() or line.startswith(("#", "%")):
            continue
        words = line.split()
        if len(words) < 2:
            raise ValueError(f"reading edges: line {index} of {path} is {line!r}; each line needs a source and a target")
        edges.append((numbers.setdefault(words[0], len(numbers)), numbers.setdefault(words[1], len(numbers))))
    return Graph.of_edges(str(path), list(numbers), edges)


def debian() -> Graph | None:
    """Build the graph of the Debian packages known to this machine, with an edge from each package to its dependencies.

    Of alternatives (`a | b`) the first that exists counts. A virtual package is replaced by the first package that provides it. The
    packages are those known to apt, about 100,000, or the installed ones if apt is not available.

    Returns:
        The graph, or `None` without dpkg.
    """
    lists = sorted(APT_LISTS.glob("*_Packages*")) if APT_HELPER.exists() else []
    if lists:
        text = subprocess.run([APT_HELPER, "cat-file", *lists], capture_output=True, text=True, check=True).stdout
        return _packages("Debian packages known to apt", text)
    if DPKG_STATUS.exists():
        return _packages("installed Debian packages", DPKG_STATUS.read_text())
    return None


def _packages(origin: str, text: str) -> Graph:
    """Build the graph from the text of a package list."""
    field = re.compile(r"^(Package|Depends|Pre-Depends|Provides): (.*)$", re.MULTILINE)
    stanzas = [dict(field.findall(stanza)) for stanza in text.split("\n\n")]
    stanzas = [stanza for stanza in stanzas if "Package" in stanza]
    numbers: dict[str, int] = {}
    for stanza in stanzas:
        numbers.setdefault(stanza["Package"], len(numbers))
    names = list(numbers)
    for stanza in stanzas:
        for virtual in _words(stanza.get("Provides", "")):
            numbers.setdefault(virtual, numbers[stanza["Package"]])
    edges = []
    for stanza in stanzas:
        source = numbers[stanza["Package"]]
        for alternatives in f"{stanza.get('Depends', '')},{stanza.get('Pre-Depends', '')}".split(","):
            target = next((numbers[name] for name in _words(alternatives) if name in numbers), source)
            if target != source:
                edges.append((source, target))
    return Graph.of_edges(origin, names, edges)


def _words(relations: str) -> Iterator[str]:
    """Yield the package names in a field such as `libc6 (>= 2.36), awk | mawk:any`."""
    for relation in re.split(r"[,|]", relations):
        name = relation.strip().partition(" ")[0].partition(":")[0]
        if name:
            yield name
