"""Tests an installed wheel with only NumPy and msgpack. `cargo xtask test` runs this program; pytest does not."""

from __future__ import annotations

import asyncio
import importlib.metadata
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import pydotcompute
from pydotcompute import RingKernelMessage, RingKernelRuntime, UnifiedBuffer, kernel, message, ring_kernel
from pydotcompute.compilation import KernelCache
from pydotcompute.ring_kernels import ThreadedKernelContext, ThreadedRingKernel
from pydotcompute.ring_kernels._cython import FastSPSCQueue
from pydotcompute.ring_kernels.lifecycle import KernelContext

OPTIONAL = {"cupy", "mlx", "numba", "torch"}


def imports_come_from_the_wheel() -> None:
    """The imported package is the wheel, its versions agree, and it imports no optional dependency."""
    assert Path(pydotcompute.__file__).is_relative_to(sys.prefix), pydotcompute.__file__
    assert pydotcompute.__version__ == importlib.metadata.version("pydotcompute")
    assert not OPTIONAL & sys.modules.keys()
    assert (Path(pydotcompute.__file__).parent / "py.typed").is_file()


@kernel
def add(a: Sequence[float], b: Sequence[float]) -> object:
    """Adds two arrays."""
    return np.add(a, b)


def kernels_run_as_plain_python() -> None:
    """Without Numba, a kernel runs as a Python function, with one warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert np.array_equal(add([1.0, 2.0], [3.0, 4.0]), [4, 6])  # type: ignore[arg-type]
    assert len(caught) == 1 and "Numba is not installed" in str(caught[0].message)


def the_cache_stores_entries(folder: Path) -> None:
    """An entry stored by one cache object is loaded by another."""
    assert KernelCache(folder).store("add", "hash", b"code")
    assert KernelCache(folder).load("add", "hash") == b"code"


@message
@dataclass
class Number(RingKernelMessage):
    """Request and reply."""

    value: float = 0.0


@ring_kernel(kernel_id="double", input_type=Number, output_type=Number)
async def double(ctx: KernelContext[Number, Number]) -> None:
    """Replies with twice the number."""
    while not ctx.should_terminate:
        request = await ctx.receive()
        await ctx.send(Number(value=2 * request.value, correlation_id=request.message_id))


async def coroutine_kernels_reply() -> None:
    """A coroutine ring kernel replies, and the reply survives serialization."""
    async with RingKernelRuntime() as runtime:
        await runtime.launch("double")
        await runtime.activate("double")
        reply: Number = await runtime.send_and_receive("double", Number(value=21.0), timeout=10.0)
    assert Number.deserialize(reply.serialize()).value == 42


def thread_kernels_reply() -> None:
    """A threaded ring kernel replies, and the compiled SPSC queue passes an item."""

    def increment(ctx: ThreadedKernelContext[int, int]) -> None:
        while not ctx.should_terminate:
            number = ctx.receive(timeout=0.1)
            if number is not None:
                ctx.send(number + 1)

    with ThreadedRingKernel("increment", increment) as running:
        running.send(41)
        assert running.receive(timeout=10.0) == 42
    queue: FastSPSCQueue[str] = FastSPSCQueue(4)
    assert queue.put("a") and queue.get() == "a"


def buffers_hold_arrays() -> None:
    """A buffer stores an array on a machine without a GPU."""
    buffer: UnifiedBuffer[np.float32] = UnifiedBuffer(4, dtype=np.float32).allocate(device=False)
    buffer.host[:] = 3
    assert buffer.host.sum() == 12


if __name__ == "__main__":
    imports_come_from_the_wheel()
    kernels_run_as_plain_python()
    the_cache_stores_entries(Path(sys.prefix) / "kernels")
    asyncio.run(coroutine_kernels_reply())
    thread_kernels_reply()
    buffers_hold_arrays()
    print(f"pydotcompute {pydotcompute.__version__} works in {sys.prefix}")
