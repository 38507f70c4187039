"""A queue between two processes, in shared memory.

One process puts, another gets. A message is copied into and out of the queue. No system call is made unless a side is parked.
Works on Linux and macOS. On Linux a parked side is woken by the other; elsewhere it polls with short sleeps.

Between threads of one process use the queues of :mod:`~pydotcompute.ring_kernels.sync_queue` or
:class:`~pydotcompute.ring_kernels._cython.FastSPSCQueue`, which pass objects without copying.

- **Endpoints.** The first `put` of a process makes it the producer, the first `get` the consumer. A second producer or consumer is
  rejected.
- **Closing.** :meth:`SharedQueue.close`, leaving a ``with`` block or exiting the process releases the endpoints. The other side receives
  the remaining messages and then gets :class:`QueueClosedError`.
- **Crashes.** If a process ends in any other way, including ``kill -9``, a waiting peer detects it within about 50 ms. The peer receives
  the messages already published, and then gets :class:`PeerDiedError`. A new process may take over the endpoint, for which
  :meth:`SharedQueue.wait_for_consumer` and :meth:`SharedQueue.wait_for_producer` wait. A message whose `put` did not complete is lost; one
  whose `get` did not complete is received again.
- **Name.** The name is removed when the creator or the consumer closes the queue, and if these were killed, when the last process that
  used the queue closes it. The creator leaves it in place while messages are queued and no consumer has attached, so that one still can.
  After a crash of all processes it remains; see :meth:`SharedQueue.remove`.

Example:
    >>> from pydotcompute.ring_kernels.shared_queue import SharedQueue
    >>> with SharedQueue.create(capacity=16, slot_size=64) as queue:
    ...     queue.put(b"tick")
    ...     queue.get(timeout=1.0)
    True
    b'tick'
"""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import Callable
from multiprocessing import util
from typing import Any, Literal, Self

from pydotcompute import _core
from pydotcompute.exceptions import NoPeerError

__all__ = ["SharedQueue"]

Wait = Literal["spin", "adaptive", "park"]


