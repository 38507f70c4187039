//! The `dotcompute` command.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dotcompute_cli::detect::{self, DetectArgs};
use dotcompute_cli::doctor::{self, DoctorArgs};
use dotcompute_cli::error::CliError;
use dotcompute_cli::watch::{self, WatchArgs};

/// Ring kernels at work: actors that live on a compute device.
#[derive(Debug, Parser)]
#[command(name = "dotcompute", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Watch(WatchArgs),
    Detect(DetectArgs),
    Doctor(DoctorArgs),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Watch(args) => watch::run(&args),
        Command::Detect(args) => detect::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, CliError::BrokenPipe) {
                // With standard error closed as well there is nobody left to tell.
                let _ = writeln!(std::io::stderr(), "dotcompute: {error}");
            }
            ExitCode::from(error.exit_code())
        }
    }
}
