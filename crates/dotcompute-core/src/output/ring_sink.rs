//! The output ring as an output sink.

use std::sync::Arc;
use std::task::{Context, Poll};

use dotcompute_ring::PushError;
use dotcompute_ring::wait_list::WaitToken;

use crate::cell::connections::{OutputSink, SendOutcome};
use crate::cell::typed_cell::TypedCell;
use crate::cell::wait_graph::OutputEdge;
use crate::envelope::Received;
use crate::message::{Message, MessageHeader};

/// Sends outputs to the output ring of the ring kernel itself.
pub(crate) struct RingSink<I, O> {
    cell: Arc<TypedCell<I, O>>,
    token: WaitToken,
}

impl<I: Message, O: Message> RingSink<I, O> {
    pub(crate) fn new(cell: Arc<TypedCell<I, O>>) -> Self {
        Self { cell, token: WaitToken::default() }
    }
}

impl<I: Message, O: Message> OutputSink<O> for RingSink<I, O> {
    fn try_send(&mut self, header: MessageHeader, output: O) -> SendOutcome<O> {
        match self.cell.output.push(Received { header, message: output }) {
            Ok(()) => {
                // It may have been woken for this slot.
                self.cell.output.cancel_wait(&mut self.token);
                SendOutcome::Accepted
            }
            Err(PushError::Full(rejected)) => SendOutcome::Full(rejected.message),
            Err(PushError::Closed(rejected)) => {
                SendOutcome::Rejected(rejected.message, String::from("its output ring is closed"))
            }
        }
    }

    fn poll_ready(&mut self, priority: u8, cx: &mut Context<'_>) -> Poll<()> {
        self.cell.output.poll_ready(priority, &mut self.token, cx)
    }

    fn destination(&self, _priority: u8) -> OutputEdge {
        OutputEdge::Ring
    }
}
