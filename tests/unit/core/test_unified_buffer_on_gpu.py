"""Buffers with a device copy, on the fake driver (crates/dotcompute-cuda/tests/fake_driver), whose device memory is host memory."""

from fake_driver_process import run


def test_devices(driver: dict[str, str]) -> None:
    log = run(
        driver,
        """
        accelerator = Accelerator()
        assert accelerator.cuda_available and accelerator.cuda_missing == ""
        assert [(d.device_id, d.device_type, d.name, d.compute_capability) for d in accelerator.devices] == [
            (0, DeviceType.CUDA, "Fake 0", (9, 0)), (1, DeviceType.CUDA, "Fake 1", (9, 1))]
        assert accelerator.devices[1].max_block_dims == (1024, 1024, 64)
        assert accelerator.get_memory_info() == {"free": 1 << 37, "total": 1 << 37, "used": 0}
        accelerator.set_device(1)
        accelerator.synchronize()
        assert UnifiedBuffer(3).allocate().device.device_id == 1
        """,
    )
    assert "cuInit 0, CUDA_MODULE_LOADING=EAGER" in log, "set before the driver is initialized"


def test_states_and_copies(driver: dict[str, str]) -> None:
    run(
        driver,
        """
        buffer = UnifiedBuffer((2, 3)).allocate()
        assert buffer.state is BufferState.SYNCHRONIZED and buffer._memory.copies.transfers == ((0, 0), (0, 0))
        assert not buffer.host.any() and not on_device(buffer).any()
        buffer.fill(4)
        assert buffer.state is BufferState.HOST_DIRTY and not isinstance(buffer.device, np.ndarray)
        assert buffer.state is BufferState.SYNCHRONIZED and buffer._memory.copies.transfers == ((1, 24), (0, 0))
        assert buffer.device is buffer.device and on_device(buffer).tolist() == [[4, 4, 4], [4, 4, 4]]
        on_device(buffer)[0, 1] = 7
        assert buffer.host[0, 1] == 4, "the device copy is not marked dirty"
        buffer.mark_device_dirty()
        assert buffer.state is BufferState.DEVICE_DIRTY and buffer.__dlpack_device__() == (2, 0)
        assert buffer.host[0, 1] == 7 and buffer.state is BufferState.SYNCHRONIZED and buffer.__dlpack_device__() == (1, 0)
        assert buffer._memory.copies.transfers == ((1, 24), (1, 24))
        on_device(buffer)[:] = 1
        buffer.mark_device_dirty()
        buffer.copy_from(np.full((2, 3), 5, np.float32))
        assert buffer._memory.copies.transfers == ((1, 24), (1, 24)), "data that is overwritten is not copied first"
        buffer.synchronize()
        assert on_device(buffer).tolist() == [[5, 5, 5], [5, 5, 5]]
        """,
    )


def test_host_copy_and_device_copy_are_created_separately(driver: dict[str, str]) -> None:
    run(
        driver,
        """
        host = UnifiedBuffer(3).allocate(device=False)
        assert host.state is BufferState.HOST_ONLY and not hasattr(host, "__cuda_array_interface__")
        host.host[:] = [1, 2, 3]
        host.device
        assert host.state is BufferState.SYNCHRONIZED and on_device(host).tolist() == [1, 2, 3]

        device = UnifiedBuffer(3).allocate(host=False)
        assert device.state is BufferState.DEVICE_ONLY and device._memory.copies.transfers == ((0, 0), (0, 0))
        on_device(device)[:] = [4, 5, 6]
        device.mark_host_dirty()  # No effect: there is no host copy yet.
        assert device.host.tolist() == [4, 5, 6]

        for mark in ("mark_device_dirty", "mark_host_dirty"):
            buffer = UnifiedBuffer(3).allocate(device=False)
            buffer.host[:] = 8
            getattr(buffer, mark)()
            assert buffer.host.tolist() == [8, 8, 8] and buffer.device and on_device(buffer).tolist() == [8, 8, 8]

        array = np.arange(3.0)
        adopted = UnifiedBuffer.from_dlpack(array)
        adopted.device
        on_device(adopted)[0] = 9
        adopted.mark_device_dirty()
        assert adopted.host[0] == array[0] == 9

        locked = np.arange(3.0)
        locked.flags.writeable = False
        adopted = UnifiedBuffer(3, float)
        adopted._memory = adopted._new_memory()
        adopted._memory.copies.adopt(locked.view(np.uint8))
        adopted.device
        adopted.mark_device_dirty()
        try:
            adopted.host
        except BufferSyncError as error:
            assert error.direction == "device->host" and "read-only" in str(error)
        else:
            raise AssertionError("read-only memory must not be written")
        assert adopted.state is BufferState.DEVICE_DIRTY
        """,
    )


