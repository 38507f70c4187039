//! `receive`: takes outputs from the output ring.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use dotcompute_ring::wait_list::WaitToken;

use super::KernelHandle;
use crate::backend::worker_pool::{block, check_may_block};
use crate::cell::current::CurrentKernel;
use crate::cell::typed_cell::TypedCell;
use crate::cell::wait_graph::{CallWait, WaitFor};
use crate::deadline;
use crate::envelope::Received;
use crate::error::{ReceiveError, Refusal};
use crate::lifecycle::{State, StateWaiter};
use crate::message::Message;
use crate::stack::{self, Copies};
use crate::status::WaitCycle;

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// Waits for the next output of the ring kernel.
    ///
    /// Outputs of a connected ring kernel go to the ring kernels it is connected to and cannot be received.
    ///
    /// # Errors
    ///
    /// [`ReceiveError`]: the ring kernel was never activated, or it has ended and all its outputs have been received.
    pub fn receive(&self) -> Result<O, ReceiveError> {
        self.receive_envelope(None).map(|received| received.message)
    }

    /// Like [`receive`](Self::receive), but never waits.
    ///
    /// # Errors
    ///
    /// As for `receive`, and [`ReceiveError::Empty`].
    pub fn try_receive(&self) -> Result<O, ReceiveError> {
        self.check_stack(Copies::BLOCKING)?;
        if let Some(received) = self.cell.output.try_receive() {
            return Ok(received.message);
        }
        let state = self.state();
        // Recheck after reading the state: an output sent just before the end is not missed.
        match self.cell.output.try_receive() {
            Some(received) => Ok(received.message),
            None if state.has_ended() || state <= State::Launched => Err(self.ended_error(state)),
            None => Err(ReceiveError::Empty { kernel: Arc::clone(&self.cell.untyped.name) }),
        }
    }

    /// Like [`receive`](Self::receive), but waits at most `timeout`.
    ///
    /// # Errors
    ///
    /// As for `receive`, and [`ReceiveError::TimedOut`].
    pub fn receive_timeout(&self, timeout: Duration) -> Result<O, ReceiveError> {
        self.receive_envelope(Some(timeout)).map(|received| received.message)
    }

    /// Like [`receive`](Self::receive), or [`receive_timeout`](Self::receive_timeout) if `timeout` is given, but returns the output with
    /// its header. The header's `correlation_id` is the id of the message that caused the output.
    ///
    /// # Errors
    ///
    /// As for those.
    pub fn receive_envelope(&self, timeout: Option<Duration>) -> Result<Received<O>, ReceiveError> {
        self.check_stack(Copies::BLOCKING)?;
        let mut waiter = OutputWaiter::new(&self.cell, true);
        let deadline = timeout.map(deadline::after);
        if let Err(exhausted) = check_may_block() {
            return self.try_receive_envelope(exhausted.max_blocked);
        }
        let poll_once = |cx: Option<&mut Context<'_>>| {
            let spins = cx.is_none();
            match waiter.poll_once(cx) {
                // An output on a device arrives only when the device proxy is polled.
                Poll::Pending if spins && self.polls_device => {
                    self.poll_device_inline();
                    waiter.poll_once(None)
                }
                polled => polled,
            }
        };
        match block(self.wait, deadline, poll_once) {
            Some(Ok(received)) => Ok(received),
            Some(Err(none)) => Err(self.no_output_error(none)),
            None => Err(self.timeout_error(timeout.unwrap_or_default())),
        }
    }

    /// Like [`receive`](Self::receive), for async code. A future dropped before it is ready has taken no output.
    ///
    /// # Errors
    ///
    /// As for `receive`.
    pub async fn receive_async(&self) -> Result<O, ReceiveError> {
        self.check_stack(Copies::ASYNC)?;
        let mut waiter = OutputWaiter::new(&self.cell, false);
        match std::future::poll_fn(|cx| waiter.poll(cx)).await {
            Ok(received) => Ok(received.message),
            Err(none) => Err(self.no_output_error(none)),
        }
    }

    /// Whether the calling thread has the stack for an output.
    #[inline]
    fn check_stack(&self, copies: Copies) -> Result<(), ReceiveError> {
        match stack::refusal::<I, O>(copies) {
            Some(Refusal::StackTooSmall { message_bytes: output_bytes, needed, remaining }) => {
                let kernel = Arc::clone(&self.cell.untyped.name);
                Err(ReceiveError::StackTooSmall { kernel, output_bytes, needed, remaining })
            }
            _ => Ok(()),
        }
    }

    /// Takes an output for a caller that must not block: as many handlers of its pool as allowed block already.
    #[cold]
    fn try_receive_envelope(&self, limit: usize) -> Result<Received<O>, ReceiveError> {
        let kernel = Arc::clone(&self.cell.untyped.name);
        self.cell.output.try_receive().ok_or(ReceiveError::PoolExhausted { kernel, limit })
    }

    fn no_output_error(&self, none: NoOutput) -> ReceiveError {
        match none {
            NoOutput::Ended(state) => self.ended_error(state),
            NoOutput::Cycle(cycle) => {
                ReceiveError::Cycle { kernel: Arc::clone(&self.cell.untyped.name), cycle }
            }
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
        ReceiveError::TimedOut { kernel: Arc::clone(&self.cell.untyped.name), waited, status: self.status() }
    }
}

