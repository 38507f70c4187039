//! The mailbox of a connected ring kernel as an output sink.

use std::sync::Arc;
use std::task::{Context, Poll};

use dotcompute_ring::mailbox::{Band, Sender};
use dotcompute_ring::wait_list::WaitToken;

use crate::cell::connections::{OutputSink, SendOutcome};
use crate::cell::typed_cell::{PostError, TypedCell};
use crate::cell::wait_graph::{Node, OutputEdge};
use crate::envelope::Envelope;
use crate::lifecycle::State;
use crate::message::{Message, MessageHeader};
use crate::options::Backpressure;
use crate::telemetry::Sampler;

/// Sends outputs to the mailbox of a connected ring kernel.
pub(crate) struct KernelSink<O, P> {
    to: Arc<TypedCell<O, P>>,
    input: Sender<Envelope<O, P>>,
    sampler: Sampler,
    token: WaitToken,
    state_token: WaitToken,
}

impl<O: Message, P: Message> KernelSink<O, P> {
    pub(crate) fn new(to: Arc<TypedCell<O, P>>) -> Self {
        let input = to.input.clone();
        let sampler = Sampler::new(to.untyped.options.telemetry);
        Self { to, input, sampler, token: WaitToken::default(), state_token: WaitToken::default() }
    }

    fn closed(&self, output: O) -> SendOutcome<O> {
        let cell = &self.to.untyped;
        match cell.lifecycle.get() {
            State::Terminating | State::Terminated => SendOutcome::Ended(output),
            // The mailbox is closed shortly before the state of a failing ring kernel changes.
            _ => SendOutcome::Failed(output, format!("the connected ring kernel `{}` is Failed", cell.name)),
        }
    }
}

impl<O: Message, P: Message> OutputSink<O> for KernelSink<O, P> {
    fn try_send(&mut self, header: MessageHeader, output: O) -> SendOutcome<O> {
        match self.to.untyped.lifecycle.get() {
            // A pipeline may be activated in any order: outputs wait until this ring kernel is activated.
            State::Created | State::Launched => return SendOutcome::Full(output),
            _ => {}
        }
        let envelope = Envelope { header, stamp: self.sampler.stamp(), reply: None, message: output };
        match self.to.post(&self.input, envelope) {
            Ok(()) => {
                // It may have been woken for this slot.
                self.input.cancel_wait(&mut self.token);
                SendOutcome::Accepted
            }
            Err(PostError::Full(rejected))
                if self.to.untyped.options.backpressure == Backpressure::Reject =>
            {
                self.to.untyped.counters.rejected.increment();
                let cause =
                    format!("the connected ring kernel `{}` is full and rejects", self.to.untyped.name);
                SendOutcome::Rejected(rejected.message, cause)
            }
            Err(PostError::Full(rejected)) => SendOutcome::Full(rejected.message),
            Err(PostError::Closed(rejected)) => self.closed(rejected.message),
        }
    }

    fn poll_ready(&mut self, priority: u8, cx: &mut Context<'_>) -> Poll<()> {
        let lifecycle = &self.to.untyped.lifecycle;
        if lifecycle.get() <= State::Launched {
            // SYNC POINT: state-change (output sink). Registers, then rechecks. Pairs with `StateCell::transition`.
            lifecycle.waiters().register(&mut self.state_token, cx.waker());
            if lifecycle.get() <= State::Launched {
                return Poll::Pending;
            }
        }
        self.input.poll_ready(Band::of(priority), &mut self.token, cx)
    }

    fn destination(&self, priority: u8) -> OutputEdge {
        OutputEdge::Mailbox(Arc::clone(&self.to.untyped) as Node, priority)
    }
}

impl<O, P> Drop for KernelSink<O, P> {
    fn drop(&mut self) {
        self.to.untyped.lifecycle.waiters().cancel(&mut self.state_token);
        self.input.cancel_wait(&mut self.token);
    }
}
