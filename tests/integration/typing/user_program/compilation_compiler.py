"""Functions compiled by Numba."""

from collections.abc import Callable
from typing import Any

from pydotcompute.compilation.compiler import CompilationOptions, CompiledKernel, KernelCompiler, compile_kernel, get_compiler


def double(value: float) -> float:
    return 2 * value


def use() -> None:
    options = CompilationOptions(device="cpu", fastmath=False, debug=False, lineinfo=False, opt_level=3, cache=True)
    chosen: tuple[str, bool, bool, bool, int, bool] = (
        options.device,
        options.fastmath,
        options.debug,
        options.lineinfo,
        options.opt_level,
        options.cache,
    )
    compiler = KernelCompiler(options)
    available: tuple[bool, bool] = (compiler.cuda_available, compiler.numba_available)
    compiled: CompiledKernel = compiler.compile(double, signature="float64(float64)", name="double", options=options)
    kernel: Callable[..., Any] = compiled.kernel
    names: tuple[str, str, str | None] = (compiled.name, compiled.source_hash, compiled.signature)
    took: float = compiled.compile_time_ms
    text: str | None = compiled.ptx
    again: CompiledKernel | None = compiler.get_cached_kernel(compiled.source_hash)
    stats: dict[str, int] = compiler.get_cache_stats()
    cleared: int = compiler.clear_cache()
    shared: KernelCompiler = get_compiler()
    other: CompiledKernel = compile_kernel(double, signature=None, device="cpu", fastmath=True)
    own = CompiledKernel(
        kernel=double, name="double", source_hash="", signature=None, options=compiled.options, compile_time_ms=0.0, ptx=None
    )
    print(chosen, available, kernel, names, took, text, again, stats, cleared, shared, other, own)
