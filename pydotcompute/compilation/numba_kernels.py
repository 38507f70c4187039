"""Kernels compiled by Numba, for the CPU and for CUDA.

Numba's own disk cache stores code beside the sources, in files that it trusts. A damaged file raises an exception in the user's program,
functions defined in an interactive session are not cached at all, and code of another process may be linked to the wrong function (see
:mod:`pydotcompute.compilation.host_object`). CPU code therefore goes into :class:`~pydotcompute.compilation.cache.KernelCache` instead.
"""

from __future__ import annotations

import hashlib
import logging
import pickle
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydotcompute.compilation._source_location import compilation_error
from pydotcompute.compilation.cache import KernelCache, get_kernel_cache
from pydotcompute.compilation.fingerprint import Fingerprint
from pydotcompute.compilation.host_object import LoadedObject, load_object, object_of
from pydotcompute.compilation.numba_settings import cpu_settings

if TYPE_CHECKING:
    from pydotcompute.compilation.compiler import CompilationOptions

_log = logging.getLogger(__name__)


class CachedOverloads:
    """Numba's cache interface over a :class:`KernelCache`; one object per function.

    An overload is the function compiled for particular types. If storing or loading one fails, this logs it and the function is compiled
    again; it is never an error of the program.
    """

    def __init__(self, store: KernelCache, name: str, func: Callable[..., Any], fingerprint: Fingerprint) -> None:
        """Serves one dispatcher.

        Args:
            store: Cache that stores the code.
            name: Name of the kernel.
            func: The function.
            fingerprint: Hash of the function.
        """
        self._store = store
        self._name = name
        self._func = func
        self._digest = fingerprint.digest

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
        # Registers the conversions of arguments and results.
        target_context.refresh()
        data = self._store.load(self._name, self._key(signature))
        if data is None:
            return None
        try:
            code, description, compiled_signature = pickle.loads(data)
            loaded = load_object(code, self._func.__globals__)
            return None if loaded is None else self._as_overload(loaded, description, compiled_signature, target_context)
        except Exception as error:
            # The checksum was correct, so a different version of some library wrote the entry.
            _log.warning("loading the cached code of %r for %s failed: %r; compiling again", self._name, signature, error)
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Stores the overload for a signature."""
        from numba.core.serialize import dumps

        description = compiled.fndesc
        try:
            code = object_of(compiled, description.llvm_cpython_wrapper_name)
            if code is None:
                _log.info("%r refers to memory of this process and is not cached", self._name)
                return
            # They are large, and only the compiler needs them.
            description.typemap = description.calltypes = None
            data = dumps((code, description, compiled.signature))
            encoded_types = dumps(signature).hex()
        except Exception as error:
            _log.warning("storing the code of %r for %s failed: %r", self._name, signature, error)
            return
        metadata = {"function": self._digest, "types": encoded_types}
        self._store.store(self._name, self._key(signature), data, signature=str(signature), metadata=metadata)

    def _as_overload(self, loaded: LoadedObject, description: Any, signature: Any, target_context: Any) -> Any:
        """Returns Numba's description of a compiled function."""
        from numba import _dynfunc
        from numba.core.compiler import compile_result

        module = sys.modules.get(self._func.__module__)
        entry_point = _dynfunc.make_function(
            module, self._func.__name__, self._func.__doc__ or "", loaded.address, loaded.environment, (loaded,)
        )
        return compile_result(
            target_context=target_context,
            typing_context=target_context.typing_context,
            entry_point=entry_point,
            signature=signature,
            fndesc=description,
            environment=loaded.environment,
            objectmode=False,
            lifted=(),
        )

    def _own_signatures(self) -> list[Any]:
        return [entry for entry in self._store.entries() if entry.metadata.get("function") == self._digest]

    def _key(self, signature: Any) -> str:
        """Returns a hash of function, types, CPU and Numba's settings."""
        return hashlib.sha256(f"{self._digest} {signature} {cpu_settings()}".encode()).hexdigest()[:32]


class CpuKernel:
    """A function compiled for the CPU: for its signature, or for the types of each call, at the first call with them.

    Attributes:
        dispatcher: Numba's dispatcher, for its inspection methods. Code that came from the disk cache cannot be inspected; compile with
            ``cache=False`` for that.
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
            self._cached_overloads = CachedOverloads(get_kernel_cache(), name, func, fingerprint)
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
