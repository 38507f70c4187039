"""Queues between threads: for any number of them on both sides, or for exactly one on each.

Both keep Python objects as they are; nothing is serialised. Waiting happens in Rust, with the interpreter released, and ends when the other
side puts or takes, at the timeout, at :meth:`shutdown`, or by Ctrl-C.

===============  ======================  ==================  =============================================
queue            producers, consumers    limit               what a timeout or a full queue gives
===============  ======================  ==================  =============================================
`SyncQueue`      any number              exact, or none      `QueueFullError`, `QueueTimeoutError`
`SPSCQueue`      one and one at a time   a power of two      ``False`` from ``put``, ``None`` from ``get``
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
