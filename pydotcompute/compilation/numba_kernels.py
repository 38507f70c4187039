"""What Numba does for this package: functions become machine code for the CPU, or kernels for CUDA.

Numba keeps compiled code beside the sources, in files that it trusts: a damaged one is an exception in the user's program, and a function
typed into an interpreter cannot be kept at all. So the code goes into :class:`~pydotcompute.compilation.cache.KernelCache` instead.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydotcompute.compilation._source_location import compilation_error
from pydotcompute.compilation.cache import KernelCache, get_kernel_cache
from pydotcompute.compilation.fingerprint import Fingerprint

if TYPE_CHECKING:
    from pydotcompute.compilation.compiler import CompilationOptions

_log = logging.getLogger(__name__)


class CachedOverloads:
    """What a dispatcher of Numba asks for compiled code, with the methods that it calls; one for each function.

    An overload is the function compiled for some types. That it cannot be kept or brought back is a line in the log and a compilation more,
    never an error of the program.
    """

    def __init__(self, store: KernelCache, name: str, fingerprint: Fingerprint) -> None:
        """Serves one dispatcher.

        Args:
            store: Where the code is kept.
            name: The kernel's name.
            fingerprint: The function's hash.
        """
        from numba.core.caching import CompileResultCacheImpl

        self._store = store
        self._name = name
        self._digest = fingerprint.digest
        self._form = CompileResultCacheImpl

    @property
    def cache_path(self) -> str:
        return str(self._store.get_stats()["cache_dir"])

    def enable(self) -> None:
        """Numba calls it; there is nothing to do."""

    def disable(self) -> None:
        """Numba calls it; there is nothing to do."""

    def flush(self) -> None:
        """Forgets what was kept for this function: Numba compiles it anew."""
        for entry in self._own_signatures():
            self._store.remove(entry.kernel_name, entry.source_hash)

    def signatures(self) -> list[Any]:
        """The types for which code is kept, so that it can be brought in before the first call."""
        found = []
        for entry in self._own_signatures():
            try:
                found.append(pickle.loads(bytes.fromhex(entry.metadata["types"])))
            except Exception as error:
                _log.warning("cannot read the types of %r in the cache: %r", self._name, error)
        return found

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Brings back the code for some types, or ``None``."""
        target_context.refresh()
        data = self._store.load(self._name, self._key(signature, target_context.codegen()))
        if data is None:
            return None
        try:
            return self._form.rebuild(None, target_context, pickle.loads(data))
        except Exception as error:
            # The bytes are what was stored, so another version of something has stored them.
            _log.warning("cannot use the kept code of %r for %s: %r; compiling again", self._name, signature, error)
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keeps the code for some types."""
        if _depends_on_this_process(compiled):
            _log.info("%r refers to memory of this process and is not kept", self._name)
            return
        from numba.core.serialize import dumps

        try:
            data = dumps(self._form.reduce(None, compiled))
            kept_types = dumps(signature).hex()
        except Exception as error:
            _log.warning("cannot keep the code of %r for %s: %r", self._name, signature, error)
            return
        key = self._key(signature, compiled.codegen)
        self._store.store(self._name, key, data, signature=str(signature), metadata={"function": self._digest, "types": kept_types})

    def _own_signatures(self) -> list[Any]:
        return [entry for entry in self._store.entries() if entry.metadata.get("function") == self._digest]

    def _key(self, signature: Any, codegen: Any) -> str:
        """A hash of function, types and processor."""
        return hashlib.sha256(f"{self._digest} {signature} {codegen.magic_tuple()}".encode()).hexdigest()[:32]


def _depends_on_this_process(compiled: Any) -> bool:
    lifted = any(not one.can_cache for one in getattr(compiled, "lifted", ()))
    return lifted or bool(getattr(getattr(compiled, "library", None), "has_dynamic_globals", False))


class CpuKernel:
    """A function compiled for the CPU: for its signature, or for the types of each call, when they first come.

    Attributes:
        dispatcher: Numba's object, for its inspection methods.
    """

    def __init__(
        self, func: Callable[..., Any], name: str, signature: str | None, options: CompilationOptions, print_: Fingerprint
    ) -> None:
        """Compiles the function if there is a signature.

        Raises:
            KernelCompilationError: If it does not compile.
        """
        from numba import njit

        self._func = func
        self._name = name
        self.dispatcher = njit(fastmath=options.fastmath, debug=options.debug, boundscheck=options.debug or None)(func)
        self._cached_overloads: CachedOverloads | None = None
        if options.cache and print_.lasting:
            self._cached_overloads = CachedOverloads(get_kernel_cache(), name, print_)
            self.dispatcher._cache = self._cached_overloads
        if signature is not None:
            self.compile(signature)
            self.dispatcher.disable_compile()

    def compile(self, signature: Any) -> None:
        """Compiles for some types: a signature as Numba writes it, ``"float32(float32[:], float32)"``.

        Raises:
            KernelCompilationError: If it does not compile, or Numba cannot read the signature.
        """
        try:
            self.dispatcher.compile(signature)
        except Exception as error:
            raise compilation_error(self._name, self._func, error) from error

    def warm_up(self) -> int:
        """Brings in what earlier runs compiled.

        Returns:
            For how many combinations of types.
        """
        signatures = self._cached_overloads.signatures() if self._cached_overloads is not None else []
        for signature in signatures:
            self.compile(signature)
        return len(signatures)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.dispatcher(*args, **kwargs)
        except Exception as error:
            if not _is_numbas(error):
                raise
            raise compilation_error(self._name, self._func, error) from error


class CudaKernel:
    """A function compiled for CUDA, launched as ``kernel[blocks, threads](...)``.

    Attributes:
        dispatcher: Numba's object, for its inspection methods.
        ptx: Its PTX, if it was compiled for a signature.
    """

    def __init__(
        self, func: Callable[..., Any], name: str, signature: str | None, options: CompilationOptions, print_: Fingerprint
    ) -> None:
        """Compiles the function if there is a signature. Needs a GPU, or Numba's simulator.

        Raises:
            KernelCompilationError: If it does not compile.
        """
        from numba import cuda

        self._func = func
        self._name = name
        self.ptx: str | None = None
        settings = {"fastmath": options.fastmath, "debug": options.debug, "opt": options.opt_level > 0 and not options.debug}
        if options.lineinfo:
            settings["lineinfo"] = True
        try:
            self.dispatcher = cuda.jit(**settings)(func)
            # Numba's simulator compiles nothing, and has neither of these.
            if options.cache and print_.lasting and hasattr(self.dispatcher, "enable_caching"):
                _cache_beside_the_source(self.dispatcher, name)
            if signature is not None and hasattr(self.dispatcher, "compile"):
                self.dispatcher.compile(signature)
                self.ptx = next(iter(self.dispatcher.inspect_asm().values()))
        except Exception as error:
            raise compilation_error(name, func, error) from error

    def __getitem__(self, shape: Any) -> Callable[..., None]:
        configured = self.dispatcher[shape]

        def launch(*args: Any) -> None:
            try:
                configured(*args)
            except Exception as error:
                if not _is_numbas(error):
                    raise
                raise compilation_error(self._name, self._func, error) from error

        return launch


def _cache_beside_the_source(dispatcher: Any, name: str) -> None:
    """Has Numba keep a CUDA kernel in its own files, and makes a damaged one cost a compilation, not the program.

    They are not :class:`CachedOverloads`, since which kernels may be kept, and under which key, differs between Numba's own CUDA target and
    NVIDIA's.
    """
    try:
        dispatcher.enable_caching()
    except RuntimeError as error:
        _log.info("kernel %r is not kept: %s", name, error)  # It was typed into an interpreter: there is no source to keep it beside.
        return
    cache = dispatcher._cache
    cache.load_overload = _forgiving(cache.load_overload, cache, name)
    cache.save_overload = _forgiving(cache.save_overload, cache, name)


def _forgiving(method: Callable[..., Any], cache: Any, name: str) -> Callable[..., Any]:
    """A method of a cache of Numba's, after whose failure the cache is empty."""

    def attempt(*args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            _log.warning("the kept code of kernel %r cannot be used: %r; compiling again", name, error)
            cache.flush()
            return None

    return attempt


def _is_numbas(error: Exception) -> bool:
    """Whether an exception is the compiler's, and not the kernel's own. By name: NVIDIA's CUDA target has classes of its own."""
    return any(cls.__name__ == "NumbaError" for cls in type(error).__mro__)
