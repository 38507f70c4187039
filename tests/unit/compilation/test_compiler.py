"""`KernelCompiler` with Numba on the CPU: compilation, the cache across processes, and error texts."""

from __future__ import annotations

import gc
import subprocess
import sys
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pydotcompute
from pydotcompute.compilation import cache as cache_module
from pydotcompute.compilation import compiler as compiler_module
from pydotcompute.compilation.cache import KernelCache, warmup_kernels
from pydotcompute.compilation.compiler import CompilationOptions, CompiledKernel, KernelCompiler, compile_kernel, get_compiler
from pydotcompute.compilation.fingerprint import fingerprint
from pydotcompute.decorators.kernel import kernel
from pydotcompute.exceptions import BackendNotAvailableError, InvalidConfigurationError, KernelCompilationError

CPU = CompilationOptions(device="cpu")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KernelCache]:
    cache = KernelCache(tmp_path / "cache")
    monkeypatch.setattr(cache_module, "_global_cache", cache)
    monkeypatch.setattr(compiler_module, "_global_compiler", None)
    yield cache


def scale(values: Any, factor: Any) -> None:
    for i in range(len(values)):
        values[i] *= factor


def total(values: Any) -> Any:
    result = 0.0
    for value in values:
        result += value
    return result


def test_a_signature_is_compiled_at_once_and_excludes_other_types() -> None:
    compiled = KernelCompiler(CPU).compile(scale, signature="void(float64[:], float64)")
    assert isinstance(compiled, CompiledKernel)
    assert (compiled.name, compiled.signature, compiled.options, compiled.ptx) == ("scale", "void(float64[:], float64)", CPU, None)
    assert compiled.compile_time_ms > 0
    values = np.arange(3.0)
    compiled.kernel(values, 2.0)
    assert values.tolist() == [0, 2, 4]
    with pytest.raises(TypeError, match="No matching definition"):
        compiled.kernel(np.zeros((2, 2)), 1.0)


def test_each_combination_of_types_is_compiled_at_its_first_call() -> None:
    compiled = KernelCompiler(CPU).compile(total, name="sum")
    assert compiled.name == "sum"
    assert compiled.kernel(np.arange(4, dtype=np.float32)) == 6
    assert compiled.kernel(np.arange(4, dtype=np.int64)) == 6
    assert len(compiled.kernel.dispatcher.signatures) == 2  # type: ignore[attr-defined]


def test_equal_options_share_a_kernel() -> None:
    compiler = KernelCompiler(CPU)
    first = compiler.compile(total)
    assert compiler.compile(total) is first
    assert compiler.get_cached_kernel(first.source_hash) is first
    assert compiler.get_cached_kernel("unknown") is None
    exact = compiler.compile(total, options=CompilationOptions(device="cpu", fastmath=False))
    assert exact is not first and exact.source_hash != first.source_hash
    assert compiler.get_cache_stats() == {"cached_kernels": 2}
    assert compiler.clear_cache() == 2
    assert compiler.compile(total) is not first
    assert compiler.compile(total, options=CompilationOptions(device="cpu", cache=False)).source_hash
    assert compiler.get_cache_stats() == {"cached_kernels": 1}


def test_options_are_checked() -> None:
    with pytest.raises(InvalidConfigurationError, match=r"'metal'.*auto, cpu, cuda"):
        CompilationOptions(device="metal")
    with pytest.raises(InvalidConfigurationError, match="opt_level"):
        CompilationOptions(opt_level=4)


def test_fastmath_off_keeps_nan() -> None:
    def is_nan(value: float) -> bool:
        return value != value

    assert compile_kernel(is_nan, device="cpu", fastmath=False).kernel(np.nan) is True


def test_debug_checks_indices() -> None:
    def fifth(values: Any) -> Any:
        return values[5]

    kernel = KernelCompiler().compile(fifth, options=CompilationOptions(device="cpu", debug=True, cache=False)).kernel
    with pytest.raises(IndexError):
        kernel(np.zeros(3))


def unknown_attribute(values: Any) -> Any:
    count = len(values)
    return count + values.colour


