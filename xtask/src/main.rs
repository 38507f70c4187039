//! The project's own tasks, run as `cargo xtask TASK`.
//!
//! | task | what it does |
//! | --- | --- |
//! | `test` | everything that must pass before a change lands; `--quick` before each commit |
//! | `lint` | formatting, import circles, vocabulary, clippy, dependencies |
//! | `bench` | measures DotCompute beside its peers on this machine |
//! | `soak` | random churn of ring kernels: nothing may hang, leak or be lost |
//! | `gpu-bundle` | puts the GPU tests and benchmarks into a folder, for a machine without Rust |
//! | `docs` | builds the documentation and prints its path |
//!
//! A task is a list of [`step::Step`]s; each step checks one subject with a few commands.

#[cfg(unix)]
mod bundle;
mod command;
mod examples;
mod features;
mod gpu_compile;
mod modules;
mod python;
mod rust_lints;
mod smoke;
mod step;
mod tsan;
mod tsan_report;
mod virtual_environment;
mod vocabulary;
mod workspace;

use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use command::{Failure, Invocation};
use step::Step;
use workspace::Workspace;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "DotCompute's own tasks", version)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run everything that must pass: lints, tests, models, examples, documentation, smoke runs
    Test {
        /// Run only the checks for use before each commit
        #[arg(long, conflicts_with_all = ["skip", "only"])]
        quick: bool,
        #[command(flatten)]
        selection: Selection,
    },
    /// Run the steps that build no test: formatting, import circles, vocabulary, clippy, dependency rules
    Lint(Selection),
    /// Build the benchmarks in release mode and run them
    Bench {
        #[command(subcommand)]
        place: BenchPlace,
    },
    /// Launch, connect, ask, cancel, fault and end ring kernels at random, and check that nothing hangs, leaks or is lost
    Soak {
        /// Arguments of `dotcompute-soak`, for example --seconds 60 or --seed 7
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Build the tests and benchmarks that need a GPU, and put them into a folder with a script that runs them
    #[cfg(unix)]
    GpuBundle,
    /// Build the documentation of the workspace and print its path
    Docs,
}

#[derive(Args)]
struct Selection {
    /// Skip this step; may be repeated
    #[arg(long, value_name = "STEP", value_enum)]
    skip: Vec<Step>,
    /// Run this step and no other; may be repeated
    #[arg(long, value_name = "STEP", value_enum, conflicts_with = "skip")]
    only: Vec<Step>,
}

#[derive(Subcommand)]
enum BenchPlace {
    /// Rings and ring kernels on this machine's CPU, beside their peers
    Host {
        /// Arguments of `dotcompute-bench host`, for example --json, --quick or --only ask_spin
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Ring kernels on this machine's GPU, or on the emulated device, beside the device's baseline
    Gpu {
        /// Arguments of `dotcompute-bench gpu`, for example --json, --quick or --device emulated
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = Workspace::find().and_then(|workspace| match cli.task {
        Task::Test { quick: true, .. } => Ok(step::run_all(&workspace, &Step::QUICK, &[], &[])),
        Task::Test { selection, .. } => {
            Ok(step::run_all(&workspace, &Step::TEST, &selection.skip, &selection.only))
        }
        Task::Lint(selection) => Ok(step::run_all(&workspace, &Step::LINT, &selection.skip, &selection.only)),
        Task::Bench { place: BenchPlace::Host { arguments } } => {
            bench(&workspace, "host", &arguments).map(|()| true)
        }
        Task::Bench { place: BenchPlace::Gpu { arguments } } => {
            bench(&workspace, "gpu", &arguments).map(|()| true)
        }
        Task::Soak { arguments } => smoke::soak(&workspace, &arguments).map(|()| true),
        #[cfg(unix)]
        Task::GpuBundle => bundle::make(&workspace).map(|_| true),
        Task::Docs => docs(&workspace).map(|()| true),
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Builds, then starts the program directly, so that no cargo process runs during the measurement.
fn bench(workspace: &Workspace, place: &str, arguments: &[String]) -> Result<(), Failure> {
    let build = Invocation::cargo(["build", "--profile", "dist", "--package", "dotcompute-bench"]);
    let program = workspace.build_executable(&build, "dotcompute-bench")?;
    Invocation::new(program).arg(place).args(arguments).run(workspace)
}

fn docs(workspace: &Workspace) -> Result<(), Failure> {
    step::build_docs(workspace)?;
    println!("{}", workspace.target_dir().join("doc/dotcompute/index.html").display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The gpu-bundle task exists on Unix only.
    #[cfg(unix)]
    #[test]
    fn every_documented_task_exists() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut checked = 0;
        for page in
            ["README.md", "CONTRIBUTING.md", "docs/residency.md", "docs/measurements/2026-11-24-host.md"]
        {
            let text = fs::read_to_string(root.join(page)).unwrap();
            for rest in text.split("cargo xtask ").skip(1) {
                let command = rest.split(['`', '\n', ';', '#', ')']).next().unwrap_or_default();
                if let Err(error) =
                    Cli::try_parse_from(["cargo xtask"].into_iter().chain(command.split_whitespace()))
                {
                    panic!("{page}: `cargo xtask {command}`: {error}");
                }
                checked += 1;
            }
        }
        assert!(checked >= 15, "the scan found only {checked} tasks: adapt it to the pages");
    }
}
