"""A queue between two processes, in shared memory.

One process puts, another gets; a message is copied into the queue and out of it, and no system call is made while neither side sleeps.
Linux and macOS; on Linux a sleeping side is woken by the other, elsewhere it naps.

Which queue for what: between threads of one process use those of :mod:`~pydotcompute.ring_kernels.sync_queue` or
:class:`~pydotcompute.ring_kernels._cython.FastSPSCQueue`, which pass objects without copying.

- **Ends.** The first `put` of a process makes it the producer, the first `get` the consumer. A second one is refused.
- **Closing.** :meth:`SharedQueue.close`, leaving a ``with`` block or ending the process gives the ends back. The other side gets what is
  still in the queue and then :class:`QueueClosedError`.
- **Dying.** A process that ends in any other way, by ``kill -9`` too, is noticed within about 50 ms by a side that waits for it. What it
  had published is still received, then :class:`PeerDiedError` is raised. A new process may take the dead one's end and go on: a message
  that was being put was never seen, one that was being taken is received again.
- **The name** is taken away when the process that created the queue, or the consumer, closes it. The creator leaves it in place while there
  are messages and no consumer, so that one may still come. After a crash of all it stays; see :meth:`SharedQueue.remove`.

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

from pydotcompute._core import SharedRing

__all__ = ["SharedQueue"]

Wait = Literal["spin", "adaptive", "park"]


class SharedQueue(SharedRing):
    """A bounded queue from one process to another. Make one with :meth:`create` or :meth:`attach`.

    It can be pickled, so handed to processes that `multiprocessing` starts: there it attaches by its name. Keep it open here until they
    have. A process that is forked has to take ends of its own, which it can if its parent has not.

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
        """Makes a queue.

        Args:
            name: What others attach to; by default a new name. No slashes.
            capacity: Messages it has room for; rounded up to a power of two.
            slot_size: Bytes of the largest message; rounded up to 16 less than a power of two, and at most 1 MiB - 16. All the memory is
                set aside at once.
            wait: How this process waits: ``"spin"`` for the lowest latency at the price of a core, ``"park"`` to sleep at once, or some
                microseconds of the one and then the other.

        Returns:
            The queue. Neither end is taken yet.

        Raises:
            QueueError: There is one of this name, or the memory cannot be had, or capacity or slot size are impossible.
            ValueError: `wait` is none of the three.
        """
        return cls(name if name is not None else f"pydotcompute-{os.getpid()}-{secrets.token_hex(4)}", capacity, slot_size, wait)

    @classmethod
    def attach(cls, name: str, *, wait: Wait = "adaptive") -> Self:
        """Opens a queue that another process has created.

        Args:
            name: The queue's name.
            wait: How this process waits; see :meth:`create`.

        Returns:
            The queue. Neither end is taken yet.

        Raises:
            QueueError: There is no queue of this name, or what has it is no queue, or a damaged one.
            ValueError: `wait` is none of the three.
        """
        return cls(name, None, 0, wait)

    @classmethod
    def remove(cls, name: str) -> bool:
        """Takes a name away, for example after all processes that used the queue were killed. Who has it open can go on.

        Returns:
            Whether there was a queue of this name.

        Raises:
            QueueError: It is not a name, or the system refused.
        """
        return cls._remove(name)

    def put(self, item: Any, timeout: float | None = None) -> bool:
        """Puts a message in, waiting for room.

        Args:
            item: Bytes, anything that has a buffer, or a message (``@message``), which arrives as one.
            timeout: How long to wait, in seconds; None for ever.

        Returns:
            True.

        Raises:
            QueueFullError: There was no room in time. As in all cases here, the message was not put in.
            MessageError: It has more bytes than `slot_size`.
            PeerDiedError: There is no room, and the consumer's process has ended.
            QueueClosedError: The consumer has closed the queue, or this process has.
            QueueError: Another process or thread is the producer.
            TypeError: It is neither bytes nor a message.
        """
        return super().put(item, timeout)

    def get(self, timeout: float | None = None) -> Any:
        """Takes the oldest message, waiting for one.

        Args:
            timeout: How long to wait, in seconds; None for ever.

        Returns:
            Bytes, or the message. Its class has to be known in this process: import the module that defines it.

        Raises:
            QueueTimeoutError: None came in time.
            PeerDiedError: The queue is empty, and the producer's process has ended.
            QueueClosedError: The queue is empty, and the producer has closed it; or this process has.
            QueueError: Another process or thread is the consumer.
            MessageDeserializationError: The message cannot be read; its bytes are the error's `data`.
        """
        return super().get(timeout)

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


_in_use: weakref.WeakSet[SharedRing] = weakref.WeakSet()
_watched_pid = 0


def _close_at_exit(queue: SharedRing) -> None:
    """Has a queue, of which this process has taken an end, closed when the process ends.

    By way of `multiprocessing`, whose processes do not run the functions of `atexit`.
    """
    global _watched_pid
    if _watched_pid != os.getpid():
        _in_use.clear()
        _watched_pid = os.getpid()
        util.Finalize(None, _close_all, exitpriority=10)
    _in_use.add(queue)


def _close_all() -> None:
    for queue in list(_in_use):
        queue.close()
