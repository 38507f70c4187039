"""Waiting for native ring kernels in an event loop: by a bell that their threads ring, without the interpreter."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any
from weakref import WeakKeyDictionary

from pydotcompute import _core

__all__ = ["complete"]


class _Bell:
    """The bell of one loop, and who waits for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._core = _core.NativeNotifier()
        self._numbers = itertools.count()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        loop.add_reader(self._core.fileno(), self._ring)

    def _ring(self) -> None:
        for number in self._core.take_ready():
            waiting = self._waiting.get(number)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)

    async def complete(self, operation: _core.NativeOperation) -> Any:
        while True:
            number = next(self._numbers)
            over, result = operation.poll(self._core, number)
            if over:
                return result
            # Rung meanwhile, it is heard when the loop comes to it, which is after this.
            waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
            try:
                await waiting
            finally:
                del self._waiting[number]


_bells: WeakKeyDictionary[asyncio.AbstractEventLoop, _Bell] = WeakKeyDictionary()


async def complete(operation: _core.NativeOperation, timeout: float | None = None) -> Any:
    """Waits for an operation in the running loop.

    Args:
        operation: The operation.
        timeout: How long to wait, in seconds; ``None`` for ever.

    Returns:
        Its result.

    Raises:
        TimeoutError: It was not over in time. It is given up.
    """
    loop = asyncio.get_running_loop()
    bell = _bells.get(loop)
    if bell is None:
        bell = _bells[loop] = _Bell(loop)
    if timeout is None:
        return await bell.complete(operation)
    async with asyncio.timeout(timeout):
        return await bell.complete(operation)
