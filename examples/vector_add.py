"""Add two vectors in two ways: with a kernel compiled for this machine on unified buffers, and with a kernel launched by name.

python examples/vector_add.py --size 1000000
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import Any

import numpy as np

from pydotcompute import ComputeOrchestrator, UnifiedBuffer, kernel
from pydotcompute.core.orchestrator import KernelLaunchConfig


@kernel(device="cpu")
def add(left: Any, right: Any, total: Any) -> None:
    """Add element by element. Numba compiles it at the first call, for the argument types."""
    for index in range(total.size):
        total[index] = left[index] + right[index]


async def add_by_name(left: Any, right: Any, total: Any) -> float:
    """Run `add` through an orchestrator, which registers kernels by name and measures each launch.

    Returns:
        Duration, in milliseconds.
    """
    async with ComputeOrchestrator() as orchestrator:
        orchestrator.register_kernel("add", add)
        execution = await orchestrator.launch_kernel("add", KernelLaunchConfig(), left, right, total)
        return execution.duration_ms


def main() -> int:
    """Add the vectors, and compare with NumPy."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--size", type=int, default=1_000_000, help="number of elements (%(default)s)")
    size = parser.parse_args().size

    random = np.random.default_rng(seed=1)
    buffers: list[UnifiedBuffer[np.float32]] = [UnifiedBuffer(size, np.float32).allocate(device=False) for _ in range(3)]
    left, right, total = buffers
    left.copy_from(random.random(size, dtype=np.float32))
    right.copy_from(random.random(size, dtype=np.float32))
    expected = left.host + right.host

    add(left.host, right.host, total.host)
    total.mark_host_dirty()
    if not np.array_equal(total.host, expected):
        print("wrong: the compiled kernel and NumPy differ", file=sys.stderr)
        return 1
    print(f"called:        {size:,} elements, equal to NumPy's; the buffer is {total.state.name}")

    total.fill(np.float32(0))
    elapsed_ms = asyncio.run(add_by_name(left.host, right.host, total.host))
    if not np.array_equal(total.host, expected):
        print("wrong: the kernel launched by name and NumPy differ", file=sys.stderr)
        return 1
    print(f"by name:       equal too, {elapsed_ms:.2f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
