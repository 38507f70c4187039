//! The ring kernels that every conformance test uses, as Rust and as device code, and their message.

use std::time::Duration;

use dotcompute_core::error::HandlerResult;
use dotcompute_core::kernel::{Context, RingKernel};
use dotcompute_core::message::Message;

/// Message of every conformance test: a record of 8 bytes.
#[derive(Message, Debug, Clone, Copy, PartialEq)]
#[message(record)]
#[repr(C)]
pub struct Number {
    /// The number.
    pub value: u64,
}

/// A message with this value.
pub fn number(value: u64) -> Number {
    Number { value }
}

/// A request on which `Sum` fails.
pub const FAILING: u64 = 666;

/// `Sum` replies to requests below this number, and to none from it on.
pub const FIRST_WITHOUT_REPLY: u64 = 1000;

/// What a backend runs in these tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestKernel {
    /// Adds up the numbers that it receives.
    ///
    /// - Below 1000: replies to a request with the total, and for a message that was told sends the total.
    /// - 1000 and more: adds without a reply.
    /// - 666: fails, on the host with an error and on a device with the return code 7, and leaves the total as it was.
    /// - 0: takes 20 milliseconds.
    Sum,
    /// Sends the numbers below the one that it receives, in order and without a reply.
    Count,
    /// Replies with the number that it receives, to a request as to a message that was told, which has no caller that waits.
    Echo,
}

impl TestKernel {
    /// Name of its handler in [`DEVICE_HANDLERS`].
    pub fn entry(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Count => "count",
            Self::Echo => "echo",
        }
    }
}

/// The handlers of [`TestKernel`] as CUDA C++. State: a [`Number`], at first 0.
pub const DEVICE_HANDLERS: &str = include_str!("handlers.cu");

/// [`TestKernel::Sum`] for the host.
#[derive(Debug, Default)]
pub struct Sum(u64);

impl RingKernel for Sum {
    type Input = Number;
    type Output = Number;

    fn handle(&mut self, message: Number, ctx: &mut Context<Number>) -> HandlerResult {
        match message.value {
            FAILING => return Err("the handler returned 7".into()),
            0 => std::thread::sleep(Duration::from_millis(20)),
            _ => {}
        }
        self.0 += message.value;
        if message.value < FIRST_WITHOUT_REPLY {
            if ctx.was_asked() {
                ctx.reply(number(self.0));
            } else {
                ctx.send(number(self.0));
            }
        }
        Ok(())
    }
}

/// [`TestKernel::Count`] for the host.
#[derive(Debug)]
pub struct Count;

impl RingKernel for Count {
    type Input = Number;
    type Output = Number;

    fn handle(&mut self, message: Number, ctx: &mut Context<Number>) -> HandlerResult {
        (0..message.value).for_each(|value| ctx.send(number(value)));
        Ok(())
    }
}

/// [`TestKernel::Echo`] for the host.
#[derive(Debug)]
pub struct Echo;

impl RingKernel for Echo {
    type Input = Number;
    type Output = Number;

    fn handle(&mut self, message: Number, ctx: &mut Context<Number>) -> HandlerResult {
        ctx.reply(message);
        Ok(())
    }
}

/// Ring kernel of the host that sends `2 * value + 1`.
pub(crate) struct Odd;

impl RingKernel for Odd {
    type Input = Number;
    type Output = Number;

    fn handle(&mut self, message: Number, ctx: &mut Context<Number>) -> HandlerResult {
        ctx.send(number(message.value * 2 + 1));
        Ok(())
    }
}

/// Ring kernel of the host that adds up what it receives and replies with the total.
#[derive(Default)]
pub(crate) struct Total(u64);

impl RingKernel for Total {
    type Input = Number;
    type Output = Number;

    fn handle(&mut self, message: Number, ctx: &mut Context<Number>) -> HandlerResult {
        self.0 += message.value;
        if ctx.wants_reply() {
            ctx.reply(number(self.0));
        }
        Ok(())
    }
}
