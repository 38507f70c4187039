"""The functions of the queue benchmark do the work they measure, and return a time for every sample."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from pydotcompute.ring_kernels.sync_queue import SyncQueue


@pytest.fixture(scope="module")
def queues() -> ModuleType:
    spec = importlib.util.spec_from_file_location("queues", Path(__file__).parents[2] / "benchmarks" / "queues.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_puts_and_gets_are_executed(queues: ModuleType) -> None:
    queue: SyncQueue[object] = SyncQueue()
    samples = queues.put_get(queue, samples=3)
    assert len(samples) == 3 and min(samples) > 0
    assert queue.get_stats() == {"current_size": 0, "max_size": 4096, "total_enqueued": 3000, "total_dequeued": 3000}


def test_asks_get_replies(queues: ModuleType) -> None:
    for samples in (queues.threaded_ask(50), queues.threaded_ask(50, use_spsc=False), queues.compiled_ask(50)):
        assert len(samples) == 50 and min(samples) > 0


def test_messages_make_a_round_trip_to_another_process(queues: ModuleType) -> None:
    samples = queues.one_way(50, wait="adaptive")
    assert len(samples) == 50 and min(samples) > 0


def test_the_output_names_the_method(queues: ModuleType) -> None:
    command = [sys.executable, str(queues.__file__), "--only", "none of them"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True).stdout
    assert f"Method: {queues.METHOD}\n" in printed


def test_a_wrong_reply_raises(queues: ModuleType) -> None:
    class Silent:
        def send(self, message: int, timeout: float) -> bool:
            return True

        def receive(self, timeout: float) -> None:
            return None

    with pytest.raises(RuntimeError, match="is None"):
        queues.ask(Silent(), 1)
