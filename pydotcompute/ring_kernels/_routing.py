"""Delivers the outputs of connected ring kernels."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from pydotcompute.exceptions import EventLoopError, KernelError, QueueError, TypeValidationError, WaitCycleError
from pydotcompute.ring_kernels._settings import DeadLetter, KernelState
from pydotcompute.ring_kernels.connection import Connection

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pydotcompute import _core
    from pydotcompute.ring_kernels._pipeline import KernelEnd, Sink
    from pydotcompute.ring_kernels.lifecycle import RingKernel

__all__ = ["MailboxSink", "OutputRouter"]

_log = logging.getLogger(__name__)

# The first number of connections at which those that have ended are removed, should the source send nothing.
_MIN_SWEEP = 16


class _DisconnectedError(Exception):
    """The connection was disconnected while an output waited for a free slot."""


class _CancelledTooLateError(Exception):
    """The task was cancelled after a target had accepted the output, and before the task went on."""

    def __init__(self, cancellation: asyncio.CancelledError) -> None:
        super().__init__()
        self.cancellation = cancellation


def _was_sent(wait: Any) -> bool:
    """Whether a put whose waiting task was cancelled had sent its message before."""
    return wait.done() and not wait.cancelled() and not (isinstance(wait, asyncio.Future) and wait.exception())


class OutputRouter:
    """Delivers the outputs of one ring kernel to all ring kernels that it is connected to.

    An output goes at once to every target with a free slot, and then waits for the others, so that the source is held back. An output
    that a target does not take any more becomes a dead letter of the source.

    Args:
        source: The ring kernel that sends.
        on_change: Called with whether outputs are to be delivered here, each time that this changes.
    """

    def __init__(self, source: KernelEnd, on_change: Callable[[bool], asyncio.Task[None] | None]) -> None:
        self._source = source
        self._on_change = on_change
        self._next_sweep = _MIN_SWEEP
        self.connections: list[Connection] = []
        self.unrouted = 0
        self.is_routing = False

    def add(self, target: str, sink: Sink) -> Connection:
        """Adds a connection."""
        connection = Connection(self._source.kernel_id, target, self, sink)
        self.connections.append(connection)
        if len(self.connections) >= self._next_sweep:
            self.connections = [one for one in self.connections if not one._has_ended]
            self._next_sweep = max(_MIN_SWEEP, 2 * len(self.connections))
        if not self.is_routing:
            self.is_routing = True
            self._on_change(True)
        return connection

    def remove(self, connection: Connection) -> asyncio.Task[None] | None:
        """Removes a connection. Without any, outputs are queued again. Returns the task that this ends, if there is one."""
        self.connections = [one for one in self.connections if one is not connection]
        return None if self.connections else self._stop()

    def close(self) -> None:
        """Ends all connections, because the source has ended."""
        ended, self.connections = self.connections, []
        self._stop()
        for connection in ended:
            connection._router = None

    def cut(self) -> None:
        """Ends all connections. Outputs that wait for a free slot become dead letters, and further ones count as unrouted."""
        ended, self.connections = self.connections, []
        for connection in ended:
            connection._end()

    def _stop(self) -> asyncio.Task[None] | None:
        was_routing, self.is_routing = self.is_routing, False
        return self._on_change(False) if was_routing else None

    async def deliver(self, message: Any, timeout: float | None = None) -> bool:
        """Delivers an output, and waits for free slots.

        Raises:
            TypeValidationError: A target does not take this message. No target gets it.
            QueueFullError: A target had no free slot within the timeout. Those that had one got the message.
            WaitCycleError: The wait would never end, since ring kernels wait for each other in a circle.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting = self._begin(message)
        attempted = len(self.connections) - len(waiting)
        try:
            while waiting:
                await self._send(waiting[0], message, deadline)
                attempted += 1
                del waiting[0]
        except _CancelledTooLateError as error:
            for connection in waiting[1:]:
                self._refuse(connection, message, error.cancellation)
            raise error.cancellation from None
        except BaseException as error:
            # Nothing was sent, and the source may try again, unless another target got the message or the source ends.
            if attempted or self._source.state.value >= KernelState.TERMINATING.value:
                for connection in waiting:
                    self._refuse(connection, message, error)
            raise
        return True

    def deliver_now(self, message: Any) -> bool:
        """Delivers an output if no target is full. Returns whether it was delivered."""
        connections = self._live(message)
        for connection in connections:
            connection._sink.check(message)
        if any(connection._sink.full for connection in connections):
            return False
        for connection in connections:
            if not self._try(connection, message):
                self._refuse(connection, message, None)
        return True

    def _begin(self, message: Any) -> list[Connection]:
        """Sends an output to every target but one that has a free slot. Returns the connections that are left."""
        connections = self._live(message)
        for connection in connections:
            connection._sink.check(message)
        if len(connections) <= 1:
            return connections
        # A put that is awaited resumes the target at once, so it is the last one.
        *others, last = connections
        waiting = [connection for connection in others if not self._try(connection, message)]
        if not waiting or not self._try(last, message):
            waiting.append(last)
        return waiting

    def _live(self, message: Any) -> list[Connection]:
        """Returns the connections whose targets accept messages, and removes those that have ended.

        An output that finds a failed target is a dead letter. One that finds no other targets than those that were terminated is unrouted.
        """
        ended = [connection for connection in self.connections if connection._has_ended]
        failed = [connection for connection in ended if connection._sink.state == KernelState.FAILED.value]
        for connection in ended:
            self._drop(connection)
        for connection in failed:
            self._refuse(connection, message, None)
        if not self.connections and not failed:
            self.unrouted += 1
        if ended and not self.connections:
            _log.warning(
                "kernel '%s': all kernels that it was connected to have ended; its outputs are dropped, and counted as `unrouted`",
                self._source.kernel_id,
            )
        return list(self.connections)

    def _try(self, connection: Connection, message: Any) -> bool:
        accepted = connection._sink.put_now(message)
        connection.delivered += accepted
        return accepted

    async def _send(self, connection: Connection, message: Any, deadline: float | None) -> None:
        """Sends an output over one connection, or makes it a dead letter if the target does not take it any more."""
        try:
            if connection._router is None:
                raise _DisconnectedError
            put = connection._sink.begin_put(message)
            if put is None:
                await self._wait(connection, message, deadline)
            else:
                await put
        except (EventLoopError, WaitCycleError):
            raise
        except (KernelError, _DisconnectedError) as error:
            self._refuse(connection, message, None if isinstance(error, _DisconnectedError) else error)
            if connection._has_ended:
                self._drop(connection)
        except QueueError as error:
            if deadline is not None:
                raise
            # The target rejects what it has no slot for.
            self._refuse(connection, message, error)
        else:
            connection.delivered += 1

    async def _wait(self, connection: Connection, message: Any, deadline: float | None) -> None:
        """Sends an output to a full target. Disconnecting ends the wait."""
        task = asyncio.current_task()
        cancellations = 0 if task is None else task.cancelling()
        wait = connection._sink.wait_put(message, None if deadline is None else max(deadline - time.monotonic(), 0.0))
        connection._waits.add(wait)
        try:
            await wait
        except asyncio.CancelledError as error:
            if _was_sent(wait):
                connection.delivered += 1
                raise _CancelledTooLateError(error) from error
            if connection._router is None and (task is None or task.cancelling() == cancellations):
                raise _DisconnectedError from None
            raise
        finally:
            connection._waits.discard(wait)

    def _refuse(self, connection: Connection, message: Any, cause: BaseException | None) -> None:
        connection.undelivered += 1
        self._source._add_dead_letter(DeadLetter(message, "undelivered", cause))

    def _drop(self, connection: Connection) -> None:
        """Removes a connection whose target has ended."""
        self.connections = [one for one in self.connections if one is not connection]
        connection._router = None


class MailboxSink:
    """The input of an asyncio ring kernel."""

    def __init__(self, kernel: RingKernel[Any, Any], queue: _core.MessageQueue | _core.FastMessageQueue) -> None:
        self._kernel = kernel
        self._queue = queue
        self._drops = kernel.config.backpressure_strategy.lower() == "drop_oldest"

    @property
    def state(self) -> int:
        return self._kernel._state_number

    @property
    def full(self) -> bool:
        return self._queue.full and not self._drops

    def check(self, message: Any) -> None:
        expected = self._kernel.input_type
        if expected is not None and not isinstance(message, expected):
            raise TypeValidationError(expected, type(message), f"the input of kernel '{self._kernel.kernel_id}'")

    def put_now(self, message: Any) -> bool:
        return self._queue.put_nowait(message)

    def begin_put(self, message: Any) -> Awaitable[Any] | None:
        return None if self.full else self._queue.put(message)

    def wait_put(self, message: Any, timeout: float | None) -> Any:
        return self._queue.put(message, timeout=timeout)
