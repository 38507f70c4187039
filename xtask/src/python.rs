//! Checks of pydotcompute: lints, types, tests, and the wheel as users install it.
//!
//! Everything runs in a virtual environment under `target/`. The package is installed there in editable mode, with the extras `dev` and
//! `metal`. The extension is built once, in release mode; the wheel reuses that build.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};

use crate::command::{Failure, Invocation};
use crate::rust_lints::lint_rust;
use crate::virtual_environment::{Environment, uv};
use crate::workspace::Workspace;

/// Size limit of the wheel.
const MAX_BYTES: u64 = 8_000_000;

/// Suffixes of file names that the wheel must contain: `py.typed` and the stub for type checkers, one extension for every Python from 3.11 on.
const IN_A_WHEEL: [&str; 5] = [
    "pydotcompute/py.typed",
    "pydotcompute/_core.pyi",
    "pydotcompute/_core.abi3.so",
    "LICENSE-MIT",
    "LICENSE-APACHE",
];

/// Free-threaded CPython 3.14 in the format of PyO3's interpreter description.
const FREE_THREADED: &str = "implementation=CPython
version=3.14
shared=true
target_abi=CPython-free_threaded-3.14
lib_name=python3.14t
pointer_width=64
build_flags=Py_GIL_DISABLED
suppress_build_script_link_lines=true
";

/// Compilers of Python for GPUs. NVIDIA's are pinned as in the package's extra `cuda`.
const GPU_COMPILERS: [&str; 5] = [
    "numba-cuda>=0.30",
    "nvidia-cuda-nvrtc==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-nvjitlink==13.0.88",
    "nvidia-nvvm==13.0.88",
];

/// Packages that the tests of handlers on GPUs need besides the compilers.
const TEST_PACKAGES: [&str; 5] = ["numba>=0.62", "pytest", "pytest-asyncio", "pytest-timeout", "hypothesis"];

/// The tests of handlers on GPUs.
const GPU_HANDLERS: &str = "tests/unit/native/test_native_cuda.py";

/// A program that runs the tests of pydotcompute 0.2.0, from PyPI, with this package.
const SEED_SUITE: &str = "tests/seed_suite.py";

/// A program that tests a wheel on every CPython of this machine, with the oldest and the newest NumPy.
const MATRIX: &str = "tests/matrix.py";

/// A program that tests an installed wheel with only its required dependencies.
const SMOKE: &str = "tests/integration/wheel_smoke.py";

