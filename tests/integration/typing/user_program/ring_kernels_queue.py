"""Queues with backpressure."""

from pydotcompute import RingKernelMessage
from pydotcompute.ring_kernels.queue import BackpressureStrategy, MessageQueue, PriorityItem


async def use() -> None:
    queue: MessageQueue[RingKernelMessage] = MessageQueue(
        maxsize=16, backpressure=BackpressureStrategy.REJECT, use_priority=True, kernel_id="k"
    )
    sizes: tuple[int, int, int] = (queue.maxsize, queue.qsize, len(queue))
    flags: tuple[bool, bool] = (queue.empty, queue.full)
    put: bool = await queue.put(RingKernelMessage(), timeout=1.0)
    got: RingKernelMessage = await queue.get(timeout=1.0)
    at_once: bool = queue.put_nowait(got)
    maybe: RingKernelMessage | None = queue.get_nowait()
    cleared: int = queue.clear()
    stats: dict[str, int] = queue.get_stats()
    item: PriorityItem[RingKernelMessage] = PriorityItem(priority=128, sequence=1, message=got)
    order: tuple[int, int] = (item.priority, item.sequence)
    inner: RingKernelMessage = item.message
    earlier: bool = item < PriorityItem(priority=0, sequence=2, message=got)
    strategies = [BackpressureStrategy.BLOCK, BackpressureStrategy.DROP_OLDEST]
    print(sizes, flags, put, at_once, maybe, cleared, stats, order, inner, earlier, strategies)
