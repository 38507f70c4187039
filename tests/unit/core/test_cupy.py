"""Buffers, the memory pool, the CUDA backend and the orchestrator with the fake CuPy, on the fake driver."""

from fake_driver_process import run


def test_buffers_with_cupy(driver: dict[str, str]) -> None:
    run(
        driver,
        """
        buffer = UnifiedBuffer((2, 3)).fill(4)
        array = buffer.device
        assert isinstance(array, cupy.ndarray) and array.tolist() == [[4, 4, 4], [4, 4, 4]] and buffer.device is array
        array[0] = 6
        buffer.mark_device_dirty()
        stream = cupy.cuda.get_current_stream()
        stream.done = False
        assert buffer.host[0, 0] == 6 and cupy.calls == [("synchronize", stream)], "work on the stream completes before the copy"
        buffer.mark_device_dirty()
        buffer.host
        assert cupy.calls == [("synchronize", stream)], "an idle stream is not synchronized"

        buffer.mark_device_dirty()
        stream.done, stream.fails = False, cupy.CUDARuntimeError("an illegal address")
        try:
            buffer.host
        except BufferSyncError as error:
            assert "an illegal address" in str(error) and isinstance(error.cause, CUDAError)
        assert buffer.state is BufferState.DEVICE_DIRTY
        stream.done, stream.fails = True, None

        del buffer
        gc.collect()
        cupy.calls.clear()
        assert array[0].tolist() == [6, 6, 6]
        stream.done = False
        del array
        gc.collect()
        assert cupy.calls == [("synchronize", stream)], "the stream is synchronized before memory returns to the pool"

        class Tensor(np.ndarray):
            def __dlpack_device__(self):
                return (2, 1)

        copied = UnifiedBuffer.from_dlpack(np.arange(3.0).view(Tensor))
        assert copied.state is BufferState.DEVICE_DIRTY and copied.host.tolist() == [0, 1, 2]
        try:
            UnifiedBuffer.from_dlpack(np.arange(3.0).view(Tensor), copy=False)
        except BufferError as error:
            assert "their own device memory" in str(error)
        else:
            raise AssertionError("copy=False must not copy")
        """,
        cupy=True,
    )


def test_the_pool_with_cupy(driver: dict[str, str]) -> None:
    run(
        driver,
        """
        pool = configure_memory_pool()
        assert cupy.calls == [("set_attribute", 50, 4, 2**64 - 1), ("set_attribute", 51, 4, 2**64 - 1)]
        allocator = cupy._current.allocator
        assert allocator.__self__ is not cupy.get_default_memory_pool()
        buffer = UnifiedBuffer(256).allocate()
        stats = pool.get_stats()
        assert (stats.used_bytes, stats.total_bytes) == (1024 + 100, 1024 + 300)
        pool.free_all_blocks()
        assert cupy.calls[-1] == ("free_all_blocks",)
        pool.disable()
        assert cupy._current.allocator.__self__ is cupy.get_default_memory_pool()
        """,
        cupy=True,
    )


def test_the_backend_with_cupy(driver: dict[str, str]) -> None:
    run(
        driver,
        """
        backend = CUDABackend()
        assert backend.is_available and backend.device_count == 2 and backend.device_id == 0
        own = backend._stream
        cupy.calls.clear()
        array = backend.copy_to_device(np.arange(3.0))
        assert cupy.calls == [("create", own, backend._pool.malloc), ("synchronize", own)], "the backend has its own stream and pool"
        assert backend.copy_to_host(array).tolist() == [0, 1, 2] and ("asnumpy", own) in cupy.calls
        assert not backend.allocate_zeros((2, 2), np.int8).any() and backend.allocate((2, 2), np.int8).shape == (2, 2)
        try:
            backend.allocate((1 << 21, 1 << 21), np.int8)
        except CUDAError as error:
            assert "Allocating an array of shape (2097152, 2097152) on GPU 0 failed: out of memory" in str(error)
        else:
            raise AssertionError("the allocation must fail")

        def double(a, by=2):
            a *= by

        assert backend.execute_kernel(double, (1,), (1,), array, by=5).success and array.tolist() == [0, 5, 10]
        assert backend.execute_kernel(cupy.RawKernel(double), (3,), (64,), array).success and array.tolist() == [0, 10, 20]
        assert cupy.calls[-2:] == [("raw", (3,), (64,), own), ("synchronize", own)]

        class Fails:
            def __call__(self):
                raise cupy.CUDARuntimeError("code 700")

        failed = backend.execute_kernel(Fails(), (1,), (1,))
        assert not failed.success and isinstance(failed.error, CUDAError) and "code 700" in str(failed.error)
        backend.synchronize()
        backend.free(array)
        backend.set_device(1)
        assert backend.device_id == 1 and backend._stream is not own
        assert repr(backend) == "CUDABackend(device=1, devices=2, memory_free=131072MB)"
        assert backend.create_stream() is not backend.create_stream()
        """,
        cupy=True,
    )


def test_the_orchestrator_with_cupy(driver: dict[str, str]) -> None:
    run(
        driver,
        """
        import asyncio

        async def main():
            async with ComputeOrchestrator() as orchestrator:
                created = orchestrator.create_stream()
                async with orchestrator.stream_context() as stream:
                    assert stream is not created and orchestrator._streams == [created, stream]
                assert orchestrator._streams == [created] and cupy.calls[-1] == ("synchronize", stream)
                orchestrator.synchronize()
                assert cupy.calls[-1] == ("synchronize", created)
                cupy.calls.clear()
            assert ("synchronize", created) in cupy.calls and orchestrator._streams == []

            orchestrator = ComputeOrchestrator()
            await orchestrator.initialize()
            orchestrator.create_stream().fails = cupy.CUDARuntimeError("code 700")
            try:
                await orchestrator.shutdown()
            except cupy.CUDARuntimeError:
                pass
            else:
                raise AssertionError("shutdown must raise the error of the stream")
            assert not orchestrator.is_active and cupy.calls[-1] == ("free_all_blocks",)

        asyncio.run(main())
        """,
        cupy=True,
    )
