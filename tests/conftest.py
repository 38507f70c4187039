"""Fixtures and collection hooks of all tests. Tests that need a GPU or MLX are skipped, with the reason, on machines that lack it."""

from __future__ import annotations

import importlib.util
import logging
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fake_driver_process
from pydotcompute import _core
from pydotcompute.core.accelerator import Accelerator
from pydotcompute.core.memory_pool import MemoryPool
from pydotcompute.core.unified_buffer import UnifiedBuffer
from pydotcompute.exceptions import BackendNotAvailableError
from pydotcompute.ring_kernels.queue import MessageQueue
from pydotcompute.ring_kernels.runtime import RingKernelRuntime

# A shell starts a job in the background with SIGINT ignored, and child processes inherit that. Tests send the signal to their children.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def missing_gpu_reason() -> str | None:
    """Returns why tests marked ``cuda`` cannot run, or ``None``.

    The check does not load the driver: the first code that initializes it in a process fixes its settings.
    """
    if any(Path(path).exists() for path in ("/dev/nvidiactl", "/dev/dxg")):
        return None
    return "this machine has no NVIDIA GPU"


def missing_mlx_reason() -> str | None:
    """Returns why tests marked ``metal`` cannot run, or ``None``."""
    return None if importlib.util.find_spec("mlx") is not None else "MLX is not installed (pip install pydotcompute[metal])"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks tests that cannot run on this machine as skipped, so that plain ``pytest`` works everywhere."""
    for marker, reason in (("cuda", missing_gpu_reason()), ("metal", missing_mlx_reason())):
        if reason is not None:
            for item in items:
                if item.get_closest_marker(marker) is not None:
                    item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session", autouse=True)
def own_code_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps compiled code out of the user's cache folder, and code that other versions compiled out of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOTCOMPUTE_CACHE", str(tmp_path_factory.mktemp("code")))
        yield


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides NVIDIA GPUs from pydotcompute, so that tests of memory have the same results on every machine."""

    def no_devices() -> list[_core.Device]:
        raise BackendNotAvailableError("CUDA", "this test runs without a GPU")

    monkeypatch.setattr(_core, "cuda_devices", no_devices)
    monkeypatch.setattr(Accelerator, "_instance", None)


@pytest.fixture
async def runtime() -> AsyncIterator[RingKernelRuntime]:
    """A runtime, which is shut down after the test."""
    async with RingKernelRuntime() as runtime:
        yield runtime


@pytest.fixture
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Accelerator:
    """The devices of this machine, in an instance of the test's own."""
    monkeypatch.setattr(Accelerator, "_instance", None)
    return Accelerator()


@pytest.fixture
def memory_pool() -> Iterator[MemoryPool]:
    """The memory pool, as a program finds it, which is emptied and disabled again after the test."""
    pool = MemoryPool()
    yield pool
    pool.disable()
    pool.free_all_blocks()


@pytest.fixture
def unified_buffer() -> UnifiedBuffer[np.float32]:
    """A buffer of 1,000 floats, allocated and zero."""
    return UnifiedBuffer((1000,), dtype=np.float32).allocate()


@pytest.fixture
def message_queue() -> MessageQueue[Any]:
    """A queue for 100 messages."""
    return MessageQueue(maxsize=100)


@pytest.fixture
def quiet_log(caplog: pytest.LogCaptureFixture) -> None:
    """Suppresses the log of failures that a test causes on purpose."""
    caplog.set_level(logging.CRITICAL, "pydotcompute")


@pytest.fixture
def driver() -> dict[str, str]:
    """Environment in which a process loads the fake driver as ``libcuda.so``."""
    if (reason := fake_driver_process.missing_requirement()) is not None:
        pytest.skip(reason)
    path = os.environ.get("LD_LIBRARY_PATH", "")
    return {**os.environ, "LD_LIBRARY_PATH": f"{fake_driver_process.library().name}:{path}"}
