"""Queues between threads: MPMC, or SPSC.

Both pass Python objects themselves, without serialization: do not change an object after it was put. Blocking calls
wait in Rust with the GIL released. They return when the other side puts or gets, at the timeout, after :meth:`shutdown`, or on Ctrl-C.

===============  ======================  ==================  =============================================
queue            producers, consumers    capacity            at a timeout, or if the queue is full
===============  ======================  ==================  =============================================
`SyncQueue`      any number              exact, or none      `QueueFullError`, `QueueTimeoutError`
`SPSCQueue`      one each at a time      a power of two      ``False`` from ``put``, ``None`` from ``get``
===============  ======================  ==================  =============================================

Example:
    >>> from pydotcompute.ring_kernels.sync_queue import SyncQueue
    >>> queue: SyncQueue[str] = SyncQueue(maxsize=2)
    >>> queue.put("a"), queue.put_nowait("b"), queue.put_nowait("c")
    (True, True, False)
    >>> queue.get(), queue.qsize
    ('a', 1)
"""

from pydotcompute._core import SPSCQueue, SyncQueue

__all__ = ["SPSCQueue", "SyncQueue"]
