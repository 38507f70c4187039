"""Backends: run one-shot kernels and hold their arrays on the CPU, on a GPU through CUDA, or on an Apple GPU through Metal.

All three can be imported on any machine. Creating a backend that the machine lacks raises ``BackendNotAvailableError``.
"""

from pydotcompute.backends.base import Backend, BackendType
from pydotcompute.backends.cpu import CPUBackend
from pydotcompute.backends.cuda import CUDABackend
from pydotcompute.backends.metal import MetalBackend

__all__ = ["Backend", "BackendType", "CPUBackend", "CUDABackend", "MetalBackend"]
