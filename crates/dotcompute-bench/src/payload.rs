//! The 64-byte message of every subject, and the tally that detects a lost, repeated or torn one.

use dotcompute::Message;
use dotcompute::message::record::{bytes_of, from_bytes};

use crate::error::BenchError;

/// One cache line of plain data. The producer writes every word from the sequence number and the consumer reads every word, so each subject
/// must move the whole message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Message)]
#[message(record)]
#[repr(C)]
pub struct Payload {
    sequence: u64,
    words: [u64; 7],
}

const _: () = assert!(size_of::<Payload>() == 64);

impl Payload {
    #[inline]
    pub fn new(sequence: u64) -> Self {
        Payload { sequence, words: [sequence; 7] }
    }

    /// Returns the bytes of the message.
    #[inline]
    pub fn to_bytes(self) -> [u8; 64] {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(bytes_of(&self));
        bytes
    }

    /// Reads a message from its bytes.
    #[inline]
    pub fn from_bytes(bytes: &[u8; 64]) -> Option<Self> {
        from_bytes(bytes)
    }

    /// Returns the sequence number.
    #[inline]
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Returns the reply: the smallest work that depends on the message.
    #[inline]
    pub fn reply(mut self) -> Self {
        self.words[6] = self.words[6].wrapping_add(1);
        self
    }

    #[inline]
    pub fn is_reply_to(&self, sequence: u64) -> bool {
        self.sequence == sequence && self.words[6] == sequence.wrapping_add(1)
    }
}

/// Counts the messages of one producer and detects any that is out of order or damaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Message)]
#[message(record)]
#[repr(C)]
pub struct Tally {
    count: u64,
    sum: u64,
    misplaced: u64,
}

impl Tally {
    #[inline]
    pub fn add(&mut self, payload: &Payload) {
        self.misplaced += u64::from(payload.sequence != self.count);
        self.sum = payload.words.iter().fold(self.sum, |sum, word| sum.wrapping_add(*word));
        self.count += 1;
    }

    /// Checks that exactly the messages `0..expected` arrived, in that order.
    ///
    /// # Errors
    ///
    /// [`BenchError::WrongCount`] with the difference.
    pub fn check(&self, subject: &'static str, expected: u64) -> Result<(), BenchError> {
        self.check_order(subject, expected)?;
        let sum = (0..expected).fold(0_u64, u64::wrapping_add).wrapping_mul(7);
        Self::expect_equal(subject, "sum of the messages", sum, self.sum)
    }

    /// Like [`Tally::check`], for a consumer that compares every word with the sequence number and computes no sum.
    ///
    /// # Errors
    ///
    /// The errors of [`Tally::check`].
    pub fn check_order(&self, subject: &'static str, expected: u64) -> Result<(), BenchError> {
        Self::expect_equal(subject, "messages handled", expected, self.count)?;
        Self::expect_equal(subject, "messages out of order", 0, self.misplaced)
    }

    fn expect_equal(
        subject: &'static str,
        what: &'static str,
        expected: u64,
        found: u64,
    ) -> Result<(), BenchError> {
        if found == expected {
            return Ok(());
        }
        Err(BenchError::WrongCount { subject, what, expected, found })
    }

    /// Returns the number of counted messages.
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(sequences: &[u64]) -> Tally {
        let mut tally = Tally::default();
        sequences.iter().for_each(|&sequence| tally.add(&Payload::new(sequence)));
        tally
    }

    #[test]
    fn a_complete_stream_passes() {
        tally(&[0, 1, 2, 3]).check("test", 4).unwrap();
    }

    #[test]
    fn lost_repeated_and_swapped_messages_are_detected() {
        for sequences in [&[0, 1, 2][..], &[0, 1, 1, 3], &[1, 0, 2, 3], &[0, 1, 2, 3, 4]] {
            assert!(tally(sequences).check("test", 4).is_err(), "{sequences:?}");
        }
    }

    #[test]
    fn a_torn_message_is_detected() {
        let mut tally = Tally::default();
        tally.add(&Payload { sequence: 0, words: [9; 7] });
        assert!(tally.check("test", 1).is_err());
    }

    #[test]
    fn a_message_round_trips_through_its_bytes() {
        let message = Payload::new(7).reply();
        assert_eq!(message.to_bytes()[..16], [7, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(Payload::from_bytes(&message.to_bytes()), Some(message));
    }

    #[test]
    fn only_the_matching_reply_is_accepted() {
        assert!(Payload::new(7).reply().is_reply_to(7));
        assert!(!Payload::new(7).is_reply_to(7));
        assert!(!Payload::new(7).reply().is_reply_to(8));
    }
}
