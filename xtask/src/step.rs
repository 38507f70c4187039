//! The steps of `cargo xtask test`, in order, with their timing and summary.

use std::time::{Duration, Instant};

use clap::ValueEnum;

use crate::command::{Failure, Invocation};
use crate::rust_lints::{self, lint_rust};
use crate::workspace::Workspace;
use crate::{examples, features, gpu_compile, modules, python, smoke, tsan, vocabulary};

/// One step: the commands that check one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Step {
    /// Formatting: cargo fmt --check
    Fmt,
    /// Lints, all targets and features, warnings denied
    Clippy,
    /// Dependency rules of deny.toml: licences, sources, bans
    Deny,
    /// Import circles between the files of a crate
    Modules,
    /// Words that the project no longer uses
    Vocabulary,
    /// Unit tests, and the integration tests of rings and runtime; the Python package's lints
    QuickTests,
    /// Unit, integration and documentation tests of the workspace
    Tests,
    /// Device code, compiled for every architecture with NVIDIA's compiler from PyPI
    Cubins,
    /// The emulated device's tests under ThreadSanitizer, where it is available
    Tsan,
    /// The ring without the standard library
    NoStd,
    /// The loom models of the rings and of waiting
    Loom,
    /// The façade without and with each of its features, and its number of dependencies
    Features,
    /// Every example, run to its end
    Examples,
    /// Documentation, warnings denied
    Docs,
    /// A short run of the benchmarks; every line is checked
    Bench,
    /// A short run of each command of the command line program
    Cli,
    /// Ten seconds of random churn of ring kernels
    Soak,
    /// pydotcompute in a virtual environment: ruff, mypy, pytest, and the tests of 0.2.0
    Python,
    /// The documentation of pydotcompute, warnings denied
    Site,
    /// The wheel: built, inspected, and tested in a fresh environment
    Wheel,
    /// The wheel on every CPython of this machine, with the oldest and the newest NumPy
    PythonMatrix,
    /// Python handlers compiled for GPUs and linked, with the compilers from PyPI
    PythonCubins,
    /// The extension, checked for free-threaded Python
    FreeThreaded,
}

/// Commands that take longer are printed with their duration.
const SLOW: Duration = Duration::from_secs(15);

/// The test programs that `--quick` runs beside unit tests: those of `dotcompute-ring` and `dotcompute-core`.
const QUICK_TESTS: [&str; 4] = ["--test", "it", "--test", "idle_memory"];

impl Step {
    /// Steps of `cargo xtask lint`.
    pub const LINT: [Step; 5] = [Step::Fmt, Step::Modules, Step::Vocabulary, Step::Clippy, Step::Deny];
    /// Steps of `cargo xtask test --quick`, for use before each commit.
    pub const QUICK: [Step; 5] = [Step::Fmt, Step::Modules, Step::Vocabulary, Step::Clippy, Step::QuickTests];
    /// Steps of `cargo xtask test`: those that share builds first, those that download or need a build of their own last.
    pub const TEST: [Step; 22] = [
        Step::Fmt,
        Step::Modules,
        Step::Vocabulary,
        Step::Clippy,
        Step::Docs,
        Step::Tests,
        Step::Examples,
        Step::Bench,
        Step::Cli,
        Step::Soak,
        Step::NoStd,
        Step::Features,
        Step::Loom,
        Step::Tsan,
        Step::Python,
        Step::Site,
        Step::Wheel,
        Step::PythonMatrix,
        Step::FreeThreaded,
        Step::Cubins,
        Step::PythonCubins,
        Step::Deny,
    ];

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn run(self, workspace: &Workspace) -> Result<(), Failure> {
        match self {
            Step::Fmt => Invocation::cargo(["fmt", "--all", "--check"]).run(workspace),
            Step::Clippy => lint_rust().run(workspace),
            Step::Deny => rust_lints::deny(workspace),
            Step::Modules => modules::check(workspace),
            Step::Vocabulary => vocabulary::check(workspace),
            Step::QuickTests => quick_tests(workspace),
            Step::Tests => Invocation::cargo(["test", "--workspace", "--no-fail-fast"]).run(workspace),
            Step::Cubins => gpu_compile::run(workspace),
            Step::Tsan => tsan::run(workspace),
            Step::NoStd => Invocation::cargo(["build", "--package", "dotcompute-ring"])
                .args(["--profile", "test", "--no-default-features"])
                .run(workspace),
            Step::Loom => loom(workspace),
            Step::Features => features::check(workspace),
            Step::Examples => examples::run(workspace),
            Step::Docs => build_docs(workspace),
            Step::Bench => smoke::bench(workspace),
            Step::Cli => smoke::cli(workspace),
            Step::Soak => smoke::soak(workspace, &["--seconds", "10"].map(String::from)),
            Step::Python => python::check(workspace),
            Step::Site => python::site(workspace),
            Step::Wheel => python::wheel(workspace),
            Step::PythonMatrix => python::matrix(workspace),
            Step::PythonCubins => python::cubins(workspace),
            Step::FreeThreaded => python::free_threaded(workspace),
        }
    }
}

