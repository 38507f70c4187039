"""Compiles plain Python functions with Numba, for the CPU or for CUDA, and caches the results.

Numba is imported only when something is compiled. :class:`KernelCompiler` compiles; :class:`KernelCache` stores the results on disk.
"""

from pydotcompute.compilation.cache import CacheEntry, KernelCache, get_kernel_cache, warmup_kernels
from pydotcompute.compilation.compiler import CompilationOptions, CompiledKernel, KernelCompiler, compile_kernel, get_compiler

__all__ = [
    "CacheEntry",
    "CompilationOptions",
    "CompiledKernel",
    "KernelCache",
    "KernelCompiler",
    "compile_kernel",
    "get_compiler",
    "get_kernel_cache",
    "warmup_kernels",
]
