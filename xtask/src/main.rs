//! The project's own tasks, run as `cargo xtask TASK`.
//!
//! | task | what it does |
//! | --- | --- |
//! | `test` | everything that must pass before a change lands |
//! | `lint` | its first steps: formatting, lints, dependencies |
//! | `bench` | measures this machine, beside the peers |
//! | `gpu-bundle` | gathers the GPU's tests and benchmarks into a folder, for a machine without Rust |
//! | `docs` | builds the documentation and says where it is |
//!
//! A task is a list of [`step::Step`]s; each step is one subject and one or a few commands.

#[cfg(unix)]
mod bundle;
mod command;
mod cubins;
mod examples;
mod features;
mod modules;
mod python;
mod races;
mod smoke;
mod step;
mod tsan;
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
    Test(Selection),
    /// Run the steps that build no test: formatting, clippy, dependency rules
    Lint(Selection),
    /// Build the benchmarks in release mode and run them
    Bench {
        #[command(subcommand)]
        place: BenchPlace,
    },
    /// Build the tests and benchmarks that need a GPU, and put them into a folder with a script that runs them
    #[cfg(unix)]
    GpuBundle,
    /// Build the documentation of the workspace and print where it is
    Docs,
}

#[derive(Args)]
struct Selection {
    /// Leave this step out; may be repeated
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
        /// What `dotcompute-bench host` takes, for example --json, --quick or --only ask_spin
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
    /// Ring kernels on this machine's GPU, or on the emulated device, beside the device's own floor
    Gpu {
        /// What `dotcompute-bench gpu` takes, for example --json, --quick or --device emulated
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENT")]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = Workspace::find().and_then(|workspace| match cli.task {
        Task::Test(selection) => Ok(step::run_all(&workspace, &Step::TEST, &selection.skip, &selection.only)),
        Task::Lint(selection) => Ok(step::run_all(&workspace, &Step::LINT, &selection.skip, &selection.only)),
        Task::Bench { place: BenchPlace::Host { arguments } } => {
            bench(&workspace, "host", &arguments).map(|()| true)
        }
        Task::Bench { place: BenchPlace::Gpu { arguments } } => {
            bench(&workspace, "gpu", &arguments).map(|()| true)
        }
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

/// Builds first and then starts the program itself, so that cargo is not awake beside what is measured.
fn bench(workspace: &Workspace, place: &str, arguments: &[String]) -> Result<(), Failure> {
    let build = Invocation::cargo(["build", "--release", "--package", "dotcompute-bench"]);
    let program = workspace.build_executable(&build, "dotcompute-bench")?;
    Invocation::new(program).arg(place).args(arguments).run(workspace)
}

fn docs(workspace: &Workspace) -> Result<(), Failure> {
    step::build_docs(workspace)?;
    println!("{}", workspace.target_dir().join("doc/dotcompute/index.html").display());
    Ok(())
}
