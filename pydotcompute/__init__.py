"""Ring kernels: actors that stay resident on a GPU or a CPU thread and exchange typed messages in microseconds.

Importing this package installs uvloop if it is available. Set ``PYDOTCOMPUTE_NO_UVLOOP=1`` to keep asyncio's own event loop.
Importing it also sets ``CUDA_MODULE_LOADING=EAGER`` and ``CUDA_DEVICE_MAX_CONNECTIONS=32`` for ring kernels on a GPU, unless they are set.
Import it before CuPy or PyTorch use the GPU: the CUDA driver reads the variables once.

Example:
    >>> import asyncio
    >>> from pydotcompute import RingKernelRuntime, ring_kernel
    >>> @ring_kernel(kernel_id="double")
    ... async def double(ctx):
    ...     while not ctx.should_terminate:
    ...         await ctx.send(2 * await ctx.receive())
    >>> async def main():
    ...     async with RingKernelRuntime() as runtime:
    ...         await runtime.launch("double")
    ...         await runtime.activate("double")
    ...         return await runtime.send_and_receive("double", 21)
    >>> asyncio.run(main())
    42
"""

from pydotcompute._core import __version__
from pydotcompute._driver_settings import request_resident_settings as _request_resident_settings
from pydotcompute.core.accelerator import Accelerator
from pydotcompute.core.memory_pool import MemoryPool
from pydotcompute.core.orchestrator import ComputeOrchestrator
from pydotcompute.core.unified_buffer import BufferState, UnifiedBuffer
from pydotcompute.decorators.kernel import gpu_kernel, kernel
from pydotcompute.decorators.ring_kernel import ring_kernel
from pydotcompute.ring_kernels.lifecycle import Kernel
from pydotcompute.ring_kernels.message import RingKernelMessage, message
from pydotcompute.ring_kernels.runtime import RingKernelRuntime

_request_resident_settings()

__all__ = [
    "Accelerator",
    "BufferState",
    "ComputeOrchestrator",
    "Kernel",
    "MemoryPool",
    "RingKernelMessage",
    "RingKernelRuntime",
    "UnifiedBuffer",
    "__version__",
    "gpu_kernel",
    "kernel",
    "message",
    "ring_kernel",
]
