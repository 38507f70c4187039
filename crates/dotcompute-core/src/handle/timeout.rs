//! Limits a future in time.

use std::time::Duration;

use futures_lite::FutureExt;
use futures_timer::Delay;

/// Returns the output of `future`, or `None` if `timeout` passes first.
pub(super) async fn with_timeout<T>(timeout: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
    match timeout {
        None => Some(future.await),
        Some(timeout) => {
            let late = async {
                Delay::new(timeout).await;
                None
            };
            async { Some(future.await) }.or(late).await
        }
    }
}
