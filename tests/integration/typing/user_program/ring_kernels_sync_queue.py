"""Queues between threads."""

from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue


def use() -> None:
    queue: SyncQueue[str] = SyncQueue(maxsize=16)
    sizes: tuple[int, int, int] = (queue.maxsize, queue.qsize, len(queue))
    flags: tuple[bool, bool] = (queue.empty, queue.full)
    put: tuple[bool, bool] = (queue.put("a", timeout=1.0), queue.put_nowait("b"))
    got: str = queue.get(timeout=1.0)
    maybe: str | None = queue.get_nowait()
    cleared: int = queue.clear()
    stats: dict[str, int] = queue.get_stats()
    queue.shutdown()
    print(sizes, flags, put, got, maybe, cleared, stats)


def one_to_one() -> None:
    queue: SPSCQueue[int] = SPSCQueue(capacity=16)
    sizes: tuple[int, int, int] = (queue.capacity, queue.size, len(queue))
    flags: tuple[bool, bool] = (queue.empty, queue.full)
    put: tuple[bool, bool] = (queue.put(1, timeout=1.0), queue.put_nowait(2))
    got: tuple[int | None, int | None] = (queue.get(timeout=1.0), queue.get_nowait())
    cleared: int = queue.clear()
    queue.shutdown()
    print(sizes, flags, put, got, cleared)
