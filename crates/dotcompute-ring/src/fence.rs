//! The fence between publishing a message and checking for parked waiters.
//!
//! A sender publishes a message, then checks whether the receiver is parked. A receiver registers, then rechecks for a message. Without a
//! full fence between store and load on both sides, each side may miss the other's store. The receiver then parks although a message is
//! there. A full fence waits until earlier stores have reached the cache, and so until the message's cache lines have come from the other
//! core. A streaming sender would pay several times the cost of the message itself.
//!
//! The two sides therefore share the cost unequally ([`Fence::Asymmetric`]). The sender has a compiler fence, which costs nothing. The
//! receiver, which is about to park anyway, makes the kernel run a full fence on every thread of the process (`membarrier`,
//! `MEMBARRIER_CMD_PRIVATE_EXPEDITED`, Linux 4.14). Each running thread executes that fence at some point between the receiver's
//! registration and its recheck. A thread that is not running has executed one when it was switched out. If a sender's fence comes after
//! its publication, the receiver's recheck finds the message. If it comes before, the sender's later check finds the registration. The
//! compiler fence only keeps the compiler from reordering the sender's store and load.
//!
//! Cost: the parking side interrupts every core that runs a thread of the process, which takes microseconds and disturbs those threads.
//! `Asymmetric` suits a side that parks rarely and a side that publishes often. For thousands of short-lived waiters, as on a thread pool,
//! it is the wrong choice. A child process after `fork` keeps the registration.

use crate::sync::{Ordering, fence};

/// Which side pays for the order between publishing and parking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fence {
    /// The side that parks, with a system call; nearly free for the side that wakes.
    ///
    /// Only between threads of one process, because threads of another process are not fenced. Without the system call this is the same as
    /// `Symmetric`.
    Asymmetric,
    /// Both sides, with a full fence each: for waiters that park often, and across processes.
    #[default]
    Symmetric,
}

impl Fence {
    /// Returns the fence that this platform supports; the result does not change during the life of the process. Each object stores it, so
    /// that both of its sides use the same fence.
    pub(crate) fn available(self) -> Self {
        if self == Self::Asymmetric && barrier::is_available() { Self::Asymmetric } else { Self::Symmetric }
    }

    /// Light side: between publishing and checking for waiters.
    #[inline(always)]
    pub(crate) fn light(self) {
        match self {
            // SYNC POINT: store-load fence (light)
            // Keeps the compiler from reordering; `heavy` on the other side orders the CPU.
            Self::Asymmetric => core::sync::atomic::compiler_fence(Ordering::SeqCst),
            Self::Symmetric => fence(Ordering::SeqCst),
        }
    }

    /// Heavy side: between registering and rechecking.
    #[inline]
    pub(crate) fn heavy(self) {
        match self {
            // SYNC POINT: store-load fence (heavy)
            // Runs the CPU fence of every thread whose `light` is only a compiler fence.
            Self::Asymmetric => barrier::on_all_threads(),
            Self::Symmetric => fence(Ordering::SeqCst),
        }
    }
}

#[cfg(all(target_os = "linux", feature = "std", not(loom), not(miri)))]
mod barrier {
    use std::sync::OnceLock;

    /// Registers the process once. `on_all_threads` may be called only after this has returned true.
    pub(super) fn is_available() -> bool {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        *REGISTERED.get_or_init(|| membarrier(libc::MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED))
    }

    #[cold]
    pub(super) fn on_all_threads() {
        let fenced = membarrier(libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED);
        // Only a system-call filter installed after the registration makes this fail. Other threads rely on the fence by then, so
        // continuing would lose wake-ups and hang; report it instead.
        assert!(
            fenced,
            "waking with `Fence::Asymmetric`: the kernel rejected the system call `membarrier` although this process registered for \
             it: {}; allow it in the sandbox, or forbid it before the first use of `Fence::Asymmetric`",
            std::io::Error::last_os_error()
        );
    }

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: the system call takes a command, flags and a CPU number, all by value, and accesses no memory of the process.
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

/// Returns whether [`Fence::Asymmetric`] differs from `Symmetric` on this platform.
#[must_use]
pub fn asymmetric_is_available() -> bool {
    barrier::is_available()
}

#[cfg(all(test, not(loom), feature = "std"))]
mod tests {
    use super::*;
    use core::sync::atomic::AtomicU32;

    #[repr(align(128))]
    struct Word(AtomicU32);

    fn wait_for(word: &Word, value: u32) {
        let mut polls = 0;
        while word.0.load(Ordering::Acquire) != value {
            polls += 1;
            if polls % 1000 == 0 || cfg!(miri) {
                std::thread::yield_now();
            }
        }
    }

    /// Store buffering, the case that the fences exist for: of two threads that each store and then load the other's word, at least one
    /// observes the other's store.
    #[test]
    fn the_two_sides_never_both_miss_a_store() {
        const ROUNDS: u32 = if cfg!(miri) { 20 } else { 50_000 };
        for fence in [Fence::Asymmetric.available(), Fence::Symmetric] {
            let [published, registered, round, observed_there] = [const { Word(AtomicU32::new(0)) }; 4];
            let mut both_missed = 0;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for now in 1..=ROUNDS {
                        wait_for(&round, now);
                        published.0.store(now, Ordering::Relaxed);
                        fence.light();
                        let observed = registered.0.load(Ordering::Relaxed);
                        // Also reports that this side's round is over.
                        observed_there.0.store(2 * now + u32::from(observed == now), Ordering::Release);
                    }
                });
                for now in 1..=ROUNDS {
                    round.0.store(now, Ordering::Release);
                    // The other side observes the round some time later: vary the delay to cover that range.
                    for _ in 0..now % 128 {
                        core::hint::black_box(now);
                    }
                    registered.0.store(now, Ordering::Relaxed);
                    fence.heavy();
                    let observed_here = published.0.load(Ordering::Relaxed) == now;
                    while observed_there.0.load(Ordering::Acquire) / 2 != now {
                        std::thread::yield_now();
                    }
                    let observed_there = observed_there.0.load(Ordering::Relaxed) % 2 == 1;
                    both_missed += u32::from(!observed_here && !observed_there);
                }
            });
            assert_eq!(both_missed, 0, "{fence:?}: rounds in which both sides missed the other's store");
        }
    }

    #[cfg(all(target_os = "linux", not(miri)))]
    #[test]
    fn availability_does_not_change() {
        assert_eq!(asymmetric_is_available(), Fence::Asymmetric.available() == Fence::Asymmetric);
        assert_eq!(Fence::Asymmetric.available(), Fence::Asymmetric.available().available());
        assert_eq!(Fence::Symmetric.available(), Fence::Symmetric);
    }
}
