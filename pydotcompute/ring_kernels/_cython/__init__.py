"""The fastest queue between two threads. The package name dates from 0.2, where it was written in Cython; it is written in Rust now.

Which queue to use:

- :class:`FastSPSCQueue`: one producer thread and one consumer thread, with calls that do not wait.
- :class:`~pydotcompute.ring_kernels.sync_queue.SPSCQueue`: the same, if both sides usually wait.
- :class:`~pydotcompute.ring_kernels.sync_queue.SyncQueue`: several threads on a side.

Example:
    >>> from pydotcompute.ring_kernels._cython import FastSPSCQueue
    >>> queue: FastSPSCQueue[int] = FastSPSCQueue(1024)
    >>> queue.put(1), queue.get(), queue.get()
    (True, 1, None)
"""

from pydotcompute._core import FastSPSCQueue

__all__ = ["CYTHON_AVAILABLE", "FastSPSCQueue", "is_cython_available"]

CYTHON_AVAILABLE = True
"""Always true: the compiled queue is part of every installation."""


def is_cython_available() -> bool:
    """Whether the compiled queue is available.

    Returns:
        Always ``True``.
    """
    return CYTHON_AVAILABLE
