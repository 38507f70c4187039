//! Waiting for another thread: detached from the interpreter, woken by the ring, and interruptible by Ctrl-C.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::{WaitStrategy, spin_then_park};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::spin::{self, Trial};

/// How long the main thread sleeps before it sees to signals: Python runs their handlers on that thread only, and sleeping threads are
/// not woken by them. Other threads sleep until they are woken.
const SIGNALS: Duration = Duration::from_millis(50);

/// How long a thread that has seen its message spins for the interpreter to become free, before it queues for it.
const HAND_OVER: Duration = Duration::from_micros(5);

/// How long a thread that only looks lets others have the interpreter.
const GLANCE: Duration = Duration::from_micros(1);

/// How often a thread has let go of the interpreter in order to wait here, and how often one has got it back.
static DETACHED: AtomicU64 = AtomicU64::new(0);
static ATTACHED: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static HAND_OVERS: Trial = const { Trial::new() };
}

/// What [`DETACHED`] is at this moment: to be read by a thread that publishes a message, while it is attached.
pub(crate) fn detached() -> u64 {
    // Relaxed: a hint for the pace of a wait, which nothing is read on the strength of.
    DETACHED.load(Ordering::Relaxed)
}

/// The moment at which a wait of `timeout` seconds is over. None is never.
///
/// # Errors
///
/// `ValueError` if the timeout is not a number.
fn deadline(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(seconds) = timeout else { return Ok(None) };
    if seconds.is_nan() {
        return Err(PyValueError::new_err(
            "Cannot wait for nan seconds; give a timeout of 0 or more seconds, or None to wait without one",
        ));
    }
    // Later than can be said is never.
    Ok(Duration::try_from_secs_f64(seconds.max(0.0)).ok().and_then(|left| Instant::now().checked_add(left)))
}

/// As [`deadline`], reckoned at the first call and kept in `until`: most calls need not wait, and do not look at the clock.
///
/// # Errors
///
/// As for `deadline`.
pub(crate) fn deadline_once(
    until: &mut Option<Option<Instant>>,
    timeout: Option<f64>,
) -> PyResult<Option<Instant>> {
    match *until {
        Some(until) => Ok(until),
        None => Ok(*until.insert(deadline(timeout)?)),
    }
}

/// Whether Python's handlers of signals run on this thread.
fn handles_signals() -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: neither call takes an argument or touches memory of ours.
        unsafe { libc::gettid() == libc::getpid() }
    }
    #[cfg(not(target_os = "linux"))]
    true
}

/// Waits, detached, until `look` is ready. False if the deadline has passed.
///
/// `look` is as in [`spin_then_park`], and called without the interpreter: it must not touch Python objects. `published` has what
/// [`detached`] was when the message that was found was published.
///
/// # Errors
///
/// What a handler of a signal raised, as `KeyboardInterrupt`.
pub(crate) fn wait_detached(
    py: Python<'_>,
    deadline: Option<Instant>,
    mut look: impl FnMut(Option<&mut Context<'_>>) -> Poll<()> + Send,
    published: &AtomicU64,
) -> PyResult<bool> {
    let sliced = handles_signals();
    let mut spins = true;
    loop {
        let found = detach(py, || {
            let until = if sliced {
                let slice = Instant::now() + SIGNALS;
                Some(deadline.map_or(slice, |deadline| deadline.min(slice)))
            } else {
                deadline
            };
            // What does not come while spinning is not worth spinning for again in the next slice.
            let found = (std::mem::take(&mut spins) && spin::spin_adaptively(|| look(None).is_ready()))
                || spin_then_park(WaitStrategy::Park, until, &mut look).is_some();
            if found {
                wait_for_hand_over(published);
            }
            found
        });
        if found {
            return Ok(true);
        }
        py.check_signals()?;
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(false);
        }
    }
}

/// Lets other threads have the interpreter for a moment, looking meanwhile whether it is `ready`.
///
/// For calls that do not wait, where they find nothing: programs make them in a loop. Without this, such a loop would keep the
/// interpreter from the very thread that it waits for until that one asks for it by force, 5 ms later.
pub(crate) fn give_way(py: Python<'_>, mut ready: impl FnMut() -> bool + Send, published: &AtomicU64) {
    if cfg!(Py_GIL_DISABLED) {
        return;
    }
    detach(py, || {
        let attached = ATTACHED.load(Ordering::Relaxed);
        // Who queues for the interpreter has just been woken, and may need this very core to take it.
        std::thread::yield_now();
        let until = Instant::now() + GLANCE;
        while Instant::now() < until {
            if ready() {
                return wait_for_hand_over(published);
            }
            if ATTACHED.load(Ordering::Relaxed) != attached {
                // Somebody has it now. Queueing for it is as bad here as after having found a message.
                let seen = AtomicU64::new(detached());
                return wait_for_hand_over(&seen);
            }
            std::hint::spin_loop();
        }
    });
}

/// Runs `f` without the interpreter.
fn detach<T: Send>(py: Python<'_>, f: impl FnOnce() -> T + Send) -> T {
    let result = py.detach(|| {
        DETACHED.fetch_add(1, Ordering::Relaxed);
        f()
    });
    ATTACHED.fetch_add(1, Ordering::Relaxed);
    result
}

/// Spins until the thread that published has let go of the interpreter, or for a moment.
///
/// It is about to: it waits for the answer. Queueing for the interpreter meanwhile would have the operating system put this thread to
/// sleep and wake it again, which takes longer than all the rest of a round trip. But where the two share a core, the other can let go
/// only once this thread sleeps: then spinning fails, and is left off.
fn wait_for_hand_over(published: &AtomicU64) {
    let held = || published.load(Ordering::Relaxed) == detached();
    if cfg!(Py_GIL_DISABLED) || !held() {
        return;
    }
    HAND_OVERS.with(|hand_overs| {
        if hand_overs.is_due() {
            let until = Instant::now() + HAND_OVER;
            while Instant::now() < until {
                if !held() {
                    return hand_overs.hit();
                }
                std::hint::spin_loop();
            }
        }
        hand_overs.miss();
    });
}
