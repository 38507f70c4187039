//! The context of a ring kernel: `receive`, `send`, `reply` and `skip` for its function.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pyclass::{PyTraverseError, PyVisit};
use pyo3::types::{PyDict, PyTuple};

use super::mailbox::Mailbox;
use super::queues::{FastMessageQueue, MessageQueue, RingBuffer};
use super::waiter::{Kind, WaiterState};
use super::waiter_type;
use crate::arguments::{Second, take_one};

/// The queues of a ring kernel.
struct Queues {
    input: Py<PyAny>,
    output: Py<PyAny>,
    /// Whether `input.get` is the method of a queue class of the package, so that the mailbox can be called directly.
    is_plain_get: bool,
    /// Whether `output.put` is the method of a queue class of the package.
    is_plain_put: bool,
}

/// Returns whether a method of a queue is that of a queue class of the package. A user may pass another queue class, or override the method.
fn is_plain(queue: &Bound<'_, PyAny>, method: &str) -> PyResult<bool> {
    let py = queue.py();
    if !queue.is_instance_of::<Mailbox>() {
        return Ok(false);
    }
    let actual = queue.get_type().getattr(method)?;
    let classes =
        [py.get_type::<MessageQueue>(), py.get_type::<FastMessageQueue>(), py.get_type::<RingBuffer>()];
    let mut is_own = false;
    for class in classes {
        is_own |= actual.is(class.getattr(method)?);
    }
    let instance_dict = queue.getattr_opt(intern!(py, "__dict__"))?;
    Ok(is_own && !instance_dict.map_or(Ok(false), |dict| dict.contains(method))?)
}

/// The context of a ring kernel: its queues and its stop flag. `KernelContext` derives from it.
#[pyclass(name = "KernelContext", frozen, subclass, module = "pydotcompute._core")]
pub(crate) struct ContextPort {
    queues: OnceLock<Queues>,
    stop_requested: AtomicBool,
}

#[pymethods]
impl ContextPort {
    #[new]
    #[pyo3(signature = (*_arguments, **_keywords))]
    fn new(_arguments: &Bound<'_, PyAny>, _keywords: Option<&Bound<'_, PyAny>>) -> Self {
        ContextPort { queues: OnceLock::new(), stop_requested: AtomicBool::new(false) }
    }

    /// Sets the queues, once.
    fn _bind(&self, input: &Bound<'_, PyAny>, output: &Bound<'_, PyAny>) -> PyResult<()> {
        let (is_plain_get, is_plain_put) = (is_plain(input, "get")?, is_plain(output, "put")?);
        let (input, output) = (input.clone().unbind(), output.clone().unbind());
        self.queues.set(Queues { input, output, is_plain_get, is_plain_put }).map_err(|_| {
            PyRuntimeError::new_err(
                "binding a kernel context: it has its queues already; create a new context",
            )
        })
    }

    /// Makes `should_terminate` true.
    fn _request_stop(&self) {
        self.stop_requested.store(true, Relaxed);
    }

    /// Whether the ring kernel was asked to terminate.
    #[getter]
    fn should_terminate(&self) -> bool {
        self.stop_requested.load(Relaxed)
    }

