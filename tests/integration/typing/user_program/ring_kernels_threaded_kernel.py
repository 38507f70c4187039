"""Ring kernels on threads."""

from typing import Any

from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue
from pydotcompute.ring_kernels.threaded_kernel import (
    ThreadedKernelConfig,
    ThreadedKernelContext,
    ThreadedKernelPool,
    ThreadedKernelState,
    ThreadedRingKernel,
)


def double(ctx: ThreadedKernelContext[int, float]) -> None:
    name: str = ctx.kernel_id
    inputs: SyncQueue[int] | SPSCQueue[int] = ctx.input_queue
    outputs: SyncQueue[float] | SPSCQueue[float] = ctx.output_queue
    while not ctx.should_terminate:
        number: int | None = ctx.receive(timeout=0.1)
        if number is not None:
            taken: bool = ctx.send(2.0 * number, timeout=None)
            print(name, inputs, outputs, taken)
    ended: bool = ctx.wait_shutdown(timeout=0.1)
    print(ended)


def anything(ctx: ThreadedKernelContext[Any, Any]) -> None:
    ctx.wait_shutdown()


def use() -> None:
    config = ThreadedKernelConfig(
        kernel_id="double", input_queue_size=16, output_queue_size=16, use_spsc=True, thread_name="double", daemon=True
    )
    settings: tuple[str, int, int, bool, str | None, bool] = (
        config.kernel_id,
        config.input_queue_size,
        config.output_queue_size,
        config.use_spsc,
        config.thread_name,
        config.daemon,
    )
    kernel: ThreadedRingKernel[int, float] = ThreadedRingKernel("double", double, config=config, input_type=int, output_type=float)
    kernel.start()
    state: ThreadedKernelState = kernel.state
    same: ThreadedKernelConfig = kernel.config
    running: bool = kernel.is_running
    error: Exception | None = kernel.error
    sent: tuple[bool, bool] = (kernel.send(1, timeout=1.0), kernel.send_nowait(2))
    received: tuple[float | None, float | None] = (kernel.receive(timeout=1.0), kernel.receive_nowait())
    kernel.stop(timeout=5.0)
    with ThreadedRingKernel("again", double) as again:
        again.send_nowait(1)
    states = [
        ThreadedKernelState.CREATED,
        ThreadedKernelState.RUNNING,
        ThreadedKernelState.STOPPING,
        ThreadedKernelState.STOPPED,
    ]
    print(settings, state, same, running, error, sent, received, states)


def several() -> None:
    pool = ThreadedKernelPool("worker", anything, num_workers=2, input_queue_size=16)
    pool.start_all()
    sent: bool = pool.send(1, timeout=1.0)
    received: Any | None = pool.receive_any(timeout=1.0)
    count: int = len(pool)
    pool.stop_all(timeout=5.0)
    with pool as entered:
        inner: ThreadedKernelPool = entered
    print(sent, received, count, inner)
