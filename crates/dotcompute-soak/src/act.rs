//! Messages, and what a handler does with one.

use dotcompute::prelude::*;

/// Message of every ring kernel. Its bits say what the handler does.
#[derive(Message, Debug, Clone, Copy, PartialEq)]
#[message(record)]
#[repr(C)]
pub struct Word {
    /// Bits 0 to 3: the act. Bits 4 to 11: the ring kernel that it uses. Bits 12 to 15: how often it may be passed on. Other bits: seed of
    /// the next message.
    pub value: u64,
}

/// What a handler does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Reply,
    Panic,
    Fail,
    Ask,
    AskBriefly,
    Tell,
    Send,
    Sleep,
    HoldReply,
    Ignore,
    Receive,
    SendAndReply,
}

impl Word {
    /// A random message that is passed on at most `hops` times.
    pub fn random(rng: &mut fastrand::Rng, hops: u64) -> Self {
        Self { value: rng.u64(..) & !0xF000 | hops << 12 }
    }

    pub fn act(self) -> Act {
        match self.value & 15 {
            0 => Act::Panic,
            1 => Act::Fail,
            2 | 3 if self.hops() > 0 => Act::Ask,
            4 if self.hops() > 0 => Act::AskBriefly,
            5 if self.hops() > 0 => Act::Tell,
            6 => Act::Send,
            7 => Act::Sleep,
            8 => Act::HoldReply,
            9 => Act::Ignore,
            10 => Act::Receive,
            11 => Act::SendAndReply,
            _ => Act::Reply,
        }
    }

    /// Number of the ring kernel that the act uses.
    pub fn target(self) -> usize {
        (self.value >> 4 & 255) as usize
    }

    fn hops(self) -> u64 {
        self.value >> 12 & 15
    }

    /// The message that is passed on.
    pub fn next(self) -> Self {
        Self::random(&mut fastrand::Rng::with_seed(self.value), self.hops().saturating_sub(1))
    }

    /// A small number that depends on the message.
    pub fn small(self) -> u64 {
        self.value >> 16 & 7
    }
}

/// Payload of panics that handlers raise on purpose.
pub struct Injected;

/// Keeps injected panics from being printed.
pub fn silence_injected_panics() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.payload().is::<Injected>() {
            print(info);
        }
    }));
}
