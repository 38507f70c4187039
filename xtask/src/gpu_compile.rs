//! Tests that compile device code, with the compiler from PyPI in a virtual environment.
//!
//! The compiler is 200 MB, which users install on request or have with a toolkit, so no other step may need it. This step fails if it
//! cannot be installed.

use crate::command::{Failure, Invocation};
use crate::virtual_environment::Environment;
use crate::workspace::Workspace;

/// NVIDIA's wheels, pinned: the tests read generated code, which differs between versions.
const WHEELS: [&str; 2] = ["nvidia-cuda-nvrtc==13.0.88", "nvidia-nvjitlink==13.0.88"];

/// The tests of `dotcompute-cuda` that compile device code; without the compiler each prints that it was skipped, and passes.
const TESTS: [&str; 9] =
    ["baseline", "builtins", "cache", "compile", "cuda", "driver", "memory", "ring_kernel", "rust_handlers"];

/// The program with device code of its own; a unit test compiles it.
const CLI: &str = "dotcompute";

/// The tests that compile device code with the host's C++ compiler only.
#[cfg(test)]
const OTHERS: [&str; 4] = ["emulated", "hung", "quiesce", "stretched"];

/// Installs the compiler, unless it is installed already, and runs the tests with it, regardless of other compilers on the machine.
///
/// # Errors
///
/// When the compiler cannot be installed, or a test fails.
pub fn run(workspace: &Workspace) -> Result<(), Failure> {
    let environment = Environment::kept(workspace, "cubins-venv")?;
    environment.install(workspace, &WHEELS, &[])?;
    let site_packages = environment.site_packages(workspace)?;
    println!("compiling with {} in {}", WHEELS.join(" and "), site_packages.display());
    let mut tests =
        Invocation::cargo(["test", "--workspace"]).env("DOTCOMPUTE_TEST_WHEELS", site_packages.as_os_str());
    for test in TESTS {
        tests = tests.arg("--test").arg(test);
    }
    tests.args(["--", "--nocapture"]).run(workspace)?;
    Invocation::cargo(["test", "--workspace", "--bin", CLI])
        .args(["compiles", "--", "--nocapture"])
        .env("DOTCOMPUTE_TEST_WHEELS", site_packages.as_os_str())
        .run(workspace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_tests_are_those_that_there_are() {
        let workspace = Workspace::find().unwrap();
        let mut tests = workspace.targets("dotcompute-cuda", "test").unwrap();
        let mut named = [&TESTS[..], &OTHERS[..]].concat();
        tests.sort();
        named.sort_unstable();
        assert_eq!(tests, named, "add a new test of dotcompute-cuda to TESTS or OTHERS");
    }
}
