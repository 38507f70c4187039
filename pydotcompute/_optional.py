"""Libraries that pydotcompute works with and does not need: imported where they are first used.

To import them takes long, and CuPy asks for a GPU: ``import pydotcompute`` does neither.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from pydotcompute import _core
from pydotcompute.exceptions import BackendNotAvailableError, CUDAError

__all__ = ["busy_streams", "cuda_devices", "import_cupy", "import_mlx", "import_numba_cuda", "stream_ordered_pool", "wait_for_device_work"]


def _import(name: str, backend: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        advice = f"install it with: pip install 'pydotcompute[{extra}]'"
        raise BackendNotAvailableError(backend, f"'{name}' cannot be imported ({error}); {advice}") from error


def cuda_devices() -> list[_core.Device]:
    """The GPUs of this machine, by the driver, which this initialises.

    Before, the driver is asked to load the code of everybody in this process at once rather than at first use, as that waits for the whole
    device, on which a ring kernel may be resident; unless ``CUDA_MODULE_LOADING`` says otherwise already.

    Returns:
        The devices, of which none is opened.

    Raises:
        BackendNotAvailableError: There is no driver or no GPU; the error says which, and what to do.
        CUDAError: The driver refused.
    """
    os.environ.setdefault("CUDA_MODULE_LOADING", "EAGER")
    return _core.cuda_devices()


def import_cupy() -> Any:
    """CuPy.

    Returns:
        The module ``cupy``.

    Raises:
        BackendNotAvailableError: It is not installed, or does not load.
    """
    return _import("cupy", "CUDA", "cuda")


def import_numba_cuda() -> Any:
    """Numba's compiler for GPUs.

    Returns:
        The module ``numba.cuda``.

    Raises:
        BackendNotAvailableError: It is not installed, or does not load.
    """
    return _import("numba.cuda", "CUDA", "cuda")


def import_mlx() -> Any:
    """MLX: on a Mac it computes on the GPU, on Linux on the processor.

    Returns:
        The module ``mlx.core``.

    Raises:
        BackendNotAvailableError: It is not installed, or does not load.
    """
    return _import("mlx.core", "Metal", "metal")


def stream_ordered_pool(cupy: Any) -> Any:
    """A pool for CuPy that neither waits for the device when it takes memory nor when it gives some back.

    Args:
        cupy: The module ``cupy``.

    Returns:
        A ``MemoryAsyncPool`` over the devices' own pools, which keep what is given back until ``free_all_blocks()``.
    """
    runtime = cupy.cuda.runtime
    for device in range(runtime.getDeviceCount()):
        # By default they give memory back at every synchronisation, and that may wait for the device.
        threshold = runtime.cudaMemPoolAttrReleaseThreshold
        runtime.memPoolSetAttribute(runtime.deviceGetMemPool(device), threshold, 2**64 - 1)
    return cupy.cuda.MemoryAsyncPool()


def busy_streams() -> list[Any]:
    """The current streams of CuPy and PyTorch in this thread that have work left, where these are in use at all.

    Memory of a buffer is copied, and given back, on a stream that waits for no other: so whatever this thread has started with it has to
    end before. Only streams are waited for, never the whole device, on which a ring kernel may be resident; and no idle one, since to wait
    for the legacy default stream takes until ring kernels give way.

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
    """Waits for what CuPy and PyTorch have started on their current streams in this thread.

    Raises:
        CUDAError: It failed.
    """
    try:
        for stream in busy_streams():
            stream.synchronize()
    except RuntimeError as error:
        # Both libraries' errors are.
        raise CUDAError(f"What was started on the device before failed: {error}") from error