def undefined_name(values: Any) -> Any:
    return values + nothing_of_that_name  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    ("function", "offset", "text"),
    [(unknown_attribute, 2, "return count + values.colour"), (undefined_name, 1, "nothing_of_that_name")],
)
@pytest.mark.parametrize("signature", [None, "(float64[:],)"])
def test_an_error_names_the_file_and_line_of_the_user(function: Callable[..., Any], offset: int, text: str, signature: str | None) -> None:
    with pytest.raises(KernelCompilationError) as caught:
        KernelCompiler(CPU).compile(function, signature=signature).kernel(np.zeros(2))
    first = str(caught.value).splitlines()[0]
    assert f"kernel '{function.__name__}' at {__file__}:{function.__code__.co_firstlineno + offset}: " in first
    assert text in first
    assert caught.value.kernel_name == function.__name__
    assert caught.value.__cause__ is caught.value.cause
    assert "\x1b" not in str(caught.value)


def test_an_invalid_signature_is_a_compile_error() -> None:
    with pytest.raises(KernelCompilationError, match="float65"):
        KernelCompiler(CPU).compile(scale, signature="void(float65[:])")


def test_objects_that_are_not_python_functions_raise() -> None:
    with pytest.raises(KernelCompilationError, match="expected a Python function"):
        KernelCompiler(CPU).compile(len)


def test_an_exception_in_a_kernel_reaches_the_caller() -> None:
    def divide(a: int, b: int) -> int:
        return a // b

    compiled = KernelCompiler(CPU).compile(divide)
    assert compiled.kernel(7, 2) == 3
    with pytest.raises(ZeroDivisionError):
        compiled.kernel(1, 0)


def test_a_grid_kernel_needs_a_gpu() -> None:
    from numba import cuda

    def grid_kernel(out: Any) -> None:
        out[cuda.grid(1)] = 1

    with pytest.raises(KernelCompilationError, match="device='cuda'"):
        KernelCompiler(CPU).compile(grid_kernel)
    compiler = KernelCompiler()
    if not compiler.cuda_available:
        with pytest.raises(KernelCompilationError, match="NUMBA_ENABLE_CUDASIM=1") as caught:
            compiler.compile(grid_kernel)
        assert isinstance(caught.value.cause, BackendNotAvailableError)


def test_a_plain_function_for_cuda_runs_on_the_cpu_without_a_gpu() -> None:
    compiler = KernelCompiler()
    compiler._cuda = False
    assert compiler.compile(total).kernel(np.ones(3)) == 3


RATE = 2.0


def helper(value: float) -> float:
    return value + 1


def uses_globals(value: float) -> float:
    return helper(value) * RATE


