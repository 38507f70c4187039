//! Bounded lock-free rings in one memory layout: thread to thread, process to process, host to device.
//!
//! # The contract
//!
//! - **Bounded.** A ring has room for a power of two of values, fixed when it is made, and allocates nothing later. A push into a full
//!   ring is refused and hands the value back ([`PushError::Full`]); what then, the caller decides: wait, drop, or give up.
//! - **Nobody waits for anybody.** [`spsc`] is wait-free. In [`mpsc`] a producer repeats its claim only if another producer's succeeded.
//!   A producer that stops between claiming and publishing holds up what comes behind it, and nothing else.
//! - **In order.** What one producer pushes comes out in the order in which it was pushed; in a mailbox ([`mailbox`]), band by band.
//! - **Closed is final.** Once a ring is closed nothing is accepted ([`PushError::Closed`]), and what was accepted before can be taken to
//!   the last value; `is_drained` says when that is done. What nobody takes is dropped with the ring. Nothing is lost silently.
//! - **Two ends, two types.** Safe code cannot have two threads on one end that is meant for one.
//!
//! | module | producers | consumers | memory | what for |
//! | --- | --- | --- | --- | --- |
//! | [`spsc`] | 1 | 1 | its own | streams: the fastest |
//! | [`mpsc`] | many | 1 | its own | exact counts and closing |
//! | [`mailbox`] | many | 1 | its own | mailboxes: four priorities, waiting on both sides, eviction |
//! | [`record`] | 1 | 1 | somebody else's | other processes and devices; plain data |
//!
//! Around them: [`wait`] (how to wait), [`notifier`] and [`wait_list`] (whom to wake), [`fence`] (who pays for it), [`reply`] (the way back
//! for one answer).
//!
//! ```
//! use dotcompute_ring::{PushError, spsc};
//!
//! let (mut producer, mut consumer) = spsc::channel(1024)?;
//! let summing = std::thread::spawn(move || {
//!     let mut sum = 0;
//!     while !consumer.is_drained() {
//!         match consumer.claim(64) {
//!             // Up to 64 values, read where they lie; their slots are given back together.
//!             Some(batch) => sum += batch.sum::<u64>(),
//!             None => std::thread::yield_now(),
//!         }
//!     }
//!     sum
//! });
//! for number in 1..=10_000_u64 {
//!     while let Err(PushError::Full(_)) = producer.try_push(number) {
//!         std::thread::yield_now();
//!     }
//! }
//! drop(producer);
//! assert_eq!(summing.join().unwrap(), 10_000 * 10_001 / 2);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The layout
//!
//! ```text
//!                 tail: tickets claimed, ever                       word = index + 1: filled
//!                    |                                               |
//!  +---------+-------v--+----------+----------+   +------+---------+-v----+---------+------+---------+
//!  | header  | producer | consumer | flags     |   | word | value   | word | value   | word | value   | ...
//!  +---------+----------+---^------+----------+   +------+---------+------+---------+------+---------+
//!   128 bytes 128        128|       128            slot 0           slot 1           slot 2
//!                           |
//!                        head: tickets taken, ever
//! ```
//!
//! Tickets only grow; ticket `t` lives in slot `t % capacity`. Readiness travels with the slot: a consumer that finds the word finds
//! the value on the same line, or the next. Each word has one writer, but for the `tail` of many producers. See [`layout`].
//!
//! # The orderings
//!
//! | written | read | why |
//! | --- | --- | --- |
//! | slot's word: release | acquire | who sees the word sees the value |
//! | `head`: release | acquire | who sees that a slot is free sees that it was read out, before writing it |
//! | `tail`, claim (many producers): relaxed | relaxed | a ticket is a number; the word publishes what it stands for |
//! | `tail`, closing: release | acquire | who sees the ring closed and drained has seen all that was pushed |
//!
//! No word is ever sequentially consistent. What needs more is waiting: a sleeper's announcement against a publisher's look ([`fence`]).
//! Models of all of it, checked by `loom`, are in the crate's tests.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod error;
pub mod fence;
pub mod layout;
#[cfg(feature = "std")]
pub mod mailbox;
pub mod mpsc;
pub mod notifier;
mod prefetch;
#[cfg(not(loom))]
pub mod record;
pub mod reply;
pub mod spsc;
mod sync;
pub mod wait;
#[cfg(feature = "std")]
pub mod wait_list;

pub use error::{CapacityError, PushError};