    /// Receives the next message; waits while the input queue is empty.
    ///
    /// Args:
    ///     timeout: Maximum time to wait, in seconds; ``None`` for no limit.
    ///
    /// Returns:
    ///     The message. It was handed over, not copied: neither side changes it.
    ///
    /// Raises:
    ///     QueueTimeoutError: No message arrived before the timeout.
    ///     KernelStopped: The ring kernel was asked to terminate, and the queue is empty. Also a ``CancelledError``, and with a timeout
    ///         also a ``QueueTimeoutError``. A function that does not catch it ends gracefully.
    #[pyo3(signature = (timeout=None))]
    fn receive<'py>(&self, py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyAny>> {
        let queues = self.queues()?;
        let input = queues.input.bind(py);
        match input.cast::<Mailbox>() {
            Ok(mailbox) if queues.is_plain_get => {
                Mailbox::get_for(mailbox, timeout, "KernelContext.receive", None)
            }
            _ => input.call_method("get", (), Some(&timeout_keyword(py, timeout)?)),
        }
    }

    /// Iterates over the messages, until the ring kernel was asked to terminate and the queue is empty.
    fn __aiter__(slf: Bound<'_, Self>) -> Bound<'_, Self> {
        slf
    }

    /// Receives the next message for ``async for``.
    fn __anext__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let queues = slf.get().queues()?;
        match queues.input.bind(py).cast::<Mailbox>() {
            Ok(mailbox) if queues.is_plain_get => {
                let mut state = WaiterState::new(Kind::Get, None, None);
                (state.iterates, state.method) = (true, "KernelContext.__anext__");
                waiter_type::new_waiter(py, mailbox.clone().unbind(), state)
            }
            _ => slf.call_method0(intern!(py, "_next_of_queue")),
        }
    }

    /// Sends the reply to the request received last, or an output; waits while the output queue is full.
    ///
    /// With a ``correlation_id``, the message is the reply to the request with that id, or an output if there is none. Otherwise it
    /// is the reply to the request if that was received last and is the only one without a reply. It is an output if no request
    /// waits for a reply. A function that receives further messages before it replies, or replies from tasks that it creates, uses
    /// :meth:`reply`.
    ///
    /// Args:
    ///     message: The reply or output. It is handed over, not copied: neither side changes it afterwards.
    ///
    /// Returns:
    ///     ``True``.
    ///
    /// Raises:
    ///     AmbiguousReplyError: The message may be the reply to another request. The callers of all requests received get it too, as
    ///         the cause of their ``KernelError``.
    #[pyo3(signature = (message, second=Second::Absent), text_signature = "($self, message)")]
    fn send<'py>(&self, message: Bound<'py, PyAny>, second: Second) -> PyResult<Bound<'py, PyAny>> {
        second.reject("KernelContext.send")?;
        self.send_as(message, None, "KernelContext.send")
    }

    /// Sends the reply to a request; waits while the output queue is full, if the message was no request.
    ///
    /// The request is named by the object that :meth:`receive` returned. Of several requests with this object, the first one is meant
    /// whose caller waits. If the caller has given up, the reply is dropped. A reply to a message that is no request, or has its
    /// reply, is an output.
    ///
    /// Args:
    ///     message: The message that was received.
    ///     answer: The reply. It is handed over, not copied: neither side changes it afterwards.
    ///
    /// Returns:
    ///     ``True``.
    ///
    /// Example:
    ///     >>> async def pairs(ctx):
    ///     ...     while not ctx.should_terminate:
    ///     ...         first, second = await ctx.receive(), await ctx.receive()
    ///     ...         await ctx.reply(second, first)
    ///     ...         await ctx.reply(first, second)
    fn reply<'py>(
        &self,
        message: &Bound<'py, PyAny>,
        answer: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        self.send_as(answer, Some(message), "KernelContext.reply")
    }

    /// Tells the caller of a request that there will be no reply: it gets ``NoReplyError`` at once.
    ///
    /// No effect on other messages. The effect does not depend on whether the call is awaited.
    ///
    /// Args:
    ///     message: The message that was received.
    ///
    /// Returns:
    ///     ``True``.
    #[pyo3(signature = (message, *extra), text_signature = "($self, message)")]
    fn skip<'py>(
        &self,
        message: &Bound<'py, PyAny>,
        extra: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        take_one("KernelContext.skip", extra)?;
        if let Ok(mailbox) = self.queues()?.output.bind(message.py()).cast::<Mailbox>() {
            mailbox.get().skip_ask(message)?;
        }
        waiter_type::done(message.py())
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        if let Some(queues) = self.queues.get() {
            visit.call(&queues.input)?;
            visit.call(&queues.output)?;
        }
        Ok(())
    }
}

impl ContextPort {
    /// Returns an awaitable that sends a message, as the reply to a question if one is given.
    fn send_as<'py>(
        &self,
        message: Bound<'py, PyAny>,
        question: Option<&Bound<'py, PyAny>>,
        method: &'static str,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = message.py();
        let queues = self.queues()?;
        let output = queues.output.bind(py);
        let mailbox = match output.cast::<Mailbox>() {
            Ok(mailbox) if queues.is_plain_put => mailbox,
            _ => return output.call_method1("put", (message,)),
        };
        // Without an open ask, the message is most probably an output, whose level is needed.
        let has_level = !mailbox.get().expects_replies();
        let level = match if has_level { mailbox.get().order().level_of(&message) } else { Ok(0) } {
            Ok(level) => level,
            Err(error) => return waiter_type::failed(py, method, error),
        };
        let mut state = WaiterState::new(Kind::Send, Some(message.unbind()), None);
        (state.method, state.level, state.has_level) = (method, level, has_level);
        state.asked_message = question.map(|question| question.clone().unbind());
        state.input = queues.input.bind(py).cast::<Mailbox>().ok().map(|input| input.clone().unbind());
        waiter_type::new_waiter(py, mailbox.clone().unbind(), state)
    }

    fn queues(&self) -> PyResult<&Queues> {
        self.queues.get().ok_or_else(|| {
            PyRuntimeError::new_err(
                "using a kernel context: it has no queues yet; launch the ring kernel first",
            )
        })
    }
}

fn timeout_keyword<'py>(py: Python<'py>, timeout: Option<f64>) -> PyResult<Bound<'py, PyDict>> {
    let keywords = PyDict::new(py);
    keywords.set_item("timeout", timeout)?;
    Ok(keywords)
}
