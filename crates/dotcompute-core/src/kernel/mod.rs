//! The ring kernel's side: what users implement, and the drivers that take messages from the mailbox and run it.
//!
//! | file | subject |
//! | --- | --- |
//! | `ring_kernel.rs`, `context.rs` | handler form: the trait that users implement, and what a handler is passed |
//! | `loops.rs` | loop form: the context of a function that receives and sends |
//! | `inbox.rs` | takes commands and messages; accounting at message boundaries |
//! | `handler_driver.rs`, `loop_driver.rs` | the futures that workers poll |
//!
//! The driver of a ring kernel on a device is `device/device_proxy.rs`.

mod context;
pub(crate) mod handler_driver;
pub(crate) mod inbox;
pub(crate) mod loop_driver;
pub mod loops;
pub(crate) mod poll_step;
mod ring_kernel;

pub use context::{Context, ReplyTo};
pub use ring_kernel::RingKernel;
