//! Ending all ring kernels of a runtime that was dropped.

use std::sync::Arc;
use std::time::Duration;

use crate::cell::any_kernel::AnyKernel;
use crate::deadline;
use crate::lifecycle::{Command, State};

/// Time that a running handler has to return after its runtime was dropped. Its callers are released then.
const DROP_GRACE: Duration = Duration::from_secs(1);

/// Ends the ring kernels of a dropped runtime and does not wait. Those whose handlers are running get [`DROP_GRACE`].
pub(super) fn abort_all(kernels: Vec<Arc<dyn AnyKernel>>) {
    // Ending needs no worker: every worker may be in a handler that does not return.
    kernels.iter().for_each(|kernel| kernel.close_task());
    let running: Arc<[_]> = kernels.into_iter().filter(|kernel| !has_ended(kernel)).collect();
    running.iter().for_each(|kernel| kernel.request_end(Command::Abort));
    if running.is_empty() {
        return;
    }
    let waited_for = Arc::clone(&running);
    let wait = move || {
        let deadline = deadline::after(DROP_GRACE);
        for kernel in &*waited_for {
            let _ = kernel.cell().lifecycle.wait(Some(deadline), State::has_ended);
        }
        fail_all(&waited_for);
    };
    let thread = std::thread::Builder::new().name(String::from("dotcompute-end"));
    if thread.spawn(wait).is_err() {
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
