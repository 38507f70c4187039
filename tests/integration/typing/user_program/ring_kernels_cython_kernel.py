"""Compiled ring kernels."""

from typing import Any

from pydotcompute.ring_kernels.cython_kernel import (
    CythonKernelConfig,
    CythonKernelContext,
    CythonKernelState,
    CythonRingKernel,
    is_cython_kernel_available,
)


def double(ctx: CythonKernelContext[int, float]) -> None:
    name: str = ctx.kernel_id
    queues: tuple[Any, Any] = (ctx.input_queue, ctx.output_queue)
    while not ctx.should_terminate:
        number: int | None = ctx.receive(timeout=0.1)
        if number is None:
            number = ctx.receive_nowait()
        if number is not None and not ctx.send_nowait(2.0 * number):
            taken: bool = ctx.send(2.0 * number, timeout=None)
            print(name, queues, taken)


def use() -> None:
    config = CythonKernelConfig(
        kernel_id="double", input_queue_size=16, output_queue_size=16, spin_wait_ns=100, thread_name="double", daemon=True
    )
    settings: tuple[str, int, int, int, str | None, bool] = (
        config.kernel_id,
        config.input_queue_size,
        config.output_queue_size,
        config.spin_wait_ns,
        config.thread_name,
        config.daemon,
    )
    kernel: CythonRingKernel[int, float] = CythonRingKernel("double", double, config=config)
    kernel.start()
    state: CythonKernelState = kernel.state
    flags: tuple[bool, bool, bool] = (kernel.is_running, kernel.using_cython, is_cython_kernel_available())
    error: Exception | None = kernel.error
    sent: tuple[bool, bool] = (kernel.send(1, timeout=1.0), kernel.send_nowait(2))
    received: tuple[float | None, float | None] = (kernel.receive(timeout=1.0), kernel.receive_nowait())
    kernel.stop(timeout=5.0)
    with CythonRingKernel("again", double) as again:
        again.send_nowait(1)
    states = [CythonKernelState.CREATED, CythonKernelState.RUNNING, CythonKernelState.STOPPING, CythonKernelState.STOPPED]
    print(settings, state, flags, error, sent, received, states)
