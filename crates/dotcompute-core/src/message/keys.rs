//! The keys that every message's map may have besides the type's fields.

pub const TYPE: &str = "__type__";
pub const MESSAGE_ID: &str = "message_id";
pub const PRIORITY: &str = "priority";
pub const CORRELATION_ID: &str = "correlation_id";
/// Where a message that has no named fields keeps its value.
pub const VALUE: &str = "value";

/// Whether a field may not be called this.
pub fn is_reserved(name: &str) -> bool {
    [TYPE, MESSAGE_ID, PRIORITY, CORRELATION_ID].contains(&name)
}
