//! Benchmarks of DotCompute against its peers, in one run on one machine.
//!
//! `dotcompute-bench host` moves 64-byte messages through queues and ring kernels and through those of the peers, in
//! interleaved rounds, and prints a table, or with `--json` one line of figures for each bench and subject. Every
//! message is counted and checked: a subject that loses one stops the run.
//!
//! `dotcompute-bench gpu` does so with ring kernels on a device, beside the floor of that device.

mod ask;
mod bench;
mod clock;
mod cores;
mod error;
mod figure;
mod gpu;
mod many;
mod payload;
mod probe;
mod queue;
mod setting;
mod spin;
mod subjects;
mod table;
mod targets;
mod tell;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use clock::Clock;
use cores::Cores;
use error::BenchError;
use setting::Setting;
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
    Host(Host),
    /// Measure ring kernels on a GPU, or on the emulated device, beside the device's own floor
    Gpu(gpu::Options),
    /// Try whether the host can be given the GPU's own memory, where messages could then lie
    Probe(probe::Options),
    #[command(name = many::CHILD, hide = true)]
    ManyChild { subject: String, kernels: u64 },
}

#[derive(Args)]
struct Host {
    /// Print one JSON line for each bench and subject instead of tables
    #[arg(long)]
    json: bool,
    /// Only see that everything works: the figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Run only this bench; may be repeated
    #[arg(long, value_name = "BENCH")]
    only: Vec<String>,
    /// How often each subject is measured [default: 7, or 2 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Host(options) => host(&options),
        Command::Gpu(options) => gpu(&options),
        Command::Probe(options) => probe::run(&options).and_then(|text| print(&text)),
        Command::ManyChild { subject, kernels } => many::child(&subject, kernels),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ (BenchError::UnknownBench { .. } | BenchError::NoPlace { .. })) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn host(options: &Host) -> Result<(), BenchError> {
    let benches = bench::selected(bench::all(), &options.only)?;
    let (clock, cores) = (Clock::new(), Cores::choose()?);
    let setting = if options.quick { Setting::quick(clock, cores) } else { Setting::full(clock, cores) };
    let rounds = options.rounds.map_or(if options.quick { 2 } else { 7 }, usize::from);

    let bar = bar("{bar:30} {pos}/{len} {msg}");
    let samples: usize = benches.iter().map(|bench| bench.subjects.len() * bench.turns).sum();
    bar.set_length((samples * rounds) as u64);
    let figures = bench::run(&benches, rounds, None, &setting, |round, bench, subject| {
        bar.set_message(format!("round {}: {bench}, {subject}", round + 1));
        bar.inc(1);
    })?;
    bar.finish_and_clear();

    let text = if options.json {
        figures.iter().map(|figure| format!("{}\n", figure.line(&setting.clock))).collect()
    } else {
        about(&setting, rounds) + &table::render(&benches, &figures, &TARGETS, &setting.clock)
    };
    print(&text)
}

fn gpu(options: &gpu::Options) -> Result<(), BenchError> {
    // Before there is another thread: the driver reads it when it is initialised.
    dotcompute::cuda::driver::request_eager_loading();
    let bar = bar("{spinner} {pos} {msg}");
    let text = gpu::run(options, |round, bench, subject| {
        bar.set_message(format!("round {}: {bench}, {subject}", round + 1));
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    print(&text)
}

/// Drawn on the error stream, and only on a terminal.
fn bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::no_length();
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

/// Writes to the standard output; a reader that has gone away (`| head`) is no error.
fn print(text: &str) -> Result<(), BenchError> {
    match io::stdout().lock().write_all(text.as_bytes()) {
        Err(source) if source.kind() != io::ErrorKind::BrokenPipe => {
            Err(BenchError::Io { doing: "printing the figures", source })
        }
        _ => Ok(()),
    }
}

/// What a reader must know to compare these figures with others.
fn about(setting: &Setting, rounds: usize) -> String {
    format!(
        "64-byte messages, {rounds} interleaved rounds, driver and peer pinned to two cores where the subject lets \
         us.\nReading the clock costs {:.1} ns; that is taken off every latency, for all subjects alike.\n",
        setting.clock.nanoseconds(setting.clock.cost())
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

    #[test]
    fn no_bench_measures_a_subject_twice() {
        for bench in bench::all() {
            let mut names: Vec<&str> = bench.subjects.iter().map(|subject| subject.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), bench.subjects.len(), "{}", bench.name);
        }
    }
}
