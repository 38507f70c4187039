//! Ask outcome.

use std::task::{Context, Poll};

use dotcompute_ring::reply::ReplySlot;

use crate::envelope::ReplyResult;
use crate::lifecycle::{State, StateWaiter};

/// What came of waiting.
pub(super) enum AskOutcome<O> {
    Reply(ReplyResult<O>),
    NoReply,
    Ended(State),
    TimedOut,
}

/// Ready with the answer, or with the end of the ring kernel that should have given it.
pub(super) fn poll_reply<O>(
    slot: &mut ReplySlot<ReplyResult<O>>,
    waiter: &mut StateWaiter<'_>,
    cx: &mut Context<'_>,
) -> Poll<AskOutcome<O>> {
    if let Poll::Ready(reply) = slot.poll_take(cx) {
        return Poll::Ready(reply.map_or(AskOutcome::NoReply, AskOutcome::Reply));
    }
    match waiter.poll(cx, State::has_ended) {
        Poll::Ready(state) => Poll::Ready(final_check(slot, state)),
        Poll::Pending => Poll::Pending,
    }
}

/// A ring kernel answers or buries everything before its state says that it has ended. What is not here now was taken over by
/// somebody else (`take_reply`), or is in the hands of a handler that does not return.
pub(super) fn final_check<O>(slot: &mut ReplySlot<ReplyResult<O>>, state: State) -> AskOutcome<O> {
    match slot.try_take() {
        Some(reply) => reply.map_or(AskOutcome::NoReply, AskOutcome::Reply),
        None => AskOutcome::Ended(state),
    }
}
