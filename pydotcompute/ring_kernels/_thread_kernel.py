"""What ring kernels on threads of their own have in common: starting, failing, stopping, and the messages that are left over."""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from enum import Enum
from typing import Any, Generic, Protocol, Self, TypeVar

from pydotcompute.exceptions import KernelError, KernelStateError
from pydotcompute.ring_kernels.lifecycle import DeadLetter

__all__ = ["Config", "ThreadKernel"]

TIn = TypeVar("TIn")
TOut = TypeVar("TOut")
S = TypeVar("S", bound=Enum)

_logger = logging.getLogger(__name__)


class Config(Protocol):
    """What a configuration says about the thread."""

    kernel_id: str
    thread_name: str | None
    daemon: bool


class Context(Protocol):
    """What the end of a ring kernel needs of its context."""

    _received: Any


class Inbox(Protocol[TIn]):
    """What the end of a ring kernel needs of its input queue."""

    def shutdown(self) -> None: ...
    def _drain(self) -> list[TIn]: ...


class Outbox(Protocol):
    """What the end of a ring kernel needs of its output queue."""

    def shutdown(self) -> None: ...
    def _stop_blocking_puts(self) -> None: ...


class ThreadKernel(Generic[TIn, TOut, S]):
    """A function on a thread, between two queues.

    ``CREATED -> RUNNING -> STOPPING -> STOPPED``, and ``FAILED`` from the two in the middle when the function raises. A subclass
    makes the queues and the context, and says by which enumeration states are named.
    """

    _thread_prefix = "kernel"

    def __init__(self, kernel_id: str, kernel_func: Callable[..., Any], states: type[S], config: Config) -> None:
        self.kernel_id = kernel_id
        self._kernel_func = kernel_func
        self._states = states
        self._thread_config = config
        self._state: S = states["CREATED"]
        self._running: S = states["RUNNING"]
        self._transition = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop_requested = threading.Event()
        self._error: Exception | None = None
        self._inbox: Inbox[TIn] | None = None
        self._outbox: Outbox | None = None
        self._dead_letters: list[DeadLetter] = []

    @property
    def state(self) -> S:
        """The state this moment."""
        return self._state

    @property
    def is_running(self) -> bool:
        """Whether the function runs and has not been asked to stop."""
        return self._state is self._running

    @property
    def error(self) -> Exception | None:
        """The exception that ended the function, if one did. It stays after :meth:`stop`."""
        return self._error

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """What was sent and will never be handled, oldest first; known once the function has ended.

        If it failed, the first is the message that it had received last.
        """
        with self._transition:
            if self._state in (self._states["STOPPED"], self._states["FAILED"]):
                self._bury()
            return list(self._dead_letters)

    def _bury(self) -> None:
        """Makes dead letters of what is still in the input queue."""
        reason = "unhandled" if self._error is None else "failed"
        waiting = self._inbox._drain() if self._inbox is not None else []
        self._dead_letters.extend(DeadLetter(message, reason, self._error) for message in waiting)

    def start(self) -> None:
        """Makes the queues and starts the thread.

        Raises:
            KernelStateError: It was started before; a kernel runs once.
        """
        with self._transition:
            if self._state is not self._states["CREATED"]:
                raise KernelStateError(self.kernel_id, self._state.name, "start")
            context = self._make_context(self._stop_requested)
            self._thread = threading.Thread(
                target=self._run,
                args=(context,),
                name=self._thread_config.thread_name or f"{self._thread_prefix}_{self.kernel_id}",
                daemon=self._thread_config.daemon,
            )
            if not self._thread_config.daemon:
                _non_daemons.add(self)
            self._state = self._running
            self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Asks the function to end and waits until it has.

        From now on nothing can be sent. The function can still send what it is working at, as far as there is room; what it does not
        receive any more is in :attr:`dead_letters`. Without effect on a kernel that was not started, or has been stopped.

        Args:
            timeout: How long to wait, in seconds. If the function has not ended by then, the state stays ``STOPPING`` until it does.
        """
        self._request_stop()
        self._join(timeout)

    def _request_stop(self) -> None:
        with self._transition:
            if self._state is self._states["FAILED"]:
                self._state = self._states["STOPPED"]
            if self._state is not self._running:
                return
            self._state = self._states["STOPPING"]
        self._stop_requested.set()
        if self._inbox is not None:
            self._inbox.shutdown()
        if self._outbox is not None:
            self._outbox._stop_blocking_puts()

    def _join(self, timeout: float) -> None:
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return
        thread.join(timeout)
        if thread.is_alive():
            _logger.warning(
                "Kernel '%s' has not ended %s s after it was asked to: its function does not look at ctx.should_terminate",
                self.kernel_id,
                timeout,
            )
            return
        with self._transition:
            self._state = self._states["STOPPED"]

    def _make_context(self, stop_requested: threading.Event) -> Context:
        """Makes the queues and what is handed to the function."""
        raise NotImplementedError

    def _run(self, context: Context) -> None:
        """The thread."""
        error: Exception | None = None
        try:
            self._kernel_func(context)
        except SystemExit:
            pass  # What ends a thread in Python, and nothing else.
        except Exception as raised:
            error = raised
        except BaseException as raised:
            error = KernelError(f"Kernel '{self.kernel_id}' was ended by {type(raised).__name__}")
            error.__cause__ = raised
        if error is not None and context._received is not None:
            self._dead_letters.append(DeadLetter(context._received, "failed", error))
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        # The error first: whoever sees the state, or is woken by a queue, finds it.
        self._error = error
        with self._transition:
            self._state = self._states["STOPPED" if error is None else "FAILED"]
        self._stop_requested.set()
        _non_daemons.discard(self)
        if self._inbox is not None:
            self._inbox.shutdown()
        if self._outbox is not None:
            self._outbox.shutdown()
        if error is not None:
            # Somebody may look at `error`, or wait in `receive`; but nobody has to, and then it would go unseen.
            _logger.error("Kernel '%s' failed", self.kernel_id, exc_info=error)

    def _raise_failure(self, operation: str) -> None:
        """Raises what ended the function, if something did."""
        error = self._error
        if error is not None:
            raise KernelError(
                f"Cannot {operation} kernel '{self.kernel_id}': it failed with {type(error).__name__}: {error}. "
                "What it has not handled is in dead_letters; make a new kernel to go on"
            ) from error

    def _refusal(self, operation: str) -> KernelStateError:
        """The error for what cannot be done in this state."""
        refusal = KernelStateError(self.kernel_id, self._state.name, operation)
        refusal.__cause__ = self._error
        return refusal

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: object) -> None:
        self.stop()


_non_daemons: weakref.WeakSet[ThreadKernel[Any, Any, Any]] = weakref.WeakSet()


def _stop_non_daemons() -> None:
    """Asks kernels to stop that the interpreter, on its way out, is about to wait for."""
    for kernel in list(_non_daemons):
        kernel._request_stop()


# Callbacks of `atexit` run only after such threads have ended; `concurrent.futures` uses this too.
threading._register_atexit(_stop_non_daemons)  # type: ignore[attr-defined]
