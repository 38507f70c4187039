"""Runtime of native ring kernels: owns their threads and dead letters, and shuts them down."""

from __future__ import annotations

import contextlib
import os
import threading
from types import TracebackType
from weakref import WeakSet

from pydotcompute import _core
from pydotcompute.exceptions import ForkedProcessError, InvalidConfigurationError

__all__ = ["NativeRuntime", "runtimes", "shared_runtime"]


class NativeRuntime:
    """Owns native ring kernels and the threads that run them.

    Most programs do not create one: ring kernels launched without a runtime share one. Names are unique within a runtime.

    Args:
        workers: Number of pool threads, for ring kernels without a dedicated thread; by default the number of usable cores.

    Example:
        >>> with NativeRuntime(workers=1) as runtime:
        ...     runtime.dead_letter_count
        0
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise InvalidConfigurationError("workers", workers, "the runtime needs a thread to run ring kernels; use 1 or more")
        self._workers = workers
        self._core = _core.NativeRuntime(workers)
        runtimes.add(self)

    def start(self) -> None:
        """Reopens the runtime after :meth:`shutdown`, without ring kernels. Before that it has no effect: the constructor has started it.

        Raises:
            ForkedProcessError: The runtime belongs to the process from which this one was forked.
        """
        if self._core.is_shut_down:
            self._core = _core.NativeRuntime(self._workers)

    @property
    def dead_letter_count(self) -> int:
        """Number of messages that became dead letters."""
        return self._core.dead_letter_count

    def dead_letters(self) -> list[tuple[str, str]]:
        """Returns the latest dead letters, oldest first: name of the ring kernel, and reason."""
        return self._core.dead_letters()

    def shutdown(self, timeout: float = 5.0) -> None:
        """Terminates every ring kernel after it has handled its accepted messages, and shuts the runtime down.

        Args:
            timeout: Maximum time to wait for all ring kernels together, in seconds. Those not finished by then are aborted.

        Raises:
            KernelError: Some handlers did not return in time; the error names them.
            ForkedProcessError: The runtime belongs to the process from which this one was forked.
        """
        self._core.shutdown(timeout)

    def __enter__(self) -> NativeRuntime:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # A forked child that leaves the block leaves the runtime to its parent.
        with contextlib.suppress(ForkedProcessError):
            self.shutdown()


#: All runtimes that exist, for interpreter shutdown.
runtimes: WeakSet[NativeRuntime] = WeakSet()
_shared_lock = threading.Lock()
_shared: NativeRuntime | None = None


def shared_runtime() -> NativeRuntime:
    """Returns the runtime of ring kernels launched without one."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = NativeRuntime()
        return _shared


def _forget_parent() -> None:
    """Gives a forked child a shared runtime of its own. The parent may have held the lock at the fork."""
    global _shared, _shared_lock
    _shared_lock = threading.Lock()
    _shared = None
    runtimes.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_parent)
