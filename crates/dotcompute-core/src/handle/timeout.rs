//! Timeout.

use std::time::Duration;

use futures_lite::FutureExt;
use futures_timer::Delay;

/// What a future gives, unless `timeout` is over first.
pub(super) async fn within<T>(timeout: Option<Duration>, future: impl Future<Output = T>) -> Option<T> {
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
