"""Optional libraries, imported on first use.

Importing them takes long, and CuPy needs a GPU. ``import pydotcompute`` therefore imports none of them.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

from pydotcompute import _core
from pydotcompute._driver_settings import request_resident_settings
from pydotcompute.exceptions import BackendNotAvailableError, CUDAError

__all__ = ["busy_streams", "cuda_devices", "import_cupy", "import_mlx", "import_numba_cuda", "stream_ordered_pool", "wait_for_device_work"]


def _import(name: str, backend: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        advice = f"install it with: pip install 'pydotcompute[{extra}]'"
        raise BackendNotAvailableError(backend, f"importing '{name}' failed: {error}; {advice}") from error


def cuda_devices() -> list[_core.Device]:
    """Lists the GPUs of this machine, and initializes the CUDA driver for that.

    Requests the driver's settings for ring kernels first: ``pydotcompute._driver_settings``.

    Returns:
        The devices. None of them is opened.

    Raises:
        BackendNotAvailableError: There is no driver or no GPU; the error says which, and what to do.
        CUDAError: A driver call failed.
    """
    request_resident_settings()
    return _core.cuda_devices()


def import_cupy() -> Any:
    """Imports CuPy.

    Returns:
        The module ``cupy``.

    Raises:
        BackendNotAvailableError: CuPy is not installed, or does not load.
    """
    return _import("cupy", "CUDA", "cuda")


def import_numba_cuda() -> Any:
    """Imports Numba's compiler for GPUs.

    Returns:
        The module ``numba.cuda``.

    Raises:
        BackendNotAvailableError: numba-cuda is not installed, or does not load.
    """
    return _import("numba.cuda", "CUDA", "cuda")


def import_mlx() -> Any:
    """Imports MLX, which computes on the GPU on a Mac and on the CPU on Linux.

    Returns:
        The module ``mlx.core``.

    Raises:
        BackendNotAvailableError: MLX is not installed, or does not load.
    """
    return _import("mlx.core", "Metal", "metal")


def stream_ordered_pool(cupy: Any) -> Any:
    """Returns a CuPy pool that does not wait for the device when it allocates or frees memory.

    Args:
        cupy: The module ``cupy``.

    Returns:
        A ``MemoryAsyncPool`` over the devices' default pools, which keep freed memory until ``free_all_blocks()``.
    """
    runtime = cupy.cuda.runtime
    for device in range(runtime.getDeviceCount()):
        # By default the pools return free memory to the device at every synchronization, which may wait for the device.
        threshold = runtime.cudaMemPoolAttrReleaseThreshold
        runtime.memPoolSetAttribute(runtime.deviceGetMemPool(device), threshold, 2**64 - 1)
    return cupy.cuda.MemoryAsyncPool()


def busy_streams() -> list[Any]:
    """Returns the current streams of CuPy and PyTorch in this thread that have unfinished work. Imports neither library.

    Buffers copy and free their memory on a stream that synchronizes with no other, so work that this thread started with that memory must
    finish first. This synchronizes streams instead of the device, on which a ring kernel may be resident. Idle streams are left out,
    because synchronizing the legacy default stream waits until resident ring kernels leave the device.

    Returns:
        Streams with a method ``synchronize``.
    """
    streams: list[Any] = []
    cupy = sys.modules.get("cupy")
    if cupy is not None and not (stream := cupy.cuda.get_current_stream()).done:
        streams.append(stream)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized() and not (stream := torch.cuda.current_stream()).query():
        streams.append(stream)
    return streams


def wait_for_device_work() -> None:
    """Waits for the work that CuPy and PyTorch have started on their current streams in this thread.

    Raises:
        CUDAError: The work failed.
    """
    try:
        for stream in busy_streams():
            stream.synchronize()
    except RuntimeError as error:
        # Both libraries derive their errors from RuntimeError.
        raise CUDAError(f"Waiting for earlier work on the device failed: {error}") from error
