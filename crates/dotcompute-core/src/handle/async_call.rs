//! The futures of `tell_async` and `ask_async`.
//!
//! They are written by hand because they hold the message once. The future of an `async fn` holds an argument once for every function that
//! the argument passes through, and without optimization also once for every variable.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dotcompute_ring::reply::{ReplySender, ReplySlot};
use futures_timer::Delay;

use super::KernelHandle;
use super::ask_outcome::{AskOutcome, poll_reply};
use super::send::{PendingSend, SendResult};
use super::wait_limit::WaitLimit;
use crate::cell::wait_graph::CallWait;
use crate::envelope::ReplyResult;
use crate::error::{AskError, TellError};
use crate::lifecycle::{State, StateWaiter};
use crate::message::Message;
use crate::stack::{self, Copies};

/// Sends a message. Nothing happens before the first poll.
pub(super) struct AsyncTell<'a, I: Message, O: Message> {
    handle: &'a KernelHandle<I, O>,
    send: AsyncSend<'a, I, O>,
    has_begun: bool,
}

impl<'a, I: Message, O: Message> AsyncTell<'a, I, O> {
    #[inline]
    pub(super) fn new(handle: &'a KernelHandle<I, O>, message: I) -> Self {
        Self { handle, send: AsyncSend::new(handle, message), has_begun: false }
    }

    #[inline]
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TellError<I>>> {
        if !self.has_begun {
            self.has_begun = true;
            if let Some(reason) = stack::refusal::<I, O>(Copies::ASYNC) {
                return Poll::Ready(Err(self.handle.tell_error(reason, self.send.take_message())));
            }
            self.send.begin(None, self.handle.wait_limit());
        }
        let sent = self.send.poll(cx);
        sent.map_err(|(reason, unsent)| self.handle.tell_error(reason, unsent.message))
    }
}

/// Sends a message and waits for the reply. Nothing happens before the first poll.
pub(super) struct AsyncAsk<'a, I: Message, O: Message> {
    handle: &'a KernelHandle<I, O>,
    send: AsyncSend<'a, I, O>,
    stage: Stage,
    /// Limit of the whole call.
    timeout: Option<Duration>,
    /// When the call began. Set if it has a timeout.
    start: Option<Instant>,
    slot: Option<ReplySlot<ReplyResult<O>>>,
    /// The edge in the wait-for graph. Set with `slot`.
    wait: Option<CallWait>,
    end: StateWaiter<'a>,
}

#[derive(Clone, Copy)]
enum Stage {
    New,
    Sending,
    Waiting,
}

impl<'a, I: Message, O: Message> AsyncAsk<'a, I, O> {
    #[inline]
    pub(super) fn new(handle: &'a KernelHandle<I, O>, message: I, timeout: Option<Duration>) -> Self {
        Self {
            handle,
            send: AsyncSend::new(handle, message),
            stage: Stage::New,
            timeout,
            start: None,
            slot: None,
            wait: None,
            end: StateWaiter::new(&handle.cell.untyped.lifecycle),
        }
    }

    #[inline]
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<O, AskError<I>>> {
        let polled = self.poll_stages(cx);
        if polled.is_ready() {
            // The future may be kept for long after it is ready, as combinators do. Its call has ended.
            (self.wait, self.slot) = (None, None);
        }
        polled
    }

