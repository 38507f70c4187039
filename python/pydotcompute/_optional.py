"""Libraries that pydotcompute works with and does not need: imported where they are first used.

To import them takes long, and CuPy asks for a GPU: ``import pydotcompute`` does neither.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

from pydotcompute import _core
from pydotcompute.exceptions import BackendNotAvailableError

__all__ = ["busy_streams", "cuda_devices", "import_cupy", "import_mlx", "import_numba_cuda", "wait_for_device_work"]


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
    """Waits for what CuPy and PyTorch have started on their current streams in this thread."""
    for stream in busy_streams():
        stream.synchronize()
