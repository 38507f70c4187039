//! Random churn of ring kernels: `cargo xtask soak --seconds 60`.
//!
//! A run is a sequence of rounds. A round starts a runtime; launches ring kernels on the pool, on dedicated threads and on the emulated
//! device; and has several threads make random calls on them while handlers ask, tell, panic and fail at random. It ends the runtime in a
//! random way while the calls go on. Then it checks that
//!
//! - every call and every future has ended, in bounded time (otherwise the process prints what each thread was doing, and ends);
//! - every ring kernel has ended, and its messages are conserved: sent = handled + dead letters;
//! - the memory in use and the number of threads are what they were before.
//!
//! The random decisions of each thread follow from the seed, which is printed: `--seed` repeats a run, apart from the timing of its threads.

mod act;
mod calls;
mod error;
mod kernels;
mod resources;
mod round;
mod watchdog;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

use clap::Parser;
use dotcompute::cuda::emulated::EmulatedBackend;
use fastrand::Rng;

use error::{SoakError, WARM_UP};
use resources::{CountingAllocator, Resources};
use round::{Round, Totals};
use watchdog::Watchdog;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[derive(Parser)]
#[command(about = "Random churn of ring kernels, with checks that nothing hangs, leaks or is lost", version)]
struct Cli {
    /// How long to run
    #[arg(long, default_value_t = 60.0, allow_negative_numbers = true, value_parser = seconds)]
    seconds: f64,
    /// Repeat the decisions of an earlier run. A random seed by default
    #[arg(long)]
    seed: Option<u64>,
    /// Threads that make calls
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    threads: u8,
    /// Print a line for each round
    #[arg(long)]
    verbose: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= 1e7 => Ok(seconds),
        _ => Err(String::from("give a number of seconds greater than 0, and at most 1e7")),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let seed = cli.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("soak: seed {seed}, {} s, {} threads", cli.seconds, cli.threads);
    act::silence_injected_panics();
    match soak(&cli, seed) {
        Ok(totals) => {
            println!("{totals}");
            ExitCode::SUCCESS
        }
        Err((round, error)) => {
            eprintln!("error: round {round} of seed {seed}: {error}");
            eprintln!("hint: repeat it with `cargo xtask soak --seed {seed} --seconds {}`", cli.seconds);
            ExitCode::FAILURE
        }
    }
}

fn soak(cli: &Cli, seed: u64) -> Result<Totals, (u64, SoakError)> {
    let device = EmulatedBackend::new().map_err(|error| (0, SoakError::Setup(error.to_string())))?;
    let watchdog = Watchdog::start(seed, usize::from(cli.threads));
    let mut rng = Rng::with_seed(seed);
    let mut totals = Totals::default();
    let mut reference = None;
    let begun = Instant::now();
    let mut number = 0;
    while begun.elapsed().as_secs_f64() < cli.seconds || number <= WARM_UP {
        number += 1;
        let at = |error| (number, error);
        watchdog.begin_round(number);
        let counted = Round::new(number, rng.u64(..), Arc::clone(&device))
            .run(&watchdog, calls::call_once)
            .map_err(at)?;
        if cli.verbose {
            println!("round {number}: {counted}; {}", Resources::now());
        }
        totals.add(&counted);
        match &reference {
            None if number == WARM_UP => reference = Some(Resources::settled()),
            Some(reference) => reference.check().map_err(at)?,
            None => {}
        }
    }
    totals.took = begun.elapsed();
    Ok(totals)
}
