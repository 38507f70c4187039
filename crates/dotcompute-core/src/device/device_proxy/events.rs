//! Events of the device: outputs, replies, faults and completed messages.

use std::collections::VecDeque;
use std::time::Duration;

use super::{DeviceProxy, Posted};
use crate::backend::device_port::DeviceEvent;
use crate::device::device_handler::error_text;
use crate::fault::Reason;
use crate::kernel::inbox::Inbox;
use crate::message::record::DeviceRecord;
use crate::message::{MessageHeader, Priority};

impl<I: DeviceRecord, O: DeviceRecord> DeviceProxy<I, O> {
    /// Processes one event, if there is one. An error describes a violation of the protocol by the device.
    pub(super) fn take_event(&mut self) -> Result<bool, String> {
        let Some(event) = self.port.as_mut().and_then(|port| port.next_event()) else { return Ok(false) };
        match event {
            DeviceEvent::Sent { sequence, output, linked } => {
                let (output, posted) = find(&mut self.posted, self.first_sequence, sequence, output)?;
                with_in_flight(&mut self.inbox, posted, |inbox| inbox.ctx.send_except_linked(output, linked));
            }
            DeviceEvent::LinkedSent { priority, output, linked } => {
                let header = MessageHeader::new().with_priority(Priority::new(priority));
                let (output, ctx) = (record::<O>(output)?, &mut self.inbox.ctx);
                ctx.router.send_except_linked(&ctx.cell, header, output, linked);
            }
            DeviceEvent::LinkedFailed { priority, code, message } => {
                let header = MessageHeader::new().with_priority(Priority::new(priority));
                let message = record::<I>(message)?;
                let cause = error_text(code, &self.faults);
                let cell = &self.inbox.cell.untyped;
                cell.links.failed.increment();
                cell.dead_letter::<O>(
                    header,
                    None,
                    Some(Box::new(message)),
                    Reason::HandlerErrored,
                    cause.clone(),
                );
                self.apply_supervision(&cause);
            }
            DeviceEvent::Replied { sequence, output } => {
                let (output, posted) = find(&mut self.posted, self.first_sequence, sequence, output)?;
                with_in_flight(&mut self.inbox, posted, |inbox| inbox.ctx.reply(output));
            }
            DeviceEvent::UnaskedReply => {
                self.inbox.cell.untyped.counters.unasked_replies.increment_single_writer();
            }
            DeviceEvent::Failed { sequence, code } => {
                let posted = posted_index(&self.posted, self.first_sequence, sequence)?;
                if let Some(in_flight) = self.posted[posted].in_flight.take() {
                    let cause = error_text(code, &self.faults);
                    self.inbox.resume_current(in_flight);
                    self.inbox.fail_current(Reason::HandlerErrored, &cause);
                    self.apply_supervision(&cause);
                }
            }
            DeviceEvent::Done { up_to, handler_time } => self.complete_up_to(up_to, handler_time)?,
        }
        Ok(true)
    }

    /// Completes the messages with sequence numbers below `up_to`.
    fn complete_up_to(&mut self, up_to: u64, handler_time: Option<Duration>) -> Result<(), String> {
        let count = up_to.checked_sub(self.first_sequence).filter(|&count| count <= self.posted.len() as u64);
        let Some(count) = count else {
            let (first_sequence, posted) = (self.first_sequence, self.posted.len());
            return Err(format!(
                "it reported the messages up to {up_to} as done; {posted} are posted, from {first_sequence} on"
            ));
        };
        for done in self.posted.drain(..count as usize) {
            if let Some(in_flight) = done.in_flight {
                self.inbox.resume_current(in_flight);
                // The device measures only the sum.
                self.inbox.complete_after(handler_time.map(|handler_time| handler_time / count as u32));
            }
        }
        self.first_sequence = up_to;
        Ok(())
    }
}

/// Returns the index of a message among those posted.
fn posted_index<I, O>(
    posted: &VecDeque<Posted<I, O>>,
    first_sequence: u64,
    sequence: u64,
) -> Result<usize, String> {
    let index = sequence.checked_sub(first_sequence).filter(|&index| index < posted.len() as u64);
    index.map(|index| index as usize).ok_or_else(|| {
        format!("it reported on message {sequence}; {} are posted, from {first_sequence} on", posted.len())
    })
}

fn record<T: DeviceRecord>(bytes: &[u8]) -> Result<T, String> {
    T::from_record_bytes(bytes).ok_or_else(|| {
        format!("it sent {} bytes as a `{}`, which has a different size", bytes.len(), T::TYPE_NAME)
    })
}

/// Decodes an output and finds the message that caused it.
fn find<'a, I, O: DeviceRecord>(
    posted: &'a mut VecDeque<Posted<I, O>>,
    first_sequence: u64,
    sequence: u64,
    bytes: &[u8],
) -> Result<(O, &'a mut Posted<I, O>), String> {
    let index = posted_index(posted, first_sequence, sequence)?;
    Ok((record(bytes)?, &mut posted[index]))
}

/// Calls `act` with this message as the current message of the inbox, unless its handler has reported an error.
fn with_in_flight<I: DeviceRecord, O: DeviceRecord>(
    inbox: &mut Inbox<I, O>,
    posted: &mut Posted<I, O>,
    act: impl FnOnce(&mut Inbox<I, O>),
) {
    if let Some(in_flight) = posted.in_flight.take() {
        inbox.resume_current(in_flight);
        act(inbox);
        posted.in_flight = inbox.suspend_current();
    }
}
