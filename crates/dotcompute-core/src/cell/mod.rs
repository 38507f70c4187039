//! State that the two sides of a ring kernel share: its mailbox and counters, what it waits for, its lifecycle calls.

pub(crate) mod any_kernel;
pub(crate) mod connections;
pub(crate) mod current;
pub(crate) mod handler_pace;
pub(crate) mod kernel_cell;
pub(crate) mod lifecycle_calls;
pub(crate) mod link_accounting;
pub(crate) mod output_ring;
pub(crate) mod state_requests;
pub(crate) mod typed_cell;
pub(crate) mod wait_graph;
