//! The ring kernels of one device, and how the host quiesces it.
//!
//! One thread at a time holds the device quiet. The same thread may quiesce it again, and launch or connect ring kernels: the device is quiet
//! already. Other threads wait until it is released, at most for their own timeout.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use dotcompute_core::backend::BackendError;
use dotcompute_core::deadline;

use crate::protocol::COMMAND_LEAVE;
use crate::resident_kernel::ResidentKernel;

/// Why a device could not be quiesced.
pub(crate) enum QuiesceError {
    /// These ring kernels were still resident.
    Resident(Vec<String>),
    /// Another thread held the device quiet.
    Held,
}

impl QuiesceError {
    /// Returns the error of a backend, for a caller that has waited for `waited`.
    pub(crate) fn after(self, waited: Duration) -> BackendError {
        match self {
            Self::Resident(kernels) => BackendError::QuiesceTimeout { kernels, waited },
            Self::Held => BackendError::QuiescedElsewhere { waited },
        }
    }
}

/// A grid whose handler does not return.
pub(crate) trait HungGrid: Send + Sync {
    /// Returns the name of the ring kernel.
    fn name(&self) -> &str;

    /// Whether the grid has exited. Does not wait.
    fn has_exited(&self) -> bool;

    /// Has the device end the grid.
    fn kill(&self);
}

/// The ring kernels of one device.
#[derive(Default)]
pub(crate) struct ResidentKernels {
    inner: Mutex<Inner>,
    released: Condvar,
}

#[derive(Default)]
struct Inner {
    all: Vec<Weak<ResidentKernel>>,
    holder: Option<Holder>,
    hung: Vec<Weak<dyn HungGrid>>,
}

/// The thread that holds the device quiet.
struct Holder {
    thread: ThreadId,
    /// Number of its calls that have not returned.
    depth: usize,
}

impl ResidentKernels {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a ring kernel and launches its grid. If more than `own` calls of [`quiesce`](Self::quiesce) hold the device quiet, the ring kernel
    /// starts off the device, and is relaunched when they have returned: a caller that launches inside a call of its own passes 1, else 0.
    pub(crate) fn launch(&self, kernel: &Arc<ResidentKernel>, own: usize) -> Result<(), BackendError> {
        kernel.launch(|| {
            let mut inner = self.lock();
            inner.all.retain(|kernel| kernel.strong_count() > 0);
            inner.all.push(Arc::downgrade(kernel));
            let is_quiet = inner.holder.as_ref().is_some_and(|holder| holder.depth > own);
            if is_quiet {
                // Under the lock: the thread that releases the device finds the flag, and clears it.
                kernel.start_off_device();
            }
            is_quiet
        })
    }

    /// Records a grid whose handler does not return.
    pub(crate) fn add_hung(&self, grid: Weak<dyn HungGrid>) {
        let mut inner = self.lock();
        inner.hung.retain(|grid| grid.strong_count() > 0);
        inner.hung.push(grid);
    }

    /// Returns the grids whose handlers do not return and that are still on the device.
    pub(crate) fn hung(&self) -> Vec<Arc<dyn HungGrid>> {
        let hung: Vec<_> = self.lock().hung.iter().filter_map(Weak::upgrade).collect();
        hung.into_iter().filter(|grid| !grid.has_exited()).collect()
    }

    /// Returns the names of [`hung`](Self::hung).
    pub(crate) fn hung_names(&self) -> Vec<String> {
        self.hung().iter().map(|grid| grid.name().to_owned()).collect()
    }

    fn alive(&self) -> Vec<Arc<ResidentKernel>> {
        self.lock().all.iter().filter_map(Weak::upgrade).collect()
    }

    /// Returns the names of the ring kernels that are in their handlers.
    pub(crate) fn in_handlers(&self) -> Vec<String> {
        let in_handler = |kernel: &Arc<ResidentKernel>| {
            kernel.memory.control().device.current_message.load(Ordering::Relaxed) != 0
        };
        self.alive().iter().filter(|kernel| in_handler(kernel)).map(|kernel| kernel.name.clone()).collect()
    }

