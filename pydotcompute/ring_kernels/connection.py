"""Connections: the outputs of one ring kernel are messages of another."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from pydotcompute.ring_kernels._settings import KernelState

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

    from pydotcompute.ring_kernels._pipeline import Sink
    from pydotcompute.ring_kernels._routing import OutputRouter

__all__ = ["Connection"]


class Connection:
    """A connection from one ring kernel to another, which :meth:`RingKernelRuntime.connect` makes.

    As a context manager, with ``with`` or ``async with``, it is disconnected at the end of the block. It may be awaited: after
    :meth:`disconnect` that waits until no task works for it any more.

    Attributes:
        source: Name of the ring kernel whose outputs are delivered.
        target: Name of the ring kernel that gets them.
        delivered: Number of outputs that the target has accepted.
        undelivered: Number of outputs that became dead letters of the source: the target had failed, or it was full and rejected them, or
            it ended, or was disconnected, while they waited for a free slot.

    Example:
        >>> from pydotcompute import RingKernelRuntime
        >>> async def double(ctx):
        ...     async for number in ctx:
        ...         await ctx.send(2 * number)
        >>> async def main():
        ...     async with RingKernelRuntime() as runtime:
        ...         for name in ("first", "second"):
        ...             await runtime.launch(name, double)
        ...             await runtime.activate(name)
        ...         with runtime.connect("first", "second") as connection:
        ...             await runtime.send("first", 10)
        ...             print(await runtime.receive("second"), connection)
        >>> asyncio.run(main())
        40 Connection('first' → 'second', delivered=1)
    """

    def __init__(self, source: str, target: str, router: OutputRouter, sink: Sink) -> None:
        self.source = source
        self.target = target
        self.delivered = 0
        self.undelivered = 0
        self._router: OutputRouter | None = router
        self._sink = sink
        self._waits: set[Any] = set()
        self._stopping: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether outputs are delivered: it was not disconnected, and neither of its ring kernels has ended."""
        return self._router is not None and not self._has_ended

    @property
    def _has_ended(self) -> bool:
        return self._sink.state >= KernelState.TERMINATING.value

    def disconnect(self) -> Connection:
        """Ends the connection. No effect if it has ended.

        Outputs sent from now on do not go to the target. Those that wait for a free slot in its input become dead letters of the source.

        Returns:
            The connection.
        """
        if self._router is not None:
            self._stopping = self._router.remove(self)
            self._end()
        return self

    def _end(self) -> None:
        """Ends the waits for a free slot, and forgets the source."""
        self._router = None
        for wait in list(self._waits):
            wait.cancel()

    async def _settle(self) -> Self:
        if self._stopping is not None:
            await asyncio.wait({self._stopping})
        return self

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._settle().__await__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.disconnect()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.disconnect()

    def __repr__(self) -> str:
        undelivered = f", undelivered={self.undelivered}" if self.undelivered else ""
        ended = "" if self.is_connected else ", ended"
        return f"Connection({self.source!r} → {self.target!r}, delivered={self.delivered}{undelivered}{ended})"
