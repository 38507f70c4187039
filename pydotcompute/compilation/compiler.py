"""Compiles Python functions to machine code of the CPU or to CUDA kernels."""

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
    """How a function is compiled.

    Attributes:
        device: ``"cuda"``: for the GPU, or for the CPU where there is none and the function is not written for a grid of threads;
            ``"cpu"``;
            ``"auto"``: what is written for a grid for the GPU, all else for the CPU.
        fastmath: Whether floating-point operations may be reordered and NaN assumed away.
        debug: Whether indices are checked, and debuggers find lines; slow.
        lineinfo: Whether profilers find lines; CUDA only.
        opt_level: 0 to 3; for CUDA, 0 turns optimisation off. Numba optimises for the CPU by ``NUMBA_OPT`` alone.
        cache: Whether what is compiled is kept, in memory and on disk.
    """

    device: str = "cuda"
    fastmath: bool = True
    debug: bool = False
    lineinfo: bool = False
    opt_level: int = 3
    cache: bool = True

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            InvalidConfigurationError: If there is no such device or level.
        """
        if self.device not in _DEVICES:
            raise InvalidConfigurationError("device", self.device, f"must be one of {', '.join(_DEVICES)}")
        if not 0 <= self.opt_level <= 3:
            raise InvalidConfigurationError("opt_level", self.opt_level, "must be 0 to 3")


@dataclass
class CompiledKernel:
    """A compiled function.

    Attributes:
        kernel: What to call; a CUDA kernel is launched with ``kernel[grid, block](...)``.
        name: Its name.
        source_hash: The hash of the function, all that it refers to, and the options.
        signature: The types that it was compiled for; without, it is compiled for those of each call when they first come.
        options: How it was compiled.
        compile_time_ms: How long :meth:`KernelCompiler.compile` took, in milliseconds.
        ptx: For a CUDA kernel with a signature, its PTX.
    """

    kernel: Callable[..., Any]
    name: str
    source_hash: str
    signature: str | None
    options: CompilationOptions
    compile_time_ms: float = 0.0
    ptx: str | None = None


class KernelCompiler:
    """Compiles functions with Numba, and remembers what it compiled. Any thread may use it.

    Without Numba a function runs as the plain Python that it is, and one warning says so.

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
        """Makes a compiler.

        Args:
            options: What :meth:`compile` uses if it is given none.
        """
        self._options = options or CompilationOptions()
        self._compiled: dict[str, CompiledKernel] = {}
        self._lock = threading.RLock()
        self._cuda: bool | None = None

    @property
    def cuda_available(self) -> bool:
        """Whether there is a GPU that Numba can launch kernels on; Numba's simulator counts as one. Asked once, when it is first needed."""
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
            func: A plain function, or one that was decorated with ``@kernel`` or ``@cuda_source``.
            signature: The types of its parameters as Numba writes them, ``"void(float32[:], float32[:])"``. Without, it is compiled for the
                types of each call when they first come.
            name: What it is called in errors and in the cache; by default the function's name.
            options: How; by default the compiler's own.

        Returns:
            What to call, and what is known about it. The same object, if the same was compiled before and ``options.cache`` is set.

        Raises:
            KernelCompilationError: If the function does not compile, or is written for a GPU and there is none. Its text names file and
                line.
        """
        func = _plain(func)
        options = options or self._options
        name = name or func.__name__
        print_ = fingerprint(
            func, name, signature, options.device, options.fastmath, options.debug, options.lineinfo, options.opt_level, _cuda_text(func)
        )
        with self._lock:
            if options.cache and (known := self._compiled.get(print_.digest)) is not None:
                return known
            begun = time.perf_counter()
            kernel, ptx = self._build(func, name, signature, options, print_)
            milliseconds = (time.perf_counter() - begun) * 1e3
            compiled = CompiledKernel(kernel, name, print_.digest, signature, options, milliseconds, ptx)
            if options.cache:
                self._compiled[print_.digest] = compiled
        return compiled

    def warm_up(self, kernel: Callable[..., Any]) -> CompiledKernel:
        """Compiles a function as its decorator says, or by the compiler's own options, and brings in what earlier runs compiled.

        Raises:
            KernelCompilationError: As :meth:`compile`.
        """
        compile_now = getattr(kernel, "compile_now", None)
        compiled: CompiledKernel = compile_now() if compile_now is not None else self.compile(kernel)
        if compiled.signature is None and hasattr(compiled.kernel, "warm_up"):
            compiled.kernel.warm_up()
        return compiled

    def get_cached_kernel(self, source_hash: str) -> CompiledKernel | None:
        """What this compiler has compiled under a hash, or ``None``."""
        return self._compiled.get(source_hash)

    def clear_cache(self) -> int:
        """Forgets what this compiler has compiled; what is on disk stays.

        Returns:
            How many kernels were forgotten.
        """
        with self._lock:
            count = len(self._compiled)
            self._compiled.clear()
        return count

    def get_cache_stats(self) -> dict[str, int]:
        """How many kernels this compiler remembers, as ``cached_kernels``."""
        return {"cached_kernels": len(self._compiled)}

    def __repr__(self) -> str:
        return f"KernelCompiler(device={self._options.device!r}, numba={self.numba_available}, cached={len(self._compiled)})"

    def _build(
        self, func: types.FunctionType, name: str, signature: str | None, options: CompilationOptions, print_: Fingerprint
    ) -> tuple[Callable[..., Any], str | None]:
        """Compiles for the place that the options, the function and the machine agree on; gives what to call, and PTX if there is some."""
        if options.device != "cpu" and (text := _cuda_text(func)) is not None and (_cupy_finds_a_gpu() or _is_empty(func)):
            return _raw_kernel(func, name, text), None
        grid = written_for_cuda(func)
        if grid and options.device == "cpu":
            cause = ValueError("it uses numba.cuda and is to run on the CPU; give it device='cuda', or write it as a loop over arrays")
            raise compilation_error(name, func, cause) from cause
        if grid or (options.device == "cuda" and self.cuda_available):
            return self._build_for_cuda(func, name, signature, options, print_)
        if not self.numba_available:
            _warn_that_numba_is_missing()
            return func, None
        from pydotcompute.compilation.numba_kernels import CpuKernel

        return CpuKernel(func, name, signature, options, print_), None

    def _build_for_cuda(
        self, func: types.FunctionType, name: str, signature: str | None, options: CompilationOptions, print_: Fingerprint
    ) -> tuple[Callable[..., Any], str | None]:
        if not self.cuda_available:
            lacks = "there is no GPU that Numba can use" if self.numba_available else "Numba is not installed"
            hint = "install pydotcompute[cuda] and NVIDIA's driver, or set NUMBA_ENABLE_CUDASIM=1 to run it, slowly, on the CPU"
            cause = BackendNotAvailableError("cuda", f"{lacks}; {hint}")
            raise compilation_error(name, func, cause) from cause
        from pydotcompute.compilation.numba_kernels import CudaKernel

        kernel = CudaKernel(func, name, signature, options, print_)
        return cast(Callable[..., Any], kernel), kernel.ptx


def written_for_cuda(func: Callable[..., Any]) -> bool:
    """Whether a plain function uses ``numba.cuda``, and so says what one thread of a grid does."""
    names = (str(getattr(value, which, "")) for value in _referred(func) for which in ("__name__", "__module__"))
    return any(name.startswith("numba.cuda") for name in names)


def _referred(func: Callable[..., Any]) -> list[Any]:
    """What a function's names stand for outside it."""
    variables = inspect.getclosurevars(func)
    return [*variables.globals.values(), *variables.nonlocals.values()]


