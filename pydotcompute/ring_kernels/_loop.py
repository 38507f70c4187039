"""Faster event loops: uvloop and eager tasks.

Importing pydotcompute installs uvloop if it is available, unless the environment variable ``PYDOTCOMPUTE_NO_UVLOOP`` is set or the program
has set an event loop policy of its own. Otherwise the package changes no event loop and no policy, except at a call of the functions below.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine

__all__ = [
    "create_optimized_loop",
    "get_loop_info",
    "install_eager_task_factory",
    "install_uvloop",
    "is_eager_tasks_installed",
    "is_uvloop_available",
    "is_uvloop_installed",
    "optimize_current_loop",
    "start_task",
]

_uvloop_installed = False
_eager_tasks_installed = False
_EAGER_TASKS_AVAILABLE = sys.version_info >= (3, 12)


def is_uvloop_available() -> bool:
    """Whether uvloop is installed and supports this platform."""
    return sys.platform != "win32" and importlib.util.find_spec("uvloop") is not None


def is_uvloop_installed() -> bool:
    """Whether :func:`install_uvloop` has made uvloop the default."""
    return _uvloop_installed


def is_eager_tasks_installed() -> bool:
    """Whether :func:`install_eager_task_factory` has changed an event loop."""
    return _eager_tasks_installed


def install_uvloop() -> bool:
    """Makes uvloop the event loop implementation of this process, for loops created from now on.

    Returns:
        Whether uvloop is installed. Further calls have no effect.
    """
    global _uvloop_installed
    if _uvloop_installed or not is_uvloop_available():
        return _uvloop_installed
    import uvloop

    with warnings.catch_warnings():
        # Python 3.14 expects a loop factory in each `asyncio.run` call, and those calls belong to the user.
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    _uvloop_installed = True
    return True


def install_at_import() -> bool:
    """Calls :func:`install_uvloop`, unless ``PYDOTCOMPUTE_NO_UVLOOP`` is set or the program has set an event loop policy of its own."""
    return not os.environ.get("PYDOTCOMPUTE_NO_UVLOOP") and (_uvloop_installed or not _has_custom_policy()) and install_uvloop()


def _has_custom_policy() -> bool:
    """Whether the program has set an event loop policy."""
    with warnings.catch_warnings():
        # Python 3.14 plans to remove policies.
        warnings.simplefilter("ignore", DeprecationWarning)
        policy = asyncio.get_event_loop_policy()
    return type(policy).__module__.partition(".")[0] != "asyncio"


def _eager_task_factory(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:
    """Task factory with eager start. Before Python 3.13.3 asyncio's own factory rejects arguments that uvloop passes."""
    if kwargs.get("eager_start") is None:
        kwargs["eager_start"] = True
    return asyncio.Task(coro, loop=loop, **kwargs)


def install_eager_task_factory(loop: asyncio.AbstractEventLoop | None = None) -> bool:
    """Makes the tasks of an event loop start eagerly instead of in its next iteration (Python 3.12 and later).

    Args:
        loop: The event loop; by default the running one. A loop that already has a task factory keeps it.

    Returns:
        Whether the tasks of the loop start eagerly now.
    """
    global _eager_tasks_installed
    if sys.version_info < (3, 12):
        return False
    if loop is None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
    if loop.get_task_factory() is None:
        loop.set_task_factory(_eager_task_factory)
    eager = loop.get_task_factory() in (_eager_task_factory, asyncio.eager_task_factory)
    _eager_tasks_installed = _eager_tasks_installed or eager
    return eager


def start_task(coro: Coroutine[Any, Any, None], *, name: str, eager: bool) -> asyncio.Task[None]:
    """Creates a task on the running loop.

    Args:
        coro: What the task runs.
        name: Name of the task.
        eager: Whether its first step runs within this call (Python 3.12 and later, on a loop without a task factory). The loop itself is
            not changed: the tasks that `coro` creates start as ever.
    """
    loop = asyncio.get_running_loop()
    if sys.version_info >= (3, 12) and eager and loop.get_task_factory() is None:
        return asyncio.Task(coro, loop=loop, name=name, eager_start=True)
    return loop.create_task(coro, name=name)


def get_loop_info() -> dict[str, str | bool]:
    """Returns the class of the running loop, and which optimisations are available and installed, for bug reports."""
    try:
        loop_class = type(asyncio.get_running_loop()).__name__
    except RuntimeError:
        loop_class = "no_running_loop"
    return {
        "loop_class": loop_class,
        "uvloop_available": is_uvloop_available(),
        "uvloop_installed": _uvloop_installed,
        "eager_tasks_available": _EAGER_TASKS_AVAILABLE,
        "eager_tasks_installed": _eager_tasks_installed,
        "platform": sys.platform,
        "python_version": ".".join(map(str, sys.version_info[:3])),
    }


def create_optimized_loop() -> asyncio.AbstractEventLoop:
    """Returns a new event loop with all available optimisations: uvloop and eager tasks. The caller closes it."""
    install_uvloop()
    loop = asyncio.new_event_loop()
    install_eager_task_factory(loop)
    return loop


def optimize_current_loop() -> dict[str, bool]:
    """Applies the optimisations that a running loop supports. Returns which are active, as ``{"eager_tasks": bool}``."""
    return {"eager_tasks": install_eager_task_factory()}
