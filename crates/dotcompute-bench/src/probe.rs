//! `dotcompute-bench probe`: tests whether the host can map device memory.

use clap::Args;
use dotcompute::cuda::cuda::baseline;
use serde_json::json;

use crate::error::BenchError;

/// Options of `probe`.
#[derive(Args)]
pub struct Options {
    /// Print one JSON line for each result
    #[arg(long)]
    json: bool,
}

/// Runs the probes and returns the text to print.
///
/// # Errors
///
/// [`BenchError::Subject`] without a GPU.
pub fn run(options: &Options) -> Result<String, BenchError> {
    let results = baseline::probe(0).map_err(BenchError::subject("probe", "opening the device"))?;
    let line = |result: &baseline::ProbeResult| {
        let baseline::ProbeResult { what, works, outcome } = result;
        if options.json {
            format!("{}\n", json!({ "probe": what, "works": works, "outcome": outcome }))
        } else {
            format!("{what}: {}: {outcome}\n", if *works { "works" } else { "does not work" })
        }
    };
    Ok(results.iter().map(line).collect())
}
