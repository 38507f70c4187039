//! Deferred release of driver resources.
//!
//! Freeing memory or destroying a handle may synchronize with the device, and a resident kernel does not end on its own. Dropped
//! resources therefore go to a [`DeferredFreeList`], which is drained while no ring kernel is resident. Once the context is lost, nothing
//! is released any more: a handle of a lost context may name a resource of another owner in the next one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::CudaContext;

/// Releases that wait until no ring kernel is resident on the device.
#[derive(Default)]
pub(super) struct DeferredFreeList(Mutex<Queue>);

type Release = Box<dyn FnOnce() + Send>;

enum Queue {
    Open(Vec<Release>),
    /// The context is lost.
    Abandoned,
}

impl Default for Queue {
    fn default() -> Self {
        Self::Open(Vec::new())
    }
}

impl DeferredFreeList {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets every queued release, and every later one.
    pub(super) fn abandon(&self) {
        let queue = std::mem::replace(&mut *self.queue(), Queue::Abandoned);
        std::mem::forget(queue);
    }

    /// Queues `release` for the next [`drain`](Self::drain).
    pub(super) fn defer(&self, release: impl FnOnce() + Send + 'static) {
        match &mut *self.queue() {
            Queue::Open(queue) => queue.push(Box::new(release)),
            // What the closure owns would be released if it were dropped.
            Queue::Abandoned => std::mem::forget(release),
        }
    }

    /// Queues the destruction of a driver handle (a stream, an event, a pool), with its context current.
    pub(super) fn defer_destroy<H: 'static>(
        &self,
        context: &Arc<CudaContext>,
        handle: *mut H,
        destroy: impl FnOnce(*mut H) + Send + 'static,
    ) {
        struct Handle<H>(*mut H);
        // SAFETY: the driver ties such a handle to its context, not to a thread. Callers defer from `Drop`, so the owner no longer
        // uses the handle, and the closure below is its only user.
        unsafe impl<H> Send for Handle<H> {}
        let (handle, context) = (Handle(handle), Arc::clone(context));
        self.defer(move || {
            let Handle(handle) = { handle };
            if context.bind_to_thread().is_ok() {
                destroy(handle);
            }
        });
    }

    /// Runs every queued release. The caller ensures that no ring kernel is resident.
    pub(super) fn drain(&self) {
        let all = match &mut *self.queue() {
            Queue::Open(queue) => std::mem::take(queue),
            Queue::Abandoned => Vec::new(),
        };
        all.into_iter().for_each(|release| release());
    }
}