/// Formatting, lints, types and tests of the Python package, with the commands that a developer uses.
///
/// # Errors
///
/// When the package cannot be installed, or one of the commands fails.
pub fn check(workspace: &Workspace) -> Result<(), Failure> {
    let environment = Environment::developers(workspace)?;
    // Many tests wait for processes and threads: one more than the cores run at a time.
    let processes = format!("--numprocesses={}", cores() + 1);
    let checks: [(&str, &[&str]); 5] = [
        ("ruff", &["format", "--check"]),
        ("ruff", &["check"]),
        ("mypy", &[]),
        ("pytest", &["--quiet", "-rfEs", "--durations=5", "--dist=worksteal", &processes]),
        ("python", &[SEED_SUITE]),
    ];
    for (program, arguments) in checks {
        environment.program(program).args(arguments).run(workspace)?;
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Formatting and lints of the Python package, if the development environment exists; prints how to create it otherwise.
///
/// # Errors
///
/// When ruff reports something.
pub fn lint_if_installed(workspace: &Workspace) -> Result<(), Failure> {
    let Some(environment) = Environment::installed(workspace) else {
        println!("skipped ruff: no environment yet, `cargo xtask test --only python` creates it");
        return Ok(());
    };
    environment.program("ruff").args(["format", "--check"]).run(workspace)?;
    environment.program("ruff").args(["check"]).run(workspace)
}

/// The documentation of the Python package, with warnings denied. The tests run its snippets.
///
/// # Errors
///
/// When the package cannot be installed, or mkdocs warns or fails.
pub fn site(workspace: &Workspace) -> Result<(), Failure> {
    Environment::developers(workspace)?
        .program("mkdocs")
        .args(["build", "--strict", "--quiet", "--site-dir"])
        .arg(workspace.target_dir().join("site"))
        // Silences an advertisement of the theme.
        .env("NO_MKDOCS_2_WARNING", "1")
        .run(workspace)
}

/// Builds the wheel, checks its content, installs it into a fresh environment and tests it there.
///
/// # Errors
///
/// When it cannot be built, is too large, lacks a file, or does not work.
pub fn wheel(workspace: &Workspace) -> Result<(), Failure> {
    let wheel = build_wheel(workspace)?;
    inspect_wheel(workspace, &wheel)?;
    let fresh = Environment::fresh(workspace, "wheel-venv")?;
    fresh.install(workspace, &[], &[&wheel])?;
    // Runs in another folder, so that the import finds the wheel and not the source tree.
    fresh
        .program("python")
        .args(["-W", "error", "-I"])
        .arg(workspace.root().join(SMOKE))
        .in_directory(fresh.folder())
        .run(workspace)
}

/// Runs the tests that depend on versions on every CPython of this machine, with the oldest and the newest NumPy that the package allows.
///
/// # Errors
///
/// When the wheel cannot be built, an environment cannot be created, or a test fails.
pub fn matrix(workspace: &Workspace) -> Result<(), Failure> {
    let wheel = build_wheel(workspace)?;
    let folder = workspace.target_dir().join("matrix");
    Environment::developers(workspace)?
        .program("python")
        .arg(workspace.root().join(MATRIX))
        .arg(&wheel)
        .arg("--folder")
        .arg(folder)
        .run(workspace)
}

/// Tests that compile Python handlers for GPUs and link them into the resident kernel. They need Numba's and NVIDIA's compilers from PyPI,
/// which no other step needs.
///
/// # Errors
///
/// When the compilers cannot be installed, or a test fails.
pub fn cubins(workspace: &Workspace) -> Result<(), Failure> {
    let wheel = build_wheel(workspace)?;
    let environment = Environment::fresh(workspace, "python-cubins-venv")?;
    environment.install(workspace, &[&TEST_PACKAGES[..], &GPU_COMPILERS].concat(), &[&wheel])?;
    environment.program("pytest").args(["--quiet", "-rs", "-m", "not cuda", GPU_HANDLERS]).run(workspace)
}

/// Checks and lints the extension for free-threaded CPython. The interpreter need not be installed: PyO3 reads a description of it.
///
/// # Errors
///
/// When it does not compile, or the description cannot be written.
pub fn free_threaded(workspace: &Workspace) -> Result<(), Failure> {
    let description = workspace.target_dir().join("free-threaded.txt");
    fs::write(&description, FREE_THREADED)
        .map_err(Failure::io(format!("writing {}", description.display())))?;
    // With the arguments of the step `clippy`, whose dependencies it reuses: only what depends on the interpreter is checked again.
    lint_rust().env("PYO3_CONFIG_FILE", &description).run(workspace)
}

/// Builds the wheel into `target/wheel` and returns its path.
///
/// # Errors
///
/// When it cannot be built, or the folder cannot be read.
pub fn build_wheel(workspace: &Workspace) -> Result<PathBuf, Failure> {
    let folder = workspace.target_dir().join("wheel");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Failure::io(format!("clearing {}", folder.display())))?;
    }
    uv(workspace)?.args(["build", "--quiet", "--wheel", "--out-dir"]).arg(&folder).run(workspace)?;
    let reading = || Failure::io(format!("reading {}", folder.display()));
    for entry in fs::read_dir(&folder).map_err(reading())? {
        let path = entry.map_err(reading())?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            return Ok(path);
        }
    }
    Err(Failure::Missing(format!("a wheel in {}", folder.display())))
}

/// Checks a wheel's size, name and content.
fn inspect_wheel(workspace: &Workspace, wheel: &Path) -> Result<(), Failure> {
    let bytes = fs::metadata(wheel).map_err(Failure::io(format!("looking at {}", wheel.display())))?.len();
    let list = Invocation::new("python3").args(["-m", "zipfile", "-l"]).arg(wheel).capture(workspace)?;
    println!(
        "{}: {:.2} MB, {} files",
        wheel.display(),
        bytes as f64 / 1e6,
        list.lines().count().saturating_sub(1)
    );
    check_wheel(&wheel.to_string_lossy(), bytes, &list)
        .map_err(|problem| Failure::Wheel { wheel: wheel.to_owned(), problem })
}

/// Checks the name, the size and the content of a wheel, as listed by `python -m zipfile -l`, and returns the first problem.
fn check_wheel(name: &str, bytes: u64, list: &str) -> Result<(), String> {
    if bytes > MAX_BYTES {
        return Err(format!("its {bytes} bytes exceed the limit of {MAX_BYTES}"));
    }
    if !name.contains("-cp311-abi3-") {
        return Err("expected a wheel for every Python from 3.11 on, but its name lacks cp311-abi3".into());
    }
    let names: Vec<_> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    match IN_A_WHEEL.iter().find(|end| !names.iter().any(|name| name.ends_with(*end))) {
        Some(lacking) => Err(format!("{lacking} is missing")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "pydotcompute-0.3.0-cp311-abi3-linux_x86_64.whl";

    fn list(leave_out: &str) -> String {
        let row = |name: &&str| format!("{name}   1980-01-01 00:00:00   1\n");
        IN_A_WHEEL.iter().filter(|name| **name != leave_out).map(row).collect()
    }

    #[test]
    fn a_wheel_is_checked_by_size_name_and_content() {
        assert_eq!(check_wheel(NAME, MAX_BYTES, &list("")), Ok(()));
        assert!(check_wheel(NAME, MAX_BYTES + 1, &list("")).unwrap_err().contains("8000001 bytes"));
        assert!(
            check_wheel("pydotcompute-0.3.0-cp312-cp312-linux_x86_64.whl", 1, &list(""))
                .unwrap_err()
                .contains("abi3")
        );
        for name in IN_A_WHEEL {
            assert_eq!(check_wheel(NAME, 1, &list(name)), Err(format!("{name} is missing")));
        }
    }
}
