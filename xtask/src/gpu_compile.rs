//! Tests that compile device code, with the compiler from PyPI in a virtual environment.
//!
//! The compiler is 200 MB, which users install on request or have with a toolkit, so no other step may need it. This step fails if it
//! cannot be installed.

use std::fs;
use std::path::PathBuf;

use crate::command::{Failure, Invocation};
use crate::workspace::Workspace;

/// NVIDIA's wheels, pinned: the tests read generated code, which differs between versions.
const WHEELS: [&str; 2] = ["nvidia-cuda-nvrtc==13.0.88", "nvidia-nvjitlink==13.0.88"];

/// The tests of `dotcompute-cuda` that compile device code; without the compiler each prints that it was skipped, and passes.
const TESTS: [&str; 8] =
    ["baseline", "builtins", "cache", "compile", "cuda", "driver", "memory", "ring_kernel"];

/// The program with device code of its own; a unit test compiles it.
const CLI: &str = "dotcompute";

/// The tests that compile device code with the host's C++ compiler only.
#[cfg(test)]
const OTHERS: [&str; 1] = ["emulated"];

/// Installs the compiler, unless it is installed already, and runs the tests with it, regardless of other compilers on the machine.
///
/// # Errors
///
/// When Python or pip are missing or fail, or a test fails.
pub fn run(workspace: &Workspace) -> Result<(), Failure> {
    let site_packages = install(workspace)?;
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

/// Creates the virtual environment and returns its site-packages folder. A file that lists the wheels is written last: an interrupted
/// installation, or one of other wheels, is repeated.
fn install(workspace: &Workspace) -> Result<PathBuf, Failure> {
    let venv = workspace.target_dir().join("cubins-venv");
    let (python, note) = (venv.join("bin/python"), venv.join("wheels.txt"));
    if fs::read_to_string(&note).ok() != Some(WHEELS.join("\n")) {
        println!("installing {} from PyPI into {} (200 MB, once)", WHEELS.join(" and "), venv.display());
        Invocation::new("python3").args(["-m", "venv", "--clear"]).arg(&venv).run(workspace)?;
        Invocation::new(&python)
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"])
            .args(WHEELS)
            .run(workspace)?;
        fs::write(&note, WHEELS.join("\n")).map_err(Failure::io(format!("writing {}", note.display())))?;
    }
    let ask = "import sysconfig; print(sysconfig.get_path('purelib'))";
    let site_packages = Invocation::new(&python).args(["-c", ask]).capture(workspace)?;
    Ok(PathBuf::from(site_packages.trim_end()))
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
