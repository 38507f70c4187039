"""The CUDA backend, and its errors on a machine without a GPU or CuPy."""

import sys

import numpy as np
import pytest

from pydotcompute import _core
from pydotcompute.backends import BackendType, CUDABackend
from pydotcompute.backends.cuda import get_matrix_multiply_kernel, get_vector_add_kernel
from pydotcompute.core.accelerator import cuda_available
from pydotcompute.core.unified_buffer import UnifiedBuffer
from pydotcompute.exceptions import BackendNotAvailableError, KernelCompilationError


def test_without_a_gpu_only_a_use_is_an_error_and_names_what_is_missing() -> None:
    if cuda_available():
        pytest.skip("this machine has a GPU")
    backend = CUDABackend()
    assert (backend.is_available, backend.device_count, backend.backend_type) == (False, 0, BackendType.CUDA)
    for use in (lambda: backend.allocate((3,), np.float32), lambda: backend.copy_to_device(np.zeros(3)), lambda: backend.set_device(0)):
        with pytest.raises(BackendNotAvailableError, match="install NVIDIA's driver") as caught:
            use()
        assert caught.value.backend_name == "CUDA"
    assert repr(backend) == "CUDABackend(available=False)"
    assert get_vector_add_kernel() is None and get_matrix_multiply_kernel() is None


def test_the_error_without_cupy_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "cuda_devices", lambda: [_core.cpu_device()])
    monkeypatch.setitem(sys.modules, "cupy", None)
    backend = CUDABackend()
    assert not backend.is_available
    with pytest.raises(BackendNotAvailableError, match=r"pip install 'pydotcompute\[cuda\]'"):
        backend.allocate_zeros((3,), np.float32)


@pytest.fixture
def backend() -> CUDABackend:
    pytest.importorskip("cupy", reason="CuPy is not installed")
    return CUDABackend()


@pytest.mark.cuda
def test_arrays(backend: CUDABackend) -> None:
    assert (backend.backend_type, backend.is_available, backend.device_id) == (BackendType.CUDA, True, 0)
    assert backend.device_count >= 1
    array = backend.copy_to_device(np.arange(6.0).reshape(2, 3))
    assert backend.copy_to_host(array).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert backend.allocate((2, 3), np.float32).shape == (2, 3)
    assert not backend.copy_to_host(backend.allocate_zeros((5,), np.int32)).any()
    memory = backend.get_memory_info()
    assert 0 < memory["free"] <= memory["total"] and memory["used"] == memory["total"] - memory["free"]
    with pytest.raises(BackendNotAvailableError, match="no GPU 99"):
        backend.set_device(99)
    assert backend.create_stream() is not None
    backend.synchronize()


@pytest.mark.cuda
def test_kernels(backend: CUDABackend) -> None:
    pytest.importorskip("numba.cuda", reason="Numba is not installed")
    add = get_vector_add_kernel()
    assert add is not None
    a, out = backend.copy_to_device(np.arange(1000.0)), backend.allocate((1000,), np.float64)
    assert backend.execute_kernel(add, (4,), (256,), a, a, out).success
    assert backend.copy_to_host(out).tolist() == (2 * np.arange(1000.0)).tolist()
    multiply = get_matrix_multiply_kernel()
    assert multiply is not None
    matrix, product = backend.copy_to_device(np.arange(9.0).reshape(3, 3)), backend.allocate((3, 3), np.float64)
    assert backend.execute_kernel(multiply, (1, 1), (8, 8), matrix, matrix, product).success
    assert backend.copy_to_host(product).tolist() == (np.arange(9.0).reshape(3, 3) @ np.arange(9.0).reshape(3, 3)).tolist()

    def broken() -> None:
        raise ValueError("no")

    assert isinstance(backend.execute_kernel(broken, (1,), (1,)).error, ValueError)
    with pytest.raises(KernelCompilationError):
        backend.compile_kernel(lambda a: a.no_such_thing, "void(float32[:])")


@pytest.mark.cuda
def test_buffers_with_cupy() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    buffer = UnifiedBuffer((2, 3), pinned=True).fill(2)
    array = buffer.device
    assert isinstance(array, cupy.ndarray)
    array *= 3
    buffer.mark_device_dirty()
    assert buffer.host.tolist() == [[6, 6, 6], [6, 6, 6]]
    assert cupy.asarray(buffer).data.ptr == array.data.ptr
    again: UnifiedBuffer[np.float32] = UnifiedBuffer.from_dlpack(array)
    assert again.host.tolist() == buffer.host.tolist()
    buffer.free()
    assert array.sum() == 36
