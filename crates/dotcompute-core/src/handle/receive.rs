//! Receiving.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::spin_then_park;
use dotcompute_ring::wait_list::WaitToken;

use super::KernelHandle;
use crate::cell::typed_cell::TypedCell;
use crate::envelope::Received;
use crate::error::ReceiveError;
use crate::lifecycle::{State, StateWaiter};
use crate::message::Message;

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// Waits for the next output of the ring kernel.
    ///
    /// Outputs of a connected ring kernel go where it is connected to and cannot be received.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`] if the ring kernel has ended and its outputs have all been received, or was never activated.
    pub fn receive(&self) -> Result<O, ReceiveError> {
        self.receive_envelope(None).map(|received| received.message)
    }

    /// As [`receive`](Self::receive), but never waits.
    ///
    /// # Errors
    ///
    /// As for `receive`, and [`ReceiveError::Empty`].
    pub fn try_receive(&self) -> Result<O, ReceiveError> {
        if let Some(received) = self.cell.output.try_receive() {
            return Ok(received.message);
        }
        let state = self.state();
        // Looked at once more after the state: an output put in just before the end is not missed.
        match self.cell.output.try_receive() {
            Some(received) => Ok(received.message),
            None if state.has_ended() || state <= State::Launched => Err(self.ended_error(state)),
            None => Err(ReceiveError::Empty { kernel: Arc::clone(&self.cell.untyped.name) }),
        }
    }

    /// As [`receive`](Self::receive), waiting at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for `receive`, and [`ReceiveError::TimedOut`].
    pub fn receive_timeout(&self, timeout: Duration) -> Result<O, ReceiveError> {
        self.receive_envelope(Some(timeout)).map(|received| received.message)
    }

    /// As [`receive`](Self::receive) or, with a timeout, [`receive_timeout`](Self::receive_timeout): the output with its header,
    /// whose `correlation_id` is the id of the message that caused it.
    ///
    /// # Errors
    ///
    /// As for those.
    pub fn receive_envelope(&self, timeout: Option<Duration>) -> Result<Received<O>, ReceiveError> {
        let mut waiter = OutputWaiter::new(&self.cell);
        let deadline = timeout.map(|time| Instant::now() + time);
        let poll_once = |cx: Option<&mut Context<'_>>| {
            let spins = cx.is_none();
            match waiter.poll_once(cx) {
                // On a device it comes as soon as somebody fetches it.
                Poll::Pending if spins && self.polls_device => {
                    self.poll_device_inline();
                    waiter.poll_once(None)
                }
                polled => polled,
            }
        };
        match spin_then_park(self.wait, deadline, poll_once) {
            Some(Ok(received)) => Ok(received),
            Some(Err(state)) => Err(self.ended_error(state)),
            None => Err(self.timeout_error(timeout.unwrap_or_default())),
        }
    }

    /// As [`receive`](Self::receive), for async code. A dropped future has received nothing.
    ///
    /// # Errors
    ///
    /// As for `receive`.
    pub async fn receive_async(&self) -> Result<O, ReceiveError> {
        let mut waiter = OutputWaiter::new(&self.cell);
        match std::future::poll_fn(|cx| waiter.poll(cx)).await {
            Ok(received) => Ok(received.message),
            Err(state) => Err(self.ended_error(state)),
        }
    }

    fn ended_error(&self, state: State) -> ReceiveError {
        let kernel = Arc::clone(&self.cell.untyped.name);
        if state <= State::Launched {
            ReceiveError::NotActivated { kernel, state }
        } else {
            ReceiveError::Ended { kernel, state }
        }
    }

    fn timeout_error(&self, waited: Duration) -> ReceiveError {
        ReceiveError::TimedOut { kernel: Arc::clone(&self.cell.untyped.name), waited, state: self.state() }
    }
}

/// Whether a ring kernel in this state will put out nothing more, or has not begun to.
fn produces_no_output(state: State) -> bool {
    state.has_ended() || state <= State::Launched
}

/// Waiting for something to receive; gives up its place when dropped.
pub(crate) struct OutputWaiter<'a, I, O> {
    cell: &'a TypedCell<I, O>,
    token: WaitToken,
    state_waiter: StateWaiter<'a>,
}

impl<'a, I: Message, O: Message> OutputWaiter<'a, I, O> {
    pub(crate) fn new(cell: &'a TypedCell<I, O>) -> Self {
        Self { cell, token: WaitToken::default(), state_waiter: StateWaiter::new(&cell.untyped.lifecycle) }
    }

    /// A look in passing, or one that arranges to be woken.
    pub(crate) fn poll_once(&mut self, cx: Option<&mut Context<'_>>) -> Poll<Result<Received<O>, State>> {
        if let Some(cx) = cx {
            return self.poll(cx);
        }
        let state = self.cell.untyped.lifecycle.get();
        match self.cell.output.try_receive() {
            Some(received) => Poll::Ready(Ok(received)),
            None if produces_no_output(state) => Poll::Ready(Err(state)),
            None => Poll::Pending,
        }
    }

    /// Ready with an output, or with the state once nothing can come any more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received<O>, State>> {
        let output = &self.cell.output;
        if let Some(received) = output.try_receive() {
            return Poll::Ready(Ok(received));
        }
        output.readers().register(&mut self.token, cx.waker());
        let ended = self.state_waiter.poll(cx, produces_no_output);
        // Looked at again after announcing: what was put in between, or just before the end, is found here.
        match (output.try_receive(), ended) {
            (Some(received), _) => Poll::Ready(Ok(received)),
            (None, Poll::Ready(state)) => Poll::Ready(Err(state)),
            (None, Poll::Pending) => Poll::Pending,
        }
    }
}

impl<I, O> Drop for OutputWaiter<'_, I, O> {
    fn drop(&mut self) {
        self.cell.output.readers().cancel(&mut self.token);
    }
}
