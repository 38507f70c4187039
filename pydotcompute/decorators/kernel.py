"""``@kernel`` and ``@gpu_kernel``: functions over arrays that are compiled when they are first called.

These are one-shot kernels, which run once per call and end. For what stays and handles messages, see ``@ring_kernel``.
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
    """A function with the settings it is compiled by; what ``@kernel`` and ``@gpu_kernel`` make.

    Calling it compiles it first, once. A kernel on the GPU is launched as ``k[grid, block](...)``, or called plainly, which starts a thread
    for each element of the largest array. A kernel on the CPU is called plainly.

    Attributes:
        compiled: What it was compiled to, or ``None`` until then.
    """

    __name__: str
    __qualname__: str

    def __init__(self, func: Callable[..., Any], name: str | None, signature: str | None, options: CompilationOptions) -> None:
        """Wraps a function; it looks like the function to :mod:`inspect` and pickles by its name, as a function does.

        Args:
            func: The function.
            name: What it is called in errors and in the cache; by default the function's name.
            signature: The types it is compiled for; by default those of each call.
            options: How it is compiled.
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
        """The settings, by the names that 0.2 gave them."""
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
        """Compiles it, unless that was done before.

        Returns:
            What it was compiled to.

        Raises:
            KernelCompilationError: If it does not compile, or is written for a GPU and there is none.
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
        """Gives what launches it over a grid.

        Args:
            shape: Blocks and threads per block, each a number or a tuple; then, if wanted, a stream and bytes of shared memory.

        Returns:
            A function that takes the kernel's arguments.

        Raises:
            InvalidConfigurationError: If it was compiled for the CPU, where there is no grid.
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
    """Makes a kernel of a function over arrays. It is compiled when it is first called.

    A function that uses ``numba.cuda`` is what one thread of a grid does, and runs on the GPU; any other runs on the CPU, with the same
    results on every machine. Without Numba it runs as plain Python, and one warning says so.

    Args:
        func: The function, if the decorator is written without parentheses.
        name: What it is called in errors and in the cache; by default the function's name.
        device: ``"auto"``, ``"cpu"``, or ``"cuda"``, which compiles it for the GPU in any case if there is one.
        fastmath: Whether floating-point operations may be reordered and NaN assumed away.
        cache: Whether what is compiled is kept on disk.
        signature: The types it is compiled for, as Numba writes them; by default those of each call, when they first come.

    Returns:
        The kernel, a :class:`OneShotKernel`, which is called as the function is.

    Raises:
        InvalidConfigurationError: If there is no such device.

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
    """Makes a CUDA kernel of a function that says what one thread of a grid does. It is compiled at its first launch, so that a module with
    kernels can be imported on a machine without a GPU.

    Args:
        func: The function, if the decorator is written without parentheses.
        name: What it is called in errors and in the cache; by default the function's name.
        signature: The types it is compiled for, as Numba writes them; by default those of each launch, when they first come.
        fastmath: Whether floating-point operations may be reordered and NaN assumed away.
        debug: Whether indices are checked, and debuggers find lines; slow.
        cache: Whether what is compiled is kept on disk.

    Returns:
        The kernel, to be launched as ``k[blocks, threads](...)``. Launching it where there is no GPU raises ``KernelCompilationError``.

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
    """Gives a function a text in CUDA C++, which is compiled in its place where it runs on a GPU; it needs CuPy. On the CPU the function's
    own body is compiled.

    Args:
        source: The text, with an ``extern "C" __global__`` function of the Python function's name.

    Returns:
        The decorator, to be written below ``@kernel``.

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
    """The kernels of this process, by name. There is one; any thread may use it."""

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
        """Enters a kernel.

        Args:
            name: Its name.
            kernel: The kernel.
            overwrite: Whether it may take the place of another.

        Raises:
            ValueError: If there is one of this name, and it may not.
        """
        with self._lock:
            if name in self._kernels and not overwrite:
                raise ValueError(f"Kernel '{name}' is already registered; choose another name, or pass overwrite=True")
            self._kernels[name] = kernel

    def get(self, name: str) -> Callable[..., Any] | None:
        """The kernel of this name, or ``None``."""
        return self._kernels.get(name)

    def list(self) -> builtins.list[str]:
        """The names, in the order of their entry."""
        return [*self._kernels]

    def clear(self) -> None:
        """Removes every kernel."""
        with self._lock:
            self._kernels.clear()


def get_kernel_registry() -> KernelRegistry:
    """The kernels of this process."""
    return KernelRegistry()
