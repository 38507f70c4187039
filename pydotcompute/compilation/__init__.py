"""Compiling plain Python functions with Numba, for the CPU or for CUDA, and keeping what was compiled.

Numba is imported when something is compiled, not before. :class:`KernelCompiler` compiles, :class:`KernelCache` keeps the results on disk.
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
