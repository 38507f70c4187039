//! Bounded lock-free rings in one memory layout: thread to thread, process to process, host to device.
#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[cfg(feature = "std")]
pub mod banded;
mod error;
pub mod fence;
pub mod layout;
pub mod mpsc;
pub mod reply;
pub mod signal;
pub mod spsc;
mod sync;
pub mod wait;
#[cfg(feature = "std")]
pub mod wait_list;

pub use error::{CapacityError, PushError};
