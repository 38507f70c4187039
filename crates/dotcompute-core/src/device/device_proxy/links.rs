//! The device proxy's part in links, whose messages bypass it: closing, draining and accounting.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Context as TaskContext;
use std::time::Duration;

use futures_timer::Delay;

use super::DeviceProxy;
use crate::fault::Reason;
use crate::message::MessageHeader;
use crate::message::record::DeviceRecord;

/// Interval between checks whether links are closed, which wakes no task.
const LINK_POLL_INTERVAL: Duration = Duration::from_micros(200);

impl<I: DeviceRecord, O: DeviceRecord> DeviceProxy<I, O> {
    /// Closes the links to this ring kernel. `None` while a peer may still send; then the number of messages queued in them.
    pub(super) fn close_links(&mut self) -> Option<u64> {
        self.port.as_mut().map_or(Some(0), |port| port.close_links())
    }

    /// Arms the recheck timer. Returns `true` when it is due.
    pub(super) fn poll_recheck_timer(&mut self, cx: &mut TaskContext<'_>) -> bool {
        let recheck_timer = self.recheck_timer.get_or_insert_with(|| Delay::new(LINK_POLL_INTERVAL));
        let is_due = Pin::new(recheck_timer).poll(cx).is_ready();
        if is_due {
            self.recheck_timer = None;
        }
        is_due
    }

    /// Turns messages queued in links into dead letters, and stores the final counts.
    pub(super) fn settle_link_accounting(&mut self, reason: Reason, cause: &str) {
        let cell = Arc::clone(&self.inbox.cell.untyped);
        if cell.links.peer().is_none() {
            return;
        }
        cell.links.close();
        let counts = cell.links.counts();
        let mut remaining = counts.received.saturating_sub(counts.handled + cell.links.failed.get());
        let dead_letter = |message: Option<Box<dyn Any + Send>>| {
            cell.links.unhandled.increment();
            cell.dead_letter::<O>(MessageHeader::new(), None, message, reason, cause.to_owned());
        };
        if remaining > 0
            && let Some(port) = &mut self.port
        {
            // Messages that cannot be read are dead letters without a body.
            let _ = port.drain_links(&mut |bytes| {
                if let (Some(message), Some(decremented)) =
                    (I::from_record_bytes(bytes), remaining.checked_sub(1))
                {
                    remaining = decremented;
                    dead_letter(Some(Box::new(message)));
                }
            });
        }
        (0..remaining).for_each(|_| dead_letter(None));
    }
}
