"""Waits for native ring kernels in an event loop. Their threads notify the loop without taking the GIL."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any
from weakref import WeakKeyDictionary

from pydotcompute import _core

__all__ = ["complete"]


class _LoopNotifier:
    """Notifier of one event loop, and the futures that wait for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._core = _core.NativeNotifier()
        self._numbers = itertools.count()
        self._futures: dict[int, asyncio.Future[None]] = {}
        loop.add_reader(self._core.fileno(), self._on_ready)

    def _on_ready(self) -> None:
        for number in self._core.take_ready():
            future = self._futures.get(number)
            if future is not None and not future.done():
                future.set_result(None)

    async def complete(self, operation: _core.NativeOperation) -> Any:
        while True:
            number = next(self._numbers)
            done, result = operation.poll(self._core, number)
            if done:
                return result
            # A notification that arrives in between is not lost: the loop handles it after this coroutine suspends.
            future = self._futures[number] = asyncio.get_running_loop().create_future()
            try:
                await future
            finally:
                del self._futures[number]


_notifiers: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopNotifier] = WeakKeyDictionary()


async def complete(operation: _core.NativeOperation, timeout: float | None = None) -> Any:
    """Waits for an operation in the running loop.

    Args:
        operation: The operation.
        timeout: Maximum time to wait, in seconds; ``None`` for no limit.

    Returns:
        The result of the operation.

    Raises:
        TimeoutError: The operation did not finish in time and was abandoned.
    """
    loop = asyncio.get_running_loop()
    notifier = _notifiers.get(loop)
    if notifier is None:
        notifier = _notifiers[loop] = _LoopNotifier(loop)
    if timeout is None:
        return await notifier.complete(operation)
    async with asyncio.timeout(timeout):
        return await notifier.complete(operation)
