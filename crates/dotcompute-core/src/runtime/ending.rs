//! Ending all ring kernels of a runtime: in order at a shutdown, at once when the runtime is dropped.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::failed::address;
use super::registry::Registry;
use crate::cell::any_kernel::AnyKernel;
use crate::cell::lifecycle_calls::ABORT_GRACE;
use crate::deadline;
use crate::error::ShutdownError;
use crate::lifecycle::{Command, State};

/// Time for a thread to exit after its ring kernel has ended.
const JOIN_TIMEOUT: Duration = Duration::from_millis(200);

/// Time that a running handler has to return after its runtime was dropped. Its callers are released then.
const DROP_GRACE: Duration = Duration::from_secs(1);

/// Ends the ring kernels of a dropped runtime and does not wait. Those whose handlers are running get [`DROP_GRACE`].
pub(super) fn abort_all(kernels: Vec<Arc<dyn AnyKernel>>) {
    // Ending needs no worker: every worker may be in a handler that does not return.
    kernels.iter().for_each(|kernel| kernel.close_task());
    let running: Arc<[Arc<dyn AnyKernel>]> =
        kernels.into_iter().filter(|kernel| !has_ended(kernel)).collect();
    running.iter().for_each(|kernel| kernel.request_end(Command::Abort));
    if running.is_empty() {
        return;
    }
    let thread = std::thread::Builder::new().name(String::from("dotcompute-end"));
    let reaped = Arc::clone(&running);
    let reap = move || {
        let deadline = deadline::after(DROP_GRACE);
        for kernel in &*reaped {
            let _ = kernel.cell().wait_for_state(deadline, State::has_ended);
        }
        fail_all(&reaped);
    };
    if thread.spawn(reap).is_err() {
        fail_all(&running);
    }
}

/// Declares those ring kernels failed that have not ended, and thereby releases their waiting callers.
fn fail_all(kernels: &[Arc<dyn AnyKernel>]) {
    kernels.iter().for_each(|kernel| kernel.cell().end(State::Failed));
}

fn has_ended(kernel: &Arc<dyn AnyKernel>) -> bool {
    kernel.cell().lifecycle.get().has_ended()
}

/// Ends every ring kernel of a closed registry, each after its upstream ring kernels have ended, so that messages between them are handled.
pub(super) fn shut_down(registry: &Registry, timeout: Duration) -> Result<(), ShutdownError> {
    let deadline = deadline::after(timeout);
    let mut shutdown = Shutdown::new(registry);
    shutdown.drain(deadline);
    let mut stuck = shutdown.abort();
    let join_deadline = deadline.max(deadline::after(JOIN_TIMEOUT));
    for kernel in &shutdown.kernels {
        let ended = kernel.cell().lifecycle.get() == State::Terminated;
        if ended && !kernel.join(join_deadline) {
            stuck.push(kernel.cell().name.to_string());
        }
    }
    if stuck.is_empty() {
        return Ok(());
    }
    stuck.sort();
    stuck.dedup();
    Err(ShutdownError { stuck, waited: timeout })
}

/// A shutdown in progress. Ring kernels are indices into `kernels`.
struct Shutdown<'a> {
    registry: &'a Registry,
    kernels: Vec<Arc<dyn AnyKernel>>,
    /// By the address of the cell, as the registry reports ends.
    indices: HashMap<usize, usize>,
    downstream: Vec<Vec<usize>>,
    /// Connections to each ring kernel from those that have not ended.
    upstream_counts: Vec<usize>,
    progress: Vec<Progress>,
    /// Ring kernels that have not ended.
    alive: usize,
    /// Those among them that were told to end.
    ending: usize,
}

/// How far one ring kernel is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Untold,
    Told,
    Ended,
}

