//! Bounded lock-free rings in one memory layout: thread to thread, process to process, host to device.
//!
//! # The contract
//!
//! - **Bounded.** The capacity is a power of two, fixed at creation; a ring allocates nothing later (a [`mailbox`] allocates a band at its
//!   first push), and the pages of its memory are committed when a message first touches them. A push into a full ring is rejected
//!   and returns the value ([`PushError::Full`]). The caller decides whether to wait, drop the value, or fail.
//! - **Non-blocking.** [`spsc`] is wait-free. [`mpsc`] producers are lock-free: a claim is retried only after another producer's claim
//!   succeeded. A producer preempted between claim and publish delays only the values behind it.
//! - **Ordered.** Values of one producer are popped in the order in which it pushed them; in a [`mailbox`], within each band.
//! - **Closing is final.** A closed ring accepts nothing ([`PushError::Closed`]). Values accepted before can still be popped, to the last
//!   one; `is_drained` reports when none is left. Values that nothing pops are dropped with the ring. No value is lost silently.
//! - **Two ends, two types.** Safe code cannot use a single-threaded end from two threads at once.
//!
//! | module | producers | consumers | memory | use |
//! | --- | --- | --- | --- | --- |
//! | [`spsc`] | 1 | 1 | owned | streams; the fastest |
//! | [`mpsc`] | many | 1 | owned | exact counts and closing |
//! | [`mailbox`] | many | 1 | owned | mailboxes: four priority bands, waiting on both sides, drop oldest |
//! | [`record`] | 1 | 1 | provided by the caller | other processes and devices; plain data |
//!
//! Around them: [`wait`] (wait strategies), [`notifier`] and [`wait_list`] (waking one waiter or many), [`fence`] (the cost of waking),
//! [`reply`] (one-shot replies), [`zeroed`] (memory that is committed when touched).
//!
//! ```
//! use dotcompute_ring::{PushError, spsc};
//!
//! let (mut producer, mut consumer) = spsc::channel(1024)?;
//! let summing = std::thread::spawn(move || {
//!     let mut sum = 0;
//!     while !consumer.is_drained() {
//!         match consumer.claim(64) {
//!             // Up to 64 values, read in place; their slots are released together.
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
//!                 tail: slots claimed                               seq = index + 1: filled
//!                    |                                              |
//!  +---------+-------v--+----------+----------+   +-----+---------+-v---+---------+-----+---------+
//!  | header  | producer | consumer | flags    |   | seq | value   | seq | value   | seq | value   | ...
//!  +---------+----------+---^------+----------+   +-----+---------+-----+---------+-----+---------+
//!   128 bytes 128        128|       128            slot 0          slot 1          slot 2
//!                           |
//!                        head: slots released
//! ```
//!
//! `tail` and `head` are free-running indices: they only grow, and index `i` is slot `i % capacity`. Readiness travels with the slot: a
//! consumer that reads a filled sequence tag has the value on the same cache line, or the next. Each atomic word has one writer, except the
//! `tail` of an MPSC ring. [`layout`] documents the words bit by bit.
//!
//! # The orderings
//!
//! | store | load | what it publishes |
//! | --- | --- | --- |
//! | sequence tag of a slot: release | acquire | the value in the slot |
//! | `head`: release | acquire | the end of the consumer's reads, so that a producer may overwrite the slots |
//! | `tail`, claim (MPSC): relaxed | relaxed | nothing: an index is only a number, and the sequence tag publishes the value |
//! | `tail`, closing: release | acquire | every push accepted before: a consumer that finds the ring closed and drained has seen all |
//!
//! No access to these words is sequentially consistent. Only parking needs more: a waiter's registration against a publisher's check for
//! waiters ([`fence`]). Both sides of each handshake carry a comment `SYNC POINT: <name>` with the same name. The crate's tests contain
//! `loom` models of all of them.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

mod error;
pub mod fence;
pub mod layout;
#[cfg(feature = "std")]
pub mod mailbox;
pub mod mpsc;
pub mod notifier;
mod pacing;
mod prefetch;
#[cfg(not(loom))]
pub mod record;
pub mod reply;
pub mod spsc;
mod sync;
pub mod wait;
#[cfg(feature = "std")]
pub mod wait_list;
pub mod zeroed;

pub use error::{CapacityError, PushError};
