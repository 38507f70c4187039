//! Lane.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use crate::cell::connections::{Offer, Outlet, Route};
use crate::cell::kernel_cell::Core;
use crate::message::{Message, MessageHeader};

/// One outlet with the outputs that wait for room in it.
pub(super) struct Lane<O> {
    outlet: Box<dyn Outlet<O>>,
    /// The link that takes most outputs by another way.
    pub(super) link: Option<u8>,
    pub(super) waiting: VecDeque<(MessageHeader, O)>,
}

impl<O: Message> Lane<O> {
    pub(super) fn new((outlet, link): Route<O>) -> Self {
        Self { outlet, link, waiting: VecDeque::new() }
    }

    /// Passes an output on, or queues it behind those that wait.
    pub(super) fn pass(&mut self, core: &Core, header: MessageHeader, output: O) {
        if !self.waiting.is_empty() {
            self.waiting.push_back((header, output));
            return;
        }
        match self.outlet.offer(header, output) {
            Offer::Taken => core.counters.emitted.bump_exclusively(),
            Offer::Full(output) => self.waiting.push_back((header, output)),
            Offer::Refused(output, cause) => core.bury_output(header, output, cause),
        }
    }

    pub(super) fn poll_flush(&mut self, core: &Core, cx: &mut Context<'_>) -> Poll<()> {
        while let Some((header, output)) = self.waiting.pop_front() {
            match self.outlet.offer(header, output) {
                Offer::Taken => core.counters.emitted.bump_exclusively(),
                Offer::Refused(output, cause) => core.bury_output(header, output, cause),
                Offer::Full(output) => {
                    self.waiting.push_front((header, output));
                    if self.outlet.poll_room(header.priority.get(), cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
        Poll::Ready(())
    }
}
