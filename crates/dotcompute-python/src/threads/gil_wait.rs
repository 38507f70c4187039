//! Waiting for another thread: detached from the interpreter, woken by the ring, interruptible by Ctrl-C.

use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::{WaitStrategy, spin_then_park};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::spin::{self, SpinPredictor};

/// Interval at which a waiting main thread checks for signals. Python runs signal handlers on the main thread only, and a signal does not
/// wake a parked thread. Other threads stay parked until they are woken.
const SIGNAL_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// How long a thread that has seen its message spins for the GIL hand-over before it queues for the GIL.
const GIL_HANDOVER_SPIN: Duration = Duration::from_micros(5);

/// How long a non-blocking call releases the GIL for other threads.
const GIL_YIELD_WINDOW: Duration = Duration::from_micros(1);

/// How often threads have detached from the interpreter to wait here, and how often they have attached again.
static DETACH_COUNT: AtomicU64 = AtomicU64::new(0);
static ATTACH_COUNT: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static HANDOVER_PREDICTOR: SpinPredictor = const { SpinPredictor::new() };
}

/// Returns the current [`DETACH_COUNT`]. A thread that publishes a message stores it beside the message, while it is attached.
pub(crate) fn detach_count() -> u64 {
    // SYNC POINT: gil hand-over
    // The publisher stores this count before it publishes; `wait_for_gil_handover` compares it. Relaxed: the count only decides how long to
    // spin, and no other data depends on it.
    DETACH_COUNT.load(Ordering::Relaxed)
}

/// Returns the deadline of a timeout in seconds. `None` never passes.
///
/// # Errors
///
/// `ValueError` if the timeout is NaN.
fn deadline(timeout: Option<f64>) -> PyResult<Option<Instant>> {
    let Some(seconds) = timeout else { return Ok(None) };
    if seconds.is_nan() {
        return Err(PyValueError::new_err(
            "Cannot wait for nan seconds; use a timeout of 0 or more seconds, or None to wait without limit",
        ));
    }
    // A deadline beyond the range of the clock never passes.
    Ok(Duration::try_from_secs_f64(seconds.max(0.0))
        .ok()
        .and_then(|timeout| Instant::now().checked_add(timeout)))
}

/// Returns the [`deadline`], computed on the first call and cached in `cached`: most calls do not wait and need not read the clock.
///
/// # Errors
///
/// As for `deadline`.
pub(crate) fn deadline_once(
    cached: &mut Option<Option<Instant>>,
    timeout: Option<f64>,
) -> PyResult<Option<Instant>> {
    match *cached {
        Some(deadline) => Ok(deadline),
        None => Ok(*cached.insert(deadline(timeout)?)),
    }
}

/// Returns whether Python runs signal handlers on this thread.
fn handles_signals() -> bool {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: both calls take no arguments, access no memory of this process and cannot fail.
        unsafe { libc::gettid() == libc::getpid() }
    }
    #[cfg(not(target_os = "linux"))]
    true
}

/// Waits, detached from the interpreter, until `poll` is ready. Returns `false` if the deadline passes first.
///
/// `poll` is as in [`spin_then_park`]. It runs detached, so it must not access Python objects. `published` holds the [`detach_count`] at
/// which the message that `poll` finds was published.
///
/// # Errors
///
/// The exception of a signal handler, such as `KeyboardInterrupt`.
pub(crate) fn wait_detached(
    py: Python<'_>,
    deadline: Option<Instant>,
    mut poll: impl FnMut(Option<&mut Context<'_>>) -> Poll<()> + Send,
    published: &AtomicU64,
) -> PyResult<bool> {
    let checks_signals = handles_signals();
    let mut spins = true;
    loop {
        let is_ready = detach(py, || {
            let until = if checks_signals {
                let next_check = Instant::now() + SIGNAL_CHECK_INTERVAL;
                Some(deadline.map_or(next_check, |deadline| deadline.min(next_check)))
            } else {
                deadline
            };
            // Spin in the first interval only: a message that does not arrive during that spin is probably further away.
            let is_ready = (std::mem::take(&mut spins) && spin::spin_adaptively(|| poll(None).is_ready()))
                || spin_then_park(WaitStrategy::Park, until, &mut poll).is_some();
            if is_ready {
                wait_for_gil_handover(published);
            }
            is_ready
        });
        if is_ready {
            return Ok(true);
        }
        py.check_signals()?;
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(false);
        }
    }
}

/// Releases the GIL briefly so that another thread can take it, polling `ready` meanwhile.
///
/// Non-blocking calls use it when they find nothing, since programs make them in a loop. Otherwise such a loop would hold the GIL until
/// the thread that it waits for forces a switch, 5 ms later.
pub(crate) fn yield_gil(py: Python<'_>, mut ready: impl FnMut() -> bool + Send, published: &AtomicU64) {
    if cfg!(Py_GIL_DISABLED) {
        return;
    }
    detach(py, || {
        let attach_count = ATTACH_COUNT.load(Ordering::Relaxed);
        // A thread that queues for the GIL was woken by the release, and may need this core to take it.
        std::thread::yield_now();
        let until = Instant::now() + GIL_YIELD_WINDOW;
        while Instant::now() < until {
            if ready() {
                return wait_for_gil_handover(published);
            }
            if ATTACH_COUNT.load(Ordering::Relaxed) != attach_count {
                // Another thread has taken the GIL. Spin for its release before queueing, as after finding a message.
                let now = AtomicU64::new(detach_count());
                return wait_for_gil_handover(&now);
            }
            std::hint::spin_loop();
        }
    });
}

/// Runs `f` detached from the interpreter.
fn detach<T: Send>(py: Python<'_>, f: impl FnOnce() -> T + Send) -> T {
    let result = py.detach(|| {
        // SYNC POINT: gil hand-over
        // The GIL is released, so a thread that spins in `wait_for_gil_handover` may queue for it now.
        DETACH_COUNT.fetch_add(1, Ordering::Relaxed);
        f()
    });
    ATTACH_COUNT.fetch_add(1, Ordering::Relaxed);
    result
}

/// Spins until the thread that published the message has released the GIL, for at most [`GIL_HANDOVER_SPIN`].
///
/// That thread usually releases it at once, to wait for a reply. Queueing for the GIL meanwhile would park this thread and wake it again,
/// which takes longer than the rest of a round trip. If both threads share a core, the publisher runs only after this thread parks. Then
/// the spin fails, and [`HANDOVER_PREDICTOR`] skips it in future.
fn wait_for_gil_handover(published: &AtomicU64) {
    // SYNC POINT: gil hand-over
    // `published` is the count that the publisher stored (`detach_count`). The count changes in `detach`, after the GIL is released.
    let is_held = || published.load(Ordering::Relaxed) == detach_count();
    if cfg!(Py_GIL_DISABLED) || !is_held() {
        return;
    }
    HANDOVER_PREDICTOR.with(|predictor| {
        if predictor.is_due() {
            let until = Instant::now() + GIL_HANDOVER_SPIN;
            while Instant::now() < until {
                if !is_held() {
                    return predictor.hit();
                }
                std::hint::spin_loop();
            }
        }
        predictor.miss();
    });
}
