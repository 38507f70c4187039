//! Ask outcome.

use std::task::{Context, Poll};

use dotcompute_ring::reply::ReplySlot;

use crate::envelope::Answer;
use crate::lifecycle::{State, Watch};

/// What came of waiting.
pub(super) enum Outcome<O> {
    Answer(Answer<O>),
    NoReply,
    Ended(State),
    TimedOut,
}

/// Ready with the answer, or with the end of the ring kernel that should have given it.
pub(super) fn poll_answer<O>(
    slot: &mut ReplySlot<Answer<O>>,
    watch: &mut Watch<'_>,
    cx: &mut Context<'_>,
) -> Poll<Outcome<O>> {
    if let Poll::Ready(answer) = slot.poll_take(cx) {
        return Poll::Ready(answer.map_or(Outcome::NoReply, Outcome::Answer));
    }
    match watch.poll(cx, State::has_ended) {
        Poll::Ready(state) => Poll::Ready(last_look(slot, state)),
        Poll::Pending => Poll::Pending,
    }
}

/// A ring kernel answers or buries everything before its state says that it has ended. What is not here now was taken over by
/// somebody else (`take_reply`), or is in the hands of a handler that does not return.
pub(super) fn last_look<O>(slot: &mut ReplySlot<Answer<O>>, state: State) -> Outcome<O> {
    match slot.try_take() {
        Some(answer) => answer.map_or(Outcome::NoReply, Outcome::Answer),
        None => Outcome::Ended(state),
    }
}
