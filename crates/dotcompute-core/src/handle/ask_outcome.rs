//! The ways in which waiting for a reply ends, and the checks that tell them apart.

use std::task::{Context, Poll};

use dotcompute_ring::reply::ReplySlot;

use crate::cell::wait_graph::CallWait;
use crate::envelope::ReplyResult;
use crate::lifecycle::State;
use crate::status::WaitCycle;

/// Result of waiting for a reply.
pub(super) enum AskOutcome<O> {
    Reply(ReplyResult<O>),
    NoReply,
    Ended(State),
    TimedOut,
    Cycle(WaitCycle),
}

/// Ready with the reply, with the ended state of the ring kernel, for which `poll_ended` waits, or with the cycle that the call is part of.
pub(super) fn poll_reply<O>(
    slot: &mut ReplySlot<ReplyResult<O>>,
    wait: Option<&CallWait>,
    cx: &mut Context<'_>,
    poll_ended: impl FnOnce(&mut Context<'_>) -> Poll<State>,
) -> Poll<AskOutcome<O>> {
    if let Poll::Ready(reply) = slot.poll_take(cx) {
        return Poll::Ready(reply.map_or(AskOutcome::NoReply, AskOutcome::Reply));
    }
    if let Some(Poll::Ready(cycle)) = wait.map(|wait| wait.poll_cycle(cx)) {
        return Poll::Ready(AskOutcome::Cycle(cycle));
    }
    match poll_ended(cx) {
        Poll::Ready(state) => Poll::Ready(final_check(slot, state)),
        Poll::Pending => Poll::Pending,
    }
}

/// Takes the reply of a ring kernel that has ended, or reports the end.
///
/// A ring kernel replies to or dead-letters every request before the end is settled. A reply still missing here is held by a
/// `ReplyTo` (`take_reply`) or by a handler that does not return.
pub(super) fn final_check<O>(slot: &mut ReplySlot<ReplyResult<O>>, state: State) -> AskOutcome<O> {
    match slot.try_take() {
        Some(reply) => reply.map_or(AskOutcome::NoReply, AskOutcome::Reply),
        None => AskOutcome::Ended(state),
    }
}
