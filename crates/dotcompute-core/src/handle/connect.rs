//! `connect`: routes the outputs of one ring kernel to another one's mailbox, or over a link of their device.

use std::sync::{Arc, PoisonError};

use super::KernelHandle;
use crate::error::LifecycleError;
use crate::lifecycle::State;
use crate::message::Message;
use crate::options::Backpressure;
use crate::output::kernel_sink::KernelSink;

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// Sends the outputs of this ring kernel to the mailbox of `to`.
    ///
    /// A ring kernel connected to several others sends a clone to each (fan-out); several may be connected to one (fan-in). Each output has
    /// the priority of the message that caused it. If `to` is full, this ring kernel is blocked on output, unless `to` rejects or drops the
    /// oldest. Outputs sent before the connection remain in the output ring.
    ///
    /// Two ring kernels on one device are connected by a link: a ring in device memory, so that outputs and their headers bypass the host.
    /// A ring kernel has at most eight links in each direction. Further connections, and those to a `to` that rejects or drops the oldest,
    /// go through the host. Creating a link brings both ring kernels to a message boundary once.
    ///
    /// # Errors
    ///
    /// [`LifecycleError`]: either ring kernel has ended, both are the same, or their device cannot connect them now.
    pub fn connect<P: Message>(&self, to: &KernelHandle<O, P>) -> Result<(), LifecycleError>
    where
        O: Clone,
    {
        let (from, downstream) = (&self.cell.untyped, &to.cell.untyped);
        if Arc::ptr_eq(from, downstream) {
            return Err(LifecycleError::SelfConnection { kernel: Arc::clone(&from.name) });
        }
        for cell in [from, downstream] {
            let state = cell.lifecycle.get();
            if state >= State::Terminating {
                let kernel = Arc::clone(&cell.name);
                return Err(LifecycleError::WrongState {
                    kernel,
                    state,
                    call: "connect",
                    advice: "launch another",
                });
            }
        }
        let link = self.link(to)?;
        from.downstream.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&downstream.name));
        self.cell.connections.add(Box::new(KernelSink::new(Arc::clone(&to.cell))), link);
        Ok(())
    }

    /// Creates a link between the two on their device. `None` if they are not on one device, or no link is possible.
    fn link<P: Message>(&self, to: &KernelHandle<O, P>) -> Result<Option<u8>, LifecycleError> {
        let (from, downstream) = (&self.cell.untyped, &to.cell.untyped);
        let Some(peer) = from.links.peer() else { return Ok(None) };
        let link = match downstream.links.peer() {
            Some(other) if downstream.options.backpressure == Backpressure::Block => peer.link(&*other),
            _ => Ok(None),
        };
        let link = link.map_err(|error| LifecycleError::Link {
            kernel: Arc::clone(&from.name),
            to: Arc::clone(&downstream.name),
            problem: error.to_string(),
        })?;
        if link.is_none() {
            peer.copy_to_host();
        }
        Ok(link)
    }
}
