"""Buffers: their states, their views of other libraries, and how long their memory lives."""

import gc
import threading

import numpy as np
import pytest

from pydotcompute.core.memory_pool import MemoryPool, configure_memory_pool
from pydotcompute.core.unified_buffer import BufferState, UnifiedBuffer
from pydotcompute.exceptions import BufferNotAllocatedError, InvalidConfigurationError

pytestmark = pytest.mark.usefixtures("without_gpu")

TYPES = ["bool", "int8", "int64", "uint16", "float16", "float32", "float64", "complex64", "complex128", ">i4", "M8[ns]", "S3"]


def test_an_unallocated_buffer() -> None:
    buffer: UnifiedBuffer[np.float32] = UnifiedBuffer((10, 20))
    assert (buffer.shape, buffer.dtype, buffer.size, buffer.nbytes, len(buffer)) == ((10, 20), np.float32, 200, 800, 10)
    assert buffer.state is BufferState.UNINITIALIZED and not buffer.is_allocated
    for name in ("host", "device", "metal", "__array__"):
        with pytest.raises(BufferNotAllocatedError):
            attribute = getattr(buffer, name)
            attribute()
    for mark in (buffer.mark_host_dirty, buffer.mark_device_dirty, buffer.mark_metal_dirty):
        with pytest.raises(BufferNotAllocatedError):
            mark()
    with pytest.raises(BufferNotAllocatedError):
        np.from_dlpack(buffer)
    buffer.synchronize()
    buffer.free()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 3, 4)])
def test_a_new_buffer_is_zeros_of_its_type(shape: tuple[int, ...], dtype: str) -> None:
    buffer = UnifiedBuffer(shape, dtype).allocate()
    assert buffer.host.shape == shape and buffer.host.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(buffer.host, np.zeros(shape, dtype))
    assert buffer.host is buffer.host and buffer.host.flags.writeable and buffer.host.flags.aligned


@pytest.mark.parametrize("shape", [-1, (3, -2), 2.5, ("3",), None])
def test_invalid_shapes_raise(shape: object) -> None:
    with pytest.raises(InvalidConfigurationError, match="shape"):
        UnifiedBuffer(shape)  # type: ignore[arg-type]


def test_unsupported_dtypes_and_sizes_raise() -> None:
    with pytest.raises(InvalidConfigurationError, match="Python objects"):
        UnifiedBuffer(3, object)
    with pytest.raises(InvalidConfigurationError, match="exceed the address space"):
        UnifiedBuffer((2**40, 2**40))
    with pytest.raises(MemoryError, match="allocate less"):
        UnifiedBuffer(2**60, np.int8).allocate()
    with pytest.raises(TypeError, match="without dimensions"):
        len(UnifiedBuffer(()))


def test_state_transitions_without_a_gpu() -> None:
    buffer = UnifiedBuffer(4).allocate()
    assert buffer.state in (BufferState.HOST_ONLY, BufferState.SYNCHRONIZED)
    buffer.mark_host_dirty()
    assert buffer.state is BufferState.HOST_DIRTY
    _ = buffer.host
    assert buffer.state is BufferState.HOST_DIRTY
    _ = buffer.device
    assert buffer.state is BufferState.SYNCHRONIZED
    buffer.mark_device_dirty()
    assert buffer.state is BufferState.DEVICE_DIRTY
    _ = buffer.device
    assert buffer.state is BufferState.DEVICE_DIRTY
    _ = buffer.host
    assert buffer.state is BufferState.SYNCHRONIZED
    for mark in (buffer.mark_host_dirty, buffer.mark_device_dirty):
        mark()
        buffer.synchronize()
        assert buffer.state is BufferState.SYNCHRONIZED
    buffer.free()
    assert buffer.state is BufferState.UNINITIALIZED


def test_writes_by_the_buffer_mark_the_host_copy_dirty() -> None:
    for write in (
        lambda buffer: buffer.fill(7),
        lambda buffer: buffer.zeros(),
        lambda buffer: buffer.copy_from(np.arange(6, dtype=np.float32).reshape(2, 3)),
        lambda buffer: buffer.__setitem__((0, 1), 5.0),
    ):
        buffer: UnifiedBuffer[np.float32] = UnifiedBuffer((2, 3)).allocate()
        write(buffer)
        assert buffer.state is BufferState.HOST_DIRTY


