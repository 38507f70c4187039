"""The CPU backend."""

import gc

import numpy as np
import pytest

from pydotcompute.backends import Backend, BackendType, CPUBackend
from pydotcompute.backends.base import BackendArray, KernelExecutionResult
from pydotcompute.backends.cpu import matrix_multiply_cpu, vector_add_cpu
from pydotcompute.exceptions import KernelCompilationError


@pytest.fixture
def backend() -> CPUBackend:
    return CPUBackend()


def test_properties_of_the_backend(backend: CPUBackend) -> None:
    assert (backend.backend_type, backend.is_available, backend.device_count) == (BackendType.CPU, True, 1)
    assert isinstance(backend, Backend) and repr(backend) == "CPUBackend(available=True)"


def test_arrays(backend: CPUBackend) -> None:
    array = backend.allocate((2, 3), np.float32)
    assert array.shape == (2, 3) and array.dtype == np.float32
    zeros = backend.allocate_zeros((4,), np.dtype(np.int16))
    assert zeros.tolist() == [0, 0, 0, 0] and zeros.dtype == np.int16
    device = backend.copy_to_device(zeros)
    device[0] = 7
    host = backend.copy_to_host(device)
    host[1] = 8
    assert (zeros.tolist(), device.tolist(), host.tolist()) == ([0, 0, 0, 0], [7, 0, 0, 0], [7, 8, 0, 0])
    backend.free(device)
    backend.synchronize()


def test_kernels(backend: CPUBackend) -> None:
    array = np.ones(3)
    result = backend.execute_kernel(lambda a, *, by: np.multiply(a, by, out=a), (1,), (256,), array, by=3)
    assert result.success and result.error is None and result.execution_time_ms >= 0 and array.tolist() == [3, 3, 3]
    failure = ValueError("no")

    def broken() -> None:
        raise failure

    result = backend.execute_kernel(broken, (1,), (1,))
    assert isinstance(result, KernelExecutionResult) and not result.success and result.error is failure


def test_compiling(backend: CPUBackend) -> None:
    pytest.importorskip("numba", reason="Numba is not installed")

    def total(values):  # type: ignore[no-untyped-def]
        result = 0.0
        for value in values:
            result += value
        return result

    assert backend.compile_kernel(total)(np.arange(5.0)) == 10.0
    compiled = backend.compile_kernel(total, "float64(float64[:])")
    assert compiled(np.arange(5.0)) == 10.0
    with pytest.raises(TypeError):
        compiled("text")
    with pytest.raises(KernelCompilationError, match="total") as caught:
        backend.compile_kernel(total, "float64(no_such_type)")
    assert caught.value.__cause__ is caught.value.cause


def test_work_completes_in_order(backend: CPUBackend) -> None:
    seen: list[int] = []
    backend.parallel_for(2, 6, seen.append)
    assert seen == [2, 3, 4, 5]


def test_example_kernels() -> None:
    a, b = np.float32([[1, 2], [3, 4]]), np.float32([[5, 6], [7, 8]])
    assert vector_add_cpu(a, b).tolist() == [[6, 8], [10, 12]]
    assert matrix_multiply_cpu(a, b).tolist() == [[19, 22], [43, 50]]


def test_a_backend_array_frees_its_memory() -> None:
    freed: list[object] = []

    class Counting(CPUBackend):
        def free(self, array: np.ndarray) -> None:
            freed.append(array)

    backend, data = Counting(), np.zeros((2, 3), np.float32)
    array = BackendArray(data, backend)
    assert array.data is data and array.backend is backend
    assert (array.shape, array.dtype, array.nbytes) == ((2, 3), np.float32, 24)
    assert array.to_host() is not data and repr(array) == "BackendArray(shape=(2, 3), dtype=float32, backend=CPU)"
    array.synchronize()
    del array
    BackendArray(data, backend, owns_data=False)
    gc.collect()
    assert len(freed) == 1 and freed[0] is data
    with pytest.raises(TypeError):
        BackendArray(data)  # type: ignore[call-arg]
