"""The program that runs the tests of 0.2.0: what it counts, and its exit status. The tests of 0.2.0 themselves need a network."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pydotcompute.compilation import cache, compiler
from pydotcompute.core.unified_buffer import UnifiedBuffer
from pydotcompute.decorators import validators
from pydotcompute.decorators.ring_kernel import RingKernelBuilder
from pydotcompute.ring_kernels.queue import BackpressureStrategy, MessageQueue
from pydotcompute.ring_kernels.telemetry import GPUMonitor, TelemetryCollector

PROGRAM = Path(__file__).parents[1] / "seed_suite.py"
GOOD = "def test_one(): pass\ndef test_two(): pass\n"
EXPECTED = """
class TestKernelCache:
    def test_creation_default_dir(self):
        assert False
"""
BAD = """
import pytest
@pytest.fixture
def broken(): raise OSError
def test_without_its_fixture(broken): pass
def test_that_fails(): assert False
"""

CreateSdist = Callable[..., Path]


@pytest.fixture
def sdist(tmp_path: Path) -> CreateSdist:
    """Returns a function that creates a source distribution of a package that must not be imported, with the given test files."""

    def create(**files: str) -> Path:
        root = tmp_path / "pydotcompute-0.2.0"
        (root / "tests/unit").mkdir(parents=True)
        (root / "pydotcompute").mkdir()
        (root / "pydotcompute/__init__.py").write_text("raise RuntimeError('the package of the source distribution was imported')")
        (root / "pyproject.toml").write_text("[tool.pytest.ini_options]\ntestpaths = ['tests']\n")
        for package in ("tests", "tests/unit"):
            (root / package / "__init__.py").touch()
        for name, text in files.items():
            (root / f"tests/unit/{name}.py").write_text("import pydotcompute\n" + text)
        path = tmp_path / "pydotcompute-0.2.0.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            archive.add(root, arcname=root.name)
        return path

    return create


def run(*arguments: object, **environment: str) -> tuple[int, str]:
    """Runs the program; returns its exit status and its output."""
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, env={**os.environ, **environment})
    return done.returncode, done.stdout + done.stderr


def test_enough_tests_pass_and_a_test_of_a_changed_behaviour_may_fail(sdist: CreateSdist) -> None:
    status, output = run("--sdist", sdist(test_good=GOOD, test_cache=EXPECTED), "--at-least", 2)
    assert status == 0, output
    assert "2 passed, 1 failed, 0 skipped" in output
    assert "failed: tests.unit.test_cache.TestKernelCache.test_creation_default_dir" in output
    assert "belongs to the user" in output


def test_another_failure_is_named_and_is_an_error(sdist: CreateSdist) -> None:
    status, output = run("--sdist", sdist(test_good=GOOD, test_bad=BAD), "--at-least", 0)
    assert status == 1, output
    assert "failed: tests.unit.test_bad.test_that_fails\n    unexpected" in output
    assert "failed: tests.unit.test_bad.test_without_its_fixture\n    unexpected" in output


def test_a_file_that_cannot_be_collected_is_an_error(sdist: CreateSdist) -> None:
    status, output = run("--sdist", sdist(test_good=GOOD, test_other="from pydotcompute import _no_such_name\n"), "--at-least", 0)
    assert status == 1, output
    assert "failed: tests.unit.test_other\n    unexpected" in output


def test_too_few_tests_are_an_error(sdist: CreateSdist) -> None:
    status, output = run("--sdist", sdist(test_good=GOOD))
    assert status == 1, output
    assert "2 passed, 0 failed, 0 skipped; at least 390 must pass" in output


def test_without_a_network_the_program_says_so() -> None:
    # Port 9 of this machine refuses connections.
    status, output = run(PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_RETRIES="0", PIP_NO_CACHE_DIR="1", PIP_FIND_LINKS="")
    assert status == 3, output
    assert "fetching pydotcompute==0.2.0 from PyPI failed" in output
    assert "--sdist FILE" in output


def test_a_file_that_is_not_there_is_an_error() -> None:
    command = [sys.executable, str(PROGRAM), "--sdist", "missing.tar.gz"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "there is no file missing.tar.gz" in done.stderr


def test_private_names_of_its_caches(tmp_path: Path) -> None:
    kernels = cache.KernelCache(tmp_path, max_entries=7, max_size_mb=1)
    assert (kernels._cache_dir, kernels._max_entries, kernels._max_size_bytes, kernels._entries) == (tmp_path, 7, 1 << 20, {})
    kernels.store("add", "4f1d", b"code", metadata={"level": 3})
    key = kernels._get_cache_key("add", "4f1d")
    assert kernels._get_ptx_path(key).is_file()
    kernels.load("add", "4f1d")
    assert (kernels._entries[key].metadata, kernels._entries[key].hit_count) == ({"level": 3}, 1)
    assert {"_global_cache"} <= vars(cache).keys()

    def add_one(value: int) -> int:
        return value + 1

    options = compiler.CompilationOptions(device="cpu")
    compiling = compiler.KernelCompiler(options)
    assert compiling._compiled_cache == {}
    hashes = [compiling._get_source_hash(add_one, signature, options) for signature in (None, "int32(int32)", None)]
    assert hashes[0] == hashes[2] != hashes[1]
    assert len(hashes[0]) == 16
    assert {"_global_compiler"} <= vars(compiler).keys()


def test_private_names_of_its_other_classes() -> None:
    builder = RingKernelBuilder("built").with_input_queue_size(5).with_output_queue_size(6).with_grid_size(2).with_backpressure("reject")
    assert (builder._kernel_id, builder._input_queue_size, builder._output_queue_size) == ("built", 5, 6)
    assert (builder._grid_size, builder._block_size, builder._backpressure) == (2, 256, "reject")
    queue: MessageQueue[int] = MessageQueue(backpressure=BackpressureStrategy.REJECT, use_priority=False)
    assert (queue._backpressure, queue._use_priority) == (BackpressureStrategy.REJECT, False)
    monitor, collector = GPUMonitor(), TelemetryCollector()
    assert f"available={monitor.is_available}, devices={monitor._device_count}" in repr(monitor)
    monitor.shutdown()
    assert monitor._nvml_available is False
    collector.register_kernel("kernel")
    assert [*collector._kernel_telemetry] == ["kernel"]
    assert isinstance(collector._gpu_monitor, GPUMonitor)
    assert isinstance(UnifiedBuffer(1)._cuda_available, bool)
    assert validators._check_type([1], list[int])
    assert not validators._check_type(["one"], list[int])
