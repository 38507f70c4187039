"""One array on the host and on a device."""

import numpy as np
from numpy.typing import NDArray

from pydotcompute.core.unified_buffer import BufferState, UnifiedBuffer


async def use() -> None:
    buffer: UnifiedBuffer[np.float32] = UnifiedBuffer((2, 3), dtype=np.float32, pinned=False)
    buffer = buffer.allocate(host=True, device=False)
    shape: tuple[int, ...] = buffer.shape
    dtype: np.dtype[np.float32] = buffer.dtype
    sizes: tuple[int, int, int] = (buffer.size, buffer.nbytes, len(buffer))
    state: BufferState = buffer.state
    allocated: bool = buffer.is_allocated
    host: NDArray[np.float32] = buffer.host
    device: object = buffer.device
    metal: object = buffer.metal
    buffer.mark_host_dirty()
    buffer.mark_device_dirty()
    buffer.mark_metal_dirty()
    buffer.synchronize()
    await buffer.ensure_on_device()
    await buffer.ensure_on_host()
    buffer.copy_from(np.ones((2, 3), np.float32))
    buffer.copy_to(host)
    buffer = buffer.zeros()
    buffer = buffer.fill(np.float32(1))
    buffer.free()
    states = [
        BufferState.UNINITIALIZED,
        BufferState.HOST_ONLY,
        BufferState.DEVICE_ONLY,
        BufferState.SYNCHRONIZED,
        BufferState.HOST_DIRTY,
        BufferState.DEVICE_DIRTY,
    ]
    print(shape, dtype, sizes, state, allocated, device, metal, states)
