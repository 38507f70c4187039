"""A service that stores a stream of readings until SIGTERM or Ctrl-C, and then ends without losing one.

    python examples/shutdown.py                   # stop it with Ctrl-C, or with `kill`
    python examples/shutdown.py --seconds 2       # it sends SIGTERM to itself

It prints how many readings were sent, stored and not stored. The exit status is 0 if all were stored.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from pydotcompute import RingKernelRuntime, message
from pydotcompute.exceptions import QueueFullError
from pydotcompute.ring_kernels.lifecycle import RingKernelConfig

QUEUED = 1024
# Keeps all that may be unhandled at the end: what is queued, and the current reading.
CONFIG = RingKernelConfig("store", input_queue_size=QUEUED, dead_letter_capacity=QUEUED + 1)


@message
class Reading:
    """One value of the stream."""

    number: int


def store_readings(stored: list[int], write_s: float) -> Callable[[Any], Any]:
    """Returns the function of a ring kernel that writes each reading, which takes `write_s` seconds."""

    async def store(ctx: Any) -> None:
        async for reading in ctx:
            await asyncio.sleep(write_s)  # a database would be written here
            stored.append(reading.number)
        # Every queued reading is stored now.
        print(f"the last reading stored is number {stored[-1] if stored else None}")

    return store


def stop_signals() -> asyncio.Event:
    """Returns an event that SIGTERM or Ctrl-C sets. A second signal ends the process at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop_once() -> None:
        stop.set()
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in numbers:
        loop.add_signal_handler(number, stop_once)
    return stop


async def serve(interval_s: float, write_s: float, timeout_s: float) -> int:
    """Stores readings until a signal arrives. Returns the exit status.

    Args:
        interval_s: Time between two readings, in seconds.
        write_s: Time that storing one takes, in seconds.
        timeout_s: Maximum time for what is queued after the signal, in seconds.
    """
    stop = stop_signals()
    sent, stored = 0, list[int]()
    async with RingKernelRuntime() as runtime:
        store = await runtime.launch("store", store_readings(stored, write_s), config=CONFIG)
        await runtime.activate("store")
        print("ready", flush=True)
        while not stop.is_set():
            try:
                await store.send(Reading(number=sent), timeout=1.0)
                sent += 1
            except QueueFullError:
                pass  # looks at `stop` before the next attempt
            await asyncio.sleep(interval_s)
        print("stopping", flush=True)
        await runtime.shutdown(timeout_s)
    lost = store.dead_letters
    print(f"{sent} sent, {len(stored)} stored, {len(lost)} not stored")
    if lost:
        print(f"the first that was not stored is {lost[0].message}: {lost[0].reason}", file=sys.stderr)
    return 1 if lost or sent != len(stored) else 0


def main() -> int:
    """Serve until a signal arrives."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--interval", type=float, default=0.001, help="time between two readings, in seconds (%(default)s)")
    parser.add_argument("--write", type=float, default=0.002, help="time that storing a reading takes, in seconds (%(default)s)")
    parser.add_argument("--timeout", type=float, default=5.0, help="maximum time for the queued ones, in seconds (%(default)s)")
    parser.add_argument("--seconds", type=float, help="time after which the process sends SIGTERM to itself")
    options = parser.parse_args()

    async def run() -> int:
        if options.seconds is not None:
            asyncio.get_running_loop().call_later(options.seconds, os.kill, os.getpid(), signal.SIGTERM)
        return await serve(options.interval, options.write, options.timeout)

    return asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