def test_the_hash_covers_globals_of_a_function(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(uses_globals)
    assert before.lasting
    assert fingerprint(uses_globals) == before
    monkeypatch.setitem(globals(), "RATE", 3.0)
    after_constant = fingerprint(uses_globals)
    monkeypatch.setitem(globals(), "helper", lambda value: value + 2)
    after_helper = fingerprint(uses_globals)
    assert len({before.digest, after_constant.digest, after_helper.digest}) == 3


def test_the_hash_covers_variables_of_enclosing_functions() -> None:
    def adder(n: int) -> Callable[[int], int]:
        return lambda value: value + n

    assert fingerprint(adder(1)) == fingerprint(adder(1))
    assert fingerprint(adder(1)) != fingerprint(adder(2))
    compiler = KernelCompiler(CPU)
    assert compiler.compile(adder(1)).kernel(1) == 2
    assert compiler.compile(adder(2)).kernel(1) == 3


def test_an_object_without_a_stable_value_lives_as_long_as_its_kernel() -> None:
    """Its address is part of the hash: another object at the same address would get the code of this one."""

    class Unpicklable:
        def __reduce__(self) -> str:
            raise TypeError("has no value")

    holder = types.ModuleType("module_of_user")
    holder.OBJECT = Unpicklable()  # type: ignore[attr-defined]
    alive = weakref.ref(holder.OBJECT)

    def returns_one(value: int) -> int:
        return 1 if value else holder.OBJECT

    compiler = KernelCompiler(CPU)
    kept = compiler.compile(returns_one)
    del holder.OBJECT
    gc.collect()
    assert alive() is not None
    assert compiler.get_cached_kernel(kept.source_hash) is kept
    compiler.clear_cache()
    gc.collect()
    assert alive() is None


def test_mutually_recursive_functions_have_a_hash() -> None:
    def even(n: int) -> bool:
        return n == 0 or odd(n - 1)

    def odd(n: int) -> bool:
        return n != 0 and even(n - 1)

    assert fingerprint(even) == fingerprint(even)
    assert fingerprint(even) != fingerprint(odd)


def test_kernels_with_unhashable_globals_are_not_cached_on_disk() -> None:
    opened = object.__new__(type("Opaque", (), {"__reduce__": lambda self: 1 / 0}))
    assert not fingerprint(lambda: opened).lasting


PROGRAM = """
import sys
import numpy as np
from pydotcompute.compilation.cache import get_kernel_cache, warmup_kernels
from pydotcompute.decorators.kernel import kernel

FACTOR = {factor}

@kernel
def scaled(values):
    result = 0.0
    for value in values:
        result += value * FACTOR
    return result

if "warm" in sys.argv:
    warmup_kernels([scaled])
    assert len(scaled.compiled.kernel.dispatcher.signatures) == 1
result = scaled(np.arange(4.0))
print(result, sum(scaled.compiled.kernel.dispatcher.stats.cache_hits.values()), get_kernel_cache().get_stats()["entries"])
"""


def run(tmp_path: Path, program: str, *arguments: str) -> list[str]:
    """Runs a program in a new process, with the cache in ``tmp_path``, and returns the words of its output."""
    path = tmp_path / "program.py"
    path.write_text(program)
    package = Path(pydotcompute.__file__).parents[1]
    environment = {"DOTCOMPUTE_CACHE": str(tmp_path / "stored"), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(package)}
    command = [sys.executable, "-W", "error", str(path), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


def test_machine_code_survives_restarts_and_damage(tmp_path: Path) -> None:
    program = PROGRAM.format(factor=2)
    assert run(tmp_path, program) == ["12.0", "0", "1"]
    assert run(tmp_path, program) == ["12.0", "1", "1"], "the second process loads the kernel compiled by the first"
    assert run(tmp_path, program, "warm") == ["12.0", "1", "1"], "warmup loads it too"
    (entry,) = (tmp_path / "stored/python").glob("*.kernel")
    entry.write_bytes(entry.read_bytes()[:-100])
    assert run(tmp_path, program) == ["12.0", "0", "1"], "a damaged entry is compiled again"
    assert run(tmp_path, PROGRAM.format(factor=3)) == ["18.0", "0", "2"], "a module constant is part of the hash"


# Each process defines closures of one name, whose helper is too large to be inlined, and calls the kernels in the given order.
CLOSURES = """
import sys
import numba
from pydotcompute.compilation import compile_kernel

def make(amount):
    @numba.njit
    def descend(value):
        if value <= 0:
            return amount
        return descend(value - 1) + descend(value - 2) * 0
    def kernel(value):
        if value < 0:
            raise ValueError("negative", value)
        return descend(value)
    return kernel

for amount in map(int, sys.argv[1:]):
    kernel = compile_kernel(make(amount), device="cpu").kernel
    try:
        kernel(-1)
    except ValueError as error:
        assert error.args == ("negative", -1)
    print(amount, kernel(4), sum(kernel.dispatcher.stats.cache_hits.values()))
"""


def test_code_of_another_process_is_never_linked_to_a_function_of_the_same_name(tmp_path: Path) -> None:
    assert run(tmp_path, CLOSURES, "1") == ["1", "1", "0"]
    assert run(tmp_path, CLOSURES, "2", "1") == ["2", "2", "0", "1", "1", "1"]
    assert run(tmp_path, CLOSURES, "2", "1") == ["2", "2", "1", "1", "1", "1"]


def test_code_that_cannot_be_unpickled_is_compiled_again(own_cache: KernelCache) -> None:
    KernelCompiler(CPU).compile(total).kernel(np.ones(2))
    (entry,) = own_cache.entries()
    own_cache.store(entry.kernel_name, entry.source_hash, b"of another version", metadata=entry.metadata)
    compiled = KernelCompiler(CPU).compile(total)
    assert compiled.kernel(np.ones(2)) == 2
    assert own_cache.get_stats()["entries"] == 1


def test_a_damaged_file_of_numba_is_compiled_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numba caches CUDA kernels itself. Its files for the CPU have the same format, so this test needs no GPU."""
    import numba

    from pydotcompute.compilation import numba_kernels

    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    for expected_hits, damage in ((0, b""), (0, b"not an index"), (0, None), (1, None)):
        dispatcher = numba.njit(lambda value: value + 1)
        numba_kernels._enable_numba_cache(dispatcher, "increment")
        assert dispatcher(1) == 2
        assert sum(dispatcher.stats.cache_hits.values()) == expected_hits
        for index in tmp_path.rglob("*.nbi") if damage is not None else ():
            index.write_bytes(damage)


def test_warmup_compiles_everything_and_raises_the_first_error() -> None:
    declared = kernel(signature="float64(float64[:])", device="cpu")(total)
    broken = kernel(signature="(float64[:],)", device="cpu")(unknown_attribute)
    also_broken = kernel(signature="(float64[:],)", device="cpu")(undefined_name)
    with pytest.raises(KernelCompilationError, match="unknown_attribute") as caught:
        warmup_kernels([broken, also_broken, declared])
    assert any("undefined_name" in note for note in caught.value.__notes__)
    assert len(declared.compiled.kernel.dispatcher.signatures) == 1  # type: ignore[attr-defined]
    warmup_kernels([total])
    assert get_compiler().get_cache_stats() == {"cached_kernels": 2}


SIMULATED = """
import numpy as np
from numba import cuda
from pydotcompute.compilation.compiler import KernelCompiler
from pydotcompute.decorators.kernel import gpu_kernel, kernel

assert KernelCompiler().cuda_available

@gpu_kernel
def add(a, b, out):
    i = cuda.grid(1)
    if i < out.size:
        out[i] = a[i] + b[i]

@kernel
def twice(a):
    i = cuda.grid(1)
    if i < a.size:
        a[i] *= 2

out = np.zeros(100)
add[4, 32](np.arange(100.0), np.ones(100), out)
assert (out == np.arange(1, 101)).all()
twice(out)  # One thread per element.
assert (out == 2 * np.arange(1, 101)).all()
assert twice._kernel_meta["device"] == "auto" and add._kernel_meta["device"] == "cuda"
print("launched")
"""


def test_grids_run_in_numbas_simulator(tmp_path: Path) -> None:
    assert run(tmp_path, "import os\nos.environ['NUMBA_ENABLE_CUDASIM'] = '1'\n" + SIMULATED) == ["launched"]


WITHOUT_NUMBA = """
import sys, warnings
sys.modules["numba"] = None
import numpy as np
from pydotcompute.compilation.compiler import KernelCompiler
from pydotcompute.decorators.kernel import gpu_kernel, kernel
from pydotcompute.exceptions import KernelCompilationError
assert not KernelCompiler().numba_available and not KernelCompiler().cuda_available

@kernel
def add(a, b):
    return a + b

@kernel(device="cuda")
def subtract(a, b):
    return a - b

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert add(1, 2) == 3 and add(np.ones(2), 1).tolist() == [2, 2] and subtract(3, 1) == 2
assert len(caught) == 1 and "pip install pydotcompute[fast]" in str(caught[0].message), caught
assert caught[0].filename.endswith("program.py"), caught[0].filename
print("ran")
"""


def test_without_numba_kernels_run_as_plain_python_and_warn_once(tmp_path: Path) -> None:
    assert run(tmp_path, WITHOUT_NUMBA) == ["ran"]


def test_importing_the_package_does_not_import_numba(tmp_path: Path) -> None:
    program = "import sys, pydotcompute.compilation, pydotcompute.decorators\nprint('numba' in sys.modules)"
    assert run(tmp_path, program) == ["False"]
