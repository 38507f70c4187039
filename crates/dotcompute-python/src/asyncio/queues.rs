//! The queue classes that users know, over one mailbox. Each documents its own behavior, and its errors name it.

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple};

use super::mailbox::Mailbox;
use crate::arguments::{Second, take_one};

/// Defines a queue class with the methods that all queue classes have in common.
macro_rules! queue_class {
    ($(#[doc = $text:tt])* $class:ident) => {
        $(#[doc = $text])*
        #[pyclass(frozen, subclass, extends = Mailbox, module = "pydotcompute._core")]
        pub(crate) struct $class;

        #[pymethods]
        impl $class {
            #[new]
            #[pyo3(signature = (*_arguments, **_keywords))]
            fn new(
                _arguments: &Bound<'_, PyAny>,
                _keywords: Option<&Bound<'_, PyAny>>,
            ) -> PyClassInitializer<Self> {
                PyClassInitializer::from(Mailbox::unconfigured()).add_subclass($class)
            }

            /// Maximum number of messages; 0 for no limit.
            #[getter]
            fn maxsize(slf: &Bound<'_, Self>) -> usize {
                slf.as_super().get().lock().maxsize()
            }

            /// Number of queued messages.
            #[getter]
            fn qsize(slf: &Bound<'_, Self>) -> PyResult<usize> {
                slf.as_super().get().queued(slf.py())
            }

            /// Whether there are no queued messages.
            #[getter]
            fn empty(slf: &Bound<'_, Self>) -> PyResult<bool> {
                Ok(slf.as_super().get().queued(slf.py())? == 0)
            }

            /// Whether there are no free slots.
            #[getter]
            fn full(slf: &Bound<'_, Self>) -> PyResult<bool> {
                slf.as_super().get().is_full(slf.py())
            }

            /// Removes and returns queued messages, without waiting.
            ///
            /// Args:
            ///     max_count: Maximum number of messages.
            ///
            /// Returns:
            ///     The messages, in the order in which `get` returns them.
            #[pyo3(signature = (max_count, *extra), text_signature = "($self, max_count)")]
            fn get_batch(
                slf: &Bound<'_, Self>,
                max_count: usize,
                extra: &Bound<'_, PyTuple>,
            ) -> PyResult<Vec<Py<PyAny>>> {
                take_one(concat!(stringify!($class), ".get_batch"), extra)?;
                slf.as_super().get().take_list(slf.py(), max_count)
            }

            /// Discards all queued messages.
            ///
            /// Returns:
            ///     Number of messages discarded.
            fn clear(slf: &Bound<'_, Self>) -> PyResult<usize> {
                slf.as_super().get().discard_all(slf.py())
            }

            /// Returns the counters.
            ///
            /// Returns:
            ///     ``current_size``, ``max_size``, ``peak_size``, ``total_enqueued``, ``total_dequeued``, ``total_dropped`` and
            ///     ``never_awaited``; in a queue with priority bands also ``band_counts``, the number of messages by band.
            fn get_stats<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyDict>> {
                slf.as_super().get().counters_by_name(slf.py())
            }
        }
    };
}

queue_class! {
    /// The queue of which the public `MessageQueue` is a subclass.
    MessageQueue
}

queue_class! {
    /// The queue of which the public `FastMessageQueue` is a subclass.
    FastMessageQueue
}

queue_class! {
    /// The queue of which the public `RingBuffer` is a subclass.
    RingBuffer
}

#[pymethods]
impl MessageQueue {
    /// Adds a message; waits while the queue is full and its strategy is ``BLOCK``.
    ///
    /// Args:
    ///     message: The message; without a ``priority`` attribute it has priority 128. It is handed over, not copied: neither side
    ///         changes it afterwards.
    ///     timeout: Maximum time to wait for a free slot, in seconds; ``None`` for no limit.
    ///
    /// Returns:
    ///     ``True``.
    ///
    /// Raises:
    ///     QueueFullError: The queue is full, and the strategy is ``REJECT`` or the timeout is 0.
    ///     QueueTimeoutError: The queue stayed full until the timeout.
    ///     ForkedProcessError: The queue belongs to the process from which this one was forked.
    #[pyo3(signature = (message, second=Second::Absent, *, timeout=None), text_signature = "($self, message, *, timeout=None)")]
    fn put<'py>(
        slf: &Bound<'py, Self>,
        message: Bound<'py, PyAny>,
        second: Second,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        second.reject("MessageQueue.put")?;
        Mailbox::put_for(slf.as_super(), message, timeout, "MessageQueue.put")
    }

    /// Removes and returns the next message; waits while the queue is empty.
    ///
    /// Args:
    ///     timeout: Maximum time to wait, in seconds; ``None`` for no limit.
    ///
    /// Returns:
    ///     The message.
    ///
    /// Raises:
    ///     QueueTimeoutError: The queue stayed empty until the timeout.
    ///     ForkedProcessError: The queue belongs to the process from which this one was forked.
    #[pyo3(signature = (*, timeout=None))]
    fn get<'py>(slf: &Bound<'py, Self>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        Mailbox::get_for(slf.as_super(), timeout, "MessageQueue.get", None)
    }

    /// Adds a message without waiting.
    ///
    /// Args:
    ///     message: The message. It is handed over, not copied: neither side changes it afterwards.
    ///
    /// Returns:
    ///     Whether it was added. ``False`` if the queue is full, unless the strategy is ``DROP_OLDEST``.
    ///
    /// Raises:
    ///     ForkedProcessError: The queue belongs to the process from which this one was forked.
    #[pyo3(signature = (message, second=Second::Absent), text_signature = "($self, message)")]
    fn put_nowait(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>, second: Second) -> PyResult<bool> {
        second.reject("MessageQueue.put_nowait")?;
        slf.as_super().get().put_now(message)
    }

    /// Removes and returns the next message without waiting.
    ///
    /// Returns:
    ///     The message, or ``None`` if the queue is empty.
    ///
    /// Raises:
    ///     ForkedProcessError: The queue belongs to the process from which this one was forked.
    fn get_nowait(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        slf.as_super().get().take_now(slf.py())
    }

    /// Adds messages in order, without waiting, until the queue is full.
    ///
    /// Args:
    ///     messages: The messages. They are handed over, not copied: neither side changes them afterwards.
    ///
    /// Returns:
    ///     Number of messages added.
    #[pyo3(signature = (messages, *extra), text_signature = "($self, messages)")]
    fn put_batch(
        slf: &Bound<'_, Self>,
        messages: &Bound<'_, PyList>,
        extra: &Bound<'_, PyTuple>,
    ) -> PyResult<usize> {
        take_one("MessageQueue.put_batch", extra)?;
        slf.as_super().get().put_list(messages)
    }
}

