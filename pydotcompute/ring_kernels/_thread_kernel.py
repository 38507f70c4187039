"""Base class of ring kernels on dedicated threads: lifecycle, failure, and dead letters."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import types
import weakref
from collections.abc import Callable
from enum import Enum
from typing import Any, Generic, Protocol, Self, TypeVar

from pydotcompute.exceptions import ForkedProcessError, KernelError, KernelStateError
from pydotcompute.ring_kernels.lifecycle import DeadLetter

__all__ = ["Config", "ThreadKernel"]

TIn = TypeVar("TIn")
TOut = TypeVar("TOut")
S = TypeVar("S", bound=Enum)

_logger = logging.getLogger(__name__)


class Config(Protocol):
    """Settings of the thread."""

    kernel_id: str
    thread_name: str | None
    daemon: bool


class Context(Protocol):
    """The part of a kernel context that :class:`ThreadKernel` reads."""

    _received: Any


class Inbox(Protocol[TIn]):
    """The part of an input queue that :class:`ThreadKernel` uses."""

    def __len__(self) -> int: ...
    def shutdown(self) -> None: ...
    def _set_paused(self, paused: bool) -> None: ...
    def _drain(self) -> list[TIn]: ...


class Outbox(Protocol):
    """The part of an output queue that :class:`ThreadKernel` uses."""

    def shutdown(self) -> None: ...
    def _stop_blocking_puts(self) -> None: ...


def _copied(member: Any, cls: type) -> Any:
    """Returns a copy of a method or property, as one of a class."""
    if isinstance(member, property):
        return property(_copied(member.fget, cls))
    copy = types.FunctionType(member.__code__, member.__globals__, member.__name__, member.__defaults__, member.__closure__)
    functools.update_wrapper(copy, member)
    del copy.__wrapped__  # type: ignore[attr-defined]
    copy.__qualname__ = f"{cls.__qualname__}.{member.__name__}"
    return copy


class ThreadKernel(Generic[TIn, TOut, S]):
    """A function on a dedicated thread, between an input and an output queue.

    States: ``CREATED -> LAUNCHED -> RUNNING -> STOPPING -> STOPPED``, and ``DEACTIVATED`` between ``RUNNING`` and ``RUNNING``. An
    exception changes ``RUNNING``, ``DEACTIVATED`` or ``STOPPING`` to ``FAILED``. Subclasses create the queues and the context, and pass
    the enumeration of the states. In a process forked after the launch, every method raises ``ForkedProcessError``: the thread exists in
    the parent only.
    """

    _thread_prefix = "kernel"

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if ThreadKernel in cls.__bases__:
            # Copies, so that `help` and the errors of wrong calls name the class that users know. A call costs the same.
            for name, member in vars(ThreadKernel).items():
                if not name.startswith("_") and name not in vars(cls):
                    setattr(cls, name, _copied(member, cls))

    def __init__(self, kernel_id: str, kernel_func: Callable[..., Any], states: type[S], config: Config) -> None:
        self.kernel_id = kernel_id
        self._kernel_func = kernel_func
        self._states = states
        self._thread_config = config
        self._state: S = states["CREATED"]
        self._running: S = states["RUNNING"]
        # Whether the function receives no messages while it runs. Its state is then shown as `DEACTIVATED`.
        self._paused = False
        self._transition = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop_requested = threading.Event()
        self._error: Exception | None = None
        # From launch to activation.
        self._context: Any = None
        self._inbox: Inbox[TIn] | None = None
        self._outbox: Outbox | None = None
        self._dead_letters: list[DeadLetter] = []
        # Process in which the thread runs.
        self._pid: int | None = None

    def _check_process(self) -> None:
        """Raises ``ForkedProcessError`` if the thread was started in another process. Queues check it themselves."""
        if self._pid is not None and self._pid != os.getpid():
            raise ForkedProcessError(f"kernel '{self.kernel_id}'", self._pid)

    @property
    def state(self) -> S:
        """Current state."""
        self._check_process()
        return self._shown_state()

    def _shown_state(self) -> S:
        state = self._state
        return self._states["DEACTIVATED"] if self._paused and state is self._running else state

    @property
    def is_running(self) -> bool:
        """Whether the function runs and was not asked to end, also while it is paused."""
        self._check_process()
        return self._state is self._running

    @property
    def error(self) -> Exception | None:
        """The exception that ended the function, or ``None``. It stays set after :meth:`terminate`."""
        return self._error

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """Messages that were sent and will never be handled, oldest first. Complete once the function has ended.

        If the function failed, the first one is the message that it received last.
        """
        self._check_process()
        with self._transition:
            if self._state in (self._states["STOPPED"], self._states["FAILED"]):
                self._dead_letter_queued()
            return list(self._dead_letters)

    def _dead_letter_queued(self) -> None:
        """Turns the messages left in the input queue into dead letters."""
        reason = "unhandled" if self._error is None else "failed"
        queued = self._inbox._drain() if self._inbox is not None else []
        self._dead_letters.extend(DeadLetter(message, reason, self._error) for message in queued)

    def launch(self) -> None:
        """Creates the queues and the context, without starting the function.

        Raises:
            KernelStateError: The kernel was launched before; a kernel runs only once.
        """
        self._check_process()
        with self._transition:
            self._require("CREATED", "launch")
            self._create_thread()

    def activate(self) -> None:
        """Starts the function on its thread.

        Raises:
            KernelStateError: The kernel is not launched, or already activated.
        """
        self._check_process()
        with self._transition:
            self._require("LAUNCHED", "activate")
            self._start_thread()

    def deactivate(self) -> None:
        """Pauses the kernel: its function receives no messages, which stay queued. The message that it handles is not interrupted.

        Raises:
            KernelStateError: The kernel is not active.
        """
        self._set_paused(True, "RUNNING", "deactivate")

    def reactivate(self) -> None:
        """Continues after a pause.

        Raises:
            KernelStateError: The kernel is not deactivated.
        """
        self._set_paused(False, "DEACTIVATED", "reactivate")

    def terminate(self, timeout: float = 5.0) -> None:
        """Asks the function to end, and waits until it has.

        From now on :meth:`send` is rejected. The function can still send outputs while the output queue has free slots. Messages that it
        does not receive are in :attr:`dead_letters`. No effect if the kernel was not launched or has ended.

        Args:
            timeout: Maximum time to wait, in seconds. If the function has not returned by then, the state stays ``STOPPING`` until it does.
        """
        self._request_stop()
        self._join(timeout)

    def start(self) -> None:
        """Launches and activates the kernel: the name of 0.2 for :meth:`launch` and :meth:`activate` in one call.

        Raises:
            KernelStateError: The kernel was started before; a kernel runs only once.
        """
        self._check_process()
        with self._transition:
            if self._state is not self._states["LAUNCHED"]:
                self._require("CREATED", "start")
                self._create_thread()
            self._start_thread()

    def stop(self, timeout: float = 5.0) -> None:
        """Terminates the kernel: the name of 0.2 for :meth:`terminate`.

        Args:
            timeout: As for :meth:`terminate`, in seconds.
        """
        self.terminate(timeout)

    def _require(self, state: str, operation: str) -> None:
        """Raises ``KernelStateError`` in another state. The caller holds `_transition`."""
        if self._shown_state() is not self._states[state]:
            raise self._state_error(operation)

    def _create_thread(self) -> None:
        self._pid = os.getpid()
        context = self._context = self._make_context(self._stop_requested)
        self._thread = threading.Thread(
            target=self._run,
            args=(context,),
            name=self._thread_config.thread_name or f"{self._thread_prefix}_{self.kernel_id}",
            daemon=self._thread_config.daemon,
        )
        self._state = self._states["LAUNCHED"]
        _logger.debug("Kernel '%s' launched", self.kernel_id)

    def _start_thread(self) -> None:
        assert self._thread is not None and self._context is not None
        context, self._context = self._context, None
        self._open_queues(context)
        if not self._thread_config.daemon:
            _non_daemons.add(self)
        self._state = self._running
        self._thread.start()
        _logger.info("Kernel '%s' activated on thread '%s'", self.kernel_id, self._thread.name)

    def _set_paused(self, paused: bool, required: str, operation: str) -> None:
        self._check_process()
        with self._transition:
            self._require(required, operation)
            assert self._inbox is not None
            self._paused = paused
            self._inbox._set_paused(paused)
        _logger.info("Kernel '%s' %sd", self.kernel_id, operation)

    def _request_stop(self) -> None:
        self._check_process()
        with self._transition:
            if self._state in (self._states["FAILED"], self._states["LAUNCHED"]):
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
        if thread is None or thread.ident is None or thread is threading.current_thread():
            return
        thread.join(timeout)
        if thread.is_alive():
            _logger.warning(
                "Terminating kernel '%s': its function is still running after %s s; make it check ctx.should_terminate",
                self.kernel_id,
                timeout,
            )
            return
        with self._transition:
            self._state = self._states["STOPPED"]

    def _make_context(self, stop_requested: threading.Event) -> Context:
        """Creates the queues and the context that the function receives."""
        raise NotImplementedError

    def _open_queues(self, context: Any) -> None:
        """Lets callers use the queues. Before the activation, `send` and `receive` find none."""
        raise NotImplementedError

    def _run(self, context: Context) -> None:
        """Entry point of the thread."""
        error: Exception | None = None
        try:
            self._kernel_func(context)
        except SystemExit:
            pass  # SystemExit ends a thread silently, as in Python's own threads.
        except Exception as raised:
            error = raised
        except BaseException as raised:
            error = KernelError(f"Kernel '{self.kernel_id}' ended with {type(raised).__name__}")
            error.__cause__ = raised
        if error is not None and context._received is not None:
            self._dead_letters.append(DeadLetter(context._received, "failed", error))
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        # Set the error first, so that it is visible to every thread that sees the new state or is woken by a queue.
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
            # Log the failure: `error` and `receive` report it too, but a program may use neither.
            _logger.error("Kernel '%s' failed", self.kernel_id, exc_info=error)
        else:
            _logger.info("Kernel '%s' ended", self.kernel_id)
        if self._inbox is not None and len(self._inbox):
            _logger.warning(
                "Kernel '%s' ended before it handled %d queued messages; see its dead_letters", self.kernel_id, len(self._inbox)
            )

    def _raise_failure(self, operation: str) -> None:
        """Raises ``KernelError`` if the function failed."""
        error = self._error
        if error is not None:
            raise KernelError(
                f"Cannot {operation} kernel '{self.kernel_id}': it failed with {type(error).__name__}: {error}. "
                "Unhandled messages are in dead_letters; create a new kernel to continue"
            ) from error

    def _state_error(self, operation: str) -> KernelStateError:
        """Returns the error for an operation that the current state does not allow."""
        error = KernelStateError(self.kernel_id, self._shown_state().name, operation)
        error.__cause__ = self._error
        return error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: object) -> None:
        # A forked child that leaves the block leaves the kernel to its parent.
        with contextlib.suppress(ForkedProcessError):
            self.stop()


_non_daemons: weakref.WeakSet[ThreadKernel[Any, Any, Any]] = weakref.WeakSet()


def _stop_non_daemons() -> None:
    """Stops non-daemon kernels at interpreter exit, which would otherwise wait for their threads."""
    for kernel in list(_non_daemons):
        kernel._request_stop()


if hasattr(os, "register_at_fork"):
    # A forked child has no such threads.
    os.register_at_fork(after_in_child=_non_daemons.clear)

# `atexit` callbacks run only after non-daemon threads have ended; `concurrent.futures` uses this hook too.
threading._register_atexit(_stop_non_daemons)  # type: ignore[attr-defined]
