"""Machine code that Numba compiled for the CPU, as one relocatable object that any process of the same versions and CPU can load.

Numba's own cache loads an object into one space of symbols for the whole process. A symbol names a function by module, name and a
counter, which starts at 1 in every process. An object of another process may therefore define the symbol of a different function, and
the linker then silently takes whichever it has seen first. Here an object exports one function, and is linked in a space of its own.
"""

from __future__ import annotations

import ctypes
import pickle
from dataclasses import dataclass
from typing import Any

__all__ = ["LoadedObject", "load_object", "object_of"]

_EXPORTED = "dotcompute_function"
_ENVIRONMENT = "dotcompute_environment"
# Numba's names of the pointers to environments, which hold the Python objects that machine code refers to.
_NUMBA_ENVIRONMENT = "_ZN08NumbaEnv"
_INTRINSIC = "llvm."


@dataclass(frozen=True)
class LoadedObject:
    """Machine code in memory, until the last reference to this object is gone.

    Attributes:
        address: Address of the exported function.
        environment: Numba's environment of the code, which holds no objects.
        linker: Owner of the memory.
    """

    address: int
    environment: object
    linker: object


def object_of(compiled: Any, exported: str) -> bytes | None:
    """Returns the machine code of a function that Numba compiled, for :func:`load_object`.

    Args:
        compiled: Numba's ``CompileResult``.
        exported: Symbol of the function to export: the function itself, or its wrapper for Python.

    Returns:
        The object; ``None`` if the machine code depends on more than the versions and the CPU: on the address of a large array or of a C
        function, on a Python object, or on the start of a thread pool.
    """
    import llvmlite.binding as llvm  # type: ignore[import-untyped]
    from numba.core.environment import lookup_environment

    library = compiled.library
    if library.has_dynamic_globals or compiled.lifted or compiled.reload_init or library._reload_init:
        return None
    module = library._final_module.clone()
    imports, environments = [], 0
    for value in [*module.functions, *module.global_variables]:
        if value.is_declaration:
            if not value.name.startswith(_INTRINSIC):
                imports.append(value.name)
        elif value.name == exported:
            value.name = _EXPORTED
        elif value.name.startswith(_NUMBA_ENVIRONMENT):
            environment = lookup_environment(value.name)
            if environment is None or environment.consts:
                return None
            value.linkage = llvm.Linkage.external
            value.name = f"{_ENVIRONMENT}_{environments}"
            environments += 1
        else:
            value.linkage = llvm.Linkage.internal
    if _missing(imports):
        # Numba links such a function when it has compiled it.
        return None
    return pickle.dumps((imports, environments, library.codegen._tm.emit_object(module)))


def load_object(data: bytes, variables: dict[str, Any]) -> LoadedObject | None:
    """Loads machine code into memory.

    Args:
        data: A result of :func:`object_of`, in a process with the same CPU and the same versions of Python, Numba and llvmlite.
        variables: Global variables of the Python function.

    Returns:
        The code; ``None`` if this process lacks a function that it calls.
    """
    import llvmlite.binding as llvm
    from numba.core.environment import Environment
    from numba.core.registry import cpu_target

    # The target registers the functions that machine code calls: of Numba's runtime and of the C library.
    target_context = cpu_target.target_context
    imports, environments, code = pickle.loads(data)
    if _missing(imports):
        target_context.refresh()
        if _missing(imports):
            return None
    linker = _new_linker(target_context.codegen())
    linker.add_object_file(llvm.ObjectFileRef.from_data(code))
    linker.finalize_object()
    # The code checks that it has an environment, and finds no object in it: see `object_of`.
    environment = Environment(variables)
    for number in range(environments):
        address = linker.get_global_value_address(f"{_ENVIRONMENT}_{number}")
        ctypes.c_void_p.from_address(address).value = id(environment)
    return LoadedObject(linker.get_function_address(_EXPORTED), environment, linker)


def _missing(imports: list[str]) -> bool:
    """Whether this process lacks a function. LLVM ends the process if it links code to one that does not exist."""
    import llvmlite.binding as llvm

    return any(llvm.address_of_symbol(name) is None for name in imports)


def _new_linker(codegen: Any) -> Any:
    """Returns a linker with a symbol space of its own, and with the settings of Numba's."""
    import llvmlite.binding as llvm
    from numba.core import config

    options: dict[str, Any] = {"opt": config.OPT}
    codegen._customize_tm_options(options)
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine(**options)
    return llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine, use_lmm=config.USE_LLVMLITE_MEMORY_MANAGER)
