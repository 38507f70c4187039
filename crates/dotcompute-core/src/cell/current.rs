//! The ring kernels whose user code runs on this thread.
//!
//! A driver enters its ring kernel here while it is polled. A call that waits for a ring kernel can thus tell that it runs inside that ring
//! kernel's own handler, where waiting would never end.

use std::cell::RefCell;
use std::sync::Arc;

use super::kernel_cell::KernelCell;
use super::wait_graph::{CallWait, Node, WaitFor};
use crate::status::WaitCycle;

thread_local! {
    /// The innermost is the last. There are several while an inline ask of a handler polls another ring kernel on this thread.
    static RUNNING: RefCell<Vec<Arc<KernelCell>>> = const { RefCell::new(Vec::new()) };
}

/// Marks a ring kernel as running on this thread until it is dropped. A driver holds one during each poll.
pub(crate) struct CurrentKernel(());

impl CurrentKernel {
    #[inline]
    pub(crate) fn enter(cell: &Arc<KernelCell>) -> Self {
        // An error means that the thread is ending and runs no more user code.
        let _ = RUNNING.try_with(|running| running.borrow_mut().push(Arc::clone(cell)));
        Self(())
    }

    /// Returns the innermost ring kernel that runs on this thread. `None` outside handlers and loops.
    fn innermost() -> Option<Arc<KernelCell>> {
        RUNNING.try_with(|running| running.borrow().last().cloned()).ok().flatten()
    }

    /// Adds an edge to the wait-for graph, from the innermost ring kernel that runs on this thread, if there is one, to `on`.
    ///
    /// # Errors
    ///
    /// The cycle that the edge would close.
    #[inline]
    pub(crate) fn begin_wait(
        what: WaitFor,
        on: &Arc<KernelCell>,
        blocks: bool,
    ) -> Result<CallWait, WaitCycle> {
        match Self::innermost() {
            None => Ok(CallWait::outside()),
            Some(from) => CallWait::add(from, what, Arc::clone(on) as Node, blocks),
        }
    }

    /// Whether the caller runs inside a handler or a loop of any ring kernel.
    #[inline]
    pub(crate) fn is_any() -> bool {
        RUNNING.try_with(|running| !running.borrow().is_empty()).unwrap_or(true)
    }

    /// Whether the caller runs inside a handler or a loop of this ring kernel, directly or within inline asks.
    pub(crate) fn is(cell: &KernelCell) -> bool {
        let is_running = |running: &RefCell<Vec<Arc<KernelCell>>>| {
            running.borrow().iter().any(|other| std::ptr::eq(&**other, cell))
        };
        RUNNING.try_with(is_running).unwrap_or(false)
    }
}

impl Drop for CurrentKernel {
    #[inline]
    fn drop(&mut self) {
        let left = RUNNING.try_with(|running| running.borrow_mut().pop());
        // Dropped here, after the borrow has ended: the cell's own `drop` may run user code.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::cell::kernel_cell::EndObserver;
    use crate::dead_letter::DeadLetters;
    use crate::lifecycle::State;
    use crate::options::KernelOptions;

    struct NoRegistry;

    impl EndObserver for NoRegistry {
        fn ended(&self, _cell: &KernelCell, _state: State) {}
    }

    fn cell(name: &str) -> Arc<KernelCell> {
        let registry: Weak<NoRegistry> = Weak::new();
        Arc::new(KernelCell::new(
            name.into(),
            ("u8", "u8"),
            KernelOptions::new(),
            DeadLetters::new(0),
            registry,
        ))
    }

    #[test]
    fn ring_kernels_nest_and_leave_in_order_also_by_a_panic() {
        let (outer, inner) = (cell("outer"), cell("inner"));
        assert!(CurrentKernel::innermost().is_none());
        let guard = CurrentKernel::enter(&outer);
        let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _guard = CurrentKernel::enter(&inner);
            assert!(CurrentKernel::is(&inner) && CurrentKernel::is(&outer));
            assert!(Arc::ptr_eq(&CurrentKernel::innermost().unwrap(), &inner));
            std::panic::resume_unwind(Box::new(()));
        }));
        assert!(unwound.is_err());
        assert!(!CurrentKernel::is(&inner));
        assert!(Arc::ptr_eq(&CurrentKernel::innermost().unwrap(), &outer));
        std::thread::scope(|scope| {
            scope.spawn(|| assert!(!CurrentKernel::is(&outer), "another thread"));
        });
        drop(guard);
        assert!(CurrentKernel::innermost().is_none());
        assert_eq!(Arc::strong_count(&outer), 1);
    }
}
