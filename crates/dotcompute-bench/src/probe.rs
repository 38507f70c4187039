//! `dotcompute-bench probe`: whether the host can be given the device's own memory.

use clap::Args;
use dotcompute::cuda::cuda::baseline;
use serde_json::json;

use crate::error::BenchError;

/// What `probe` can be told.
#[derive(Args)]
pub struct Options {
    /// Print one JSON line for each finding
    #[arg(long)]
    json: bool,
}

/// Tries, and gives what is to be printed.
///
/// # Errors
///
/// When there is no GPU.
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
