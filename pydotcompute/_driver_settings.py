"""Settings that the CUDA driver reads once, when some code of the process initializes it.

A resident ring kernel needs two of them:

- ``CUDA_MODULE_LOADING=EAGER``: a module that is loaded lazily waits at its first use for the whole device, on which a ring kernel stays.
- ``CUDA_DEVICE_MAX_CONNECTIONS=32``: each ring kernel needs a hardware queue of its own, and the driver has 8 of them unless told.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["is_driver_initialized", "request_resident_settings"]

_NOT_INITIALIZED = 3
"""The result of driver calls before ``cuInit``: ``CUDA_ERROR_NOT_INITIALIZED``."""


def is_driver_initialized() -> bool:
    """Whether some code of this process, such as CuPy or PyTorch, has initialized the CUDA driver. Neither loads nor initializes it."""
    if sys.platform != "linux":
        return False
    try:
        driver = ctypes.CDLL("libcuda.so.1", mode=os.RTLD_NOW | os.RTLD_NOLOAD)
        return int(driver.cuDeviceGetCount(ctypes.byref(ctypes.c_int()))) != _NOT_INITIALIZED
    except (OSError, AttributeError):  # not loaded, or not a driver
        return False


def request_resident_settings() -> bool:
    """Sets the variables that ring kernels on a GPU need, unless they are set.

    ``import pydotcompute`` calls it. If the driver is initialized already, nothing is changed: the driver would not read it. A launch that
    then finds no hardware queue is an error that says so.

    Returns:
        Whether both variables have the values that ring kernels need, and were set in time as far as this process can tell.

    Example:
        >>> import os
        >>> from pydotcompute._driver_settings import request_resident_settings
        >>> not request_resident_settings() or os.environ["CUDA_MODULE_LOADING"] == "EAGER"
        True
    """
    if not is_driver_initialized():
        os.environ.setdefault("CUDA_MODULE_LOADING", "EAGER")
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    return os.environ.get("CUDA_MODULE_LOADING") == "EAGER" and os.environ.get("CUDA_DEVICE_MAX_CONNECTIONS") == "32"
