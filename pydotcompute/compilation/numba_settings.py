"""Settings of Numba that change the code it generates. Users set them by environment variables or ``.numba_config.yaml``."""

from __future__ import annotations

import os

__all__ = ["cpu_settings", "cuda_settings"]

_CPU = (
    "OPT",
    "LOOP_VECTORIZE",
    "SLP_VECTORIZE",
    "LLVM_REFPRUNE_PASS",
    "LLVM_REFPRUNE_FLAGS",
    "DISABLE_INTEL_SVML",
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "USE_LEGACY_TYPE_SYSTEM",
    "USING_SVML",
)

_CUDA = ("OPT", "DEBUGINFO_DEFAULT", "BOUNDSCHECK", "CUDA_DEBUGINFO_DEFAULT", "CUDA_ENABLE_MINOR_VERSION_COMPATIBILITY")


def cpu_settings() -> tuple[str, ...]:
    """Returns the CPU and the settings that machine code for it depends on, as strings. Needs Numba."""
    from numba.core import config
    from numba.core.registry import cpu_target

    codegen = cpu_target.target_context.codegen()
    return (*map(str, codegen.magic_tuple()), *(str(getattr(config, name, None)) for name in _CPU))


def cuda_settings() -> tuple[str, ...]:
    """Returns the compiler and the settings that code for GPUs depends on, as strings. Needs numba-cuda and NVIDIA's compiler."""
    from cuda.pathfinder import load_nvidia_dynamic_lib  # type: ignore[import-not-found]
    from numba.cuda.core import config
    from numba.cuda.cudadrv.nvvm import NVVM

    # Releases of the compiler have the same version of its interface, so its file tells them apart.
    path = load_nvidia_dynamic_lib("nvvm").abs_path
    file = os.stat(path)
    compiler = (path, file.st_size, file.st_mtime_ns, NVVM().get_version(), NVVM().get_ir_version())
    return (*map(str, compiler), *(str(getattr(config, name, None)) for name in _CUDA))
