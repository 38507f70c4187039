"""Handlers are compiled once per process, and kept on disk. The cache never serves code of another function."""

from __future__ import annotations

import enum
import json
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
from numpy.typing import NDArray

import native_handlers as handlers
import pydotcompute
from native_handlers import Best, Count, Reading, Sequence
from pydotcompute.compilation import cache as cache_module
from pydotcompute.compilation.cache import KernelCache
from pydotcompute.exceptions import KernelError
from pydotcompute.native import HandlerContext, NativeKernel, NativeRuntime, _cpu, int32, state
from pydotcompute.ring_kernels.message import message

numba = pytest.importorskip("numba")

STEP = 1


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelCache:
    """An empty disk cache, and no code in memory."""
    store = KernelCache(tmp_path / "stored")
    monkeypatch.setattr(cache_module, "_global_cache", store)
    _cpu._codes.clear()
    return store


@pytest.fixture
def compiled(store: KernelCache, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the handlers that were compiled, each time that one was."""
    names: list[str] = []
    compile_handler = _cpu._compile

    def counting(declared: Any) -> Any:
        names.append(declared.name)
        return compile_handler(declared)

    monkeypatch.setattr(_cpu, "_compile", counting)
    return names


@pytest.fixture
def runtime() -> Iterator[NativeRuntime]:
    with NativeRuntime(workers=1) as runtime:
        yield runtime


def answer(handler: Callable[..., Any], question: Any, runtime: NativeRuntime, state: Any = None) -> Any:
    """Asks a new kernel one question."""
    with NativeKernel(handler, state=state, runtime=runtime) as kernel:
        return kernel.ask(question, timeout=30)


def another_process() -> None:
    """Forgets the code in memory, as if this were a new process."""
    _cpu._codes.clear()


def test_two_hundred_kernels_of_a_handler_are_one_compilation(compiled: list[str], runtime: NativeRuntime) -> None:
    kernels = [NativeKernel(handlers.hottest, state=Best(seen=number), runtime=runtime) for number in range(200)]
    for kernel in kernels:
        kernel.activate()
    assert compiled == ["hottest"]
    replies = [kernel.ask(Reading(sensor=1, celsius=20.0), timeout=30) for kernel in kernels]
    assert [reply.seen for reply in replies] == list(range(1, 201)), "the initial state belongs to the kernel, not to the code"


def test_threads_that_launch_at_once_share_a_compilation(compiled: list[str], runtime: NativeRuntime) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        kernels = list(pool.map(lambda _: NativeKernel(handlers.in_sequence, state=Sequence, runtime=runtime), range(8)))
    assert compiled == ["in_sequence"]
    assert len({kernel.name for kernel in kernels}) == 8


def test_code_on_disk_is_used_and_a_damaged_file_is_compiled_again(
    store: KernelCache, compiled: list[str], runtime: NativeRuntime, quiet_log: None
) -> None:
    def ask() -> int:
        value: int = answer(handlers.in_sequence, Count(7), runtime, Sequence).value
        return value

    assert ask() == 1
    another_process()
    assert ask() == 1
    assert compiled == ["in_sequence"]
    (entry,) = store.entries()
    assert entry.ptx_path is not None
    whole = entry.ptx_path.read_bytes()
    for damage in (whole[:-20], b"", whole[:-1] + bytes([whole[-1] ^ 1])):
        entry.ptx_path.write_bytes(damage)
        another_process()
        assert ask() == 1
    # Valid for the cache, but written by another version.
    store.store(entry.kernel_name, entry.source_hash, b"of another version")
    another_process()
    assert ask() == 1
    assert compiled == ["in_sequence"] * 5


def test_a_folder_that_cannot_be_written_is_no_error(
    compiled: list[str], runtime: NativeRuntime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quiet_log: None
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cache_module, "_global_cache", KernelCache(tmp_path / "file" / "folder"))
    for _ in range(2):
        assert answer(handlers.in_sequence, Count(7), runtime, Sequence).value == 1
    assert compiled == ["in_sequence"], "the process still compiles once"


def adds_step(ctx: HandlerContext, state: None, msg: Count) -> Count:
    return Count(msg.value + STEP)


def test_a_changed_global_is_compiled_again(compiled: list[str], runtime: NativeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer(adds_step, Count(10), runtime).value == 11
    monkeypatch.setitem(globals(), "STEP", 5)
    assert answer(adds_step, Count(10), runtime).value == 15
    monkeypatch.setitem(globals(), "STEP", 1)
    another_process()
    assert answer(adds_step, Count(10), runtime).value == 11
    assert compiled == ["adds_step"] * 2


def test_what_only_looks_like_a_global_is_none(compiled: list[str], runtime: NativeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
    """``msg.value`` reads an attribute, whatever the global ``value`` is."""
    for number in range(3):
        monkeypatch.setitem(globals(), "value", number)
        assert answer(adds_step, Count(10), runtime).value == 11
    assert compiled == ["adds_step"]


class Mode(enum.IntEnum):
    FAST = 2


def test_values_of_modules_and_enumerations_are_compiled_again(
    compiled: list[str], runtime: NativeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    package, settings = types.ModuleType("package_of_user"), types.ModuleType("package_of_user.settings")
    package.settings, settings.RATE, settings.Mode = settings, 3, Mode  # type: ignore[attr-defined]

    def scales(ctx: HandlerContext, state: None, msg: Count) -> Count:
        return Count(msg.value * package.settings.RATE + package.settings.Mode.FAST)

    assert answer(scales, Count(10), runtime).value == 32
    monkeypatch.setattr(settings, "RATE", 4)
    assert answer(scales, Count(10), runtime).value == 42
    monkeypatch.setattr(settings, "Mode", enum.IntEnum("Mode", {"FAST": 7}, module=__name__, qualname="Mode"))
    assert answer(scales, Count(10), runtime).value == 47
    assert compiled == ["scales"] * 3


def test_closures_of_one_function_differ(compiled: list[str], runtime: NativeRuntime) -> None:
    def adder(amount: int) -> Callable[..., Any]:
        def add(ctx: HandlerContext, state: None, msg: Count) -> Count:
            return Count(msg.value + amount)

        return add

    assert [answer(adder(amount), Count(10), runtime).value for amount in (1, 2, 1, 2)] == [11, 12, 11, 12]
    another_process()
    assert [answer(adder(amount), Count(10), runtime).value for amount in (2, 1)] == [12, 11]
    assert compiled == ["add", "add"]


def test_a_cell_of_a_notebook_that_defines_a_handler_again(compiled: list[str], runtime: NativeRuntime) -> None:
    def run_cell(expression: str) -> Any:
        source = f"def handler(ctx, state, msg: Count) -> Count:\n    return Count({expression})\n"
        variables: dict[str, Any] = {"__name__": "__main__", "Count": Count}
        exec(compile(source, "<cell>", "exec"), variables)
        return answer(variables["handler"], Count(10), runtime).value

    assert [run_cell(expression) for expression in ("msg.value + 1", "msg.value * 2", "msg.value + 1")] == [11, 20, 11]
    assert compiled == ["handler", "handler"]


def test_a_module_of_the_user_with_the_name_of_a_library(compiled: list[str], runtime: NativeRuntime) -> None:
    """Functions of libraries are part of the hash by name and version; the handler itself always is with its code."""

    def run(expression: str) -> Any:
        variables: dict[str, Any] = {"__name__": "statistics", "Count": Count}
        exec(f"def handler(ctx, state, msg: Count) -> Count:\n    return Count({expression})\n", variables)
        return answer(variables["handler"], Count(10), runtime).value

    assert [run(expression) for expression in ("msg.value + 1", "msg.value * 2")] == [11, 20]


def test_layouts_and_defaults_are_part_of_the_hash(compiled: list[str], runtime: NativeRuntime) -> None:
    source = """
@message
class Question:
    value: annotation

@message
class Answer:
    value: int
    extra: float = default

def reply(ctx, state, msg: Question) -> Answer:
    return Answer(np.int64(msg.value))
"""

    answers = []
    for annotation, default in ((int, 1.0), (int32, 1.0), (int, 2.0), (int, float("inf")), (int, 1.0)):
        variables = {"__name__": __name__, "np": np, "message": message, "annotation": annotation, "default": default}
        exec(compile(source, "<program>", "exec", dont_inherit=True), variables)
        reply = answer(variables["reply"], variables["Question"](3), runtime)
        answers.append((reply.value, reply.extra))
    assert answers == [(3, 1.0), (3, 1.0), (3, 2.0), (3, float("inf")), (3, 1.0)]
    assert len(compiled) == 4


def test_the_layout_of_the_state_is_part_of_the_hash(compiled: list[str], runtime: NativeRuntime) -> None:
    def keep(ctx: HandlerContext, state: Any, msg: Count) -> Count:
        state.total += msg.value
        return Count(state.total)

    @state
    class Plain:
        total: int

    @state
    class Shifted:
        before: Annotated[NDArray[np.float64], 3]
        total: int

    for declared in (Plain, Shifted, Plain):
        with NativeKernel(keep, state=declared, runtime=runtime) as kernel:
            assert kernel.ask(Count(4), timeout=30).value == 4
            assert kernel.state.total == 4
    assert compiled == ["keep", "keep"]


def test_code_that_refers_to_memory_of_this_process_is_compiled_once_and_not_stored(
    store: KernelCache, compiled: list[str], runtime: NativeRuntime
) -> None:
    table = np.arange(200_000)  # Numba does not copy a constant of more than 1 MB into the code, but refers to it.

    def look_up(ctx: HandlerContext, state: None, msg: Count) -> Count:
        return Count(table[msg.value])

    for index in (5, 199_999):
        assert answer(look_up, Count(index), runtime).value == index
    assert compiled == ["look_up"]
    assert store.entries() == []


def test_an_object_that_the_hash_identifies_by_address_stays_alive() -> None:
    from pydotcompute.compilation.fingerprint import fingerprint

    holder = types.ModuleType("module_of_user")
    holder.LOCK = open("/dev/null")  # type: ignore[attr-defined]  # noqa: SIM115
    opened = holder.LOCK

    def uses() -> Any:
        return holder.LOCK

    hashed = fingerprint(uses)
    assert not hashed.lasting
    assert any(value is opened for value in hashed.identified)
    opened.close()


# Each process defines closures of one name, whose helper is too large to be inlined, and launches the kernels in the given order.
PROGRAM = """
import json, sys
import numba
from pydotcompute.exceptions import KernelError
from pydotcompute.native import NativeKernel, _cpu
from pydotcompute.ring_kernels.message import message

@message
class Count:
    value: int

class OwnError(Exception):
    pass

compiled = []
compile_handler = _cpu._compile
def counting(declared):
    compiled.append(declared.name)
    return compile_handler(declared)
_cpu._compile = counting

def make(amount):
    @numba.njit
    def descend(value):
        if value <= 0:
            return amount
        return descend(value - 1) + descend(value - 2) * 0
    def answer(ctx, state, msg: Count) -> Count:
        return Count(descend(msg.value))
    return answer

def raises(ctx, state, msg: Count) -> Count:
    if msg.value == 0:
        raise ValueError("constant")
    raise KeyError("computed", msg.value)

def raises_own(ctx, state, msg: Count) -> Count:
    raise OwnError("own")

answers = {}
for amount in map(int, sys.argv[1:]):
    with NativeKernel(make(amount)) as kernel:
        answers[amount] = kernel.ask(Count(4), timeout=60).value
raised = []
for handler, value in ((raises, 0), (raises, 5), (raises_own, 0)):
    with NativeKernel(handler, on_error="resume") as kernel:
        try:
            kernel.ask(Count(value), timeout=60)
        except KernelError as error:
            cause = error.__cause__
            raised.append([type(cause).__name__, list(cause.args), isinstance(cause, (ValueError, KeyError, OwnError))])
print(json.dumps({"answers": answers, "raised": raised, "compiled": compiled}))
"""


@pytest.mark.slow
def test_processes_share_code_and_never_mix_it_up(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def run(*amounts: int, **settings: str) -> dict[str, Any]:
        package = Path(pydotcompute.__file__).parents[1]
        environment = {"DOTCOMPUTE_CACHE": str(tmp_path / "stored"), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(package), **settings}
        command = [sys.executable, "-W", "error", str(program), *map(str, amounts)]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    raised = [["ValueError", ["constant"], True], ["KeyError", ["computed", 5], True], ["OwnError", ["own"], True]]
    # Python could not catch a copy of the class `OwnError`, so code that raises a class of `__main__` is not kept on disk.
    first = run(1)
    assert first == {"answers": {"1": 1}, "raised": raised, "compiled": ["answer", "raises", "raises_own"]}
    second = run(2, 1)
    assert second == {"answers": {"2": 2, "1": 1}, "raised": raised, "compiled": ["answer", "raises_own"]}
    assert run(1, 2) == {"answers": {"1": 1, "2": 2}, "raised": raised, "compiled": ["raises_own"]}
    for settings in ({"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, {"NUMBA_OPT": "1"}):
        assert run(1, **settings)["compiled"] == ["answer", "raises", "raises_own"], settings


def test_an_exception_of_cached_code_names_its_line(compiled: list[str], runtime: NativeRuntime) -> None:
    for _ in range(2):
        with (
            NativeKernel(handlers.picky, state=Sequence, on_error="resume", runtime=runtime) as kernel,
            pytest.raises(KernelError, match=r"native_handlers\.py:\d+") as caught,
        ):
            kernel.ask(Count(-7), timeout=30)
        assert caught.value.__cause__ is not None
        assert caught.value.__cause__.args == ("far below", -7)
        another_process()
    assert compiled == ["picky"]
