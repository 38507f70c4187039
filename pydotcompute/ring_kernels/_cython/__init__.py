"""The fastest queue between two threads. The package keeps the name that it had when this was written in Cython; it is Rust now.

When to use which:

- :class:`FastSPSCQueue`: two threads of one process, one putting and one getting; calls that do not wait.
- :class:`~pydotcompute.ring_kernels.sync_queue.SPSCQueue`: the same, where both sides usually wait.
- :class:`~pydotcompute.ring_kernels.sync_queue.SyncQueue`: more than one thread on a side.

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
    """Whether the compiled queue is there.

    Returns:
        Always ``True``.
    """
    return CYTHON_AVAILABLE