    #[inline]
    fn poll_stages(&mut self, cx: &mut Context<'_>) -> Poll<Result<O, AskError<I>>> {
        if let Stage::New = self.stage
            && let Err(error) = self.begin()
        {
            return Poll::Ready(Err(error));
        }
        if let Stage::Sending = self.stage {
            match self.send.poll(cx) {
                Poll::Ready(Ok(())) => self.begin_to_wait(),
                Poll::Ready(Err((reason, unsent))) => {
                    return Poll::Ready(Err(self.handle.not_sent_error(reason, unsent.message)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        self.poll_reply(cx)
    }

    #[inline]
    fn begin(&mut self) -> Result<(), AskError<I>> {
        let handle = self.handle;
        if let Some(reason) = stack::refusal::<I, O>(Copies::ASYNC) {
            return Err(handle.not_sent_error(reason, self.send.take_message()));
        }
        match handle.begin_wait_for_reply() {
            Ok(wait) => self.wait = Some(wait),
            Err(reason) => return Err(handle.not_sent_error(reason, self.send.take_message())),
        }
        let slot = self.slot.insert(handle.spare.take());
        let limit = match self.timeout {
            None => handle.wait_limit(),
            Some(timeout) => {
                self.start = Some(Instant::now());
                handle.wait_limit_within(timeout)
            }
        };
        self.send.begin(Some(slot.arm()), limit);
        self.stage = Stage::Sending;
        if self.timeout.is_none() && self.send.send_inline() {
            self.begin_to_wait();
        }
        Ok(())
    }

    #[inline]
    fn begin_to_wait(&mut self) {
        self.stage = Stage::Waiting;
    }

    #[inline]
    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<O, AskError<I>>> {
        let slot = self.slot.as_mut().expect("an ask is not polled again after it is ready");
        let end = &mut self.end;
        let outcome = match poll_reply(slot, self.wait.as_ref(), cx, |cx| end.poll(cx, State::has_ended)) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending if self.poll_timeout(cx).is_ready() => AskOutcome::TimedOut,
            Poll::Pending => return Poll::Pending,
        };
        let slot = self.slot.take().expect("borrowed above");
        Poll::Ready(self.handle.finish_ask(slot, outcome, self.timeout.unwrap_or_default()))
    }

    /// Ready once the timeout of the call has passed.
    #[inline]
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (Some(timeout), Some(start)) = (self.timeout, self.start) else { return Poll::Pending };
        self.send.poll_delay(cx, || timeout.saturating_sub(start.elapsed()))
    }
}

/// A message on its way into the mailbox, with a limit of the wait for a free slot.
pub(super) struct AsyncSend<'a, I: Message, O: Message> {
    pending: PendingSend<'a, I, O>,
    limit: WaitLimit,
    /// Whether the ring kernel was found to accept messages.
    is_checked: bool,
    /// Set when the call waits and is limited in time.
    delay: Option<Delay>,
}

impl<'a, I: Message, O: Message> AsyncSend<'a, I, O> {
    #[inline]
    pub(super) fn new(handle: &'a KernelHandle<I, O>, message: I) -> Self {
        let pending = PendingSend::new(handle, handle.untimed_envelope(message), false);
        Self { pending, limit: WaitLimit::NoWait, is_checked: false, delay: None }
    }

    /// Completes the envelope. The time of the message counts from here.
    #[inline]
    pub(super) fn begin(&mut self, reply: Option<ReplySender<ReplyResult<O>>>, limit: WaitLimit) {
        self.pending.complete(reply);
        self.limit = limit;
    }

    /// Posts the envelope and polls the ring kernel on the calling thread, if that is possible. Returns whether it was.
    #[inline]
    pub(super) fn send_inline(&mut self) -> bool {
        self.pending.send_inline()
    }

    /// Returns the message of a call that is refused before it begins.
    #[cold]
    pub(super) fn take_message(&mut self) -> I {
        self.pending.take().message
    }

    #[inline]
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<SendResult<I, O>> {
        let limit = match self.limit {
            WaitLimit::NoWait => {
                return Poll::Ready(self.pending.handle().send(self.pending.take(), self.limit));
            }
            WaitLimit::Timeout(limit) => Some(limit),
            WaitLimit::Unlimited => None,
        };
        if !self.is_checked {
            let handle = self.pending.handle();
            if !handle.state().accepts_messages() {
                return Poll::Ready(Err((handle.ended_or_not_activated(), self.pending.take())));
            }
            self.is_checked = true;
        }
        match (self.pending.poll(cx), limit) {
            (Poll::Ready(outcome), _) => {
                self.finish();
                Poll::Ready(outcome)
            }
            (Poll::Pending, Some(limit)) if self.poll_delay(cx, || limit).is_ready() => {
                Poll::Ready(self.pending.time_out(limit))
            }
            (Poll::Pending, _) => Poll::Pending,
        }
    }

    /// Ready once this much time has passed since the first poll.
    #[inline]
    fn poll_delay(&mut self, cx: &mut Context<'_>, time: impl FnOnce() -> Duration) -> Poll<()> {
        let delay = self.delay.get_or_insert_with(|| Delay::new(time()));
        Pin::new(delay).poll(cx)
    }

    /// Ends the wait for a free slot.
    #[inline]
    fn finish(&mut self) {
        self.pending.leave();
        self.delay = None;
    }
}