def test_memory_outlives_the_buffer_on_both_sides(driver: dict[str, str]) -> None:
    run(
        driver,
        """
        pool = configure_memory_pool(max_size_mb=1)
        buffer = UnifiedBuffer(1000, np.int64, pinned=True).fill(3)
        device, host = buffer.device, buffer.host
        assert buffer._memory.copies.host().page_locked
        assert pool.get_stats().used_bytes == pool.get_pinned_stats().used_bytes == 8192
        buffer.free()
        del buffer
        gc.collect()
        others = [UnifiedBuffer(1000, np.int64, pinned=True).fill(5) for _ in range(4)]
        [other.device for other in others]
        assert on_device(device).sum() == 3000
        assert host.sum() == 3000 and pool.get_stats().used_bytes == 5 * 8192
        del device, host, others
        gc.collect()
        assert pool.get_stats().used_bytes == pool.get_pinned_stats().used_bytes == 0
        assert pool.get_stats().total_bytes > 0
        pool.free_all_blocks()
        assert pool.get_stats().total_bytes == pool.get_pinned_stats().total_bytes == 0
        try:
            UnifiedBuffer(1 << 20).allocate()
        except MemoryError as error:
            assert "raise the limit" in str(error)
        else:
            raise AssertionError("the limit must hold")
        """,
    )


def test_dlpack_without_cupy(driver: dict[str, str]) -> None:
    run(
        driver,
        """
        import asyncio
        buffer = UnifiedBuffer((2, 3), np.int16).fill(7)
        asyncio.run(buffer.ensure_on_device())
        assert buffer.state is BufferState.SYNCHRONIZED and np.from_dlpack(buffer).tolist() == [[7, 7, 7], [7, 7, 7]]

        class Tensor(ctypes.Structure):
            _fields_ = [("data", ctypes.c_void_p), ("kind", ctypes.c_int32), ("index", ctypes.c_int32), ("ndim", ctypes.c_int32),
                        ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.POINTER(ctypes.c_int64)),
                        ("offset", ctypes.c_uint64), ("context", ctypes.c_void_p),
                        ("delete", ctypes.CFUNCTYPE(None, ctypes.c_void_p))]

        pointer = ctypes.pythonapi.PyCapsule_GetPointer
        pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
        rename = ctypes.pythonapi.PyCapsule_SetName
        rename.argtypes = [ctypes.py_object, ctypes.c_char_p]
        consumed = b"used_dltensor"
        pool = configure_memory_pool()
        buffer = UnifiedBuffer((2, 3), np.int16).fill(7)
        address = buffer.__cuda_array_interface__["data"][0]
        unconsumed = buffer.__dlpack__(dl_device=(2, 0))
        capsule = buffer.__dlpack__(dl_device=(2, 0), stream=1, max_version=(1, 0))
        tensor = Tensor.from_address(pointer(capsule, b"dltensor"))
        assert (tensor.data, tensor.kind, tensor.index, tensor.ndim) == (address, 2, 0, 2)
        assert (tensor.code, tensor.bits, tensor.lanes, tensor.offset) == (0, 16, 1, 0)
        assert tensor.shape[:2] == [2, 3] and tensor.strides[:2] == [3, 1]

        # A consumer keeps the memory alive, and its deleter returns the memory to the pool.
        rename(capsule, consumed)
        buffer.free()
        del buffer, capsule, unconsumed
        gc.collect()
        assert pool.get_stats().used_bytes == 256
        assert (ctypes.c_int16 * 6).from_address(address)[:] == [7] * 6
        tensor.delete(ctypes.addressof(tensor))
        assert pool.get_stats().used_bytes == 0

        device = UnifiedBuffer(3, "M8[s]").allocate().device
        for wrong in ({}, {"copy": True}, {"dl_device": (1, 0)}):
            try:
                device.__dlpack__(**wrong)
            except BufferError:
                continue
            raise AssertionError(wrong)
        """,
    )


