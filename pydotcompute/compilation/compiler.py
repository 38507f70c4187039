"""Compiles Python functions to CPU machine code or CUDA kernels."""

from __future__ import annotations

import inspect
import threading
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from pydotcompute.compilation._source_location import compilation_error
from pydotcompute.compilation.fingerprint import Fingerprint, fingerprint, is_installed
from pydotcompute.exceptions import BackendNotAvailableError, InvalidConfigurationError, KernelCompilationError

__all__ = ["CompilationOptions", "CompiledKernel", "KernelCompiler", "compile_kernel", "get_compiler"]

_DEVICES = ("auto", "cpu", "cuda")


@dataclass
class CompilationOptions:
    """Compilation options.

    Attributes:
        device: ``"cuda"``: the GPU; the CPU if there is no GPU and the function is not written for a grid of threads.
            ``"cpu"``: the CPU.
            ``"auto"``: the GPU for functions written for a grid, the CPU for all others.
        fastmath: Whether the compiler may reorder floating-point operations and assume that there are no NaNs.
        debug: Whether to check array bounds and generate debug information; slow.
        lineinfo: Whether to generate line information for profilers; CUDA only.
        opt_level: 0 to 3; on CUDA, 0 disables optimization. For the CPU, Numba uses ``NUMBA_OPT`` instead.
        cache: Whether compiled code is cached, in memory and on disk.
    """

    device: str = "cuda"
    fastmath: bool = True
    debug: bool = False
    lineinfo: bool = False
    opt_level: int = 3
    cache: bool = True

    def __post_init__(self) -> None:
        """Validates the values.

        Raises:
            InvalidConfigurationError: The device or the level is unknown.
        """
        if self.device not in _DEVICES:
            raise InvalidConfigurationError("device", self.device, f"must be one of {', '.join(_DEVICES)}")
        if not 0 <= self.opt_level <= 3:
            raise InvalidConfigurationError("opt_level", self.opt_level, "must be 0 to 3")


@dataclass
class CompiledKernel:
    """A compiled function.

    Attributes:
        kernel: The callable; a CUDA kernel is launched with ``kernel[grid, block](...)``.
        name: Name of the kernel.
        source_hash: Hash of the function, everything that it refers to, and the options.
        signature: Types that it was compiled for; without one it is compiled for the types of each call, at the first call with them.
        options: Compilation options.
        compile_time_ms: Duration of :meth:`KernelCompiler.compile`, in milliseconds.
        ptx: PTX of a CUDA kernel with a signature.
    """

    kernel: Callable[..., Any]
    name: str
    source_hash: str
    signature: str | None
    options: CompilationOptions
    compile_time_ms: float = 0.0
    ptx: str | None = None


