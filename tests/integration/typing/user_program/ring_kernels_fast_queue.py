"""Queues for messages with priorities, and without."""

from pydotcompute import RingKernelMessage
from pydotcompute.ring_kernels.fast_queue import FastMessageQueue, PriorityBand, QueueStats, RingBuffer, get_priority_band


async def use() -> None:
    queue: FastMessageQueue[RingKernelMessage] = FastMessageQueue(maxsize=16, kernel_id="k", serialize=False)
    sizes: tuple[int, int, int] = (queue.maxsize, queue.qsize, len(queue))
    flags: tuple[bool, bool] = (queue.empty, queue.full)
    put: bool = await queue.put(RingKernelMessage(), timeout=1.0)
    got: RingKernelMessage = await queue.get(timeout=1.0)
    at_once: bool = queue.put_nowait(got)
    maybe: RingKernelMessage | None = queue.get_nowait()
    count: int = queue.put_batch([got, got])
    batch: list[RingKernelMessage] = queue.get_batch(2)
    cleared: int = queue.clear()
    stats: dict[str, int | dict[str, int]] = queue.get_stats()
    bands = [PriorityBand.SYSTEM, PriorityBand.HIGH, PriorityBand.NORMAL, PriorityBand.LOW, get_priority_band(128)]
    totals = QueueStats(total_enqueued=1, total_dequeued=1, total_dropped=0, current_size=0, peak_size=1, band_counts=None)
    seen: tuple[int, int, int, int, int] = (
        totals.total_enqueued,
        totals.total_dequeued,
        totals.total_dropped,
        totals.current_size,
        totals.peak_size,
    )
    per_band: dict[str, int] | None = totals.band_counts
    print(sizes, flags, put, at_once, maybe, count, batch, cleared, stats, bands, seen, per_band)
    await plain()


async def plain() -> None:
    ring: RingBuffer[str] = RingBuffer(capacity=16)
    sizes: tuple[int, int, int] = (ring.capacity, ring.size, len(ring))
    flags: tuple[bool, bool] = (ring.empty, ring.full)
    put: bool = await ring.put("a", timeout=1.0)
    got: str | None = await ring.get(timeout=1.0)
    at_once: bool = ring.put_nowait("b")
    maybe: str | None = ring.get_nowait()
    cleared: int = ring.clear()
    print(sizes, flags, put, got, at_once, maybe, cleared)
