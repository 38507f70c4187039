//! Clippy on the whole workspace.

use crate::command::Invocation;

/// Clippy on all targets with all features, with warnings denied.
pub fn lint_rust() -> Invocation {
    Invocation::cargo(["clippy", "--workspace", "--all-targets", "--all-features"])
        .args(["--", "-D", "warnings"])
}
