"""Times the queues of Python objects, the ring kernels on threads, and the queue between processes.

Run it as ``python benchmarks/queues.py``, with ``--json`` for numbers alone. Each function here gives its samples in nanoseconds, so that
other programs can call it; those on threads run under pydotcompute 0.2.0 too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

BATCH = 1000
"""Pairs of calls in one sample of :func:`put_get`; the clock costs as much as several calls."""


def put_get(queue: Any, samples: int = 500, put: str = "put", get: str = "get") -> list[float]:
    """Puts one object in and takes it out again, on one thread.

    Args:
        queue: An empty queue.
        samples: How many samples, of 1000 pairs of calls each.
        put: The method that puts.
        get: The method that gets.

    Returns:
        Nanoseconds for one pair of calls, the loop's share included; one for each sample.
    """
    put_one, get_one, item = getattr(queue, put), getattr(queue, get), object()
    taken = []
    for _ in range(samples):
        begin = time.perf_counter_ns()
        for _ in range(BATCH):
            put_one(item)
            get_one()
        taken.append((time.perf_counter_ns() - begin) / BATCH)
    return taken


def _echo(ctx: Any) -> None:
    while not ctx.should_terminate:
        message = ctx.receive(timeout=0.1)
        if message is not None:
            ctx.send(message, timeout=1.0)


def ask(kernel: Any, count: int = 20_000) -> list[float]:
    """Sends to a running kernel that answers, and receives the answer.

    Args:
        kernel: A `ThreadedRingKernel` or `CythonRingKernel`.
        count: How many round trips, after a tenth of that to warm up.

    Returns:
        Nanoseconds for each round trip.

    Raises:
        RuntimeError: An answer was missing or not the one that was due.
    """
    taken: list[float] = []
    for number in range(-count // 10, count):
        begin = time.perf_counter_ns()
        kernel.send(number, timeout=1.0)
        answer = kernel.receive(timeout=1.0)
        end = time.perf_counter_ns()
        if answer != number:
            raise RuntimeError(f"asked with {number}, answered with {answer}")
        if number >= 0:
            taken.append(end - begin)
    return taken


def threaded_ask(count: int = 20_000, *, use_spsc: bool = True) -> list[float]:
    """Round trips of a `ThreadedRingKernel`; see :func:`ask`."""
    from pydotcompute.ring_kernels.threaded_kernel import ThreadedKernelConfig, ThreadedRingKernel

    with ThreadedRingKernel("echo", _echo, config=ThreadedKernelConfig("echo", use_spsc=use_spsc)) as kernel:
        return ask(kernel, count)


def compiled_ask(count: int = 20_000) -> list[float]:
    """Round trips of a `CythonRingKernel`; see :func:`ask`."""
    from pydotcompute.ring_kernels.cython_kernel import CythonRingKernel

    with CythonRingKernel("echo", _echo) as kernel:
        return ask(kernel, count)


_OTHER_PROCESS = """
import sys
from pydotcompute.ring_kernels.shared_queue import SharedQueue
there, back = (SharedQueue.attach(name, wait=sys.argv[3]) for name in sys.argv[1:3])
while (message := there.get()) != b"end":
    back.put(message)
"""


def one_way(count: int = 50_000, wait: Any = "spin", size: int = 32) -> list[float]:
    """Half a round trip to another process and back, over two `SharedQueue`.

    Args:
        count: How many round trips, after a tenth of that to warm up.
        wait: How both processes wait; see `SharedQueue.create`.
        size: Bytes of a message.

    Returns:
        Nanoseconds for half of each round trip.
    """
    from pydotcompute.ring_kernels.shared_queue import SharedQueue

    message = b"x" * size
    taken: list[float] = []
    with SharedQueue.create(slot_size=size, wait=wait) as there, SharedQueue.create(slot_size=size, wait=wait) as back:
        other = subprocess.Popen([sys.executable, "-c", _OTHER_PROCESS, there.name, back.name, wait])
        for number in range(-count // 10, count):
            begin = time.perf_counter_ns()
            there.put(message)
            back.get()
            if number >= 0:
                taken.append((time.perf_counter_ns() - begin) / 2)
        there.put(b"end")
        other.wait()
    return taken


def measures() -> dict[str, Callable[[], list[float]]]:
    """What this program measures, by name."""
    from pydotcompute.ring_kernels._cython import FastSPSCQueue
    from pydotcompute.ring_kernels.shared_queue import SharedQueue
    from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue

    def shared_put_get() -> list[float]:
        with SharedQueue.create() as queue:
            put, item, taken = queue.put, b"x" * 32, []
            for _ in range(200):
                begin = time.perf_counter_ns()
                for _ in range(BATCH):
                    put(item)
                    queue.get()
                taken.append((time.perf_counter_ns() - begin) / BATCH)
            return taken

    return {
        "FastSPSCQueue put + get": lambda: put_get(FastSPSCQueue(1024)),
        "SPSCQueue put + get": lambda: put_get(SPSCQueue(1024)),
        "SyncQueue put + get": lambda: put_get(SyncQueue(1024)),
        "SharedQueue put + get, 32 bytes": shared_put_get,
        "ThreadedRingKernel ask": threaded_ask,
        "ThreadedRingKernel ask, use_spsc=False": lambda: threaded_ask(use_spsc=False),
        "CythonRingKernel ask": compiled_ask,
        "SharedQueue one way, spinning": one_way,
        "SharedQueue one way, adaptive": lambda: one_way(wait="adaptive"),
        "SharedQueue one way, sleeping": lambda: one_way(5_000, wait="park"),
    }


def main() -> None:
    """Measures everything and prints the median and the 99th percentile of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print numbers alone, in nanoseconds")
    parser.add_argument("--only", default="", help="measure only what has this in its name")
    arguments = parser.parse_args()
    results = {}
    for name, measure in measures().items():
        if arguments.only in name:
            samples = measure()
            results[name] = {"p50": statistics.median(samples), "p99": statistics.quantiles(samples, n=100)[98]}
            if not arguments.json:
                print(f"{name:40} p50 {results[name]['p50'] / 1000:8.3f} µs   p99 {results[name]['p99'] / 1000:8.3f} µs", flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