def test_fill_and_copy_from_allocate() -> None:
    assert UnifiedBuffer(3).zeros().host.tolist() == [0, 0, 0]
    assert UnifiedBuffer(3).fill(np.float32(1.5)).host.tolist() == [1.5, 1.5, 1.5]
    buffer: UnifiedBuffer[np.float32] = UnifiedBuffer((2, 2))
    buffer.copy_from(np.float32([1, 2]))
    target = np.empty((3, 2, 2), np.float64)
    buffer.copy_to(target[0])
    assert target[0].tolist() == [[1, 2], [1, 2]]
    buffer[0] = 9
    assert buffer[0].tolist() == [9, 9] and buffer[1, 1] == 2


def test_a_mismatched_write_changes_nothing() -> None:
    buffer = UnifiedBuffer(3, np.int32).fill(4)
    buffer.synchronize()
    for shape in [(4,), (2, 3), (0,)]:
        with pytest.raises(ValueError, match="does not fit"):
            buffer.copy_from(np.zeros(shape, np.int32))
    with pytest.raises(TypeError, match="astype"):
        buffer.copy_from(np.float64([1, 2, 3]))
    with pytest.raises(ValueError):
        buffer.fill("many")
    with pytest.raises(ValueError):
        buffer.copy_to(np.zeros(2, np.int32))
    assert buffer.host.tolist() == [4, 4, 4] and buffer.state is BufferState.SYNCHRONIZED

    unallocated = UnifiedBuffer(3, np.int32)
    with pytest.raises(ValueError):
        unallocated.copy_from(np.zeros(4, np.int32))
    assert not unallocated.is_allocated
    with pytest.raises(BufferNotAllocatedError):
        unallocated.copy_to(np.zeros(3, np.int32))


def test_a_second_allocate_keeps_the_content() -> None:
    buffer = UnifiedBuffer(3).fill(2)
    array = buffer.host
    assert buffer.allocate() is buffer and buffer.host is array


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("pooled", [False, True])
def test_an_array_outlives_its_buffer(monkeypatch: pytest.MonkeyPatch, pinned: bool, pooled: bool) -> None:
    monkeypatch.setattr(MemoryPool, "_instance", None)
    pool = configure_memory_pool(enable=pooled)
    stats = pool.get_pinned_stats if pinned else pool.get_stats
    buffer = UnifiedBuffer(100_000, np.int64, pinned=pinned).fill(11)
    views = [buffer.host, np.asarray(buffer)[5:10], np.from_dlpack(buffer), memoryview(buffer.host)]
    buffer.free()
    with pytest.raises(BufferNotAllocatedError):
        _ = buffer.host
    del buffer
    gc.collect()
    # If the memory had been freed, these buffers would reuse and overwrite it.
    others = [UnifiedBuffer(100_000, np.int64, pinned=pinned).fill(22) for _ in range(8)]
    for view in views:
        assert (np.asarray(view) == 11).all()
    if pooled:
        assert stats().used_bytes >= 9 * 800_000
    del view, views, others
    gc.collect()
    assert stats().used_bytes == 0


def test_a_buffer_is_new_memory_after_it_was_freed() -> None:
    buffer = UnifiedBuffer(10).fill(3)
    old = buffer.host
    buffer.free()
    buffer.allocate()
    buffer.host[:] = 5
    assert old.tolist() == [3] * 10 and not np.shares_memory(old, buffer.host)


def test_a_reused_block_is_zeros(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryPool, "_instance", None)
    configure_memory_pool()
    for pinned in (False, True):
        for _ in range(3):
            buffer = UnifiedBuffer(1000, pinned=pinned).allocate()
            assert not buffer.host.any()
            buffer.host[:] = 1


def test_numpy_shares_the_memory() -> None:
    buffer = UnifiedBuffer((2, 3), np.float64).allocate()
    for array in (np.asarray(buffer), np.array(buffer, copy=False), np.from_dlpack(buffer)):
        assert np.shares_memory(array, buffer.host) and array.shape == (2, 3)
    assert not np.shares_memory(np.array(buffer), buffer.host)
    assert np.asarray(buffer, dtype=np.float32).dtype == np.float32
    with pytest.raises(ValueError):
        np.array(buffer, dtype=np.float32, copy=False)
    assert buffer.__dlpack_device__() == (1, 0)
    np.from_dlpack(buffer)
    assert np.add(buffer, 1).tolist() == [[1, 1, 1], [1, 1, 1]]


