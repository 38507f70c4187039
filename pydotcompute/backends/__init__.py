"""Where one-shot kernels run and their arrays live: the processor, a GPU by CUDA, a GPU of Apple's by Metal.

All three can be imported anywhere; to make a backend that this machine lacks raises ``BackendNotAvailableError``.
"""

from pydotcompute.backends.base import Backend, BackendType
from pydotcompute.backends.cpu import CPUBackend
from pydotcompute.backends.cuda import CUDABackend
from pydotcompute.backends.metal import MetalBackend

__all__ = ["Backend", "BackendType", "CPUBackend", "CUDABackend", "MetalBackend"]
