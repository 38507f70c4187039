//! The compiler of device code, brought from PyPI into a virtual environment of its own, and the tests that need it.
//!
//! It is 200 MB that users install by themselves or have with a toolkit; no test of the other steps may need it. Here it must be there:
//! a step that could not install it has failed.

use std::fs;
use std::path::PathBuf;

use crate::command::{Failure, Invocation};
use crate::workspace::Workspace;

/// NVIDIA's wheels, pinned: other versions may compile to something else.
const WHEELS: [&str; 2] = ["nvidia-cuda-nvrtc==13.0.88", "nvidia-nvjitlink==13.0.88"];

/// The tests of `dotcompute-cuda` that compile device code; each passes without the compiler, saying that it was skipped.
const TESTS: [&str; 8] =
    ["baseline", "builtins", "cache", "compile", "cuda", "driver", "memory", "ring_kernel"];

/// The tests that compile device code with the host's C++ compiler only.
#[cfg(test)]
const OTHERS: [&str; 1] = ["emulated"];

/// Installs the compiler, unless that was done before, and runs the tests with it and with no other that the machine may have.
///
/// # Errors
///
/// When Python or pip are missing or fail, or a test fails.
pub fn run(workspace: &Workspace) -> Result<(), Failure> {
    let site_packages = install(workspace)?;
    println!("compiling with {} in {}", WHEELS.join(" and "), site_packages.display());
    let mut tests = Invocation::cargo(["test", "--package", "dotcompute-cuda"])
        .env("DOTCOMPUTE_TEST_WHEELS", site_packages.as_os_str());
    for test in TESTS {
        tests = tests.arg("--test").arg(test);
    }
    tests.args(["--", "--nocapture"]).run(workspace)?;
    Invocation::cargo([
        "test",
        "--package",
        "dotcompute-bench",
        "--package",
        "dotcompute-cli",
        "--lib",
        "--bins",
    ])
    .args(["compiles", "--", "--nocapture"])
    .env("DOTCOMPUTE_TEST_WHEELS", site_packages.as_os_str())
    .run(workspace)
}

/// Makes the virtual environment and returns its site-packages folder. A note of what is in it is written last: a run that was broken
/// off, or that wanted other wheels, is begun again.
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
        assert_eq!(tests, named, "a new test of dotcompute-cuda: does it compile device code?");
    }
}
