//! Keys of a message's map that are not fields of its type.
//!
//! `RESERVED` in `dotcompute-macros/src/serde_impl.rs` repeats the reserved keys, because a proc-macro crate cannot depend on this one.
//! Change both together.

pub const TYPE: &str = "__type__";
pub const MESSAGE_ID: &str = "message_id";
pub const PRIORITY: &str = "priority";
pub const CORRELATION_ID: &str = "correlation_id";
/// The key of the value of a message without named fields.
pub const VALUE: &str = "value";

/// Returns whether the format reserves this key, so that no field may have this name.
pub fn is_reserved(name: &str) -> bool {
    [TYPE, MESSAGE_ID, PRIORITY, CORRELATION_ID].contains(&name)
}
