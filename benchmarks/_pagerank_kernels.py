"""PageRank by ring kernels that hold the graph in their state.

A ring kernel is told new edges and asked for ranks. It keeps graph and ranks between the messages, so an update costs the new edges and the
few sweeps that the ranks then need, and the graph never moves again.

- `AsyncioRanking`: a coroutine; the compiled loop of `CompiledRanking`, behind messages.
- `ThreadsRanking`: the partitioned ring kernels of `examples/pagerank.py`, one thread each. `RowsRanking` is their loop without messages.
- `NativeRanking`: a compiled handler on a Rust thread, on a GPU (`device="cuda"`) or on the emulated device. One thread of the device
  handles a message. The state is one record with arrays; every sweep is one ask, and the ranks come back in blocks.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from _harness import CLOCK, check
from _pagerank_arrays import DAMPING, EdgeStore, Ranking, Ranks, Vertices, until_stable
from _pagerank_graphs import EdgeList
from pydotcompute import RingKernelMessage, RingKernelRuntime, message
from pydotcompute.native import HandlerContext, NativeKernel

from pagerank import PageRank, compiled  # isort: skip  # `_pagerank_graphs` made the examples importable.

# Ranks in one reply. A reply of a GPU ring kernel has at most 4,072 bytes.
BLOCK = 256
# Bytes of a native ring kernel's state per vertex and per edge; launching it holds about five copies.
STATE_BYTES = (32, 8)
STATE_COPIES = 5

ADD, RESTART, SWEEP, READ = range(4)


@message
class NewEdges(RingKernelMessage):
    """Tell an asyncio ring kernel new edges."""

    sources: Any
    targets: Any


@message
class RankQuestion(RingKernelMessage):
    """Ask an asyncio ring kernel for the ranks: after sweeps, from equal ranks if `restart`, or as they are."""

    restart: bool
    sweep: bool = True


@message
class RankAnswer(RingKernelMessage):
    """The ranks of an asyncio ring kernel."""

    ranks: Any
    sweeps: int


class AsyncioRanking:
    """A coroutine that holds the graph, in a runtime of its own event loop."""

    def __init__(self, graph: EdgeList, reserve: int) -> None:
        self._runner = asyncio.Runner()
        self._runtime = RingKernelRuntime()
        self._runner.run(self._start(EdgeStore(graph, reserve)))

    async def _start(self, store: EdgeStore) -> None:
        async def ranker(ctx: Any) -> None:
            while not ctx.should_terminate:
                request = await ctx.receive()
                if isinstance(request, NewEdges):
                    store.add(request.sources, request.targets)
                    continue
                if request.restart:
                    store.restart()
                sweeps = until_stable(store.sweep) if request.sweep else 0
                await ctx.send(RankAnswer(ranks=store.ranks.copy(), sweeps=sweeps))

        await self._runtime.__aenter__()
        await self._runtime.launch("ranker", ranker)
        await self._runtime.activate("ranker")

    async def _ask(self, restart: bool, edges: NewEdges | None) -> Ranking:
        # The event loop has just been entered, and a first ask pays for that; programs that stay in it do not.
        await self._runtime.send_and_receive("ranker", RankQuestion(restart=False, sweep=False))
        start = CLOCK()
        if edges is not None:
            await self._runtime.send("ranker", edges)
        answer = await self._runtime.send_and_receive("ranker", RankQuestion(restart=restart))
        return Ranking(answer.ranks, answer.sweeps, CLOCK() - start)

    def rank(self) -> Ranking:
        """Rank from equal ranks."""
        return self._runner.run(self._ask(True, None))

    def update(self, sources: Vertices, targets: Vertices) -> Ranking:
        """Tell new edges, then ask for the ranks."""
        return self._runner.run(self._ask(False, NewEdges(sources=sources, targets=targets)))

    def close(self) -> None:
        """End the ring kernel and its event loop."""
        self._runner.run(self._runtime.__aexit__(None, None, None))
        self._runner.close()


class RowsRanking:
    """The loop of `ThreadsRanking` over the whole graph, compiled by Numba and called as a function. Its graph cannot grow."""

    def __init__(self, graph: EdgeList) -> None:
        self._graph, self._sinks = graph.compressed(), graph.out_degrees == 0
        self._ranks, self._shares = np.empty(graph.vertices), np.zeros(graph.vertices)
        self._loop = compiled()

    def _sweep(self) -> float:
        graph, ranks, new = self._graph, self._ranks, np.empty_like(self._ranks)
        np.divide(ranks, graph.out_degrees, out=self._shares, where=~self._sinks)
        base = float(1 - DAMPING + DAMPING * ranks[self._sinks].sum()) / len(ranks)
        change = self._loop(graph.starts, graph.sources, self._shares, base, ranks, new, 0)
        self._ranks = new
        return change

    def rank(self) -> Ranking:
        """Rank from equal ranks."""
        start = CLOCK()
        self._ranks[:] = 1 / len(self._ranks)
        sweeps = until_stable(self._sweep)
        return Ranking(self._ranks.copy(), sweeps, CLOCK() - start)

    def close(self) -> None:
        """Nothing to release."""


class ThreadsRanking:
    """Ring kernels on threads, each of which owns a part of the vertices. Their graph cannot grow."""

    def __init__(self, graph: EdgeList, kernels: int) -> None:
        self._ranking = PageRank(graph.compressed(), kernels)
        self._ranking.__enter__()

    def rank(self) -> Ranking:
        """Rank from equal ranks: one message per ring kernel and sweep."""
        start = CLOCK()
        self._ranking.ranks[:] = 1 / len(self._ranking.ranks)
        sweeps = until_stable(self._ranking.sweep)
        return Ranking(self._ranking.ranks.copy(), sweeps, CLOCK() - start)

    def close(self) -> None:
        """End the ring kernels."""
        self._ranking.__exit__(None, None, None)


@message
class Command:
    """Message of the native ring kernel: add the edge `first` → `second`, or restart, sweep or read from vertex `first` on."""

    kind: int
    first: int
    second: int


@message
class RankBlock:
    """Reply of the native ring kernel: the total change of a sweep, and the ranks of `BLOCK` vertices."""

    change: float
    ranks: Annotated[NDArray[np.float64], BLOCK]


def handle_command(ctx: HandlerContext, state: Any, msg: Command) -> RankBlock | None:
    """Handle one command on the graph in the state: see `initial_state`. The sweep is that of `sweep_edges`."""
    ranks, degrees = state.ranks, state.degrees
    sources, targets = state.sources, state.targets
    vertices, edges = state.vertices, state.edges
    if msg.kind == ADD:
        if edges >= len(sources):
            raise ValueError("the state has no room for another edge")
        sources[edges] = msg.first
        targets[edges] = msg.second
        degrees[msg.first] += 1
        state.edges = edges + 1
        return None
    change = 0.0
    if msg.kind == RESTART:
        for vertex in range(vertices):
            ranks[vertex] = 1.0 / vertices
    elif msg.kind == SWEEP:
        new, shares = state.new, state.shares
        sinks = 0.0
        for vertex in range(vertices):
            new[vertex] = 0.0
            if degrees[vertex] == 0:
                sinks += ranks[vertex]
                shares[vertex] = 0.0
            else:
                shares[vertex] = ranks[vertex] / degrees[vertex]
        for edge in range(edges):
            new[targets[edge]] += shares[sources[edge]]
        base = (1.0 - DAMPING + DAMPING * sinks) / vertices
        for vertex in range(vertices):
            rank = base + DAMPING * new[vertex]
            change += abs(rank - ranks[vertex])
            ranks[vertex] = rank
    return RankBlock(change, ranks[msg.first : msg.first + BLOCK])


def initial_state(graph: EdgeList, reserve: int) -> np.void:
    """Return the state of a native ring kernel: one record with the graph, room for more edges, and equal ranks."""
    room, blocks = graph.edges + reserve, -(-graph.vertices // BLOCK) * BLOCK
    layout = np.dtype(
        [
            ("vertices", np.int64),
            ("edges", np.int64),
            ("sources", np.int32, room),
            ("targets", np.int32, room),
            ("degrees", np.int32, graph.vertices),
            ("ranks", np.float64, blocks),
            ("new", np.float64, graph.vertices),
            ("shares", np.float64, graph.vertices),
        ],
        align=True,
    )
    record = np.zeros((), layout)
    record["vertices"], record["edges"] = graph.vertices, graph.edges
    record["sources"][: graph.edges], record["targets"][: graph.edges] = graph.sources, graph.targets
    record["degrees"] = graph.out_degrees
    record["ranks"][: graph.vertices] = 1 / graph.vertices
    state = record[()]
    assert isinstance(state, np.void)
    return state


def state_bytes(graph: EdgeList) -> int:
    """Return the memory that launching a native ring kernel for a graph needs, in bytes."""
    per_vertex, per_edge = STATE_BYTES
    return STATE_COPIES * (per_vertex * graph.vertices + per_edge * graph.edges)


class NativeRanking:
    """A compiled handler whose state is the graph."""

    def __init__(self, graph: EdgeList, reserve: int, device: str) -> None:
        self._vertices = graph.vertices
        self._kernel = NativeKernel(handle_command, state=initial_state(graph, reserve), device=device)
        self._kernel.activate()
        starts = np.arange(0, graph.vertices, BLOCK)
        self._reads = np.zeros(len(starts), self._kernel.input_dtype)
        self._reads["kind"], self._reads["first"] = READ, starts

    def _sweep(self) -> float:
        change = self._kernel.ask(Command(SWEEP, 0, 0)).change
        return float(change)

    def _ranks(self) -> Ranks:
        ranks: Ranks = self._kernel.ask_many(self._reads)["ranks"].reshape(-1)[: self._vertices]
        return ranks

    def rank(self) -> Ranking:
        """Restart, then ask for one sweep after the other, then for the ranks, block by block."""
        start = CLOCK()
        self._kernel.ask(Command(RESTART, 0, 0))
        sweeps = until_stable(self._sweep)
        ranks = self._ranks()
        return Ranking(ranks, sweeps, CLOCK() - start)

    def update(self, sources: Vertices, targets: Vertices) -> Ranking:
        """Tell new edges in one call, then ask as in `rank`, from the present ranks."""
        edges = np.zeros(len(sources), self._kernel.input_dtype)
        edges["first"], edges["second"] = sources, targets
        start = CLOCK()
        sent = self._kernel.tell_many(edges)
        sweeps = until_stable(self._sweep)
        ranks = self._ranks()
        elapsed = CLOCK() - start
        check(sent == len(edges), f"{sent} of {len(edges)} edges were sent")
        return Ranking(ranks, sweeps, elapsed)

    def close(self) -> None:
        """Terminate the ring kernel."""
        self._kernel.terminate()
