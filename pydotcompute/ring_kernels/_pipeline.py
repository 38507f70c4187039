"""Pipelines of ring kernels: connecting two of any tier, and the order in which they end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from pydotcompute.exceptions import KernelConnectionError, KernelStateError, TypeValidationError
from pydotcompute.ring_kernels._settings import DeadLetter, KernelState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from pydotcompute.ring_kernels._routing import OutputRouter
    from pydotcompute.ring_kernels.connection import Connection

__all__ = ["KernelEnd", "Sink", "connect", "connections_between", "order_of_ending", "terminate_all"]


class Sink(Protocol):
    """The input of a ring kernel, for the outputs of others."""

    @property
    def state(self) -> int:
        """Value of the ring kernel's ``KernelState``."""

    @property
    def full(self) -> bool:
        """Whether a message would wait, or be rejected."""

    def check(self, message: Any) -> None:
        """Raises ``TypeValidationError`` if the ring kernel does not take this message."""

    def put_now(self, message: Any) -> bool:
        """Sends a message if there is a free slot. Returns whether it was sent."""

    def begin_put(self, message: Any) -> Awaitable[Any] | None:
        """Sends a message as soon as the result is awaited; ``None`` if that would wait for a free slot."""

    def wait_put(self, message: Any, timeout: float | None) -> Any:
        """Sends a message, and waits for a free slot.

        The result is awaitable. It has the methods ``cancel``, which ends the wait, ``done``, and ``cancelled``: whether the message was
        not sent.
        """


class KernelEnd(Protocol):
    """A ring kernel of any tier, as one end of a connection."""

    kernel_id: str
    input_type: type[Any] | None
    output_type: type[Any] | None

    @property
    def state(self) -> KernelState:
        """Lifecycle state."""

    async def terminate(self, timeout: float) -> None:
        """Terminates the ring kernel."""

    @property
    def _router(self) -> OutputRouter | None: ...

    def _open_router(self) -> OutputRouter: ...

    def _open_sink(self) -> Sink: ...

    def _add_dead_letter(self, letter: DeadLetter) -> None: ...


def connect(source: KernelEnd, target: KernelEnd) -> Connection:
    """Connects two ring kernels of a runtime; see :meth:`RingKernelRuntime.connect`."""
    if source is target:
        reason = "outputs of a ring kernel cannot be messages of itself; connect two ring kernels, or handle them in one function"
        raise KernelConnectionError("connect", source.kernel_id, target.kernel_id, reason)
    for kernel in (source, target):
        state = kernel.state
        if state.value >= KernelState.TERMINATING.value:
            raise KernelStateError(kernel.kernel_id, state.name, "connect")
    output, into = source.output_type, target.input_type
    if isinstance(output, type) and isinstance(into, type) and not (issubclass(output, into) or issubclass(into, output)):
        raise TypeValidationError(into, output, f"the connection of kernel '{source.kernel_id}' to kernel '{target.kernel_id}'")
    return source._open_router().add(target.kernel_id, target._open_sink())


def connections_between(source: KernelEnd, target: KernelEnd) -> list[Connection]:
    """Returns the connections from one ring kernel to another.

    Raises:
        KernelConnectionError: There are none.
    """
    router = source._router
    found = [] if router is None else [one for one in router.connections if one.target == target.kernel_id]
    if not found:
        reason = "they are not connected, or the connection has ended with one of them; see runtime.connections"
        raise KernelConnectionError("disconnect", source.kernel_id, target.kernel_id, reason)
    return found


def order_of_ending(kernels: Iterable[KernelEnd]) -> list[list[KernelEnd]]:
    """Returns ring kernels in groups: each after those whose outputs it gets, so that messages between them are handled.

    Those in a circle, and those after it, are the last group.
    """
    waiting = {kernel.kernel_id: kernel for kernel in kernels}
    downstream = {name: [one.target for one in kernel._router.connections] for name, kernel in waiting.items() if kernel._router}
    upstream = dict.fromkeys(waiting, 0)
    for target in (target for targets in downstream.values() for target in targets if target in waiting):
        upstream[target] += 1
    groups: list[list[KernelEnd]] = []
    ready = [name for name, count in upstream.items() if count == 0]
    while waiting:
        names = ready or list(waiting)
        groups.append([waiting.pop(name) for name in names])
        ready = []
        for target in (target for name in names for target in downstream.get(name, []) if target in waiting):
            upstream[target] -= 1
            if upstream[target] == 0:
                ready.append(target)
    return groups


async def terminate_all(kernels: list[KernelEnd], timeout: float) -> list[BaseException | None]:
    """Terminates ring kernels concurrently. Returns the error of each, or ``None``."""
    if len(kernels) > 1:
        return await asyncio.gather(*(kernel.terminate(timeout) for kernel in kernels), return_exceptions=True)
    # A pipeline has one ring kernel per group, and `gather` would take most of the time.
    try:
        for kernel in kernels:
            await kernel.terminate(timeout)
    except Exception as error:
        return [error]
    return [None]
