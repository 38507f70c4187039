//! Receiving.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::spin_then_park;
use dotcompute_ring::wait_list::WaitToken;

use super::KernelHandle;
use crate::cell::typed_cell::Shared;
use crate::envelope::Received;
use crate::error::ReceiveError;
use crate::lifecycle::{State, Watch};
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
        if let Some(received) = self.shared.output.try_receive() {
            return Ok(received.message);
        }
        let state = self.state();
        // Looked at once more after the state: an output put in just before the end is not missed.
        match self.shared.output.try_receive() {
            Some(received) => Ok(received.message),
            None if state.has_ended() || state <= State::Launched => Err(self.nothing_to_come(state)),
            None => Err(ReceiveError::Empty { kernel: Arc::clone(&self.shared.core.name) }),
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
        let mut place = ReaderPlace::new(&self.shared);
        let deadline = timeout.map(|time| Instant::now() + time);
        let look = |cx: Option<&mut Context<'_>>| {
            let spins = cx.is_none();
            match place.look(cx) {
                // On a device it comes as soon as somebody fetches it.
                Poll::Pending if spins && self.attends => {
                    self.attend();
                    place.look(None)
                }
                looked => looked,
            }
        };
        match spin_then_park(self.wait, deadline, look) {
            Some(Ok(received)) => Ok(received),
            Some(Err(state)) => Err(self.nothing_to_come(state)),
            None => Err(self.nothing_came(timeout.unwrap_or_default())),
        }
    }

    /// As [`receive`](Self::receive), for async code. A dropped future has received nothing.
    ///
    /// # Errors
    ///
    /// As for `receive`.
    pub async fn receive_async(&self) -> Result<O, ReceiveError> {
        let mut place = ReaderPlace::new(&self.shared);
        match std::future::poll_fn(|cx| place.poll(cx)).await {
            Ok(received) => Ok(received.message),
            Err(state) => Err(self.nothing_to_come(state)),
        }
    }

    fn nothing_to_come(&self, state: State) -> ReceiveError {
        let kernel = Arc::clone(&self.shared.core.name);
        if state <= State::Launched {
            ReceiveError::NotActivated { kernel, state }
        } else {
            ReceiveError::Ended { kernel, state }
        }
    }

    fn nothing_came(&self, waited: Duration) -> ReceiveError {
        ReceiveError::TimedOut { kernel: Arc::clone(&self.shared.core.name), waited, state: self.state() }
    }
}

/// Whether a ring kernel in this state will put out nothing more, or has not begun to.
fn nothing_can_come(state: State) -> bool {
    state.has_ended() || state <= State::Launched
}

/// Waiting for something to receive; gives up its place when dropped.
pub(crate) struct ReaderPlace<'a, I, O> {
    shared: &'a Shared<I, O>,
    ticket: WaitToken,
    watch: Watch<'a>,
}

impl<'a, I: Message, O: Message> ReaderPlace<'a, I, O> {
    pub(crate) fn new(shared: &'a Shared<I, O>) -> Self {
        Self { shared, ticket: WaitToken::default(), watch: Watch::new(&shared.core.life) }
    }

    /// A look in passing, or one that arranges to be woken.
    pub(crate) fn look(&mut self, cx: Option<&mut Context<'_>>) -> Poll<Result<Received<O>, State>> {
        if let Some(cx) = cx {
            return self.poll(cx);
        }
        let state = self.shared.core.life.get();
        match self.shared.output.try_receive() {
            Some(received) => Poll::Ready(Ok(received)),
            None if nothing_can_come(state) => Poll::Ready(Err(state)),
            None => Poll::Pending,
        }
    }

    /// Ready with an output, or with the state once nothing can come any more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received<O>, State>> {
        let output = &self.shared.output;
        if let Some(received) = output.try_receive() {
            return Poll::Ready(Ok(received));
        }
        output.readers().register(&mut self.ticket, cx.waker());
        let over = self.watch.poll(cx, nothing_can_come);
        // Looked at again after announcing: what was put in between, or just before the end, is found here.
        match (output.try_receive(), over) {
            (Some(received), _) => Poll::Ready(Ok(received)),
            (None, Poll::Ready(state)) => Poll::Ready(Err(state)),
            (None, Poll::Pending) => Poll::Pending,
        }
    }
}

impl<I, O> Drop for ReaderPlace<'_, I, O> {
    fn drop(&mut self) {
        self.shared.output.readers().cancel(&mut self.ticket);
    }
}
