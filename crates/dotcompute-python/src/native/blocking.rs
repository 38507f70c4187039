//! Waiting while detached from the interpreter, interruptible by Ctrl-C.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::{park, thread_waker};
use pyo3::prelude::*;

/// Interval between checks for signals during a wait.
pub(super) const SIGNAL_CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// The timeout of a call, counted from its start.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    started: Instant,
    timeout: Option<Duration>,
}

impl Deadline {
    /// Starts a timeout in seconds; `None` never expires.
    ///
    /// # Errors
    ///
    /// `InvalidConfigurationError` for a timeout that is negative or NaN.
    pub(super) fn new(py: Python<'_>, timeout: Option<f64>) -> PyResult<Self> {
        let timeout = match timeout {
            None => None,
            Some(seconds) if seconds >= 0.0 => {
                // A timeout beyond the range of the clock never expires.
                Duration::try_from_secs_f64(seconds).ok().filter(|time| *time < Duration::from_secs(1 << 32))
            }
            Some(seconds) => {
                let reason = "a timeout is 0 or more seconds, or None to wait without limit";
                return Err(super::error::invalid_configuration(py, "timeout", seconds, reason));
            }
        };
        Ok(Self { started: Instant::now(), timeout })
    }

    /// The timeout in seconds, for errors.
    pub(super) fn seconds(&self) -> f64 {
        self.timeout.unwrap_or_default().as_secs_f64()
    }

    /// Returns how long to wait until the next check for signals. `None` if the deadline has passed.
    pub(super) fn next_interval(&self) -> Option<Duration> {
        let Some(timeout) = self.timeout else { return Some(SIGNAL_CHECK_INTERVAL) };
        let remaining = timeout.checked_sub(self.started.elapsed())?;
        (!remaining.is_zero()).then(|| remaining.min(SIGNAL_CHECK_INTERVAL))
    }
}

/// Converts a time in seconds. Infinity, like every time beyond the range of `Duration`, is `Duration::MAX`: without a limit.
///
/// # Errors
///
/// `InvalidConfigurationError` for a time that is negative or NaN; `parameter` names it.
pub(super) fn seconds(py: Python<'_>, parameter: &str, seconds: f64) -> PyResult<Duration> {
    if seconds >= 0.0 {
        return Ok(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX));
    }
    Err(super::error::invalid_configuration(py, parameter, seconds, "a time is 0 or more seconds"))
}

/// Polls a future on this thread, detached from the interpreter. Returns `None` if the deadline passes first.
///
/// # Errors
///
/// The exception of a signal handler, such as `KeyboardInterrupt`.
pub(super) fn block_on<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    future: impl Future<Output = T> + Send,
) -> PyResult<Option<T>> {
    let mut future = pin!(future);
    loop {
        let Some(interval) = deadline.next_interval() else {
            // Poll once even with a timeout of zero.
            let mut cx = Context::from_waker(std::task::Waker::noop());
            return Ok(match future.as_mut().poll(&mut cx) {
                Poll::Ready(value) => Some(value),
                Poll::Pending => None,
            });
        };
        let polled = py.detach(|| {
            let waker = thread_waker();
            let mut cx = Context::from_waker(&waker);
            let until = Instant::now() + interval;
            loop {
                if let Poll::Ready(value) = future.as_mut().poll(&mut cx) {
                    return Some(value);
                }
                if Instant::now() >= until {
                    return None;
                }
                park(Some(until));
            }
        });
        if polled.is_some() {
            return Ok(polled);
        }
        py.check_signals()?;
    }
}