def test_a_driver_that_fails_to_initialize(driver: dict[str, str]) -> None:
    run(
        driver,
        """
        accelerator = Accelerator()
        assert not accelerator.cuda_available and accelerator.cuda_missing and accelerator.device_count == 1
        assert UnifiedBuffer(3).fill(2).device.tolist() == [2, 2, 2]
        """,
        FAKE_INIT="100",
    )


def test_only_dirty_ranges_are_copied(driver: dict[str, str]) -> None:
    run(
        driver,
        """
        def copied(buffer):
            (_, to_device), (_, to_host) = buffer._memory.copies.transfers
            return to_device, to_host

        buffer = UnifiedBuffer((1000, 10), np.int32).allocate()
        parts = [(slice(3, 4), 1), (slice(-1, None), 1), (slice(10, 20), 10), (slice(20, 10, -5), 6), (slice(9, 2), 0), (None, 1000)]
        for rows, count in parts:
            before = copied(buffer)[0]
            buffer.host[rows] = count
            buffer.mark_host_dirty(rows)
            buffer.synchronize()
            assert copied(buffer)[0] - before == count * 40, rows
            assert (on_device(buffer) == buffer.host).all()
        buffer.host[500] = 3  # Not marked dirty.
        buffer[0] = 4
        buffer.device
        assert (on_device(buffer) == buffer.host).all()

        before = copied(buffer)
        on_device(buffer)[100:110] = 8
        on_device(buffer)[300] = 9
        buffer.mark_device_dirty(slice(100, 110))
        buffer.mark_device_dirty(slice(300, 301))
        assert buffer.host[105, 0] == 8 and buffer.host[300, 9] == 9
        assert copied(buffer) == (before[0], before[1] + 440)

        # The last mark decides, for the whole buffer.
        buffer.mark_device_dirty(slice(0, 1))
        buffer.mark_host_dirty(slice(5, 6))
        before = copied(buffer)
        buffer.device
        assert copied(buffer)[0] - before[0] == 40_000 and buffer.state is BufferState.SYNCHRONIZED

        # A device copy created later receives the whole host copy.
        late = UnifiedBuffer((10,)).allocate(device=False)
        late.host[:] = 3
        late.mark_host_dirty(slice(0, 1))
        late.device
        assert on_device(late).tolist() == late.host.tolist()
        """,
    )


def test_random_reads_and_writes_match_a_model(driver: dict[str, str]) -> None:
    """Every read, on host or device, returns the last write according to a model."""
    run(
        driver,
        """
        import random

        def write_host(buffer, model, rows):
            buffer.host[rows] = model[rows] = value()
            buffer.mark_host_dirty(rows)

        def write_device(buffer, model, rows):
            buffer.device
            on_device(buffer)[rows] = model[rows] = value()
            buffer.mark_device_dirty(rows)

        def fill(buffer, model, rows):
            model[:] = value()
            buffer.fill(model[0])

        def set_rows(buffer, model, rows):
            buffer[rows] = model[rows] = value()

        def read_host(buffer, model, rows):
            assert buffer.host.tolist() == model.tolist()

        def read_device(buffer, model, rows):
            if hasattr(buffer, "__cuda_array_interface__"):
                assert on_device(buffer).tolist() == model.tolist()

        def synchronize(buffer, model, rows):
            buffer.synchronize()

        def allocate(buffer, model, rows):
            buffer.allocate()

        def free(buffer, model, rows):
            buffer.free()
            buffer.allocate(host=random.random() < 0.5, device=random.random() < 0.5)
            model[:] = 0

        steps = [write_host, write_device, fill, set_rows, read_host, read_device, synchronize, allocate, free]
        value = lambda: random.randrange(1000)
        for seed in range(300):
            random.seed(seed)
            if seed == 150:
                configure_memory_pool()
            buffer, model, done = UnifiedBuffer(12, np.int32, pinned=seed % 2 == 0).allocate(), np.zeros(12, np.int32), []
            for _ in range(30):
                step, rows = random.choice(steps), slice(*sorted(random.choices(range(13), k=2)))
                done.append((step.__name__, rows))
                try:
                    step(buffer, model, rows)
                except AssertionError:
                    raise AssertionError((seed, done)) from None
            read_host(buffer, model, None)
            buffer.device
            read_device(buffer, model, None)
        """,
    )
