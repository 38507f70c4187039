//! Router.

use std::sync::Arc;
use std::task::{Context, Poll};

use super::lane::Lane;
use crate::cell::connections::{Outlet, Routes};
use crate::cell::kernel_cell::Core;
use crate::message::{Message, MessageHeader};

/// All outlets of one ring kernel; owned by its driver.
pub(crate) struct Outlets<O> {
    routes: Arc<Routes<O>>,
    ring: Lane<O>,
    connected: Vec<Lane<O>>,
    backlog: bool,
}

impl<O: Message> Outlets<O> {
    pub(crate) fn new(routes: Arc<Routes<O>>, ring: Box<dyn Outlet<O>>) -> Self {
        Self { routes, ring: Lane::new((ring, None)), connected: Vec::new(), backlog: false }
    }

    /// Whether outputs wait for room.
    #[inline]
    pub(crate) fn is_backed_up(&self) -> bool {
        self.backlog
    }

    pub(crate) fn send(&mut self, core: &Core, header: MessageHeader, output: O) {
        if self.routes.count() != self.connected.len() {
            self.take_new_routes();
        }
        match self.connected.split_last_mut() {
            None => {
                self.ring.pass(core, header, output);
                self.backlog |= !self.ring.waiting.is_empty();
            }
            Some((last, others)) => {
                if !others.is_empty() {
                    let clone = self.routes.clone_fn().expect("set before the first connection is counted");
                    for lane in others {
                        lane.pass(core, header, clone(&output));
                        self.backlog |= !lane.waiting.is_empty();
                    }
                }
                last.pass(core, header, output);
                self.backlog |= !last.waiting.is_empty();
            }
        }
    }

    /// As [`send`](Self::send), for an output that some links (a bit each) have taken already: it goes to all others.
    pub(crate) fn send_beside(&mut self, core: &Core, header: MessageHeader, output: O, linked: u8) {
        if linked == 0 {
            return self.send(core, header, output);
        }
        if self.routes.count() != self.connected.len() {
            self.take_new_routes();
        }
        let Some(clone) = self.routes.clone_fn() else { return };
        let has_it = |lane: &Lane<O>| lane.link.is_some_and(|link| linked >> link & 1 != 0);
        for lane in self.connected.iter_mut().filter(|lane| !has_it(lane)) {
            lane.pass(core, header, clone(&output));
            self.backlog |= !lane.waiting.is_empty();
        }
    }

    #[cold]
    fn take_new_routes(&mut self) {
        self.connected.extend(self.routes.take_new().into_iter().map(Lane::new));
    }

    /// Passes on what waits. Ready when nothing is left.
    pub(crate) fn poll_flush(&mut self, core: &Core, cx: &mut Context<'_>) -> Poll<()> {
        let mut all_gone = true;
        for lane in std::iter::once(&mut self.ring).chain(&mut self.connected) {
            all_gone &= lane.poll_flush(core, cx).is_ready();
        }
        self.backlog = !all_gone;
        if all_gone { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Makes what waits dead letters: the ring kernel is ending without them.
    pub(crate) fn bury_backlog(&mut self, core: &Core) {
        for lane in std::iter::once(&mut self.ring).chain(&mut self.connected) {
            for (header, output) in lane.waiting.drain(..) {
                core.bury_output(
                    header,
                    output,
                    String::from("the ring kernel ended while the output waited for room"),
                );
            }
        }
        self.backlog = false;
    }
}
