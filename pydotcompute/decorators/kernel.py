"""``@kernel`` and ``@gpu_kernel``: functions over arrays, compiled at their first call.

These are one-shot kernels, which run once per call. For kernels that stay resident and handle messages, see ``@ring_kernel``.
"""

from __future__ import annotations

import builtins
import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

from pydotcompute.compilation.compiler import CompilationOptions, CompiledKernel, get_compiler
from pydotcompute.exceptions import InvalidConfigurationError

__all__ = ["KernelRegistry", "OneShotKernel", "cuda_source", "get_kernel_registry", "gpu_kernel", "kernel"]

F = TypeVar("F", bound=Callable[..., Any])

_THREADS_PER_BLOCK = 256


class OneShotKernel:
    """A function with its compilation settings; the result of ``@kernel`` and ``@gpu_kernel``.

    The first call compiles it. A GPU kernel is launched with ``k[grid, block](...)``; called directly, it starts one thread per element of
    its largest array. A CPU kernel is called directly.

    Attributes:
        compiled: The compiled kernel; ``None`` before the first call.
    """

    __name__: str
    __qualname__: str

    def __init__(self, func: Callable[..., Any], name: str | None, signature: str | None, options: CompilationOptions) -> None:
        """Wraps a function. To :mod:`inspect` and :mod:`pickle` the wrapper looks like the function.

        Args:
            func: The function.
            name: Name for errors and the cache; by default the function's name.
            signature: Numba signature to compile for; by default the types of each call.
            options: Compilation options.
        """
        functools.update_wrapper(self, func)
        self._original_func = func
        self._name = name or func.__name__
        self._signature = signature
        self._options = options
        self._lock = threading.Lock()
        self.compiled: CompiledKernel | None = None

    @property
    def _kernel_meta(self) -> dict[str, Any]:
        """The settings, under the names of 0.2."""
        return {
            "name": self._name,
            "signature": self._signature,
            "device": self._options.device,
            "fastmath": self._options.fastmath,
            "debug": self._options.debug,
            "cache": self._options.cache,
            "compiled": self.compiled.kernel if self.compiled is not None else None,
        }

    def compile_now(self) -> CompiledKernel:
        """Compiles the kernel, unless it is compiled already.

        Returns:
            The compiled kernel.

        Raises:
            KernelCompilationError: The function does not compile, or it is written for a GPU and there is none.
        """
        with self._lock:
            if self.compiled is None:
                self.compiled = get_compiler().compile(
                    self._original_func, signature=self._signature, name=self._name, options=self._options
                )
            return self.compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        compiled = self.compiled or self.compile_now()
        if hasattr(compiled.kernel, "__getitem__"):
            threads = max((int(getattr(value, "size", 0)) for value in args), default=0)
            if threads == 0:
                return None
            return self[-(-threads // _THREADS_PER_BLOCK), _THREADS_PER_BLOCK](*args, **kwargs)
        return compiled.kernel(*args, **kwargs)

    def __getitem__(self, shape: Any) -> Callable[..., None]:
        """Returns a launcher for a grid.

        Args:
            shape: Blocks and threads per block, each a number or a tuple; optionally a stream and the bytes of shared memory.

        Returns:
            A function that takes the kernel's arguments.

        Raises:
            InvalidConfigurationError: The kernel was compiled for the CPU, which has no grid.
            KernelCompilationError: As :meth:`compile_now`.
        """
        target = self.compile_now().kernel
        if not hasattr(target, "__getitem__"):
            raise InvalidConfigurationError(
                "grid", shape, f"kernel '{self._name}' runs on the CPU, which has no grid: call it as {self._name}(...)"
            )
        return cast(Callable[..., None], target[shape])

    def __reduce__(self) -> str:
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<kernel {self._name!r} for {self._options.device}>"


@overload
def kernel(func: F) -> F: ...


@overload
def kernel(
    func: None = None,
    *,
    name: str | None = None,
    device: str = "auto",
    fastmath: bool = True,
    cache: bool = True,
    signature: str | None = None,
) -> Callable[[F], F]: ...


def kernel(
    func: F | None = None,
    *,
    name: str | None = None,
    device: str = "auto",
    fastmath: bool = True,
    cache: bool = True,
    signature: str | None = None,
) -> F | Callable[[F], F]:
    """Makes a kernel of a function over arrays. The first call compiles it.

    A function that uses ``numba.cuda`` describes one thread of a grid, and runs on the GPU. Any other function runs on the CPU, with the
    same results on every machine. Without Numba it runs as plain Python, with one warning.

    Args:
        func: The function, if the decorator is used without parentheses.
        name: Name for errors and the cache; by default the function's name.
        device: ``"auto"``, ``"cpu"``, or ``"cuda"``, which compiles it for the GPU in any case if there is one.
        fastmath: Whether the compiler may reorder floating-point operations and assume that there are no NaNs.
        cache: Whether compiled code is cached on disk.
        signature: Numba signature to compile for; by default the types of each call, at the first call with them.

    Returns:
        The kernel, a :class:`OneShotKernel`, which is called like the function.

    Raises:
        InvalidConfigurationError: The device is unknown.

    Example:
        >>> @kernel
        ... def add(a, b, out):
        ...     for i in range(len(out)):
        ...         out[i] = a[i] + b[i]
        >>> out = np.zeros(3)
        >>> add(np.ones(3), np.ones(3), out)
        >>> out
        array([2., 2., 2.])
    """
    options = CompilationOptions(device=device, fastmath=fastmath, cache=cache)

    def decorate(function: F) -> F:
        return cast(F, OneShotKernel(function, name, signature, options))

    return decorate if func is None else decorate(func)


@overload
def gpu_kernel(func: Callable[..., Any]) -> OneShotKernel: ...


@overload
def gpu_kernel(
    func: None = None,
    *,
    name: str | None = None,
    signature: str | None = None,
    fastmath: bool = True,
    debug: bool = False,
    cache: bool = True,
) -> Callable[[Callable[..., Any]], OneShotKernel]: ...


def gpu_kernel(
    func: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    signature: str | None = None,
    fastmath: bool = True,
    debug: bool = False,
    cache: bool = True,
) -> OneShotKernel | Callable[[Callable[..., Any]], OneShotKernel]:
    """Makes a CUDA kernel of a function that describes one thread of a grid. The first launch compiles it.

    Modules with kernels can therefore be imported without a GPU.

    Args:
        func: The function, if the decorator is used without parentheses.
        name: Name for errors and the cache; by default the function's name.
        signature: Numba signature to compile for; by default the types of each launch, at the first launch with them.
        fastmath: Whether the compiler may reorder floating-point operations and assume that there are no NaNs.
        debug: Whether to check array bounds and generate debug information; slow.
        cache: Whether compiled code is cached on disk.

    Returns:
        The kernel, launched with ``k[blocks, threads](...)``. Without a GPU a launch raises ``KernelCompilationError``.

    Example:
        >>> from numba import cuda
        >>> @gpu_kernel
        ... def add(a, b, out):
        ...     i = cuda.grid(1)
        ...     if i < out.size:
        ...         out[i] = a[i] + b[i]
        >>> add[blocks, 256](a, b, out)  # doctest: +SKIP
    """
    options = CompilationOptions(device="cuda", fastmath=fastmath, debug=debug, cache=cache)

    def decorate(function: Callable[..., Any]) -> OneShotKernel:
        return OneShotKernel(function, name, signature, options)

    return decorate if func is None else decorate(func)


def cuda_source(source: str) -> Callable[[F], F]:
    """Attaches CUDA C++ source to a function. On a GPU the source is compiled instead of the function; this needs CuPy.

    On the CPU the body of the function is compiled.

    Args:
        source: CUDA C++ source with an ``extern "C" __global__`` function of the Python function's name.

    Returns:
        The decorator, to be placed below ``@kernel``.

    Example:
        >>> @cuda_source('extern "C" __global__ void twice(float* a) { a[threadIdx.x] *= 2; }')
        ... def twice(a):
        ...     a *= 2
    """

    def decorate(func: F) -> F:
        func.__cuda_source__ = source  # type: ignore[attr-defined]
        return func

    return decorate


class KernelRegistry:
    """The kernels of this process, by name. A singleton; thread-safe."""

    _instance: KernelRegistry | None = None
    _kernels: dict[str, Callable[..., Any]]
    _lock = threading.Lock()

    def __new__(cls) -> KernelRegistry:
        with cls._lock:
            if cls._instance is None:
                cls._instance = super().__new__(cls)
                cls._instance._kernels = {}
            return cls._instance

    def register(self, name: str, kernel: Callable[..., Any], *, overwrite: bool = False) -> None:
        """Registers a kernel.

        Args:
            name: Name of the kernel.
            kernel: The kernel.
            overwrite: Whether to replace a kernel of the same name.

        Raises:
            ValueError: The name is in use, and `overwrite` is false.
        """
        with self._lock:
            if name in self._kernels and not overwrite:
                raise ValueError(f"Kernel '{name}' is already registered; choose another name, or pass overwrite=True")
            self._kernels[name] = kernel

    def get(self, name: str) -> Callable[..., Any] | None:
        """Returns the kernel of this name, or ``None``.

        Args:
            name: Name under which the kernel was registered.
        """
        return self._kernels.get(name)

    def list(self) -> builtins.list[str]:
        """Returns the names, in order of registration."""
        return [*self._kernels]

    def clear(self) -> None:
        """Removes all kernels."""
        with self._lock:
            self._kernels.clear()


def get_kernel_registry() -> KernelRegistry:
    """Returns the kernel registry of this process."""
    return KernelRegistry()
