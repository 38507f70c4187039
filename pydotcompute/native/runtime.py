"""The runtime of native ring kernels: their threads, their dead letters and their end."""

from __future__ import annotations

import threading
from types import TracebackType
from weakref import WeakSet

from pydotcompute import _core
from pydotcompute.exceptions import InvalidConfigurationError

__all__ = ["NativeRuntime", "runtimes", "shared_runtime"]


class NativeRuntime:
    """Owns native ring kernels and the threads that run them.

    Most programs need none of their own: ring kernels that are given none share one. Names are unique within a runtime.

    Args:
        workers: Threads for ring kernels that have none of their own; by default, as many as this process may use cores.

    Example:
        >>> with NativeRuntime(workers=1) as runtime:
        ...     runtime.dead_letter_count
        0
    """

    def __init__(self, workers: int | None = None) -> None:
        if workers is not None and workers < 1:
            raise InvalidConfigurationError("workers", workers, "there has to be a thread to run ring kernels; give 1 or more")
        self._core = _core.NativeRuntime(workers)
        runtimes.add(self)

    @property
    def dead_letter_count(self) -> int:
        """How many messages have become dead letters."""
        return self._core.dead_letter_count

    def dead_letters(self) -> list[tuple[str, str]]:
        """The latest dead letters, oldest first: the ring kernel's name and the reason."""
        return self._core.dead_letters()

    def shutdown(self, timeout: float = 5.0) -> None:
        """Ends every ring kernel, once each has handled what it has accepted, and the runtime.

        Args:
            timeout: How long to wait for all of them, in seconds. Those that take longer are aborted.

        Raises:
            KernelError: Some handlers did not return in time; the error names them.
        """
        self._core.shutdown(timeout)

    def __enter__(self) -> NativeRuntime:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.shutdown()


#: Those that there are, for the end of the program.
runtimes: WeakSet[NativeRuntime] = WeakSet()
_shared_lock = threading.Lock()
_shared: NativeRuntime | None = None


def shared_runtime() -> NativeRuntime:
    """The runtime of ring kernels that are given none."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = NativeRuntime()
        return _shared
