"""The private names of Python, and of libraries, that the package uses. A version that drops one fails here, and the test says for what.

The names that asyncio's own futures and tasks must have are those of `Waiter`, which a task treats as a future.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest

from pydotcompute import _core


def test_a_running_loop_is_found_by_the_name_that_the_extension_uses() -> None:
    """`_get_running_loop`: which loop runs on this thread (`task_resume.rs`)."""

    async def main() -> bool:
        return asyncio.events._get_running_loop() is asyncio.get_running_loop()

    assert asyncio.events._get_running_loop() is None
    assert asyncio.run(main())


def test_the_entry_of_the_running_loop_is_new_for_each_run() -> None:
    """The extension caches the loop of an entry (`task_resume.rs`). An entry that outlives its loop would make the cache wrong.

    Where the thread's dictionary has no such entry, as from 3.13 on, nothing is cached.
    """
    import ctypes

    get_dictionary = ctypes.pythonapi.PyThreadState_GetDict
    # Not `py_object`, which stands for a reference that the caller owns.
    get_dictionary.restype = ctypes.c_void_p

    async def entry() -> Any:
        dictionary: Any = ctypes.cast(get_dictionary(), ctypes.py_object).value
        return dictionary.get("__asyncio_running_event_loop__")

    first, second = asyncio.run(entry()), asyncio.run(entry())
    assert sys.version_info >= (3, 13) or first is not None
    assert first is None or first is not second


def test_the_current_task_can_be_swapped() -> None:
    """`_swap_current_task` (3.12 and later) or `_current_tasks`: a task that steps inside another one's step (`task_resume.rs`)."""
    tasks: Any = asyncio.tasks

    async def main() -> list[Any]:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if hasattr(tasks, "_swap_current_task"):
            assert tasks._swap_current_task(loop, None) is task
            without = asyncio.current_task()
            assert tasks._swap_current_task(loop, task) is None
        else:
            assert type(tasks._current_tasks) is dict
            assert tasks._current_tasks.pop(loop) is task
            without = asyncio.current_task()
            tasks._current_tasks[loop] = task
        return [without, asyncio.current_task() is task]

    assert sys.version_info < (3, 12) or hasattr(tasks, "_swap_current_task")
    assert asyncio.run(main()) == [None, True]


def test_a_task_takes_a_waiter_for_a_future() -> None:
    """`_asyncio_future_blocking` and `_loop`: what a task reads of the object that its coroutine yields (`waiter_type.rs`)."""

    async def main() -> None:
        future = asyncio.get_running_loop().create_future()
        for name in ("_asyncio_future_blocking", "_loop"):
            assert hasattr(future, name)
            assert hasattr(_core.Waiter, name)
        assert future._asyncio_future_blocking is False
        assert asyncio.isfuture(future)
        future.set_result(None)
        await future

    asyncio.run(main())


def test_a_task_wakes_by_the_callback_that_it_registers() -> None:
    """A task calls `add_done_callback(wakeup, context=...)`, and its `wakeup` is bound to it (`waiter_steps.rs`, `wait_cycle.rs`)."""
    registered: list[tuple[Any, dict[str, Any]]] = []

    class Future:
        _asyncio_future_blocking = False

        def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
            self._loop = loop

        def __await__(self) -> Any:
            self._asyncio_future_blocking = True
            yield self
            return "resumed"

        def get_loop(self) -> asyncio.AbstractEventLoop:
            return self._loop

        def add_done_callback(self, wakeup: Any, **keywords: Any) -> None:
            registered.append((wakeup, keywords))

        def result(self) -> None: ...

        def cancel(self, *_arguments: Any, **_keywords: Any) -> bool:
            return False

    async def main() -> str:
        loop = asyncio.get_running_loop()
        future = Future(loop)

        async def wait() -> str:
            return await future  # type: ignore[no-any-return]

        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        ((wakeup, keywords),) = registered
        assert set(keywords) == {"context"}
        assert wakeup.__self__ is task
        loop.call_soon(wakeup, future, context=keywords["context"])
        return await task

    assert asyncio.run(main()) == "resumed"


def test_threads_can_be_ended_before_the_interpreter_waits_for_them() -> None:
    """`threading._register_atexit`: non-daemon ring kernels are asked to stop at exit (`_thread_kernel.py`)."""
    assert callable(threading._register_atexit)  # type: ignore[attr-defined]


def test_multiprocessing_runs_finalizers_at_exit() -> None:
    """`multiprocessing.util.Finalize`: shared queues are closed at exit, also in processes without `atexit` (`shared_queue.py`)."""
    from multiprocessing import util

    called: list[int] = []
    util.Finalize(None, called.append, args=(1,), exitpriority=10)()
    assert called == [1]


def test_what_the_package_reads_of_numba() -> None:
    """The compilers of handlers, and the cache of their code."""
    pytest.importorskip("numba")
    from llvmlite import binding
    from numba import njit
    from numba.core import config
    from numba.core.environment import lookup_environment
    from numba.core.registry import cpu_target
    from numba.core.runtime import _nrt_python

    compiled_function = njit(lambda number: number + 1)
    assert compiled_function(1) == 2
    (compiled,) = compiled_function.overloads.values()
    library = compiled.library
    for owner, names in (
        (library, ("has_dynamic_globals", "_reload_init", "_final_module", "codegen", "get_pointer_to_function")),
        (library.codegen, ("_tm", "_customize_tm_options", "magic_tuple")),
        (compiled, ("fndesc", "signature", "lifted", "reload_init")),
        (compiled.fndesc, ("llvm_func_name", "llvm_cpython_wrapper_name")),
        (cpu_target.target_context, ("codegen", "refresh")),
        (config, ("OPT", "USE_LLVMLITE_MEMORY_MANAGER")),
        (binding, ("address_of_symbol", "create_mcjit_compiler", "ObjectFileRef", "Linkage")),
    ):
        for name in names:
            assert hasattr(owner, name), f"{owner!r} has no {name}"
    assert "Free" in _nrt_python.c_helpers
    assert any(lookup_environment(value.name) is not None for value in library._final_module.global_variables)