def test_the_cuda_array_interface_exists_only_on_a_gpu() -> None:
    buffer = UnifiedBuffer(3).allocate(device=False)
    assert not hasattr(buffer, "__cuda_array_interface__")
    with pytest.raises(BufferError, match="no copy on a device"):
        buffer.__dlpack__(dl_device=(8, 0))


def test_a_buffer_from_an_array() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    buffer: UnifiedBuffer[np.float32] = UnifiedBuffer.from_dlpack(array)
    assert np.shares_memory(buffer.host, array) and buffer.shape == (2, 3) and buffer.state is BufferState.HOST_ONLY
    array[0, 0] = 40
    buffer[1, 1] = 50
    assert buffer[0, 0] == 40 and array[1, 1] == 50
    del array
    gc.collect()
    assert buffer.host[1, 1] == 50
    view = buffer.host
    buffer.free()
    del buffer
    gc.collect()
    assert view.tolist() == [[40, 1, 2], [3, 50, 5]]


def test_a_buffer_from_an_array_is_a_copy_only_if_necessary() -> None:
    array = np.arange(6.0).reshape(2, 3)
    assert not np.shares_memory(UnifiedBuffer.from_dlpack(array, copy=True).host, array)
    assert np.shares_memory(UnifiedBuffer.from_dlpack(array, copy=False).host, array)
    transposed = UnifiedBuffer.from_dlpack(array.T)
    assert transposed.host.tolist() == array.T.tolist() and not np.shares_memory(transposed.host, array)
    with pytest.raises(BufferError, match="contiguous"):
        UnifiedBuffer.from_dlpack(array.T, copy=False)
    assert UnifiedBuffer.from_dlpack(np.zeros((0, 3))).shape == (0, 3)
    assert UnifiedBuffer.from_dlpack(np.array(2.0)).host == 2.0
    assert np.shares_memory(UnifiedBuffer.from_dlpack(UnifiedBuffer.from_dlpack(array)).host, array)


def test_sources_without_dlpack_raise() -> None:
    for source in ([1, 2], b"12", None):
        with pytest.raises(TypeError, match="does not support DLPack"):
            UnifiedBuffer.from_dlpack(source)


def test_torch_shares_the_memory() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    buffer = UnifiedBuffer(4).fill(1)
    tensor = torch.from_dlpack(buffer)
    tensor[2] = 9
    assert buffer.host.tolist() == [1, 1, 9, 1]
    back: UnifiedBuffer[np.float32] = UnifiedBuffer.from_dlpack(tensor)
    back[0] = 5
    assert tensor[0] == 5 and buffer.host[0] == 5


def test_jax_reads_the_buffer() -> None:
    jax = pytest.importorskip("jax", reason="JAX is not installed")
    buffer = UnifiedBuffer(4).fill(3)
    assert jax.numpy.from_dlpack(buffer).tolist() == [3, 3, 3, 3]
    assert UnifiedBuffer.from_dlpack(jax.numpy.arange(3)).host.tolist() == [0, 1, 2]


async def test_the_async_accessors() -> None:
    buffer = UnifiedBuffer(4).fill(2)
    await buffer.ensure_on_device()
    assert buffer.state is BufferState.SYNCHRONIZED
    buffer.mark_device_dirty()
    await buffer.ensure_on_host()
    assert buffer.state is BufferState.SYNCHRONIZED
    with pytest.raises(BufferNotAllocatedError):
        await UnifiedBuffer(4).ensure_on_device()


def test_threads_may_read_and_free_concurrently() -> None:
    buffer = UnifiedBuffer(1000, np.int64).fill(1)
    wrong: list[object] = []

    def read() -> None:
        for _ in range(300):
            try:
                if int(buffer.host.sum()) != 1000:
                    wrong.append(buffer.host)
                buffer.mark_host_dirty()
                _ = buffer.device
            except BufferNotAllocatedError:
                return

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    buffer.free()
    for thread in threads:
        thread.join()
    assert not wrong


def test_repr() -> None:
    assert repr(UnifiedBuffer(10)) == "UnifiedBuffer(shape=(10,), dtype=float32, state=UNINITIALIZED, pinned=False)"
