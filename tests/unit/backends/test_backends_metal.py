"""The Metal backend and the Metal copy of buffers. MLX runs on the GPU on macOS, and on the CPU on Linux."""

import gc
import sys
import threading
from typing import Any

import numpy as np
import pytest

from pydotcompute.backends import BackendType, MetalBackend
from pydotcompute.backends import metal as module
from pydotcompute.backends.metal import MetalBufferState, get_elementwise_kernel, get_matrix_multiply_kernel, get_vector_add_kernel
from pydotcompute.core.unified_buffer import BufferState, UnifiedBuffer
from pydotcompute.exceptions import BackendNotAvailableError, MetalError, MSLCompilationError

pytestmark = pytest.mark.usefixtures("without_gpu")


def test_the_error_without_mlx_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    backend = MetalBackend()
    assert (backend.is_available, backend.device_count, backend.uses_gpu) == (False, 0, False)
    assert repr(backend) == "MetalBackend(available=False)"
    with pytest.raises(BackendNotAvailableError, match=r"pip install 'pydotcompute\[metal\]'"):
        backend.allocate((3,), np.dtype("float32"))
    assert get_vector_add_kernel() is None and get_matrix_multiply_kernel() is None and get_elementwise_kernel("sqrt") is None
    with pytest.raises(MetalError, match="pip install"):
        _ = UnifiedBuffer(3).allocate().metal


@pytest.fixture
def mx() -> Any:
    return pytest.importorskip("mlx.core", reason="MLX is not installed: pip install 'pydotcompute[metal]'")


@pytest.fixture
def backend(mx: Any) -> MetalBackend:
    return MetalBackend()


@pytest.mark.metal
def test_properties_of_the_backend(backend: MetalBackend) -> None:
    assert (backend.backend_type, backend.is_available, backend.device_count, backend.device_id) == (BackendType.METAL, True, 1, 0)
    assert backend.uses_gpu is (sys.platform == "darwin") or sys.platform == "darwin"
    assert repr(backend).startswith("MetalBackend(device=0, available=True, gpu=")
    with pytest.raises(BackendNotAvailableError, match="no device 3"):
        MetalBackend(3)


@pytest.mark.metal
@pytest.mark.parametrize("dtype", ["bool", "int8", "int64", "uint32", "float16", "float32", "complex64"])
def test_arrays_survive_a_round_trip(backend: MetalBackend, dtype: str) -> None:
    host = np.arange(6).reshape(2, 3).astype(dtype)
    array = backend.copy_to_device(host)
    back: np.ndarray = backend.copy_to_host(array)
    assert back.dtype == host.dtype and back.tolist() == host.tolist() and not np.shares_memory(back, host)
    zeros: np.ndarray = backend.copy_to_host(backend.allocate_zeros((2, 3), np.dtype(dtype)))
    assert zeros.dtype == host.dtype and not zeros.any()


@pytest.mark.metal
def test_unsupported_dtypes(backend: MetalBackend) -> None:
    assert backend.copy_to_host(backend.copy_to_device(np.float64([1.5]))).dtype == np.float32
    for dtype in ("complex128", "M8[ns]", ">i4", "S3"):
        with pytest.raises(MetalError, match="does not support elements"):
            backend.allocate((3,), np.dtype(dtype))
        with pytest.raises(MetalError, match="does not support elements"):
            backend.copy_to_device(np.zeros(3, dtype))
    with pytest.raises(MetalError, match="Allocating"):
        backend.allocate((-3,), np.float32)


@pytest.mark.metal
def test_memory_accounting(backend: MetalBackend) -> None:
    first, second = backend.allocate((1000,), np.float32), backend.copy_to_device(np.zeros(10, np.int16))
    info = backend.get_memory_info()
    assert (info["allocated"], info["buffer_count"]) == (4020, 2) and info["cache_memory"] >= 0 and info["peak_memory"] >= 0
    entry = backend._buffer_registry[id(first)]
    assert entry.shape == (1000,) and entry.state is MetalBufferState.ALLOCATED
    backend.free(first)
    backend.free(first)
    assert entry.state is MetalBufferState.FREED and backend.get_memory_info()["buffer_count"] == 1
    del second
    gc.collect()
    assert backend.get_memory_info()["buffer_count"] == 0, "unreferenced arrays are not counted"
    backend.clear_cache()


@pytest.mark.metal
def test_kernels(backend: MetalBackend, mx: Any) -> None:
    array = backend.copy_to_device(np.float32([3, 8, 24]))
    results: list[Any] = []
    assert backend.execute_kernel(lambda a, *, by: results.append(mx.sqrt(a + by)), (1,), (1,), array, by=1).success
    assert backend.copy_to_host(results[0]).tolist() == [2, 3, 5]
    failure = ValueError("no")

    def broken() -> None:
        raise failure

    assert backend.execute_kernel(broken, (1,), (1,)).error is failure
    # MLX is lazy. The backend evaluates the result within the launch, where the error occurs.
    wrong = backend.execute_kernel(lambda a: a.reshape(7), (1,), (1,), array)
    assert not wrong.success and isinstance(wrong.error, ValueError)
    backend.synchronize()


