//! Connecting.

use std::sync::{Arc, PoisonError};

use super::KernelHandle;
use crate::error::LifecycleError;
use crate::lifecycle::State;
use crate::message::Message;
use crate::options::Backpressure;
use crate::output::kernel_sink::KernelOutlet;

impl<I: Message, O: Message> KernelHandle<I, O> {
    /// Makes `to` take what this ring kernel sends, with no hop through the program.
    ///
    /// Connected to several, it sends a clone to each (fan-out); several may be connected to one (fan-in). Each output has
    /// the priority of the message that caused it. A full `to` holds this ring kernel up, unless `to` rejects or drops.
    /// What was sent before is still in the output ring.
    ///
    /// Two ring kernels on one device are connected there: outputs reach `to` through the device's memory, and the host sees neither
    /// them nor their headers (up to eight such connections each way in a ring kernel's life; further ones, and those to a `to` that
    /// rejects or drops, go by way of the host). For that both are brought to a message boundary once.
    ///
    /// # Errors
    ///
    /// [`LifecycleError`] if either has ended, if both are the same, or if their device cannot connect them now.
    pub fn connect<P: Message>(&self, to: &KernelHandle<O, P>) -> Result<(), LifecycleError>
    where
        O: Clone,
    {
        let (here, there) = (&self.shared.core, &to.shared.core);
        if Arc::ptr_eq(here, there) {
            return Err(LifecycleError::SelfConnection { kernel: Arc::clone(&here.name) });
        }
        for core in [here, there] {
            let state = core.life.get();
            if state >= State::Terminating {
                let kernel = Arc::clone(&core.name);
                return Err(LifecycleError::WrongState {
                    kernel,
                    state,
                    call: "connect",
                    advice: "launch another",
                });
            }
        }
        let link = self.link(to)?;
        here.feeds.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&there.name));
        self.shared.routes.add(Box::new(KernelOutlet::new(Arc::clone(&to.shared))), link);
        Ok(())
    }

    /// Connects the two on their device, if they are on one and can be.
    fn link<P: Message>(&self, to: &KernelHandle<O, P>) -> Result<Option<u8>, LifecycleError> {
        let (here, there) = (&self.shared.core, &to.shared.core);
        let Some(peer) = here.links.peer() else { return Ok(None) };
        let link = match there.links.peer() {
            Some(other) if there.options.backpressure == Backpressure::Block => peer.link(&*other),
            _ => Ok(None),
        };
        let link = link.map_err(|error| LifecycleError::Link {
            kernel: Arc::clone(&here.name),
            to: Arc::clone(&there.name),
            problem: error.to_string(),
        })?;
        if link.is_none() {
            peer.copy_to_host();
        }
        Ok(link)
    }
}
