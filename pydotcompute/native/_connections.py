"""Native ring kernels as the ends of connections to ring kernels of any tier."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pydotcompute.exceptions import KernelError, QueueError, TypeValidationError
from pydotcompute.ring_kernels._settings import DeadLetter, KernelState

if TYPE_CHECKING:
    from collections.abc import Awaitable, Generator

    from pydotcompute.native.ring_kernel import NativeRingKernel
    from pydotcompute.ring_kernels._routing import OutputRouter

__all__ = ["Forwarder", "NativeSink"]

# Time to take the outputs of a ring kernel that has ended, without delivering them.
_CUT_TIMEOUT_S = 1.0


class _Done:
    """An awaitable that is done."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


_DONE = _Done()


class NativeSink:
    """The input of a native ring kernel."""

    def __init__(self, kernel: NativeRingKernel[Any, Any]) -> None:
        self._kernel = kernel

    @property
    def state(self) -> int:
        return self._kernel.state.value

    @property
    def full(self) -> bool:
        kernel = self._kernel
        return kernel.state is KernelState.LAUNCHED or kernel.native.stats.queued >= kernel.config.input_queue_size

    def check(self, message: Any) -> None:
        expected = self._kernel.input_type
        if expected is not None and type(message) is not expected:
            raise TypeValidationError(expected, type(message), f"the input of native ring kernel '{self._kernel.kernel_id}'")

    def put_now(self, message: Any) -> bool:
        if self._kernel.state is KernelState.LAUNCHED:
            return False
        try:
            self._kernel.native.tell(message, 0.0)
        except QueueError:
            return False
        return True

    def begin_put(self, message: Any) -> Awaitable[Any] | None:
        return _DONE if self.put_now(message) else None

    def wait_put(self, message: Any, timeout: float | None) -> Any:
        return asyncio.ensure_future(self._wait(message, timeout))

    async def _wait(self, message: Any, timeout: float | None) -> None:
        if self._kernel.state is KernelState.LAUNCHED:
            # A pipeline may be activated in any order.
            await self._kernel._changed.wait()
        await self._kernel.native.tell_async(message, timeout)


class Forwarder:
    """The task that passes the outputs of a native ring kernel to its router, from its creation on.

    It ends with the ring kernel, after its last output, and then ends the connections.

    Args:
        kernel: The ring kernel, which is active.
        router: Delivers the outputs.
    """

    def __init__(self, kernel: NativeRingKernel[Any, Any], router: OutputRouter) -> None:
        self._kernel = kernel
        self._router = router
        self._is_stopped = False
        self._holds_output = False
        self._task = asyncio.create_task(self._run(), name=f"outputs of {kernel.kernel_id}")

    def stop(self) -> asyncio.Task[None]:
        """Takes no more outputs. Returns the task, which ends once the output that it delivers now is delivered or a dead letter."""
        self._is_stopped = True
        if not self._holds_output:
            self._task.cancel()
        return self._task

    async def finish(self, timeout: float) -> None:
        """Waits until the outputs of the ring kernel, which has ended, are delivered. Those left at the timeout count as unrouted."""
        await asyncio.wait({self._task}, timeout=timeout)
        if not self._task.done():
            self._router.cut()
            await asyncio.wait({self._task}, timeout=_CUT_TIMEOUT_S)
            # The thread of a handler that does not return was abandoned: there is no end to wait for.
            self._task.cancel()

    async def stopped(self, timeout: float | None) -> bool:
        """Waits until the task has ended. Returns whether it has, within the timeout."""
        await asyncio.wait({self._task}, timeout=timeout)
        return self._task.done()

    async def _run(self) -> None:
        while not self._is_stopped:
            try:
                output = await self._kernel.native.receive_async()
            except KernelError:
                # It has ended, and all outputs were received.
                self._kernel._forwarder = None
                self._router.close()
                return
            self._holds_output = True
            try:
                await self._router.deliver(output)
            except Exception as error:
                self._kernel._add_dead_letter(DeadLetter(output, "undelivered", error))
            self._holds_output = False