def _plain(func: Callable[..., Any]) -> types.FunctionType:
    """The function that the user wrote, out of its decorators.

    Raises:
        KernelCompilationError: If there is none.
    """
    inner = getattr(func, "_original_func", func)
    inner = getattr(inner, "py_func", inner)
    if not isinstance(inner, types.FunctionType):
        cause = TypeError(f"{type(inner).__name__} is no function that was written in Python")
        raise KernelCompilationError(getattr(func, "__name__", repr(func)), cause) from cause
    return inner


def _cuda_text(func: Callable[..., Any]) -> str | None:
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
    """Whether a function does nothing, so that running it in the place of its CUDA text would silently be wrong."""

    def empty() -> None:
        pass

    return func.__code__.co_code == empty.__code__.co_code


def _raw_kernel(func: types.FunctionType, name: str, text: str) -> Callable[..., Any]:
    """Gives CUDA C++ to CuPy.

    Raises:
        KernelCompilationError: If there is no CuPy or no GPU, or the text does not compile.
    """
    if not _cupy_finds_a_gpu():
        reason = "its CUDA C++ text needs a GPU and CuPy (pip install pydotcompute[cuda]), and its own body is empty"
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
    """CuPy's kernel with Numba's way of launching it."""

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


def _warn_that_numba_is_missing() -> None:
    """Once for a process: each kernel would only repeat it."""
    global _warned
    if not _warned:
        _warned = True
        text = "Numba is not installed, so kernels run as plain Python, some 100 times slower: pip install pydotcompute[fast]"
        warnings.warn(text, RuntimeWarning, stacklevel=_frames_of_this_package() + 1)


def _frames_of_this_package() -> int:
    """How many calls lie between the caller of this function and the user's code."""
    count, frame = 0, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("pydotcompute."):
        count, frame = count + 1, frame.f_back
    return count - 1


_compiler: KernelCompiler | None = None
_compiler_lock = threading.Lock()


def get_compiler() -> KernelCompiler:
    """The compiler that the decorators use."""
    global _compiler
    with _compiler_lock:
        if _compiler is None:
            _compiler = KernelCompiler()
        return _compiler


def compile_kernel(func: Callable[..., Any], *, signature: str | None = None, **options: Any) -> CompiledKernel:
    """Compiles a function with the compiler that the decorators use.

    Args:
        func: The function.
        signature: The types of its parameters, as Numba writes them.
        options: The fields of :class:`CompilationOptions`.

    Returns:
        What to call, and what is known about it.

    Raises:
        KernelCompilationError: As :meth:`KernelCompiler.compile`.
    """
    return get_compiler().compile(func, signature=signature, options=CompilationOptions(**options) if options else None)
