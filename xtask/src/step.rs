//! The steps of `cargo xtask test`, in order, and how they are run, timed and counted.

use std::time::Instant;

use clap::ValueEnum;

use crate::command::{Failure, Invocation};
use crate::workspace::Workspace;
use crate::{cubins, examples, features, modules, python, smoke, tsan, vocabulary};

/// One step: one subject, one or a few commands.
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
    /// Unit, integration and documentation tests of the workspace
    Tests,
    /// Device code, compiled for every architecture with NVIDIA's compiler from PyPI
    Cubins,
    /// The emulated device's tests under ThreadSanitizer, where it is to be had
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
    /// A short run of the benchmarks, whose every line is checked
    Bench,
    /// A short run of each command of the command line program
    Cli,
    /// pydotcompute in an environment of its own: ruff, mypy, pytest
    Python,
    /// The documentation of pydotcompute, warnings denied
    Site,
    /// The wheel: built, looked into, and tried in a fresh environment
    Wheel,
    /// Python handlers compiled for GPUs and linked, with the compilers from PyPI
    PythonCubins,
    /// The extension for Python without an interpreter lock, compiled
    FreeThreaded,
}

impl Step {
    pub const LINT: [Step; 5] = [Step::Fmt, Step::Modules, Step::Vocabulary, Step::Clippy, Step::Deny];
    pub const TEST: [Step; 18] = [
        Step::Fmt,
        Step::Clippy,
        Step::Deny,
        Step::Tests,
        Step::Features,
        Step::Cubins,
        Step::Tsan,
        Step::NoStd,
        Step::Loom,
        Step::Examples,
        Step::Docs,
        Step::Bench,
        Step::Cli,
        Step::Python,
        Step::Site,
        Step::Wheel,
        Step::PythonCubins,
        Step::FreeThreaded,
    ];

    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    fn run(self, workspace: &Workspace) -> Result<(), Failure> {
        match self {
            Step::Fmt => Invocation::cargo(["fmt", "--all", "--check"]).run(workspace),
            Step::Clippy => Invocation::cargo(["clippy", "--workspace", "--all-targets", "--all-features"])
                .args(["--", "-D", "warnings"])
                .run(workspace),
            Step::Deny => deny(workspace),
            Step::Modules => modules::check(workspace),
            Step::Vocabulary => vocabulary::check(workspace),
            Step::Tests => Invocation::cargo(["test", "--workspace"]).run(workspace),
            Step::Cubins => cubins::run(workspace),
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
            Step::Python => python::check(workspace),
            Step::Site => python::site(workspace),
            Step::Wheel => python::wheel(workspace),
            Step::PythonCubins => python::cubins(workspace),
            Step::FreeThreaded => python::free_threaded(workspace),
        }
    }
}

/// Runs the steps that are selected, all of them even if one fails, and prints a line for each and one in the end.
/// Returns
/// whether some ran and none failed.
pub fn run_all(workspace: &Workspace, steps: &[Step], skip: &[Step], only: &[Step]) -> bool {
    let selected = |step: &&Step| !skip.contains(step) && (only.is_empty() || only.contains(step));
    let begun = Instant::now();
    let mut lines = Vec::new();
    let mut failed = 0;
    for step in steps.iter().filter(selected) {
        let name = step.name();
        println!("\n=== {name}");
        let started = Instant::now();
        let outcome = step.run(workspace);
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
    // A selection that leaves nothing has shown nothing.
    failed == 0 && !lines.is_empty()
}

/// Documentation of every library of the workspace, with warnings denied.
///
/// # Errors
///
/// When rustdoc warns or fails.
pub fn build_docs(workspace: &Workspace) -> Result<(), Failure> {
    // Libraries only: the command line program and the façade share the name `dotcompute`, and so a folder.
    Invocation::cargo(["doc", "--workspace", "--no-deps", "--lib"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run(workspace)
}

/// Checks `deny.toml`, building cargo-deny the first time when the machine has none.
fn deny(workspace: &Workspace) -> Result<(), Failure> {
    const CHECK: [&str; 5] = ["check", "--hide-inclusion-graph", "bans", "licenses", "sources"];
    let installed = Invocation::new("cargo-deny");
    if installed.clone().arg("--version").capture(workspace).is_ok() {
        return installed.args(CHECK).run(workspace);
    }
    let tools = workspace.target_dir().join("tools");
    let program = tools.join("bin/cargo-deny");
    if !program.is_file() {
        println!("cargo-deny is not installed: building it into {} (some minutes, once)", tools.display());
        // Unoptimised: it builds in half the time, and runs for a second.
        Invocation::cargo(["install", "--locked", "--quiet", "--debug", "cargo-deny", "--root"])
            .arg(&tools)
            .run(workspace)?;
    }
    Invocation::new(program).args(CHECK).run(workspace)
}

/// Runs every test target of the ring crate whose name begins with `loom`. They have a target directory of their
/// own, since the flag that turns loom on would otherwise rebuild the workspace back and forth.
fn loom(workspace: &Workspace) -> Result<(), Failure> {
    let mut models = workspace.targets("dotcompute-ring", "test")?;
    models.retain(|name| name.starts_with("loom"));
    if models.is_empty() {
        return Err(Failure::Missing("loom models: no tests/loom*.rs in dotcompute-ring".into()));
    }
    let mut command = Invocation::cargo(["test", "--package", "dotcompute-ring", "--release"])
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", workspace.target_dir().join("loom"));
    for model in models {
        command = command.arg("--test").arg(model);
    }
    command.run(workspace)
}
