//! Runs every example of the façade crate to its end.

use std::fs;
use std::time::Duration;

use crate::command::{Failure, Invocation};
use crate::workspace::Workspace;

/// Time limit, well above the usual duration: only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(120);

/// Builds the examples with the test profile (up to date after the tests) and runs them one by one.
///
/// # Errors
///
/// When there are no examples, or one does not build, fails, or exceeds the limit.
pub fn run(workspace: &Workspace) -> Result<(), Failure> {
    let examples = workspace.targets("dotcompute", "example")?;
    if examples.is_empty() {
        return Err(Failure::Missing("examples in crates/dotcompute/examples".into()));
    }
    // Examples write files to a folder outside the source tree.
    let directory = workspace.target_dir().join("examples-run");
    fs::create_dir_all(&directory).map_err(Failure::io(format!("creating {}", directory.display())))?;
    for name in examples {
        let program = workspace.program(&name)?;
        println!("--- example {name}");
        Invocation::new(program).in_directory(&directory).limit(LIMIT).run(workspace)?;
    }
    Ok(())
}
