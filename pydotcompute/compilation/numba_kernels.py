"""Kernels compiled by Numba, for the CPU and for CUDA.

Numba's own disk cache stores code beside the sources, in files that it trusts. A damaged file raises an exception in the user's program,
and functions defined in an interactive session are not cached at all. CPU code therefore goes into
:class:`~pydotcompute.compilation.cache.KernelCache` instead.
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
    """Numba's cache interface over a :class:`KernelCache`; one object per function.

    An overload is the function compiled for particular types. If storing or loading one fails, this logs it and the function is compiled
    again; it is never an error of the program.
    """

    def __init__(self, store: KernelCache, name: str, fingerprint: Fingerprint) -> None:
        """Serves one dispatcher.

        Args:
            store: Cache that stores the code.
            name: Name of the kernel.
            fingerprint: Hash of the function.
        """
        from numba.core.caching import CompileResultCacheImpl

        self._store = store
        self._name = name
        self._digest = fingerprint.digest
        self._serializer = CompileResultCacheImpl

    @property
    def cache_path(self) -> str:
        return str(self._store.get_stats()["cache_dir"])

    def enable(self) -> None:
        """Called by Numba; nothing to do."""

    def disable(self) -> None:
        """Called by Numba; nothing to do."""

    def flush(self) -> None:
        """Removes the cached overloads of this function, so that Numba compiles them again."""
        for entry in self._own_signatures():
            self._store.remove(entry.kernel_name, entry.source_hash)

    def signatures(self) -> list[Any]:
        """Returns the signatures of the cached overloads, so that they can be loaded before the first call."""
        found = []
        for entry in self._own_signatures():
            try:
                found.append(pickle.loads(bytes.fromhex(entry.metadata["types"])))
            except Exception as error:
                _log.warning("reading the cached types of %r failed: %r", self._name, error)
        return found

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Loads the overload for a signature, or returns ``None``."""
        target_context.refresh()
        data = self._store.load(self._name, self._key(signature, target_context.codegen()))
        if data is None:
            return None
        try:
            return self._serializer.rebuild(None, target_context, pickle.loads(data))
        except Exception as error:
            # The checksum was correct, so a different version of some library wrote the entry.
            _log.warning("loading the cached code of %r for %s failed: %r; compiling again", self._name, signature, error)
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Stores the overload for a signature."""
        if _is_process_specific(compiled):
            _log.info("%r refers to memory of this process and is not cached", self._name)
            return
        from numba.core.serialize import dumps

        try:
            data = dumps(self._serializer.reduce(None, compiled))
            encoded_types = dumps(signature).hex()
        except Exception as error:
            _log.warning("storing the code of %r for %s failed: %r", self._name, signature, error)
            return
        key = self._key(signature, compiled.codegen)
        self._store.store(self._name, key, data, signature=str(signature), metadata={"function": self._digest, "types": encoded_types})

    def _own_signatures(self) -> list[Any]:
        return [entry for entry in self._store.entries() if entry.metadata.get("function") == self._digest]

    def _key(self, signature: Any, codegen: Any) -> str:
        """Returns a hash of function, types and CPU."""
        return hashlib.sha256(f"{self._digest} {signature} {codegen.magic_tuple()}".encode()).hexdigest()[:32]


def _is_process_specific(compiled: Any) -> bool:
    lifted = any(not one.can_cache for one in getattr(compiled, "lifted", ()))
    return lifted or bool(getattr(getattr(compiled, "library", None), "has_dynamic_globals", False))


class CpuKernel:
    """A function compiled for the CPU: for its signature, or for the types of each call, at the first call with them.

    Attributes:
        dispatcher: Numba's dispatcher, for its inspection methods.
    """

    def __init__(
        self, func: Callable[..., Any], name: str, signature: str | None, options: CompilationOptions, fingerprint: Fingerprint
    ) -> None:
        """Compiles the function if there is a signature.

        Raises:
            KernelCompilationError: The function does not compile.
        """
        from numba import njit

        self._func = func
        self._name = name
        self.dispatcher = njit(fastmath=options.fastmath, debug=options.debug, boundscheck=options.debug or None)(func)
        self._cached_overloads: CachedOverloads | None = None
        if options.cache and fingerprint.lasting:
            self._cached_overloads = CachedOverloads(get_kernel_cache(), name, fingerprint)
            self.dispatcher._cache = self._cached_overloads
        if signature is not None:
            self.compile(signature)
            self.dispatcher.disable_compile()

    def compile(self, signature: Any) -> None:
        """Compiles for a Numba signature, such as ``"float32(float32[:], float32)"``.

        Raises:
            KernelCompilationError: The function does not compile, or the signature is invalid.
        """
        try:
            self.dispatcher.compile(signature)
        except Exception as error:
            raise compilation_error(self._name, self._func, error) from error

    def warm_up(self) -> int:
        """Loads the overloads that earlier runs compiled.

        Returns:
            The number of overloads loaded.
        """
        signatures = self._cached_overloads.signatures() if self._cached_overloads is not None else []
        for signature in signatures:
            self.compile(signature)
        return len(signatures)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self.dispatcher(*args, **kwargs)
        except Exception as error:
            if not _is_numba_error(error):
                raise
            raise compilation_error(self._name, self._func, error) from error


class CudaKernel:
    """A function compiled for CUDA, launched with ``kernel[blocks, threads](...)``.

    Attributes:
        dispatcher: Numba's dispatcher, for its inspection methods.
        ptx: The PTX, if it was compiled for a signature.
    """

    def __init__(
        self, func: Callable[..., Any], name: str, signature: str | None, options: CompilationOptions, fingerprint: Fingerprint
    ) -> None:
        """Compiles the function if there is a signature. Needs a GPU, or Numba's simulator.

        Raises:
            KernelCompilationError: The function does not compile.
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
            # Numba's simulator does not compile, and has neither of these methods.
            if options.cache and fingerprint.lasting and hasattr(self.dispatcher, "enable_caching"):
                _enable_numba_cache(self.dispatcher, name)
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
                if not _is_numba_error(error):
                    raise
                raise compilation_error(self._name, self._func, error) from error

        return launch


def _enable_numba_cache(dispatcher: Any, name: str) -> None:
    """Enables Numba's own disk cache for a CUDA kernel. A damaged cache file then costs a compilation, not the program.

    :class:`CachedOverloads` is not used here, because Numba's built-in CUDA target and NVIDIA's differ in which kernels can be cached, and
    under which key.
    """
    try:
        dispatcher.enable_caching()
    except RuntimeError as error:
        # The function was defined in an interactive session: there is no source file to store the cache beside.
        _log.info("kernel %r is not cached: %s", name, error)
        return
    cache = dispatcher._cache
    cache.load_overload = _logging_failures(cache.load_overload, cache, name)
    cache.save_overload = _logging_failures(cache.save_overload, cache, name)


def _logging_failures(method: Callable[..., Any], cache: Any, name: str) -> Callable[..., Any]:
    """Wraps a method of a Numba cache: a failure is logged and clears the cache."""

    def attempt(*args: Any) -> Any:
        try:
            return method(*args)
        except Exception as error:
            _log.warning("using the cached code of kernel %r failed: %r; compiling again", name, error)
            cache.flush()
            return None

    return attempt


def _is_numba_error(error: Exception) -> bool:
    """Whether an exception is the compiler's, not the kernel's. Compared by name: NVIDIA's CUDA target has classes of its own."""
    return any(cls.__name__ == "NumbaError" for cls in type(error).__mro__)
