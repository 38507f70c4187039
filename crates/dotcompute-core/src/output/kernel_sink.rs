//! Kernel sink.

use std::sync::Arc;
use std::task::{Context, Poll};

use dotcompute_ring::mailbox::{Band, Sender};
use dotcompute_ring::wait_list::WaitToken;

use crate::cell::connections::{Offer, Outlet};
use crate::cell::typed_cell::{Shared, Unposted};
use crate::envelope::Envelope;
use crate::lifecycle::State;
use crate::message::{Message, MessageHeader};
use crate::options::Backpressure;
use crate::telemetry::Sampler;

/// The input ring of a connected ring kernel as an outlet.
pub(crate) struct KernelOutlet<O, P> {
    to: Arc<Shared<O, P>>,
    input: Sender<Envelope<O, P>>,
    sampler: Sampler,
    ticket: WaitToken,
    watch: WaitToken,
}

impl<O: Message, P: Message> KernelOutlet<O, P> {
    pub(crate) fn new(to: Arc<Shared<O, P>>) -> Self {
        let input = to.input.clone();
        let sampler = Sampler::new(to.core.options.telemetry);
        Self { to, input, sampler, ticket: WaitToken::default(), watch: WaitToken::default() }
    }

    fn refused(&self, output: O) -> Offer<O> {
        let core = &self.to.core;
        Offer::Refused(output, format!("the connected ring kernel `{}` is {}", core.name, core.life.get()))
    }
}

impl<O: Message, P: Message> Outlet<O> for KernelOutlet<O, P> {
    fn offer(&mut self, header: MessageHeader, output: O) -> Offer<O> {
        match self.to.core.life.get() {
            // Pipelines may be activated in any order: what comes early waits.
            State::Created | State::Launched => return Offer::Full(output),
            _ => {}
        }
        let envelope = Envelope { header, stamp: self.sampler.stamp(), reply: None, message: output };
        match self.to.post(&self.input, envelope) {
            Ok(()) => Offer::Taken,
            Err(Unposted::Full(back)) if self.to.core.options.backpressure == Backpressure::Reject => {
                self.to.core.counters.rejected.bump();
                let cause = format!("the connected ring kernel `{}` is full and rejects", self.to.core.name);
                Offer::Refused(back.message, cause)
            }
            Err(Unposted::Full(back)) => Offer::Full(back.message),
            Err(Unposted::Closed(back)) => self.refused(back.message),
        }
    }

    fn poll_room(&mut self, priority: u8, cx: &mut Context<'_>) -> Poll<()> {
        let life = &self.to.core.life;
        if life.get() <= State::Launched {
            life.watchers().register(&mut self.watch, cx.waker());
            if life.get() <= State::Launched {
                return Poll::Pending;
            }
        }
        self.input.poll_ready(Band::of(priority), &mut self.ticket, cx)
    }
}

impl<O, P> Drop for KernelOutlet<O, P> {
    fn drop(&mut self) {
        self.to.core.life.watchers().cancel(&mut self.watch);
        self.input.cancel_wait(&mut self.ticket);
    }
}
