"""The compiled SPSC queue."""

from pydotcompute.ring_kernels._cython import CYTHON_AVAILABLE, FastSPSCQueue, is_cython_available

available: tuple[bool, bool] = (CYTHON_AVAILABLE, is_cython_available())
queue: FastSPSCQueue[int] = FastSPSCQueue(16)