@pytest.mark.metal
def test_compiling(backend: MetalBackend) -> None:
    kernel = backend.compile_kernel(lambda a, b=None: a * 2 if b is None else a + b)
    assert backend.copy_to_host(kernel(np.float32([1, 2]))).tolist() == [2, 4]
    assert backend.copy_to_host(kernel(np.float32([1, 2]), b=np.float32([5, 5]))).tolist() == [6, 7]


@pytest.mark.metal
def test_a_kernel_is_compiled_once(backend: MetalBackend, mx: Any) -> None:
    assert backend.compile_kernel(mx.square) is backend.compile_kernel(mx.square)
    with pytest.raises(MSLCompilationError, match="metal_kernel") as caught:
        backend.compile_kernel("kernel void twice() {}", "twice")  # type: ignore[arg-type]
    assert caught.value.shader_name == "twice"
    with pytest.raises(MetalError, match="give a function"):
        backend.compile_kernel(3)  # type: ignore[arg-type]


@pytest.mark.metal
def test_predefined_kernels(backend: MetalBackend) -> None:
    a = backend.copy_to_device(np.float32([[1, 2], [3, 4]]))
    for make, expected in ((get_vector_add_kernel, [[2, 4], [6, 8]]), (get_matrix_multiply_kernel, [[7, 10], [15, 22]])):
        kernel = make()
        assert kernel is not None and backend.copy_to_host(kernel(a, a)).tolist() == expected
    for name in module._ELEMENTWISE:
        assert get_elementwise_kernel(name) is not None
    root = get_elementwise_kernel("sqrt")
    assert root is not None and backend.copy_to_host(root(backend.copy_to_device(np.float32([1, 4, 9])))).tolist() == [1, 2, 3]
    assert get_elementwise_kernel("frobnicate") is None


@pytest.mark.metal
def test_threads(backend: MetalBackend) -> None:
    wrong: list[BaseException] = []

    def work() -> None:
        try:
            for size in range(1, 30):
                array = backend.copy_to_device(np.arange(size, dtype=np.float32))
                assert backend.copy_to_host(array).sum() == size * (size - 1) / 2
                backend.free(array)
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and backend.get_memory_info()["buffer_count"] == 0


@pytest.mark.metal
def test_a_buffer_beside_numpy(mx: Any) -> None:
    buffer = UnifiedBuffer((2, 2)).fill(3)
    array: Any = buffer.metal
    assert isinstance(array, mx.array) and array.tolist() == [[3, 3], [3, 3]] and array.dtype == mx.float32
    assert buffer.state is BufferState.SYNCHRONIZED and buffer.metal is array
    array[0] = 8
    assert buffer.host.tolist() == [[3, 3], [3, 3]]
    buffer.mark_metal_dirty()
    assert buffer.state is BufferState.DEVICE_DIRTY
    assert buffer.host.tolist() == [[8, 8], [3, 3]] and buffer.state is BufferState.SYNCHRONIZED
    buffer[1, 1] = 9
    assert buffer.state is BufferState.HOST_DIRTY
    assert buffer.metal.tolist() == [[8, 8], [3, 9]]  # type: ignore[attr-defined]
    assert buffer.device is buffer.host or buffer.state is BufferState.SYNCHRONIZED


@pytest.mark.metal
def test_an_mlx_result_replaces_the_metal_copy(mx: Any) -> None:
    buffer = UnifiedBuffer(3, np.int32).fill(2)
    buffer.metal = buffer.metal * 5  # type: ignore[operator]
    assert buffer.state is BufferState.DEVICE_DIRTY and buffer.host.tolist() == [10, 10, 10]
    for wrong in (mx.zeros((4,), dtype=mx.int32), mx.zeros((3,)), np.zeros(3, np.int32)):
        with pytest.raises(MetalError, match="expected an mlx array"):
            buffer.metal = wrong
    assert buffer.host.tolist() == [10, 10, 10]
    buffer.metal = mx.array([1, 2, 3], dtype=mx.int32)
    buffer.fill(np.int32(4))
    assert buffer.metal.tolist() == [4, 4, 4], "the newest write wins"  # type: ignore[attr-defined]


@pytest.mark.metal
def test_marking_an_unread_copy_dirty_loses_nothing(mx: Any) -> None:
    buffer = UnifiedBuffer(2).fill(5)
    buffer.mark_metal_dirty()
    assert buffer.host.tolist() == [5, 5] and buffer.metal.tolist() == [5, 5]  # type: ignore[attr-defined]
    with pytest.raises(MetalError, match="does not support elements"):
        _ = UnifiedBuffer(2, np.complex128).allocate().metal


@pytest.mark.metal
def test_a_buffer_of_mlx_by_dlpack(mx: Any) -> None:
    array = mx.arange(4, dtype=mx.float32)
    buffer: UnifiedBuffer[np.float32] = UnifiedBuffer.from_dlpack(array)
    del array
    gc.collect()
    assert buffer.host.tolist() == [0, 1, 2, 3]
