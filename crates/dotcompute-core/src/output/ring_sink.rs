//! Ring sink.

use std::sync::Arc;
use std::task::{Context, Poll};

use dotcompute_ring::PushError;
use dotcompute_ring::wait_list::WaitToken;

use crate::cell::connections::{Offer, Outlet};
use crate::cell::typed_cell::Shared;
use crate::envelope::Received;
use crate::message::{Message, MessageHeader};

/// The output ring as an outlet.
pub(crate) struct RingOutlet<I, O> {
    shared: Arc<Shared<I, O>>,
    ticket: WaitToken,
}

impl<I: Message, O: Message> RingOutlet<I, O> {
    pub(crate) fn new(shared: Arc<Shared<I, O>>) -> Self {
        Self { shared, ticket: WaitToken::default() }
    }
}

impl<I: Message, O: Message> Outlet<O> for RingOutlet<I, O> {
    fn offer(&mut self, header: MessageHeader, output: O) -> Offer<O> {
        match self.shared.output.push(Received { header, message: output }) {
            Ok(()) => Offer::Taken,
            Err(PushError::Full(back)) => Offer::Full(back.message),
            Err(PushError::Closed(back)) => {
                Offer::Refused(back.message, String::from("its output ring is closed"))
            }
        }
    }

    fn poll_room(&mut self, priority: u8, cx: &mut Context<'_>) -> Poll<()> {
        self.shared.output.poll_ready(priority, &mut self.ticket, cx)
    }
}
