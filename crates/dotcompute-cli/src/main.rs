//! The `dotcompute` command.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use dotcompute_cli::detect::{self, DetectArgs};
use dotcompute_cli::doctor::{self, DoctorArgs};
use dotcompute_cli::error::CliError;
use dotcompute_cli::watch::{self, WatchArgs};

/// Ring kernels at work: actors that stay resident on a GPU or a CPU thread.
#[derive(Debug, Parser)]
#[command(name = "dotcompute", version)]
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
    let result = match Cli::parse().command {
        Command::Watch(args) => watch::run(&args),
        Command::Detect(args) => detect::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if !matches!(error, CliError::BrokenPipe) {
                // If standard error is closed too, there is nowhere to report to.
                let _ = error.write_report(&mut std::io::stderr());
            }
            ExitCode::from(error.exit_code())
        }
    }
}
