"""The anomaly detector as ring kernels, which keep the windows in their state: a batch goes in, its scores come out.

- `AsyncioScorer` and `ThreadScorer`: the compiled loop behind messages of a coroutine or of a thread. A message is a batch.
- `NativeScorer`: a compiled handler on a Rust thread, on a GPU (`device="cuda"`) or on the emulated device. A message is one event, or a
  block of up to `BLOCK` events; a batch is one call of `ask_many`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from _anomaly_detector import LoopScorer, OneByOne, Scored, Values, score_value
from _harness import CLOCK, check
from pydotcompute import RingKernelMessage, RingKernelRuntime, message
from pydotcompute.native import HandlerContext, NativeKernel
from pydotcompute.ring_kernels import ThreadedKernelContext, ThreadedRingKernel

# Events in one message. A message of a GPU ring kernel has at most 4,072 bytes.
BLOCK = 256
REPLY_LIMIT_S = 60.0


@message
class Batch(RingKernelMessage):
    """Values of one stream."""

    stream: int
    values: Any


@message
class BatchScores(RingKernelMessage):
    """Scores of a batch, and the time to compute them, in nanoseconds."""

    scores: Any
    computed_ns: int


def _scores_of(scorer: LoopScorer, batch: Any) -> Any:
    scored = scorer.score(batch.stream, batch.values)
    return BatchScores(scores=scored.scores, computed_ns=scored.elapsed_ns)


class AsyncioScorer:
    """A coroutine that holds the windows, in a runtime of its own event loop."""

    def __init__(self, streams: int, window: int, loop: Callable[..., Values]) -> None:
        self._runner = asyncio.Runner()
        self._runtime = RingKernelRuntime()
        self._runner.run(self._start(LoopScorer(streams, window, loop)))

    async def _start(self, scorer: LoopScorer) -> None:
        async def detector(ctx: Any) -> None:
            while not ctx.should_terminate:
                await ctx.send(_scores_of(scorer, await ctx.receive()))

        await self._runtime.__aenter__()
        await self._runtime.launch("detector", detector)
        await self._runtime.activate("detector")

    async def _ask_all(self, batches: Sequence[tuple[int, Values]]) -> list[Scored]:
        scored = []
        for stream, values in batches:
            start = CLOCK()
            reply = await self._runtime.send_and_receive("detector", Batch(stream=stream, values=values))
            elapsed = CLOCK() - start
            scored.append(Scored(reply.scores, elapsed, elapsed - reply.computed_ns))
        return scored

    def score_all(self, batches: Sequence[tuple[int, Values]]) -> list[Scored]:
        """Ask for the scores of one batch after the other, in one task."""
        return self._runner.run(self._ask_all(batches))

    def close(self) -> None:
        """End the ring kernel and its event loop."""
        self._runner.run(self._runtime.__aexit__(None, None, None))
        self._runner.close()


class ThreadScorer(OneByOne):
    """A ring kernel on a thread that holds the windows."""

    def __init__(self, streams: int, window: int, loop: Callable[..., Values]) -> None:
        scorer = LoopScorer(streams, window, loop)

        def detector(ctx: ThreadedKernelContext[Any, Any]) -> None:
            while not ctx.should_terminate:
                batch = ctx.receive(timeout=1.0)
                if batch is not None:
                    ctx.send(_scores_of(scorer, batch))

        self._kernel = ThreadedRingKernel("detector", detector)
        self._kernel.launch()
        self._kernel.activate()

    def score(self, stream: int, values: Values) -> Scored:
        """Send the next values of a stream, and receive their scores."""
        start = CLOCK()
        self._kernel.send(Batch(stream=stream, values=values))
        reply = self._kernel.receive(timeout=REPLY_LIMIT_S)
        elapsed = CLOCK() - start
        check(reply is not None, f"no scores within {REPLY_LIMIT_S} s")
        return Scored(reply.scores, elapsed, elapsed - reply.computed_ns)

    def close(self) -> None:
        """End the ring kernel."""
        self._kernel.terminate()


@message
class Event:
    """Message of a native ring kernel: one value of one stream."""

    stream: int
    value: float


@message
class EventScore:
    """Reply: the score of one value."""

    score: float


@message
class EventBlock:
    """Message of a native ring kernel: the first `count` of the values, all of one stream."""

    stream: int
    count: int
    values: Annotated[NDArray[np.float64], BLOCK]


@message
class ScoreBlock:
    """Reply: the scores of a block."""

    scores: Annotated[NDArray[np.float64], BLOCK]


def score_event(ctx: HandlerContext, state: Any, msg: Event) -> EventScore:
    """Score one value."""
    return EventScore(score_value(state.rings[msg.stream], state.sums[msg.stream], msg.value))


def score_block(ctx: HandlerContext, state: Any, msg: EventBlock) -> ScoreBlock:
    """Score a block of values."""
    ring, sums, values, scores = state.rings[msg.stream], state.sums[msg.stream], msg.values, state.scores
    for index in range(msg.count):
        scores[index] = score_value(ring, sums, values[index])
    return ScoreBlock(scores)


def initial_state(streams: int, window: int) -> np.void:
    """Return the state of a native ring kernel: windows and sums of every stream, and scratch memory for the scores of a block."""
    layout = np.dtype([("rings", np.float64, (streams, window)), ("sums", np.float64, (streams, 4)), ("scores", np.float64, BLOCK)])
    state = np.zeros((), layout)[()]
    assert isinstance(state, np.void)
    return state


class NativeScorer(OneByOne):
    """A compiled handler whose state is the windows."""

    def __init__(self, streams: int, window: int, device: str, blocks: bool) -> None:
        """Launch the ring kernel.

        Args:
            streams: Number of streams.
            window: Length of the window.
            device: "cpu", "cuda" or "emulated".
            blocks: Whether a message is a block of events, or a single one.
        """
        handler = score_block if blocks else score_event
        self._blocks, self._device = blocks, device
        self._kernel = NativeKernel(handler, state=initial_state(streams, window), device=device)
        self._kernel.activate()

    def score(self, stream: int, values: Values) -> Scored:
        """Ask for the scores of the next values of a stream, in one call. Making the records counts as transfer."""
        start = CLOCK()
        if self._blocks:
            records = np.zeros(-(-len(values) // BLOCK), self._kernel.input_dtype)
            records["count"] = BLOCK
            full, rest = divmod(len(values), BLOCK)
            records["values"][:full] = values[: full * BLOCK].reshape(full, BLOCK)
            if rest:
                records["count"][full], records["values"][full, :rest] = rest, values[full * BLOCK :]
        else:
            records = np.zeros(len(values), self._kernel.input_dtype)
            records["value"] = values
        records["stream"] = stream
        replies = self._kernel.ask_many(records)
        scores = replies["scores"].reshape(-1)[: len(values)] if self._blocks else replies["score"]
        return Scored(scores, CLOCK() - start, None)

    def handler_ns(self, count: int) -> float | None:
        """Return the time that the handler took for a batch of `count` values, by the device's own clock; `None` on the CPU."""
        if self._device == "cpu":
            return None
        return self._kernel.stats.handle_time.p50 * 1e9 * (-(-count // BLOCK) if self._blocks else count)

    def close(self) -> None:
        """Terminate the ring kernel."""
        self._kernel.terminate()
