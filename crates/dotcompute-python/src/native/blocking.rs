//! Waiting with the interpreter free and Ctrl-C at work.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::wait::{park, thread_waker};
use pyo3::prelude::*;

/// Between two looks whether a signal has come.
pub(super) const SLICE: Duration = Duration::from_millis(50);

/// How long a call may wait: a timeout in seconds, or none.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    began: Instant,
    timeout: Option<Duration>,
}

impl Deadline {
    /// # Errors
    ///
    /// `InvalidConfigurationError` for a timeout that is no length of time.
    pub(super) fn new(py: Python<'_>, timeout: Option<f64>) -> PyResult<Self> {
        let timeout = match timeout {
            None => None,
            Some(seconds) if seconds >= 0.0 => {
                // What is too long for a clock is as good as none.
                Duration::try_from_secs_f64(seconds).ok().filter(|time| *time < Duration::from_secs(1 << 32))
            }
            Some(seconds) => {
                let reason = "a timeout is a number of seconds from 0 on, or None to wait without one";
                return Err(super::error::invalid(py, "timeout", seconds, reason));
            }
        };
        Ok(Self { began: Instant::now(), timeout })
    }

    /// The timeout in seconds, for errors.
    pub(super) fn seconds(&self) -> f64 {
        self.timeout.unwrap_or_default().as_secs_f64()
    }

    /// How long to wait before the next look at signals; none once the time is over.
    pub(super) fn slice(&self) -> Option<Duration> {
        let Some(timeout) = self.timeout else { return Some(SLICE) };
        let left = timeout.checked_sub(self.began.elapsed())?;
        (!left.is_zero()).then(|| left.min(SLICE))
    }
}

/// What a future gives, polled on this thread with the interpreter free; none if the time is over before.
///
/// # Errors
///
/// What a signal's handler raises, such as `KeyboardInterrupt`.
pub(super) fn block_on<T: Send>(
    py: Python<'_>,
    deadline: Deadline,
    future: impl Future<Output = T> + Send,
) -> PyResult<Option<T>> {
    let mut future = pin!(future);
    loop {
        let Some(slice) = deadline.slice() else {
            // With a timeout of zero too it is looked at once.
            let mut cx = Context::from_waker(std::task::Waker::noop());
            return Ok(match future.as_mut().poll(&mut cx) {
                Poll::Ready(value) => Some(value),
                Poll::Pending => None,
            });
        };
        let polled = py.detach(|| {
            let waker = thread_waker();
            let mut cx = Context::from_waker(&waker);
            let until = Instant::now() + slice;
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