/// Runs the selected steps, continues after a failure, and prints a line per step and a summary. Returns whether at least one ran and none failed.
pub fn run_all(workspace: &Workspace, steps: &[Step], skip: &[Step], only: &[Step]) -> bool {
    let selected = |step: &&Step| !skip.contains(step) && (only.is_empty() || only.contains(step));
    let begun = Instant::now();
    let mut lines = Vec::new();
    let mut failed = 0;
    for step in steps.iter().filter(selected) {
        let name = step.name();
        println!("\n=== {name}");
        let started = Instant::now();
        Invocation::take_durations();
        let outcome = step.run(workspace);
        print_slow_commands();
        let seconds = started.elapsed().as_secs_f64();
        lines.push(match &outcome {
            Ok(()) => format!("ok     {name:<10} {seconds:>7.1} s"),
            Err(failure) => format!("FAILED {name:<10} {seconds:>7.1} s  {failure}"),
        });
        println!("{}", lines[lines.len() - 1]);
        failed += usize::from(outcome.is_err());
    }
    println!("\n=== all steps, {:.1} s", begun.elapsed().as_secs_f64());
    for line in &lines {
        println!("{line}");
    }
    println!("{} passed, {failed} failed, {} skipped", lines.len() - failed, steps.len() - lines.len());
    // An empty selection has checked nothing.
    failed == 0 && !lines.is_empty()
}

/// Prints the commands of a step that took longer than [`SLOW`].
fn print_slow_commands() {
    for (command, elapsed) in Invocation::take_durations().iter().filter(|(_, elapsed)| *elapsed >= SLOW) {
        println!("{:>7.1} s  {command}", elapsed.as_secs_f64());
    }
}

/// Unit tests of the workspace, [`QUICK_TESTS`], and ruff if the development environment exists.
fn quick_tests(workspace: &Workspace) -> Result<(), Failure> {
    let tests = ["test", "--workspace", "--quiet", "--lib", "--bins"];
    Invocation::cargo(tests).args(QUICK_TESTS).run(workspace)?;
    python::lint_if_installed(workspace)
}

/// Documentation of every library of the workspace, with warnings denied.
///
/// # Errors
///
/// When rustdoc warns or fails.
pub fn build_docs(workspace: &Workspace) -> Result<(), Failure> {
    // Libraries only: the command line program and the façade share the name `dotcompute` and would share a folder.
    Invocation::cargo(["doc", "--workspace", "--all-features", "--no-deps", "--lib"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run(workspace)
}

/// Runs the loom models. They have their own target directory: the flag that enables loom would otherwise cause rebuilds of the workspace.
fn loom(workspace: &Workspace) -> Result<(), Failure> {
    Invocation::cargo(["test", "--package", "dotcompute-ring", "--release", "--test", "loom"])
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", workspace.target_dir().join("loom"))
        .run(workspace)
}