class SharedQueue(_core.SharedQueue):
    """A bounded queue from one process to another. Create one with :meth:`create` or :meth:`attach`.

    It can be pickled, and so passed to processes started with `multiprocessing`, where it attaches by name. Keep it open here until they
    have attached. A forked process must acquire endpoints of its own, which it can unless its parent holds them.

    Example:
        >>> queue = SharedQueue.create(capacity=4)
        >>> queue.put(b"a"), queue.put_nowait(b"b"), len(queue)
        (True, True, 2)
        >>> queue.get(), queue.get_nowait(), queue.get_nowait()
        (b'a', b'b', None)
        >>> queue.close()
    """

    @classmethod
    def create(cls, name: str | None = None, capacity: int = 1024, slot_size: int = 256, *, wait: Wait = "adaptive") -> Self:
        """Creates a queue.

        Args:
            name: Name for other processes to attach to, without slashes; by default a new unique name.
            capacity: Capacity, in messages; rounded up to a power of two.
            slot_size: Maximum message size, in bytes; rounded up to 16 less than a power of two, and at most 1 MiB - 16. All memory is
                allocated at once.
            wait: Wait strategy of this process: ``"spin"`` for the lowest latency, at the cost of a core; ``"park"`` to sleep at once;
                ``"adaptive"`` to spin for some microseconds and then park.

        Returns:
            The queue. Neither endpoint is acquired yet.

        Raises:
            QueueError: The name is in use, the memory could not be allocated, or the capacity or slot size is invalid.
            ValueError: `wait` is not one of the three strategies.
        """
        return cls(name if name is not None else f"pydotcompute-{os.getpid()}-{secrets.token_hex(4)}", capacity, slot_size, wait)

    @classmethod
    def attach(cls, name: str, *, wait: Wait = "adaptive") -> Self:
        """Attaches to a queue that another process has created.

        Args:
            name: Name of the queue.
            wait: Wait strategy of this process; see :meth:`create`.

        Returns:
            The queue. Neither endpoint is acquired yet.

        Raises:
            QueueError: There is no queue of this name, or the shared memory of this name is not a valid queue.
            ValueError: `wait` is not one of the three strategies.
        """
        return cls(name, None, 0, wait)

    @classmethod
    def remove(cls, name: str) -> bool:
        """Removes a name, for example after all processes that used the queue were killed. Processes that have it open can continue.

        Args:
            name: Name of the queue.

        Returns:
            Whether there was a queue of this name.

        Raises:
            QueueError: The name is invalid, or the system call failed.
        """
        return cls._remove(name)

    def put(self, item: Any, timeout: float | None = None) -> bool:
        """Adds a message; waits while the queue is full.

        Args:
            item: Bytes, an object that supports the buffer protocol, or a message (``@message``), which is received as one. It is handed
                over: neither side changes it afterwards. The queue takes a copy during the call.
            timeout: Maximum time to wait, in seconds; ``None`` for no limit.

        Returns:
            ``True``.

        Raises:
            QueueFullError: The queue stayed full until the timeout. As with every error here, the message was not added.
            MessageError: The message is larger than `slot_size`.
            PeerDiedError: The queue is full, and the consumer's process has ended.
            QueueClosedError: The consumer or this process has closed the queue.
            QueueError: Another process or thread is the producer.
            TypeError: The item is neither bytes nor a message.
        """
        return super().put(item, timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Removes and returns the oldest message; waits while the queue is empty.

        Args:
            timeout: Maximum time to wait, in seconds; ``None`` for no limit.

        Returns:
            Bytes, or the message. The class of the message must be known in this process: import the module that defines it.

        Raises:
            QueueTimeoutError: The queue stayed empty until the timeout.
            PeerDiedError: The queue is empty, and the producer's process has ended.
            QueueClosedError: The queue is empty and the producer has closed it, or this process has closed it.
            QueueError: Another process or thread is the consumer.
            MessageDeserializationError: The message cannot be deserialized; its bytes are the error's attribute `data`.
        """
        return super().get(timeout)

    def wait_for_consumer(self, timeout: float | None = None) -> int:
        """Waits until a running process is the consumer, for example a new one after :class:`PeerDiedError`.

        Args:
            timeout: Maximum time to wait, in seconds; ``None`` for no limit.

        Returns:
            The process id of the consumer. A process becomes the consumer with its first `get`.

        Raises:
            NoPeerError: There was no consumer until the timeout.
            QueueClosedError: This process has closed the queue.

        Example:
            >>> queue = SharedQueue.create()
            >>> queue.get_nowait()
            >>> queue.wait_for_consumer(timeout=1.0) == os.getpid()
            True
            >>> queue.close()
        """
        return self._wait_for("consumer", timeout)

    def wait_for_producer(self, timeout: float | None = None) -> int:
        """Waits until a running process is the producer; as :meth:`wait_for_consumer`.

        Args:
            timeout: Maximum time to wait, in seconds; ``None`` for no limit.

        Returns:
            The process id of the producer. A process becomes the producer with its first `put`.

        Raises:
            NoPeerError: There was no producer until the timeout.
            QueueClosedError: This process has closed the queue.
        """
        return self._wait_for("producer", timeout)

    def _wait_for(self, side: str, timeout: float | None) -> int:
        process = self._wait_for_owner(side == "producer", timeout)
        if process is None:
            raise NoPeerError(self.name, side, timeout or 0.0)
        return process

    def __reduce__(self) -> tuple[Callable[..., SharedQueue], tuple[Any, ...]]:
        return (_attach, (type(self), self.name, self.wait_strategy))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"SharedQueue(name={self.name!r}, size={self.size}/{self.capacity}, slot_size={self.slot_size})"


def _attach(cls: type[SharedQueue], name: str, wait: Wait) -> SharedQueue:
    return cls.attach(name, wait=wait)


_open_queues: weakref.WeakSet[_core.SharedQueue] = weakref.WeakSet()
_registered_pid = 0


def _close_at_exit(queue: _core.SharedQueue) -> None:
    """Registers a queue to be closed at process exit. The extension calls it when this process acquires an endpoint.

    Uses `multiprocessing` finalizers, because `multiprocessing` processes do not run `atexit` functions.
    """
    global _registered_pid
    if _registered_pid != os.getpid():
        _open_queues.clear()
        _registered_pid = os.getpid()
        util.Finalize(None, _close_all, exitpriority=10)
    _open_queues.add(queue)


def _close_all() -> None:
    for queue in list(_open_queues):
        queue.close()
