//! Waking the one task that waits at a ring.

use core::task::Waker;

use crate::fence::Fence;
use crate::sync::{AtomicU32, Ordering, UnsafeCell};

const IDLE: u32 = 0;
const WAITING: u32 = 1;
const NOTIFYING: u32 = 2;

/// One waiter, many notifiers. Notifying costs one load where nobody waits.
///
/// The waiter's protocol: [`prepare`](Self::prepare), look at the condition once more, and only then sleep. A wake-up is never
/// lost; one too many may come.
///
/// The waker is owned by the waiter in the states idle and waiting, and lent to one notifier in the state notifying, which only a
/// notifier enters (from waiting) and leaves.
pub struct Signal {
    state: AtomicU32,
    fence: Fence,
    waker: UnsafeCell<Option<Waker>>,
}

// SAFETY: the waker, itself `Send + Sync`, is touched only by whoever the state says owns it: written by the waiter in the idle state,
// read by the one notifier that moved waiting to notifying.
unsafe impl Send for Signal {}
// SAFETY: as above. That there is one waiter is the callers' part: `prepare` and `cancel` are for the owner of a consumer end.
unsafe impl Sync for Signal {}

impl Signal {
    /// A signal with nobody waiting.
    #[must_use]
    pub fn new(fence: Fence) -> Self {
        Self { state: AtomicU32::new(IDLE), fence: fence.available(), waker: UnsafeCell::new(None) }
    }

    /// Wakes the waiter if there is one. Call after publishing what it waits for.
    #[inline]
    pub fn notify(&self) {
        self.fence.light();
        if self.state.load(Ordering::Relaxed) == WAITING {
            self.wake();
        }
    }

    /// As [`notify`](Self::notify), for rare callers.
    pub fn notify_from_control(&self) {
        crate::sync::fence(Ordering::SeqCst);
        self.notify();
    }

    #[cold]
    fn wake(&self) {
        // Acquire: the waker's content is seen. Another notifier may have been quicker, which is as good.
        if self.state.compare_exchange(WAITING, NOTIFYING, Ordering::Acquire, Ordering::Relaxed).is_ok() {
            self.waker.with(|waker| {
                // SAFETY: in the notifying state, which this thread has entered, nobody writes the cell.
                if let Some(waker) = unsafe { &*waker } {
                    waker.wake_by_ref();
                }
            });
            // Release: the waiter's next write to the cell comes after this thread's read.
            self.state.store(IDLE, Ordering::Release);
        }
    }

    /// Announces that the caller is going to wait and is to be woken through `waker`.
    ///
    /// After `true` the caller looks at its condition once more and then sleeps, or calls [`cancel`](Self::cancel). `false` means that
    /// a notifier is at work this moment: look again instead of sleeping.
    ///
    /// Only one task may use this at a time.
    pub fn prepare(&self, waker: &Waker) -> bool {
        // Takes the waker back, if it was lent to nobody. Acquire: see the end of `wake`.
        match self.state.compare_exchange(WAITING, IDLE, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) | Err(IDLE) => {}
            Err(_) => return false,
        }
        self.waker.with_mut(|cell| {
            // SAFETY: in the idle state the waiter, this caller, owns the cell: notifiers enter only from waiting.
            let cell = unsafe { &mut *cell };
            if !cell.as_ref().is_some_and(|present| present.will_wake(waker)) {
                *cell = Some(waker.clone());
            }
        });
        // Release: a notifier that sees this sees the waker.
        self.state.store(WAITING, Ordering::Release);
        // Between the announcement and the caller's second look; pairs with the light fence in `notify`.
        self.fence.heavy();
        true
    }

    /// Takes an announcement back.
    pub fn cancel(&self) {
        // Should a notifier be at work, it wakes somebody who is awake: harmless.
        let _ = self.state.compare_exchange(WAITING, IDLE, Ordering::Acquire, Ordering::Relaxed);
    }
}