class KernelCompiler:
    """Compiles functions with Numba, and caches the results in memory. Thread-safe.

    Without Numba, functions run as plain Python, with one warning.

    Example:
        >>> compiler = KernelCompiler(CompilationOptions(device="cpu"))
        >>> def scale(values, factor):
        ...     for i in range(len(values)):
        ...         values[i] *= factor
        >>> compiled = compiler.compile(scale, signature="void(float64[:], float64)")
        >>> values = np.ones(3)
        >>> compiled.kernel(values, 2.0)
        >>> values
        array([2., 2., 2.])
    """

    def __init__(self, options: CompilationOptions | None = None) -> None:
        """Creates a compiler.

        Args:
            options: Default options of :meth:`compile`.
        """
        self._options = options or CompilationOptions()
        self._compiled_cache: dict[str, CompiledKernel] = {}
        # Objects that a hash identifies by their address, which must not be used again for another object.
        self._identified: dict[str, tuple[object, ...]] = {}
        self._lock = threading.RLock()
        self._cuda: bool | None = None

    @property
    def cuda_available(self) -> bool:
        """Whether Numba can launch kernels on a GPU or on its simulator. Determined at the first access."""
        if self._cuda is None:
            self._cuda = self.numba_available and _numba_finds_a_gpu()
        return self._cuda

    @property
    def numba_available(self) -> bool:
        """Whether Numba is installed."""
        return is_installed("numba")

    def compile(
        self,
        func: Callable[..., Any],
        *,
        signature: str | None = None,
        name: str | None = None,
        options: CompilationOptions | None = None,
    ) -> CompiledKernel:
        """Compiles a function.

        Args:
            func: A plain function, or one decorated with ``@kernel`` or ``@cuda_source``.
            signature: Numba signature, such as ``"void(float32[:], float32[:])"``. Without one the function is compiled for the types of
                each call, at the first call with them.
            name: Name for errors and the cache; by default the function's name.
            options: Compilation options; by default those of the compiler.

        Returns:
            The compiled kernel. The same object if the same was compiled before and ``options.cache`` is set.

        Raises:
            KernelCompilationError: The function does not compile, or it is written for a GPU and there is none. The error names file and
                line.
        """
        func = _plain(func)
        options = options or self._options
        name = name or func.__name__
        function_hash = _fingerprint(func, name, signature, options)
        with self._lock:
            if options.cache and (cached := self._compiled_cache.get(function_hash.digest)) is not None:
                return cached
            start = time.perf_counter()
            kernel, ptx = self._build(func, name, signature, options, function_hash)
            milliseconds = (time.perf_counter() - start) * 1e3
            compiled = CompiledKernel(kernel, name, function_hash.digest, signature, options, milliseconds, ptx)
            if options.cache:
                self._compiled_cache[function_hash.digest] = compiled
                self._identified[function_hash.digest] = function_hash.identified
        return compiled

    def warm_up(self, kernel: Callable[..., Any]) -> CompiledKernel:
        """Compiles a function with the options of its decorator or of the compiler, and loads what earlier runs compiled.

        Args:
            kernel: A function, decorated or plain.

        Raises:
            KernelCompilationError: As :meth:`compile`.
        """
        compile_now = getattr(kernel, "compile_now", None)
        compiled: CompiledKernel = compile_now() if compile_now is not None else self.compile(kernel)
        if compiled.signature is None and hasattr(compiled.kernel, "warm_up"):
            compiled.kernel.warm_up()
        return compiled

    def get_cached_kernel(self, source_hash: str) -> CompiledKernel | None:
        """Returns the kernel that this compiler compiled under a hash, or ``None``.

        Args:
            source_hash: ``source_hash`` of a compiled kernel.
        """
        return self._compiled_cache.get(source_hash)

    def clear_cache(self) -> int:
        """Clears the memory cache of this compiler; the disk cache is kept.

        Returns:
            The number of kernels removed.
        """
        with self._lock:
            count = len(self._compiled_cache)
            self._compiled_cache.clear()
            self._identified.clear()
        return count

    def get_cache_stats(self) -> dict[str, int]:
        """Returns the size of the memory cache, as ``cached_kernels``."""
        return {"cached_kernels": len(self._compiled_cache)}

    def __repr__(self) -> str:
        # Does not look for a GPU: that imports Numba.
        cuda = "unknown" if self._cuda is None else self._cuda
        device, cached = self._options.device, len(self._compiled_cache)
        return f"KernelCompiler(device={device!r}, cuda={cuda}, numba={self.numba_available}, cached={cached})"

    def _get_source_hash(self, func: types.FunctionType, signature: str | None, options: CompilationOptions) -> str:
        return _fingerprint(func, func.__name__, signature, options).digest[:16]  # Only for the tests of 0.2, which expect 16 digits.

    def _build(
        self, func: types.FunctionType, name: str, signature: str | None, options: CompilationOptions, fingerprint: Fingerprint
    ) -> tuple[Callable[..., Any], str | None]:
        """Compiles for the device that options, function and machine allow. Returns the callable, and the PTX if available."""
        if options.device != "cpu" and (text := _cuda_source(func)) is not None and (_cupy_finds_a_gpu() or _is_empty(func)):
            return _raw_kernel(func, name, text), None
        grid = written_for_cuda(func)
        if grid and options.device == "cpu":
            cause = ValueError("it uses numba.cuda, but its device is the CPU; use device='cuda', or write it as a loop over arrays")
            raise compilation_error(name, func, cause) from cause
        if grid or (options.device == "cuda" and self.cuda_available):
            return self._build_for_cuda(func, name, signature, options, fingerprint)
        if not self.numba_available:
            _warn_numba_missing()
            return func, None
        from pydotcompute.compilation.numba_kernels import CpuKernel

        return CpuKernel(func, name, signature, options, fingerprint), None

    def _build_for_cuda(
        self, func: types.FunctionType, name: str, signature: str | None, options: CompilationOptions, fingerprint: Fingerprint
    ) -> tuple[Callable[..., Any], str | None]:
        if not self.cuda_available:
            missing = "there is no GPU that Numba can use" if self.numba_available else "Numba is not installed"
            hint = "install pydotcompute[cuda] and NVIDIA's driver, or set NUMBA_ENABLE_CUDASIM=1 to run it in Numba's slow simulator"
            cause = BackendNotAvailableError("cuda", f"{missing}; {hint}")
            raise compilation_error(name, func, cause) from cause
        from pydotcompute.compilation.numba_kernels import CudaKernel

        kernel = CudaKernel(func, name, signature, options, fingerprint)
        return cast(Callable[..., Any], kernel), kernel.ptx


