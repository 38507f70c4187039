"""`@kernel`, `@gpu_kernel`, `cuda_source` and the registry of kernels."""

from __future__ import annotations

import inspect
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pydotcompute.compilation import cache as cache_module
from pydotcompute.compilation.cache import KernelCache
from pydotcompute.compilation.compiler import get_compiler
from pydotcompute.decorators import gpu_kernel, kernel
from pydotcompute.decorators.kernel import KernelRegistry, OneShotKernel, cuda_source, get_kernel_registry
from pydotcompute.exceptions import InvalidConfigurationError, KernelCompilationError


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(cache_module, "_global_cache", KernelCache(tmp_path))
    yield


@kernel
def add(a: Any, b: Any, out: Any) -> None:
    """Adds two arrays."""
    for i in range(len(out)):
        out[i] = a[i] + b[i]


def test_a_kernel_has_the_signature_and_metadata_of_its_function() -> None:
    out = np.zeros(3)
    add(np.ones(3), np.arange(3.0), out=out)
    assert out.tolist() == [1, 2, 3]
    assert (add.__name__, add.__doc__, add.__module__) == ("add", "Adds two arrays.", __name__)
    assert list(inspect.signature(add).parameters) == ["a", "b", "out"]
    assert add._original_func is inspect.unwrap(add)  # type: ignore[attr-defined]


def test_settings_are_stored_in_the_kernel() -> None:
    @kernel(name="twice", device="cpu", fastmath=False, cache=False)
    def double(value: float) -> float:
        return value * 2

    meta = double._kernel_meta  # type: ignore[attr-defined]
    assert meta == {
        "name": "twice",
        "signature": None,
        "device": "cpu",
        "fastmath": False,
        "debug": False,
        "cache": False,
        "compiled": None,
    }
    assert double(4.0) == 8
    assert double._kernel_meta["compiled"] is not None  # type: ignore[attr-defined]


def test_concurrent_calls_compile_a_kernel_once() -> None:
    @kernel(device="cpu")
    def square(value: float) -> float:
        return value * value

    barrier = threading.Barrier(4)
    results: list[float] = []

    def call() -> None:
        barrier.wait()
        results.append(square(3.0))

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [9, 9, 9, 9]
    assert isinstance(square, OneShotKernel)
    assert square.compiled is not None and len(square.compiled.kernel.dispatcher.signatures) == 1  # type: ignore[attr-defined]


def test_a_kernel_pickles_by_name_like_a_function() -> None:
    assert pickle.loads(pickle.dumps(add)) is add


def test_an_unknown_device_raises_at_decoration() -> None:
    with pytest.raises(InvalidConfigurationError, match="device='tpu'"):
        kernel(device="tpu")


def test_a_kernel_on_the_cpu_has_no_grid() -> None:
    with pytest.raises(InvalidConfigurationError, match="call it as add"):
        add[1, 32](np.ones(3), np.ones(3), np.ones(3))  # type: ignore[index]


def test_a_gpu_kernel_can_be_declared_without_a_gpu_but_not_run() -> None:
    from numba import cuda

    @gpu_kernel(name="fill", debug=False)
    def fill(out: Any) -> None:
        i = cuda.grid(1)
        if i < out.size:
            out[i] = 1

    assert isinstance(fill, OneShotKernel)
    assert fill._kernel_meta["device"] == "cuda"
    if get_compiler().cuda_available:
        pytest.skip("this machine has a GPU")
    with pytest.raises(KernelCompilationError, match=r"kernel 'fill' at .*test_kernel.py:\d+.*\n.*no GPU"):
        fill[1, 32](np.zeros(3))


@pytest.mark.cuda
def test_a_grid_runs_on_the_gpu() -> None:
    cuda = pytest.importorskip("numba.cuda")

    @gpu_kernel(signature="void(float32[:], float32[:])")
    def double(values: Any, out: Any) -> None:
        i = cuda.grid(1)
        if i < out.size:
            out[i] = 2 * values[i]

    values, out = np.arange(1000, dtype=np.float32), np.zeros(1000, dtype=np.float32)
    double[4, 256](values, out)
    assert (out == 2 * values).all()
    out[:] = 0
    double(values, out)
    assert (out == 2 * values).all()
    assert double.compiled is not None and ".visible .entry" in str(double.compiled.ptx)


TEXT = 'extern "C" __global__ void twice(float* a) { a[threadIdx.x] *= 2; }'


def test_a_function_with_cuda_source_runs_its_body_on_the_cpu() -> None:
    @kernel(device="cpu")
    @cuda_source(TEXT)
    def twice(a: Any) -> None:
        for i in range(len(a)):
            a[i] *= 2

    assert twice.__cuda_source__ == TEXT  # type: ignore[attr-defined]
    values = np.ones(3)
    twice(values)
    assert values.tolist() == [2, 2, 2]


def test_cuda_source_on_an_empty_body_raises_without_a_gpu() -> None:
    @kernel
    @cuda_source(TEXT)
    def twice(a: Any) -> None:
        pass

    if not get_compiler().cuda_available:
        with pytest.raises(KernelCompilationError, match="body is empty"):
            twice(np.ones(3))


@pytest.fixture
def registry() -> Iterator[KernelRegistry]:
    registry = get_kernel_registry()
    registry.clear()
    yield registry
    registry.clear()


def test_the_registry_is_a_singleton_and_rejects_duplicate_names(registry: KernelRegistry) -> None:
    registry.register("add", add)
    registry.register("len", len)
    assert KernelRegistry() is registry
    assert registry.get("add") is add
    assert registry.get("subtract") is None
    assert registry.list() == ["add", "len"]
    with pytest.raises(ValueError, match=r"'add' is already registered.*overwrite=True"):
        registry.register("add", max)
    assert registry.get("add") is add
    registry.register("add", max, overwrite=True)
    assert registry.get("add") is max
    registry.clear()
    assert registry.list() == []
