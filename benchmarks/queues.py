"""Measure the queues of Python objects, the ring kernels on threads, and the queue between processes.

Run it as ``python benchmarks/queues.py``, or with ``--json`` for numbers only. The functions return their samples in nanoseconds, for use
by other programs. Those that use threads also run under pydotcompute 0.2.0.
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
"""Pairs of calls per sample of :func:`put_get`; reading the clock costs as much as several calls."""
METHOD = (
    "one process, time.perf_counter_ns; put and get in blocks of 1,000 pairs, of which a sample is the mean; asks and ways between "
    "processes singly, after a tenth of their number to warm up. p50 and p99 of all samples"
)
"""How the samples are taken; printed with the results, because it is not pyperf's method."""


def put_get(queue: Any, samples: int = 500, put: str = "put", get: str = "get") -> list[float]:
    """Puts one object and gets it back, on one thread.

    Args:
        queue: An empty queue.
        samples: Number of samples, of 1000 pairs of calls each.
        put: Name of the method that puts.
        get: Name of the method that gets.

    Returns:
        Nanoseconds per pair of calls, including loop overhead; one value per sample.
    """
    put_one, get_one, item = getattr(queue, put), getattr(queue, get), object()
    times = []
    for _ in range(samples):
        start = time.perf_counter_ns()
        for _ in range(BATCH):
            put_one(item)
            get_one()
        times.append((time.perf_counter_ns() - start) / BATCH)
    return times


def _echo(ctx: Any) -> None:
    while not ctx.should_terminate:
        message = ctx.receive(timeout=0.1)
        if message is not None:
            ctx.send(message, timeout=1.0)


def ask(kernel: Any, count: int = 20_000) -> list[float]:
    """Sends messages to a running echo kernel, and receives the replies.

    Args:
        kernel: A `ThreadedRingKernel` or `CythonRingKernel`.
        count: Number of round trips, after a tenth of that to warm up.

    Returns:
        Nanoseconds per round trip.

    Raises:
        RuntimeError: A reply is missing or wrong.
    """
    times: list[float] = []
    for number in range(-count // 10, count):
        start = time.perf_counter_ns()
        kernel.send(number, timeout=1.0)
        reply = kernel.receive(timeout=1.0)
        end = time.perf_counter_ns()
        if reply != number:
            raise RuntimeError(f"the reply to {number} is {reply}")
        if number >= 0:
            times.append(end - start)
    return times


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
requests, replies = (SharedQueue.attach(name, wait=sys.argv[3]) for name in sys.argv[1:3])
while (message := requests.get()) != b"end":
    replies.put(message)
"""


def one_way(count: int = 50_000, wait: Any = "spin", size: int = 32) -> list[float]:
    """Half a round trip to another process, over two `SharedQueue`s.

    Args:
        count: Number of round trips, after a tenth of that to warm up.
        wait: Wait strategy of both processes; see `SharedQueue.create`.
        size: Message size, in bytes.

    Returns:
        Nanoseconds for half of each round trip.
    """
    from pydotcompute.ring_kernels.shared_queue import SharedQueue

    message = b"x" * size
    times: list[float] = []
    with SharedQueue.create(slot_size=size, wait=wait) as requests, SharedQueue.create(slot_size=size, wait=wait) as replies:
        other = subprocess.Popen([sys.executable, "-c", _OTHER_PROCESS, requests.name, replies.name, wait])
        for number in range(-count // 10, count):
            start = time.perf_counter_ns()
            requests.put(message)
            replies.get()
            if number >= 0:
                times.append((time.perf_counter_ns() - start) / 2)
        requests.put(b"end")
        other.wait()
    return times


def measurements() -> dict[str, Callable[[], list[float]]]:
    """Returns the measurements of this program, by name."""
    from pydotcompute.ring_kernels._cython import FastSPSCQueue
    from pydotcompute.ring_kernels.shared_queue import SharedQueue
    from pydotcompute.ring_kernels.sync_queue import SPSCQueue, SyncQueue

    def shared_put_get() -> list[float]:
        with SharedQueue.create() as queue:
            put, item, times = queue.put, b"x" * 32, []
            for _ in range(200):
                start = time.perf_counter_ns()
                for _ in range(BATCH):
                    put(item)
                    queue.get()
                times.append((time.perf_counter_ns() - start) / BATCH)
            return times

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
    """Measures everything, and prints median and 99th percentile of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print only numbers, in nanoseconds")
    parser.add_argument("--only", default="", help="run only measurements whose name contains this")
    arguments = parser.parse_args()
    if not arguments.json:
        # Not at import: other programs use the functions without this folder on their path.
        from _harness import Machine, command_line

        print(f"Command: {command_line()}\nMachine: {Machine.here()}\nMethod: {METHOD}\n", flush=True)
    results = {}
    for name, measure in measurements().items():
        if arguments.only in name:
            samples = measure()
            results[name] = {"p50": statistics.median(samples), "p99": statistics.quantiles(samples, n=100)[98]}
            if not arguments.json:
                print(f"{name:40} p50 {results[name]['p50'] / 1000:8.3f} µs   p99 {results[name]['p99'] / 1000:8.3f} µs", flush=True)
    if arguments.json:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