/// Why no output can arrive.
enum NoOutput {
    Ended(State),
    Cycle(WaitCycle),
}

/// Whether a ring kernel in this state sends no outputs: it has ended, or was not activated.
fn produces_no_output(state: State) -> bool {
    state.has_ended() || state <= State::Launched
}

/// A caller that waits for an output. Dropping it leaves the wait lists.
struct OutputWaiter<'a, I, O> {
    cell: &'a TypedCell<I, O>,
    token: WaitToken,
    state_waiter: StateWaiter<'a>,
    /// Set once there was no output.
    wait: Option<CallWait>,
    /// Whether the wait blocks its thread.
    blocks: bool,
}

impl<'a, I: Message, O: Message> OutputWaiter<'a, I, O> {
    fn new(cell: &'a TypedCell<I, O>, blocks: bool) -> Self {
        let state_waiter = StateWaiter::new(&cell.untyped.lifecycle);
        Self { cell, token: WaitToken::default(), state_waiter, wait: None, blocks }
    }

    /// Polls once; with a context, registers the task's waker if there is no output.
    fn poll_once(&mut self, cx: Option<&mut Context<'_>>) -> Poll<Result<Received<O>, NoOutput>> {
        if let Some(cx) = cx {
            return self.poll(cx);
        }
        let state = self.cell.untyped.lifecycle.get();
        match self.cell.output.try_receive() {
            Some(received) => Poll::Ready(Ok(received)),
            None if produces_no_output(state) => Poll::Ready(Err(NoOutput::Ended(state))),
            None => Poll::Pending,
        }
    }

    /// Ready with an output, or with the state once no further output is possible.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received<O>, NoOutput>> {
        let output = &self.cell.output;
        if let Some(received) = output.try_receive() {
            return Poll::Ready(Ok(received));
        }
        // SYNC POINT: output-waiter (receiver). Registers, then rechecks the ring below. Pairs with `OutputRing::push`, which fills a slot,
        // then wakes the wait list. The recheck also finds an output that was sent just before the end.
        output.readers().register(&mut self.token, cx.waker());
        let ended = self.state_waiter.poll(cx, produces_no_output);
        match (output.try_receive(), ended) {
            (Some(received), _) => Poll::Ready(Ok(received)),
            (None, Poll::Ready(state)) => Poll::Ready(Err(NoOutput::Ended(state))),
            (None, Poll::Pending) => self.poll_cycle(cx).map(|cycle| Err(NoOutput::Cycle(cycle))),
        }
    }

    /// Ready with the cycle that this wait is part of.
    fn poll_cycle(&mut self, cx: &mut Context<'_>) -> Poll<WaitCycle> {
        let wait = match &self.wait {
            Some(wait) => wait,
            None => match CurrentKernel::begin_wait(WaitFor::Output, &self.cell.untyped, self.blocks) {
                Ok(wait) => self.wait.insert(wait),
                Err(cycle) => return Poll::Ready(cycle),
            },
        };
        wait.poll_cycle(cx)
    }
}

impl<I, O> Drop for OutputWaiter<'_, I, O> {
    fn drop(&mut self) {
        self.cell.output.readers().cancel(&mut self.token);
    }
}
