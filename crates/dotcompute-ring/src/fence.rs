//! The fence between publishing and looking whether anybody sleeps.
//!
//! A sender publishes a message, then looks whether the receiver sleeps. A receiver announces that it will sleep, then looks
//! once more for a message. Unless both put a full fence between their store and their load, each may miss the other's store, and
//! the receiver sleeps on a message. But a full fence waits until the stores before it have reached the cache, that is, for the
//! message's cache lines to come from the other core: it would cost a streaming sender several times the message itself.
//!
//! So the two sides share the cost unequally ([`Fence::Asymmetric`]): the sender has a compiler fence, which costs nothing, and
//! the receiver, about to sleep anyway, asks the kernel to run a full fence on every thread of the process
//! (`membarrier`, `MEMBARRIER_CMD_PRIVATE_EXPEDITED`, Linux 4.14). Each running thread then has its fence at some point between
//! the receiver's announcement and its second look, and a thread that is not running has had one when it was switched out. If a
//! sender's fence fell after its publishing, the receiver's second look finds the message; if it fell before, the sender's look,
//! later still, finds the announcement. The compiler fence only keeps the compiler from turning the two round.
//!
//! What it costs: the sleeping side interrupts every core that runs a thread of the process, which takes microseconds and disturbs
//! those threads. Thus `Asymmetric` is for a side that sleeps seldom and a side that publishes often; for waiters that come and go by
//! the thousand, as on a thread pool, it is the wrong way round. A child process after `fork` keeps the registration.

use crate::sync::{Ordering, fence};

/// Who pays for the order between publishing and sleeping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fence {
    /// The side that goes to sleep, with a system call; nearly free for the side that wakes.
    ///
    /// Only between threads of one process: the other process's threads would not be fenced. Where the system call is missing this is
    /// the same as `Symmetric`.
    Asymmetric,
    /// Both alike, with a full fence each: for those that sleep often, and across processes.
    #[default]
    Symmetric,
}

impl Fence {
    /// What can be had here: the answer is the same throughout the life of the process. Kept by each object that uses a fence, so that
    /// its two sides agree.
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
        // Only a filter on system calls set up after the registration can refuse this. By then other threads rely on it, so that going
        // on would lose wake-ups: a hang in place of this message.
        assert!(
            fenced,
            "the kernel refused the system call `membarrier` to a process that it has registered for it: {}; allow it in the sandbox, \
             or forbid it before the first `Fence::Asymmetric` is used",
            std::io::Error::last_os_error()
        );
    }

    fn membarrier(command: libc::c_int) -> bool {
        // SAFETY: the call takes a command, flags and a processor number, all by value, and neither reads nor writes memory of ours.
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

    /// Store buffering, the very thing the fences are for: of two threads that each store and then load the other's word, not both
    /// may miss the other's store.
    #[test]
    fn the_two_sides_never_both_miss_a_store() {
        const ROUNDS: u32 = if cfg!(miri) { 20 } else { 50_000 };
        for fence in [Fence::Asymmetric.available(), Fence::Symmetric] {
            let [published, announced, round, seen_there] = [const { Word(AtomicU32::new(0)) }; 4];
            let mut both_missed = 0;
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for now in 1..=ROUNDS {
                        wait_for(&round, now);
                        published.0.store(now, Ordering::Relaxed);
                        fence.light();
                        let seen = announced.0.load(Ordering::Relaxed);
                        // Also says that this side's round is over.
                        seen_there.0.store(2 * now + u32::from(seen == now), Ordering::Release);
                    }
                });
                for now in 1..=ROUNDS {
                    round.0.store(now, Ordering::Release);
                    // The other side learns of the round some time later: try all the times it may be.
                    for _ in 0..now % 128 {
                        core::hint::black_box(now);
                    }
                    announced.0.store(now, Ordering::Relaxed);
                    fence.heavy();
                    let seen_here = published.0.load(Ordering::Relaxed) == now;
                    while seen_there.0.load(Ordering::Acquire) / 2 != now {
                        std::thread::yield_now();
                    }
                    let seen_there = seen_there.0.load(Ordering::Relaxed) % 2 == 1;
                    both_missed += u32::from(!seen_here && !seen_there);
                }
            });
            assert_eq!(both_missed, 0, "{fence:?}: rounds in which each missed the other's store");
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
