"""The registry that maps handles to arrays."""

import threading
import weakref
from collections.abc import Iterator
from uuid import uuid4

import numpy as np
import pytest

from pydotcompute.core.unified_buffer import UnifiedBuffer
from pydotcompute.ring_kernels.buffer_registry import (
    BufferHandle,
    BufferRegistry,
    get_buffer,
    get_buffer_registry,
    register_buffer,
    release_buffer,
)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[BufferRegistry]:
    monkeypatch.setattr(BufferRegistry, "_instance", None)
    yield BufferRegistry()


def test_it_is_a_singleton(registry: BufferRegistry) -> None:
    assert BufferRegistry() is registry is get_buffer_registry()


def test_an_array_is_registered_and_released(registry: BufferRegistry) -> None:
    array = np.zeros((2, 3), np.float32)
    handle = registry.register(array)
    assert (handle.shape, handle.dtype, handle.device, handle.size_bytes, handle.ref_count) == ((2, 3), "float32", "cpu", 24, 1)
    assert registry.get(handle.buffer_id) is array and registry.get_handle(handle.buffer_id) is handle
    assert handle.buffer_id in registry and len(registry) == 1 and "shape=(2, 3)" in repr(handle)
    assert registry.release(handle.buffer_id) and not registry.release(handle.buffer_id)
    assert registry.get(handle.buffer_id) is None and registry.get_handle(handle.buffer_id) is None and len(registry) == 0
    assert registry.get_stats() == {"registered": 1, "retrieved": 1, "released": 1, "bytes_registered": 0, "active_buffers": 0}


def test_references_are_counted(registry: BufferRegistry) -> None:
    array = np.zeros(3)
    alive, buffer_id = weakref.ref(array), registry.register(array).buffer_id
    del array
    assert registry.increment_ref(buffer_id) and registry.decrement_ref(buffer_id) == 1 and alive() is not None
    assert registry.decrement_ref(buffer_id) == 0 and alive() is None
    assert registry.decrement_ref(buffer_id) == -1 and not registry.increment_ref(buffer_id)


def test_unknown_handles_and_unsupported_objects(registry: BufferRegistry) -> None:
    assert registry.get(uuid4()) is None and not registry.release(uuid4()) and registry.decrement_ref(uuid4()) == -1
    for wrong in ([1, 2], None, "text", memoryview(b"12")):
        with pytest.raises(TypeError, match="Cannot register"):
            registry.register(wrong)
    assert len(registry) == 0


def test_arrays_of_other_libraries(registry: BufferRegistry) -> None:
    class OnGpu:
        shape, dtype, nbytes, device_id = (4,), np.dtype(np.int8), 4, 2
        __cuda_array_interface__ = None

    assert registry.register(OnGpu()).device == "cuda:2"
    buffer = UnifiedBuffer((2, 2)).allocate(device=False)
    handle = registry.register(buffer)
    assert handle.device == "cpu" and handle.size_bytes == 16 and registry.get(handle.buffer_id) is buffer


def test_clear_releases_all_arrays(registry: BufferRegistry) -> None:
    handles = [registry.register(np.zeros(3)) for _ in range(3)]
    assert registry.clear() == 3 and registry.clear() == 0 and handles[0].buffer_id not in registry
    assert registry.get_stats()["bytes_registered"] == 0


def test_the_module_functions(registry: BufferRegistry) -> None:
    array = np.zeros(3)
    handle = register_buffer(array)
    assert isinstance(handle, BufferHandle) and get_buffer(handle.buffer_id) is array
    assert release_buffer(handle.buffer_id) and get_buffer(handle.buffer_id) is None


def test_threads(registry: BufferRegistry) -> None:
    shared = registry.register(np.zeros(10)).buffer_id

    def work() -> None:
        for _ in range(500):
            own = registry.register(np.zeros(10)).buffer_id
            registry.increment_ref(shared)
            registry.decrement_ref(shared)
            registry.release(own)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert registry.decrement_ref(shared) == 0
    assert registry.get_stats() == {"registered": 2001, "retrieved": 0, "released": 2001, "bytes_registered": 0, "active_buffers": 0}
