//! Every example of the façade crate runs to its end, as a reader of the documentation would run it.

use std::fs;
use std::time::Duration;

use crate::command::{Failure, Invocation};
use crate::workspace::Workspace;

/// Far above what an example takes, so that only a hang reaches it.
const LIMIT: Duration = Duration::from_secs(120);

/// Builds the examples with the tests' profile (they are up to date after the tests) and runs them one by one.
///
/// # Errors
///
/// When there are no examples, or one does not build, fails, or does not end.
pub fn run(workspace: &Workspace) -> Result<(), Failure> {
    let build =
        Invocation::cargo(["build", "--package", "dotcompute", "--examples", "--profile", "test", "--quiet"]);
    let examples = workspace.build_executables(&build)?;
    if examples.is_empty() {
        return Err(Failure::Missing("examples in crates/dotcompute/examples".into()));
    }
    // Somewhere for an example to leave files that is neither the source tree nor shared with another run.
    let directory = workspace.target_dir().join("examples-run");
    fs::create_dir_all(&directory).map_err(Failure::io(format!("creating {}", directory.display())))?;
    for (name, program) in examples {
        println!("--- example {name}");
        Invocation::new(program).in_directory(&directory).limit(LIMIT).run(workspace)?;
    }
    Ok(())
}