#[pymethods]
impl FastMessageQueue {
    /// Adds a message; waits while the queue is full.
    ///
    /// Args:
    ///     message: The message; without a ``priority`` attribute it has normal priority. It is handed over, not copied, unless
    ///         `serialize` is set: neither side changes it afterwards.
    ///     timeout: Maximum time to wait, in seconds; ``0`` does not wait, ``None`` waits without limit.
    ///
    /// Returns:
    ///     ``True``.
    ///
    /// Raises:
    ///     QueueFullError: The queue stayed full until the timeout. The message was not added.
    ///     ForkedProcessError: The queue belongs to the process from which this one was forked.
    #[pyo3(signature = (message, second=Second::Absent, *, timeout=None), text_signature = "($self, message, *, timeout=None)")]
    fn put<'py>(
        slf: &Bound<'py, Self>,
        message: Bound<'py, PyAny>,
        second: Second,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        second.reject("FastMessageQueue.put")?;
        Mailbox::put_for(slf.as_super(), message, timeout, "FastMessageQueue.put")
    }

    /// Removes and returns the next message of the first band that is not empty; waits while the queue is empty.
    ///
    /// Args:
    ///     timeout: Maximum time to wait, in seconds; ``None`` for no limit.
    ///
    /// Returns:
    ///     The message.
    ///
    /// Raises:
    ///     QueueTimeoutError: The queue stayed empty until the timeout.
    ///     ForkedProcessError: The queue belongs to the process from which this one was forked.
    #[pyo3(signature = (*, timeout=None))]
    fn get<'py>(slf: &Bound<'py, Self>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        Mailbox::get_for(slf.as_super(), timeout, "FastMessageQueue.get", None)
    }

    /// Adds a message without waiting.
    ///
    /// Args:
    ///     message: The message. It is handed over, not copied, unless `serialize` is set: neither side changes it afterwards.
    ///
    /// Returns:
    ///     Whether it was added. ``False`` if the queue is full.
    ///
    /// Raises:
    ///     ForkedProcessError: The queue belongs to the process from which this one was forked.
    #[pyo3(signature = (message, second=Second::Absent), text_signature = "($self, message)")]
    fn put_nowait(slf: &Bound<'_, Self>, message: &Bound<'_, PyAny>, second: Second) -> PyResult<bool> {
        second.reject("FastMessageQueue.put_nowait")?;
        slf.as_super().get().put_now(message)
    }

    /// Removes and returns the next message of the first band that is not empty, without waiting.
    ///
    /// Returns:
    ///     The message, or ``None`` if the queue is empty.
    ///
    /// Raises:
    ///     ForkedProcessError: The queue belongs to the process from which this one was forked.
    fn get_nowait(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        slf.as_super().get().take_now(slf.py())
    }

    /// Adds messages in order, without waiting, until the queue is full.
    ///
    /// Args:
    ///     messages: The messages. They are handed over, not copied, unless `serialize` is set: neither side changes them afterwards.
    ///
    /// Returns:
    ///     Number of messages added.
    #[pyo3(signature = (messages, *extra), text_signature = "($self, messages)")]
    fn put_batch(
        slf: &Bound<'_, Self>,
        messages: &Bound<'_, PyList>,
        extra: &Bound<'_, PyTuple>,
    ) -> PyResult<usize> {
        take_one("FastMessageQueue.put_batch", extra)?;
        slf.as_super().get().put_list(messages)
    }
}

