"""Faster event loops: uvloop, and tasks that begin at once.

uvloop is installed when pydotcompute is imported, where it is there, unless the environment has ``PYDOTCOMPUTE_NO_UVLOOP``.
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
]

_uvloop_installed = False
_eager_tasks_installed = False
_EAGER = sys.version_info >= (3, 12)


def is_uvloop_available() -> bool:
    """Whether uvloop is there and runs on this platform."""
    return sys.platform != "win32" and importlib.util.find_spec("uvloop") is not None


def is_uvloop_installed() -> bool:
    """Whether :func:`install_uvloop` has made uvloop the default."""
    return _uvloop_installed


def is_eager_tasks_installed() -> bool:
    """Whether :func:`install_eager_task_factory` has changed a loop."""
    return _eager_tasks_installed


def install_uvloop() -> bool:
    """Makes uvloop the event loop of this process, for loops that are made from now on.

    Returns:
        Whether it is installed. May be called more than once.
    """
    global _uvloop_installed
    if _uvloop_installed or not is_uvloop_available():
        return _uvloop_installed
    import uvloop

    with warnings.catch_warnings():
        # Python 3.14 wants a loop factory given to each `asyncio.run`, which is not ours to call.
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    _uvloop_installed = True
    return True


def install_at_import() -> bool:
    """What importing the package does: :func:`install_uvloop`, unless the environment has ``PYDOTCOMPUTE_NO_UVLOOP``."""
    return not os.environ.get("PYDOTCOMPUTE_NO_UVLOOP") and install_uvloop()


def _begin_at_once(loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:
    """A task factory: asyncio's own does not take what uvloop gives it, before Python 3.13.3."""
    if kwargs.get("eager_start") is None:
        kwargs["eager_start"] = True
    return asyncio.Task(coro, loop=loop, **kwargs)


def install_eager_task_factory(loop: asyncio.AbstractEventLoop | None = None) -> bool:
    """Lets the tasks of a loop begin at once instead of in the loop's next round (Python 3.12 and later).

    Args:
        loop: The loop; the running one by default. One that has a task factory already keeps it.

    Returns:
        Whether the loop's tasks begin at once now.
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
        loop.set_task_factory(_begin_at_once)
    eager = loop.get_task_factory() in (_begin_at_once, asyncio.eager_task_factory)
    _eager_tasks_installed = _eager_tasks_installed or eager
    return eager


def get_loop_info() -> dict[str, str | bool]:
    """The running loop's class, and what is installed: by name, as printed in bug reports."""
    try:
        loop_class = type(asyncio.get_running_loop()).__name__
    except RuntimeError:
        loop_class = "no_running_loop"
    return {
        "loop_class": loop_class,
        "uvloop_available": is_uvloop_available(),
        "uvloop_installed": _uvloop_installed,
        "eager_tasks_available": _EAGER,
        "eager_tasks_installed": _eager_tasks_installed,
        "platform": sys.platform,
        "python_version": ".".join(map(str, sys.version_info[:3])),
    }


def create_optimized_loop() -> asyncio.AbstractEventLoop:
    """A new loop with all that is to be had: uvloop, and tasks that begin at once. It is the caller's to close."""
    install_uvloop()
    loop = asyncio.new_event_loop()
    install_eager_task_factory(loop)
    return loop


def optimize_current_loop() -> dict[str, bool]:
    """Gives the running loop what a running loop can be given; says what that was, as ``{"eager_tasks": bool}``."""
    return {"eager_tasks": install_eager_task_factory()}
