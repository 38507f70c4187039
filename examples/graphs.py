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
    """A directed graph, kept by target: who points at each vertex.

    Attributes:
        origin: Where it came from, for people.
        names: The name of each vertex, of length n.
        starts: Where the sources of each vertex begin in `sources`, of shape (n + 1,).
        sources: The vertices that point at vertex 0, then those that point at vertex 1, and so on, of shape (edges,).
        out_degrees: How many edges leave each vertex, of shape (n,).
    """

    origin: str
    names: list[str]
    starts: NDArray[np.int64]
    sources: NDArray[np.int32]
    out_degrees: NDArray[np.int64]

    @classmethod
    def of_edges(cls, origin: str, names: list[str], edges: Iterable[tuple[int, int]]) -> Graph:
        """Build a graph from pairs (source, target); a pair that comes twice counts once.

        Args:
            origin: Where the edges came from.
            names: The name of each vertex.
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
    """Read a graph from a text file with one edge, `source target`, on each line; lines that begin with # or % are left out.

    Args:
        path: The file.

    Returns:
        The graph, whose vertices have the names of the file.

    Raises:
        ValueError: If a line has fewer than two words.
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
    """The packages that this machine knows of, with an edge from each to every package it depends on.

    Of alternatives (`a | b`) the first that exists counts, and a virtual package stands for the first that provides it. What apt knows
    of is taken, some 100,000 packages, and otherwise what is installed.

    Returns:
        The graph, or `None` where there is no dpkg.
    """
    lists = sorted(APT_LISTS.glob("*_Packages*")) if APT_HELPER.exists() else []
    if lists:
        text = subprocess.run([APT_HELPER, "cat-file", *lists], capture_output=True, text=True, check=True).stdout
        return _packages("Debian packages that apt knows", text)
    if DPKG_STATUS.exists():
        return _packages("Debian packages that are installed", DPKG_STATUS.read_text())
    return None


def _packages(origin: str, text: str) -> Graph:
    """Build the graph from the text of a list of packages."""
    wanted = re.compile(r"^(Package|Depends|Pre-Depends|Provides): (.*)$", re.MULTILINE)
    stanzas = [dict(wanted.findall(stanza)) for stanza in text.split("\n\n")]
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
    """The names of packages in a field such as `libc6 (>= 2.36), awk | mawk:any`."""
    for relation in re.split(r"[,|]", relations):
        name = relation.strip().partition(" ")[0].partition(":")[0]
        if name:
            yield name
