"""Ring kernels: as coroutines, on threads, and compiled. Importing this package installs uvloop if it is available.

Set ``PYDOTCOMPUTE_NO_UVLOOP=1`` to keep asyncio's own event loop.
"""

from pydotcompute.ring_kernels._loop import (
    create_optimized_loop,
    get_loop_info,
    install_at_import,
    install_eager_task_factory,
    install_uvloop,
    is_eager_tasks_installed,
    is_uvloop_available,
    is_uvloop_installed,
    optimize_current_loop,
)
from pydotcompute.ring_kernels.array_message import ArrayMessage, array_message
from pydotcompute.ring_kernels.buffer_registry import (
    BufferHandle,
    BufferRegistry,
    get_buffer,
    get_buffer_registry,
    register_buffer,
    release_buffer,
)
from pydotcompute.ring_kernels.connection import Connection
from pydotcompute.ring_kernels.cython_kernel import (
    CythonKernelConfig,
    CythonKernelContext,
    CythonKernelState,
    CythonRingKernel,
    is_cython_kernel_available,
)
from pydotcompute.ring_kernels.fast_queue import FastMessageQueue, PriorityBand, RingBuffer
from pydotcompute.ring_kernels.lifecycle import DeadLetter, Kernel, KernelState, RingKernel, Supervision
from pydotcompute.ring_kernels.message import RingKernelMessage, message
from pydotcompute.ring_kernels.queue import MessageQueue
from pydotcompute.ring_kernels.runtime import RingKernelRuntime
from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue
from pydotcompute.ring_kernels.telemetry import GPUMonitor, RingKernelTelemetry
from pydotcompute.ring_kernels.threaded_kernel import (
    ThreadedKernelConfig,
    ThreadedKernelContext,
    ThreadedKernelPool,
    ThreadedKernelState,
    ThreadedRingKernel,
)

install_at_import()

__all__ = [
    "ArrayMessage",
    "BufferHandle",
    "BufferRegistry",
    "Connection",
    "CythonKernelConfig",
    "CythonKernelContext",
    "CythonKernelState",
    "CythonRingKernel",
    "DeadLetter",
    "FastMessageQueue",
    "GPUMonitor",
    "Kernel",
    "KernelState",
    "MessageQueue",
    "PriorityBand",
    "RingBuffer",
    "RingKernel",
    "RingKernelMessage",
    "RingKernelRuntime",
    "RingKernelTelemetry",
    "SPSCQueue",
    "Supervision",
    "SyncQueue",
    "ThreadedKernelConfig",
    "ThreadedKernelContext",
    "ThreadedKernelPool",
    "ThreadedKernelState",
    "ThreadedRingKernel",
    "array_message",
    "create_optimized_loop",
    "get_buffer",
    "get_buffer_registry",
    "get_loop_info",
    "install_eager_task_factory",
    "install_uvloop",
    "is_cython_kernel_available",
    "is_eager_tasks_installed",
    "is_uvloop_available",
    "is_uvloop_installed",
    "message",
    "optimize_current_loop",
    "register_buffer",
    "release_buffer",
]
