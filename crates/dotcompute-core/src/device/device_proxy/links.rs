//! What an attendant does about links: messages that reach its ring kernel without it.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context as TaskContext;
use std::time::Duration;

use futures_timer::Delay;

use super::Attendant;
use crate::fault::Reason;
use crate::message::MessageHeader;
use crate::message::record::DeviceRecord;

/// Between two looks at what wakes nobody: whether links are closed.
const SOON: Duration = Duration::from_micros(200);

impl<I: DeviceRecord, O: DeviceRecord> Attendant<I, O> {
    /// Closes the links that lead here. None while somebody may still send; then how many messages wait in them.
    pub(super) fn close_links(&mut self) -> Option<u64> {
        self.port.as_mut().map_or(Some(0), |port| port.close_links())
    }

    /// Arranges to look again in a moment, for what wakes nobody. True if the moment is now.
    pub(super) fn look_again_soon(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let again = self.again.get_or_insert_with(|| Delay::new(SOON));
        let is_now = Pin::new(again).poll(cx).is_ready();
        if is_now {
            self.again = None;
        }
        is_now
    }

    /// What waits in links becomes dead letters, and nothing is counted any more.
    pub(super) fn close_link_books(&mut self, reason: Reason, cause: &str) {
        let core = Arc::clone(&self.intake.shared.core);
        if core.links.peer().is_none() {
            return;
        }
        core.links.close();
        let counts = core.links.counts();
        let mut left = counts.received.saturating_sub(counts.handled + core.links.failed.get());
        let bury = |message: Option<Box<dyn Any + Send>>| {
            core.links.left.bump();
            core.bury::<O>(MessageHeader::new(), None, message, reason, cause.to_owned());
        };
        if left > 0
            && let Some(port) = &mut self.port
        {
            // What cannot be read is counted all the same.
            let _ = port.drain_links(&mut |bytes| {
                if let (Some(message), Some(less)) = (I::from_record_bytes(bytes), left.checked_sub(1)) {
                    left = less;
                    bury(Some(Box::new(message)));
                }
            });
        }
        (0..left).for_each(|_| bury(None));
    }
}
