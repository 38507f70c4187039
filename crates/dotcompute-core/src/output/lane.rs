//! One destination with its backlog.

use std::collections::VecDeque;
use std::task::{Context, Poll};

use crate::cell::connections::{NewConnection, OutputSink, SendOutcome};
use crate::cell::kernel_cell::KernelCell;
use crate::cell::wait_graph::OutputEdge;
use crate::message::{Message, MessageHeader};

/// A sink with the outputs that wait for a free slot in it.
pub(super) struct OutputLane<O> {
    /// Of its connection.
    pub(super) id: usize,
    sink: Box<dyn OutputSink<O>>,
    /// The device link to the same destination, which delivers most outputs without the host.
    pub(super) link: Option<u8>,
    pub(super) queued: VecDeque<(MessageHeader, O)>,
    /// The ring kernel behind the sink has ended: the lane is to be removed.
    pub(super) has_ended: bool,
}

impl<O: Message> OutputLane<O> {
    pub(super) fn new(NewConnection { id, sink, link }: NewConnection<O>) -> Self {
        Self { id, sink, link, queued: VecDeque::new(), has_ended: false }
    }

    /// Sends an output, or queues it behind the backlog.
    pub(super) fn send_or_queue(&mut self, cell: &KernelCell, header: MessageHeader, output: O) {
        if !self.queued.is_empty() {
            self.queued.push_back((header, output));
            return;
        }
        match self.sink.try_send(header, output) {
            SendOutcome::Accepted => cell.counters.emitted.increment_single_writer(),
            SendOutcome::Full(output) => self.queued.push_back((header, output)),
            SendOutcome::Rejected(output, cause) => cell.dead_letter_output(header, output, cause),
            SendOutcome::Failed(output, cause) => {
                cell.dead_letter_output(header, output, cause);
                self.has_ended = true;
            }
            SendOutcome::Ended(_) => {
                cell.counters.unrouted.increment_single_writer();
                self.has_ended = true;
            }
        }
    }

    /// Returns what the queued outputs wait for. `None` if none are queued.
    pub(super) fn waits_for(&self) -> Option<OutputEdge> {
        self.queued.front().map(|(header, _)| self.sink.destination(header.priority.get()))
    }

    pub(super) fn poll_flush(&mut self, cell: &KernelCell, cx: &mut Context<'_>) -> Poll<()> {
        while let Some((header, output)) = self.queued.pop_front() {
            match self.sink.try_send(header, output) {
                SendOutcome::Accepted => cell.counters.emitted.increment_single_writer(),
                SendOutcome::Rejected(output, cause) => cell.dead_letter_output(header, output, cause),
                SendOutcome::Failed(output, cause) => {
                    cell.dead_letter_output(header, output, cause);
                    self.has_ended = true;
                }
                // It was sent while the other ring kernel was alive.
                SendOutcome::Ended(output) => {
                    let cause = String::from(
                        "the connected ring kernel ended while the output waited for a free slot",
                    );
                    cell.dead_letter_output(header, output, cause);
                    self.has_ended = true;
                }
                SendOutcome::Full(output) => {
                    self.queued.push_front((header, output));
                    if self.sink.poll_ready(header.priority.get(), cx).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
        }
        Poll::Ready(())
    }

    /// Turns the backlog into dead letters.
    pub(super) fn dead_letter_queued(&mut self, cell: &KernelCell, cause: &str) {
        for (header, output) in self.queued.drain(..) {
            cell.dead_letter_output(header, output, cause.to_owned());
        }
    }
}
