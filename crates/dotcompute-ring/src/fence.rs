//! The fence between publishing and looking whether anybody sleeps.
//!
//! A sender publishes a message, then looks whether the receiver sleeps. A receiver announces that it will sleep, then looks
//! once more for a message. Unless both put a full fence between their store and their load, each may miss the other's store, and
//! the receiver sleeps on a message. But a full fence waits until the stores before it have reached the cache, that is, for the
//! message's cache lines to come from the other core: it would cost a streaming sender several times the message itself.
//!
//! So the two sides share the cost unequally ([`Fence::Asymmetric`]): the sender has a compiler fence, which costs nothing, and
//! the receiver, about to sleep anyway, asks the kernel to run a full fence on every thread of the process
//! (`membarrier`, `MEMBARRIER_CMD_PRIVATE_EXPEDITED`, Linux 4.14). Whatever point of its code a sender is at then, its store and
//! its load are on the right sides of that fence.

use crate::sync::{Ordering, fence};

/// Who pays for the order between publishing and sleeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fence {
    /// The side that goes to sleep, with a system call; nearly free for the side that wakes.
    ///
    /// Only between threads of one process. Where the system call is missing this is the same as `Symmetric`.
    Asymmetric,
    /// Both alike, with a full fence each: for those that sleep often, and across processes.
    #[default]
    Symmetric,
}

impl Fence {
    /// What can be had here. Decided once for each object that uses a fence, so that its two sides always agree.
    pub(crate) fn available(self) -> Self {
        if self == Self::Asymmetric && barrier::is_available() { Self::Asymmetric } else { Self::Symmetric }
    }

    /// Between publishing and looking for sleepers.
    #[inline(always)]
    pub(crate) fn light(self) {
        match self {
            // The compiler must keep the order too; the processor's part is done by `heavy` on the other side.
            Self::Asymmetric => core::sync::atomic::compiler_fence(Ordering::SeqCst),
            Self::Symmetric => fence(Ordering::SeqCst),
        }
    }

    /// Between announcing sleep and looking for what was published.
    #[inline]
    pub(crate) fn heavy(self) {
        match self {
            Self::Asymmetric => barrier::on_all_threads(),
            Self::Symmetric => fence(Ordering::SeqCst),
        }
    }
}

#[cfg(all(target_os = "linux", feature = "std", not(loom), not(miri)))]
mod barrier {
    use std::sync::OnceLock;

    /// Registers the process once; must have succeeded before `on_all_threads` is called.
    pub(super) fn is_available() -> bool {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        *REGISTERED.get_or_init(|| membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED))
    }

    #[cold]
    pub(super) fn on_all_threads() {
        let fenced = membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        // A registered process cannot be refused; if it were, going on would risk a lost wake-up.
        assert!(fenced, "the kernel refused a membarrier to a process that it has registered");
    }

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: the call takes three integers and touches no memory of ours.
        unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) == 0 }
    }
}

#[cfg(not(all(target_os = "linux", feature = "std", not(loom), not(miri))))]
mod barrier {
    pub(super) fn is_available() -> bool {
        false
    }

    pub(super) fn on_all_threads() {
        crate::sync::fence(crate::sync::Ordering::SeqCst);
    }
}

/// Whether [`Fence::Asymmetric`] is more than a name here.
#[must_use]
pub fn asymmetric_is_available() -> bool {
    barrier::is_available()
}
