//! Benchmarks of DotCompute and its peers, in one run on one machine.
//!
//! `dotcompute-bench host` sends 64-byte messages through queues and ring kernels and through those of the peers, in interleaved rounds. It
//! prints tables, or with `--json` one line per bench and subject. Every message is counted and checked: a subject that loses one stops the
//! run.
//!
//! `dotcompute-bench gpu` measures ring kernels on a device, next to the baseline (`floor`) of that device.

mod bench;
mod clock;
mod config;
mod cores;
mod error;
mod gpu;
mod host;
mod measure;
mod measurement;
mod payload;
mod probe;
mod spin_wait;
mod subjects;
mod table;
mod targets;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use clock::Clock;
use config::BenchConfig;
use cores::Cores;
use error::BenchError;
use targets::TARGETS;

#[derive(Parser)]
#[command(about = "Benchmarks of DotCompute against its peers, in one run", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure rings and ring kernels on this machine's CPU, beside their peers
    Host(HostOptions),
    /// Measure ring kernels on a GPU or on the emulated device, beside the device's baseline
    Gpu(gpu::Options),
    /// Test whether the host can map GPU memory, where messages could then lie
    Probe(probe::Options),
    #[command(name = host::idle_kernels::CHILD, hide = true)]
    ManyChild { subject: String, kernels: u64 },
}

#[derive(Args)]
struct HostOptions {
    /// Print one JSON line for each bench and subject instead of tables
    #[arg(long)]
    json: bool,
    /// Only check that everything works; the measurements are meaningless
    #[arg(long)]
    quick: bool,
    /// Run only this bench; may be repeated
    #[arg(long, value_name = "BENCH")]
    only: Vec<String>,
    /// Number of rounds [default: 7, or 2 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Host(options) => host_benches(&options),
        Command::Gpu(options) => gpu_benches(&options),
        Command::Probe(options) => probe::run(&options).and_then(|text| print(&text)),
        Command::ManyChild { subject, kernels } => host::idle_kernels::child(&subject, kernels),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (BenchError::UnknownBench { .. } | BenchError::UnsupportedDevice { .. })) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn host_benches(options: &HostOptions) -> Result<(), BenchError> {
    let benches = bench::selected(host::benches(), &options.only)?;
    let (clock, cores) = (Clock::new(), Cores::choose()?);
    let config =
        if options.quick { BenchConfig::quick(clock, cores) } else { BenchConfig::full(clock, cores) };
    let rounds = options.rounds.map_or(if options.quick { 2 } else { 7 }, usize::from);

    let bar = bar("{bar:30} {pos}/{len} {msg}");
    let samples: usize = benches.iter().map(|bench| bench.subjects.len() * bench.samples_per_round).sum();
    bar.set_length((samples * rounds) as u64);
    let measurements = bench::run(&benches, rounds, None, &config, |round, bench, subject| {
        bar.set_message(format!("round {}: {bench}, {subject}", round + 1));
        bar.inc(1);
    })?;
    bar.finish_and_clear();

    let text = if options.json {
        measurements.iter().map(|measurement| format!("{}\n", measurement.line(&config.clock))).collect()
    } else {
        preamble(&config, rounds) + &table::render(&benches, &measurements, &TARGETS, &config.clock)
    };
    print(&text)
}

fn gpu_benches(options: &gpu::Options) -> Result<(), BenchError> {
    // Called before other threads start; the driver reads the variable when it is initialised.
    dotcompute::cuda::driver::request_resident_settings();
    let bar = bar("{spinner} {pos} {msg}");
    let text = gpu::run(options, |round, bench, subject| {
        bar.set_message(format!("round {}: {bench}, {subject}", round + 1));
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    print(&text)
}

/// Returns a progress bar, which is drawn on standard error and only on a terminal.
fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Writes to standard output. A closed pipe (`| head`) is not an error.
fn print(text: &str) -> Result<(), BenchError> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(BenchError::Io { doing: "printing the measurements", source })
        }
        _ => Ok(()),
    }
}

/// Returns what a reader must know to compare these measurements with others.
fn preamble(config: &BenchConfig, rounds: usize) -> String {
    format!(
        "64-byte messages, {rounds} interleaved rounds, driver and peer pinned to two cores if the subject allows \
         it.\nReading the clock costs {:.1} ns, which is subtracted from every latency, for all subjects alike.\n",
        config.clock.nanoseconds(config.clock.read_cost())
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