#[pymethods]
impl RingBuffer {
    /// Adds an item; waits while the queue is full.
    ///
    /// Args:
    ///     item: The item. It is handed over, not copied: neither side changes it afterwards.
    ///     timeout: Maximum time to wait, in seconds; ``None`` for no limit.
    ///
    /// Returns:
    ///     Whether it was added. ``False`` if the queue stayed full until the timeout.
    ///
    /// Raises:
    ///     ForkedProcessError: The queue belongs to the process from which this one was forked.
    #[pyo3(signature = (item, second=Second::Absent, *, timeout=None), text_signature = "($self, item, *, timeout=None)")]
    fn put<'py>(
        slf: &Bound<'py, Self>,
        item: Bound<'py, PyAny>,
        second: Second,
        timeout: Option<f64>,
    ) -> PyResult<Bound<'py, PyAny>> {
        second.reject("RingBuffer.put")?;
        Mailbox::put_for(slf.as_super(), item, timeout, "RingBuffer.put")
    }

    /// Removes and returns the oldest item; waits while the queue is empty.
    ///
    /// Args:
    ///     timeout: Maximum time to wait, in seconds; ``None`` for no limit.
    ///
    /// Returns:
    ///     The item, or ``None`` if the queue stayed empty until the timeout.
    ///
    /// Raises:
    ///     ForkedProcessError: The queue belongs to the process from which this one was forked.
    #[pyo3(signature = (*, timeout=None))]
    fn get<'py>(slf: &Bound<'py, Self>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        Mailbox::get_for(slf.as_super(), timeout, "RingBuffer.get", None)
    }

    /// Adds an item without waiting.
    ///
    /// Args:
    ///     item: The item. It is handed over, not copied: neither side changes it afterwards.
    ///
    /// Returns:
    ///     Whether it was added. ``False`` if the queue is full.
    ///
    /// Raises:
    ///     ForkedProcessError: The queue belongs to the process from which this one was forked.
    #[pyo3(signature = (item, second=Second::Absent), text_signature = "($self, item)")]
    fn put_nowait(slf: &Bound<'_, Self>, item: &Bound<'_, PyAny>, second: Second) -> PyResult<bool> {
        second.reject("RingBuffer.put_nowait")?;
        slf.as_super().get().put_now(item)
    }

    /// Removes and returns the oldest item without waiting.
    ///
    /// Returns:
    ///     The item, or ``None`` if the queue is empty.
    ///
    /// Raises:
    ///     ForkedProcessError: The queue belongs to the process from which this one was forked.
    fn get_nowait(slf: &Bound<'_, Self>) -> PyResult<Option<Py<PyAny>>> {
        slf.as_super().get().take_now(slf.py())
    }

    /// Adds items in order, without waiting, until the queue is full.
    ///
    /// Args:
    ///     messages: The items. They are handed over, not copied: neither side changes them afterwards.
    ///
    /// Returns:
    ///     Number of items added.
    #[pyo3(signature = (messages, *extra), text_signature = "($self, messages)")]
    fn put_batch(
        slf: &Bound<'_, Self>,
        messages: &Bound<'_, PyList>,
        extra: &Bound<'_, PyTuple>,
    ) -> PyResult<usize> {
        take_one("RingBuffer.put_batch", extra)?;
        slf.as_super().get().put_list(messages)
    }
}