def _fingerprint(func: types.FunctionType, name: str, signature: str | None, options: CompilationOptions) -> Fingerprint:
    """Hashes a function with everything that affects how it is compiled."""
    settings = (options.device, options.fastmath, options.debug, options.lineinfo, options.opt_level)
    return fingerprint(func, name, signature, *settings, _cuda_source(func))


def written_for_cuda(func: Callable[..., Any]) -> bool:
    """Whether a plain function uses ``numba.cuda``, and therefore describes one thread of a grid."""
    names = (str(getattr(value, which, "")) for value in _referenced_objects(func) for which in ("__name__", "__module__"))
    return any(name.startswith("numba.cuda") for name in names)


def _referenced_objects(func: Callable[..., Any]) -> list[Any]:
    """Returns the objects that a function's global and closure names refer to."""
    variables = inspect.getclosurevars(func)
    return [*variables.globals.values(), *variables.nonlocals.values()]


def _plain(func: Callable[..., Any]) -> types.FunctionType:
    """Returns the user's function, without its decorators.

    Raises:
        KernelCompilationError: There is no Python function.
    """
    inner = getattr(func, "_original_func", func)
    inner = getattr(inner, "py_func", inner)
    if not isinstance(inner, types.FunctionType):
        cause = TypeError(f"expected a Python function, got {type(inner).__name__}")
        raise KernelCompilationError(getattr(func, "__name__", repr(func)), cause) from cause
    return inner


def _cuda_source(func: Callable[..., Any]) -> str | None:
    text = getattr(func, "__cuda_source__", None)
    return None if text is None else str(text)


def _numba_finds_a_gpu() -> bool:
    from numba import cuda

    return bool(cuda.is_available())


def _cupy_finds_a_gpu() -> bool:
    if not is_installed("cupy"):
        return False
    import cupy

    return bool(cupy.cuda.is_available())


def _is_empty(func: types.FunctionType) -> bool:
    """Whether the body of a function is empty, so that running it instead of its CUDA source would be silently wrong."""

    def empty() -> None:
        pass

    return func.__code__.co_code == empty.__code__.co_code


def _raw_kernel(func: types.FunctionType, name: str, text: str) -> Callable[..., Any]:
    """Compiles CUDA C++ source with CuPy.

    Raises:
        KernelCompilationError: CuPy or a GPU is missing, or the source does not compile.
    """
    if not _cupy_finds_a_gpu():
        reason = "its CUDA C++ source needs a GPU and CuPy (pip install pydotcompute[cuda]), and its Python body is empty"
        cause: Exception = BackendNotAvailableError("cuda", reason)
        raise compilation_error(name, func, cause) from cause
    import cupy

    try:
        kernel = cupy.RawKernel(text, func.__name__)
        kernel.compile()
    except Exception as error:
        raise compilation_error(name, func, error) from error
    return _RawLaunch(kernel)


class _RawLaunch:
    """A CuPy kernel with Numba's launch syntax."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def __getitem__(self, shape: tuple[Any, ...]) -> Callable[..., None]:
        grid, block = (dim if isinstance(dim, tuple) else (dim,) for dim in shape[:2])

        def launch(*args: Any) -> None:
            self.raw(grid, block, args)

        return launch

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: tuple[Any, ...], **kwargs: Any) -> None:
        self.raw(grid, block, args, **kwargs)


_warned = False


def _warn_numba_missing() -> None:
    """Warns once per process."""
    global _warned
    if not _warned:
        _warned = True
        text = "Numba is not installed, so kernels run as plain Python, about 100 times slower: pip install pydotcompute[fast]"
        warnings.warn(text, RuntimeWarning, stacklevel=_package_frame_count() + 1)


def _package_frame_count() -> int:
    """Returns the number of frames between the caller of this function and the user's code."""
    count, frame = 0, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("pydotcompute."):
        count, frame = count + 1, frame.f_back
    return count - 1


_global_compiler: KernelCompiler | None = None
_compiler_lock = threading.Lock()


def get_compiler() -> KernelCompiler:
    """Returns the compiler that the decorators use."""
    global _global_compiler
    with _compiler_lock:
        if _global_compiler is None:
            _global_compiler = KernelCompiler()
        return _global_compiler


def compile_kernel(func: Callable[..., Any], *, signature: str | None = None, **options: Any) -> CompiledKernel:
    """Compiles a function with the compiler that the decorators use.

    Args:
        func: The function.
        signature: Numba signature.
        options: Fields of :class:`CompilationOptions`.

    Returns:
        The compiled kernel.

    Raises:
        KernelCompilationError: As :meth:`KernelCompiler.compile`.
    """
    return get_compiler().compile(func, signature=signature, options=CompilationOptions(**options) if options else None)
