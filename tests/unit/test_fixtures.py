"""The fixtures and modules that users of 0.2 know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from async_handlers import Request, double
from pydotcompute.core.accelerator import Accelerator
from pydotcompute.core.memory_pool import MemoryPool
from pydotcompute.core.unified_buffer import UnifiedBuffer
from pydotcompute.ring_kernels._cython import FastSPSCQueue, fast_spsc
from pydotcompute.ring_kernels.queue import MessageQueue
from pydotcompute.ring_kernels.runtime import RingKernelRuntime

ROOT = Path(__file__).parents[2]


async def test_the_runtime_launches_ring_kernels(runtime: RingKernelRuntime) -> None:
    await runtime.launch("k", double)
    await runtime.activate("k")
    assert (await runtime.send_and_receive("k", Request(21))).value == 42


async def test_the_other_fixtures_are_ready_to_use(
    accelerator: Accelerator, memory_pool: MemoryPool, unified_buffer: UnifiedBuffer[np.float32], message_queue: MessageQueue[Any]
) -> None:
    assert accelerator is Accelerator()
    assert accelerator.devices
    memory_pool.enable()
    assert memory_pool.enabled
    assert unified_buffer.shape == (1000,)
    assert not unified_buffer.host.any()
    assert await message_queue.put("a")
    assert await message_queue.get() == "a"


def test_the_module_of_the_fast_queue_has_its_old_name() -> None:
    assert fast_spsc.FastSPSCQueue is FastSPSCQueue


def test_the_cython_script_says_that_there_is_nothing_to_compile() -> None:
    command = [sys.executable, str(ROOT / "setup_cython.py"), "build_ext", "--inplace"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "nothing to compile" in result.stdout and "Rust" in result.stdout