    /// Marks every ring kernel as lost.
    pub(crate) fn mark_all_lost(&self, reason: &str) {
        self.alive().iter().for_each(|kernel| kernel.watched.mark_lost(reason));
    }

    /// Asks every ring kernel to leave the device at its next message boundary, runs `act` while none is resident, and relaunches them. Inside
    /// `act`, the same thread runs a nested `act` at once.
    ///
    /// # Errors
    ///
    /// [`QuiesceError`] if ring kernels were still resident, or another thread held the device quiet, after `timeout`; `act` is not run then.
    pub(crate) fn quiesce<T>(&self, timeout: Duration, act: impl FnOnce() -> T) -> Result<T, QuiesceError> {
        let deadline = deadline::after(timeout);
        let hold = self.hold(deadline).ok_or(QuiesceError::Held)?;
        if hold.is_outermost {
            let stuck = self.bring_off_device(deadline);
            if !stuck.is_empty() {
                return Err(QuiesceError::Resident(stuck));
            }
        }
        Ok(act())
    }

    /// Makes the calling thread the holder, at most until `deadline`.
    fn hold(&self, deadline: Instant) -> Option<Hold<'_>> {
        let thread = thread::current().id();
        let mut inner = self.lock();
        loop {
            match &mut inner.holder {
                Some(holder) if holder.thread == thread => {
                    holder.depth += 1;
                    return Some(Hold { kernels: self, is_outermost: false });
                }
                None => {
                    inner.holder = Some(Holder { thread, depth: 1 });
                    return Some(Hold { kernels: self, is_outermost: true });
                }
                Some(_) => {}
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            inner = self.released.wait_timeout(inner, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Returns the names of the ring kernels that are still resident at `deadline`.
    fn bring_off_device(&self, deadline: Instant) -> Vec<String> {
        let kernels = self.alive();
        for kernel in &kernels {
            // SYNC POINT: quiesce leave
            // `Leader::wait` (leader.cuh) reads the flag at every poll, and responds with `STATE_OFF_DEVICE`. A device thread that waits for
            // a free slot of a link reads it too.
            kernel.memory.control().host.command.fetch_or(COMMAND_LEAVE, Ordering::Release);
            // The device proxy drains the event ring now, so that a full ring does not delay the exit.
            kernel.watched.wake();
        }
        let is_resident = |kernel: &&Arc<ResidentKernel>| !wait_off_device(kernel, deadline);
        kernels.iter().filter(is_resident).map(|kernel| kernel.name.clone()).collect()
    }
}

fn wait_off_device(kernel: &ResidentKernel, deadline: Instant) -> bool {
    let mut pause = Duration::from_micros(2);
    while !kernel.has_left() {
        // A lost kernel may never exit; a later operation that needs the whole device reports it.
        if kernel.watched.lost().is_some() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_micros(200));
    }
    kernel.watched.lost().is_some() || kernel.grid.wait_exited(deadline)
}

/// One call that holds the device quiet. The outermost one relaunches the ring kernels when it is dropped, also if `act` panics.
struct Hold<'a> {
    kernels: &'a ResidentKernels,
    is_outermost: bool,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut inner = self.kernels.lock();
        if !self.is_outermost {
            inner.holder.iter_mut().for_each(|holder| holder.depth -= 1);
            return;
        }
        inner.holder = None;
        // Under the lock: no other thread asks them to leave meanwhile. Those launched by `act` are among them.
        let kernels: Vec<_> = inner.all.iter().filter_map(Weak::upgrade).collect();
        for kernel in &kernels {
            kernel.memory.control().host.command.fetch_and(!COMMAND_LEAVE, Ordering::Release);
        }
        drop(inner);
        // SYNC POINT: relaunch
        // Pairs with the fences in `ResidentKernel::relaunch`: a relaunch that has found the flag is not the last one.
        fence(Ordering::SeqCst);
        self.kernels.released.notify_all();
        kernels.iter().for_each(|kernel| kernel.relaunch_if_off_device());
    }
}
