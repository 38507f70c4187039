//! The integration tests of the rings. They are one program, because each test program compiles and links for several seconds.
#![cfg(not(loom))]

mod auto_traits;
mod bands;
mod counted;
mod model;
mod peer_mailbox;
mod peer_mpsc;
mod peer_spsc;
mod record;
mod soak;
mod waiting_senders;
