//! Distributes each output of a ring kernel to its destinations.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::lane::OutputLane;
use crate::cell::connections::{Connections, OutputSink};
use crate::cell::kernel_cell::KernelCell;
use crate::cell::wait_graph::{Node, begin_output_wait};
use crate::message::{Message, MessageHeader};

/// All output lanes of one ring kernel. Owned by its driver.
pub(crate) struct OutputRouter<O> {
    connections: Arc<Connections<O>>,
    ring: OutputLane<O>,
    connected: Vec<OutputLane<O>>,
    backlog: bool,
    /// Whether the wait-for graph says that this ring kernel is blocked on output.
    reported: bool,
}

impl<O: Message> OutputRouter<O> {
    pub(crate) fn new(connections: Arc<Connections<O>>, ring: Box<dyn OutputSink<O>>) -> Self {
        Self {
            connections,
            ring: OutputLane::new((ring, None)),
            connected: Vec::new(),
            backlog: false,
            reported: false,
        }
    }

    /// Returns how many outputs wait for free slots, over all destinations.
    pub(crate) fn queued(&self) -> usize {
        self.ring.queued.len() + self.connected.iter().map(|lane| lane.queued.len()).sum::<usize>()
    }

    /// Whether outputs wait for free slots.
    #[inline]
    pub(crate) fn has_backlog(&self) -> bool {
        self.backlog
    }

    pub(crate) fn send(&mut self, cell: &KernelCell, header: MessageHeader, output: O) {
        if self.connections.count() != self.connected.len() {
            self.take_new_connections();
        }
        match self.connected.split_last_mut() {
            None => {
                self.ring.send_or_queue(cell, header, output);
                self.backlog |= !self.ring.queued.is_empty();
            }
            Some((last, others)) => {
                if !others.is_empty() {
                    let clone =
                        self.connections.clone_fn().expect("set before the first connection is counted");
                    for lane in others {
                        lane.send_or_queue(cell, header, clone(&output));
                        self.backlog |= !lane.queued.is_empty();
                    }
                }
                last.send_or_queue(cell, header, output);
                self.backlog |= !last.queued.is_empty();
            }
        }
    }

    /// Like [`send`](Self::send), for an output that the links in the bit mask `linked` have delivered: sends it to all other connections.
    pub(crate) fn send_except_linked(
        &mut self,
        cell: &KernelCell,
        header: MessageHeader,
        output: O,
        linked: u8,
    ) {
        if linked == 0 {
            return self.send(cell, header, output);
        }
        if self.connections.count() != self.connected.len() {
            self.take_new_connections();
        }
        let Some(clone) = self.connections.clone_fn() else { return };
        let already_sent = |lane: &OutputLane<O>| lane.link.is_some_and(|link| linked >> link & 1 != 0);
        for lane in self.connected.iter_mut().filter(|lane| !already_sent(lane)) {
            lane.send_or_queue(cell, header, clone(&output));
            self.backlog |= !lane.queued.is_empty();
        }
    }

    #[cold]
    fn take_new_connections(&mut self) {
        self.connected.extend(self.connections.take_new().into_iter().map(OutputLane::new));
    }

    /// Sends queued outputs. Ready when all lanes are empty. While pending, the stats say what the ring kernel waits for.
    pub(crate) fn poll_flush(&mut self, cell: &Arc<KernelCell>, cx: &mut Context<'_>) -> Poll<()> {
        let mut all_sent = true;
        for lane in std::iter::once(&mut self.ring).chain(&mut self.connected) {
            all_sent &= lane.poll_flush(cell, cx).is_ready();
        }
        self.backlog = !all_sent;
        self.report(cell);
        if all_sent { Poll::Ready(()) } else { Poll::Pending }
    }

    fn report(&mut self, cell: &Arc<KernelCell>) {
        if self.backlog {
            let lanes = std::iter::once(&self.ring).chain(&self.connected);
            let node: Node = Arc::clone(cell) as Node;
            begin_output_wait(&node, lanes.filter_map(OutputLane::waits_for).collect());
        } else if self.reported {
            cell.waits.end_output_wait();
        }
        self.reported = self.backlog;
    }

    /// Turns queued outputs into dead letters, at the end of the ring kernel.
    pub(crate) fn dead_letter_backlog(&mut self, cell: &KernelCell) {
        for lane in std::iter::once(&mut self.ring).chain(&mut self.connected) {
            for (header, output) in lane.queued.drain(..) {
                cell.dead_letter_output(
                    header,
                    output,
                    String::from("the ring kernel ended while the output waited for a free slot"),
                );
            }
        }
        self.backlog = false;
        cell.waits.end_output_wait();
    }
}