impl<'a> Shutdown<'a> {
    fn new(registry: &'a Registry) -> Self {
        let kernels = registry.close();
        let indices: HashMap<usize, usize> =
            kernels.iter().enumerate().map(|(index, kernel)| (address(kernel.cell()), index)).collect();
        let indices_of = |kernel: &Arc<dyn AnyKernel>| {
            kernel.downstream().iter().filter_map(|to| indices.get(&address(to)).copied()).collect()
        };
        let downstream: Vec<Vec<usize>> = kernels.iter().map(indices_of).collect();
        let mut upstream_counts = vec![0; kernels.len()];
        downstream.iter().flatten().for_each(|&to| upstream_counts[to] += 1);
        let progress = vec![Progress::Untold; kernels.len()];
        let alive = kernels.len();
        Self { registry, kernels, indices, downstream, upstream_counts, progress, alive, ending: 0 }
    }

    /// Tells each ring kernel to handle its messages and end, once all of its upstream ring kernels have ended. Returns when all have
    /// ended, or at the deadline.
    fn drain(&mut self, deadline: Instant) {
        for index in 0..self.kernels.len() {
            if has_ended(&self.kernels[index]) {
                self.mark_ended(index);
            } else if self.upstream_counts[index] == 0 {
                self.tell(index);
            }
        }
        while self.alive > 0 {
            if self.ending == 0 {
                // The others wait for each other.
                self.cyclic().into_iter().for_each(|index| self.tell(index));
            }
            let Some(ended) = self.registry.wait_for_ends(deadline) else { return };
            self.mark_all_ended(ended);
        }
    }

    fn tell(&mut self, index: usize) {
        if self.progress[index] == Progress::Untold {
            self.progress[index] = Progress::Told;
            self.ending += 1;
            self.kernels[index].request_end(Command::Drain);
        }
    }

    fn mark_all_ended(&mut self, addresses: Vec<usize>) {
        for address in addresses {
            if let Some(&index) = self.indices.get(&address) {
                self.mark_ended(index);
            }
        }
    }

    fn mark_ended(&mut self, index: usize) {
        match std::mem::replace(&mut self.progress[index], Progress::Ended) {
            Progress::Ended => return,
            Progress::Told => self.ending -= 1,
            Progress::Untold => {}
        }
        self.alive -= 1;
        for to in std::mem::take(&mut self.downstream[index]) {
            self.upstream_counts[to] -= 1;
            if self.upstream_counts[to] == 0 {
                self.tell(to);
            }
        }
    }

    /// Returns the untold ring kernels in cycles of connections, and those between two cycles. The others are downstream of a cycle: they
    /// are found by removing, again and again, those without a downstream ring kernel among the untold ones.
    fn cyclic(&self) -> Vec<usize> {
        let is_untold = |&index: &usize| self.progress[index] == Progress::Untold;
        let untold: Vec<usize> = (0..self.kernels.len()).filter(is_untold).collect();
        let mut upstream = vec![Vec::new(); self.kernels.len()];
        let mut downstream_counts = vec![0; self.kernels.len()];
        for &from in &untold {
            for &to in self.downstream[from].iter().filter(|to| is_untold(to)) {
                upstream[to].push(from);
                downstream_counts[from] += 1;
            }
        }
        let mut last: Vec<usize> =
            untold.iter().copied().filter(|&index| downstream_counts[index] == 0).collect();
        while let Some(index) = last.pop() {
            for &from in &upstream[index] {
                downstream_counts[from] -= 1;
                if downstream_counts[from] == 0 {
                    last.push(from);
                }
            }
        }
        untold.into_iter().filter(|&index| downstream_counts[index] > 0).collect()
    }

    /// Aborts the ring kernels that have not ended, all at once. After one common grace they are declared failed. Returns their names.
    fn abort(&mut self) -> Vec<String> {
        let remaining: Vec<Arc<dyn AnyKernel>> =
            self.kernels.iter().filter(|kernel| !has_ended(kernel)).cloned().collect();
        let names = remaining.iter().map(|kernel| kernel.cell().name.to_string()).collect();
        remaining.iter().for_each(|kernel| kernel.request_end(Command::Abort));
        let deadline = deadline::after(ABORT_GRACE);
        while !remaining.iter().all(has_ended) && self.registry.wait_for_ends(deadline).is_some() {}
        // Those whose workers are in other handlers end without a worker.
        remaining.iter().for_each(|kernel| kernel.close_task());
        fail_all(&remaining);
        names
    }
}
