//! `connect` and `disconnect`: route the outputs of one ring kernel to another one's mailbox, or over a link of their device.

use std::fmt;
use std::sync::{Arc, Weak};

use super::KernelHandle;
use crate::cell::connections::{Connections, Removal};
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
    /// The connection ends with `to`, and when it is [disconnected](Connection::disconnect); dropping the returned [`Connection`] changes
    /// nothing. An output that finds a failed `to` is a dead letter. Once every ring kernel that this one was connected to has ended,
    /// outputs are dropped and counted as [`unrouted`](crate::telemetry::KernelStats::unrouted). Once the last is disconnected, they go to the
    /// output ring again.
    ///
    /// Two ring kernels on one device are connected by a link: a ring in device memory, so that outputs and their headers bypass the host.
    /// A ring kernel has at most eight links in each direction. Further connections, and those to a `to` that rejects or drops the oldest,
    /// go through the host. Creating a link brings both ring kernels to a message boundary once.
    ///
    /// # Errors
    ///
    /// [`LifecycleError`]: either ring kernel has ended, both are the same, or their device cannot connect them now.
    pub fn connect<P: Message>(&self, to: &KernelHandle<O, P>) -> Result<Connection, LifecycleError>
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
        let sink = Box::new(KernelSink::new(Arc::clone(&to.cell)));
        let id = self.cell.connections.add(downstream, sink, link);
        let connections: Arc<dyn Disconnect> = Arc::clone(&self.cell.connections) as _;
        let (from, to) = (Arc::clone(&from.name), Arc::clone(&downstream.name));
        Ok(Connection { from, to, connections: Arc::downgrade(&connections), id })
    }

    /// Ends every connection to `to`, like [`Connection::disconnect`].
    ///
    /// # Errors
    ///
    /// [`LifecycleError`]: they are not connected, or a link on their device connects them.
    pub fn disconnect<P: Message>(&self, to: &KernelHandle<O, P>) -> Result<(), LifecycleError> {
        let ids = self.cell.connections.ids_to(&to.cell.untyped);
        let (kernel, to) = (Arc::clone(&self.cell.untyped.name), Arc::clone(&to.cell.untyped.name));
        if ids.is_empty() {
            return Err(LifecycleError::NotConnected { kernel, to });
        }
        for id in ids {
            if let Removal::Linked = self.cell.connections.remove(id) {
                return Err(LifecycleError::Linked { kernel, to });
            }
        }
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

/// The connections of a ring kernel, whatever their outputs.
trait Disconnect: Send + Sync {
    fn remove(&self, id: usize) -> Removal;
}

impl<O: Message> Disconnect for Connections<O> {
    fn remove(&self, id: usize) -> Removal {
        Connections::remove(self, id)
    }
}

/// A connection between two ring kernels; see [`KernelHandle::connect`]. Dropping it changes nothing.
pub struct Connection {
    from: Arc<str>,
    to: Arc<str>,
    connections: Weak<dyn Disconnect>,
    id: usize,
}

impl Connection {
    /// Ends the connection. Outputs sent from now on do not go to the other ring kernel; those that wait for a free slot in its mailbox
    /// become dead letters. Does nothing if the connection has ended.
    ///
    /// # Errors
    ///
    /// [`LifecycleError::Linked`]: a link on a device stays until one of its ring kernels ends.
    pub fn disconnect(self) -> Result<(), LifecycleError> {
        match self.connections.upgrade().map(|connections| connections.remove(self.id)) {
            Some(Removal::Linked) => Err(LifecycleError::Linked { kernel: self.from, to: self.to }),
            Some(Removal::Removed | Removal::Gone) | None => Ok(()),
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("from", &self.from).field("to", &self.to).finish_non_exhaustive()
    }
}
