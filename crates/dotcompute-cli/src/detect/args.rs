//! Arguments of `dotcompute detect`.

use std::path::PathBuf;

use clap::Args;

use crate::detector;
use crate::device_detector::Backend;

/// Detect anomalies in recorded series.
///
/// Each file is a CSV file with the columns `timestamp,value`. The detector reads one value after another and never looks ahead.
#[derive(Debug, Args)]
pub struct DetectArgs {
    /// Recorded series to read.
    #[arg(required = true, value_name = "FILE.csv")]
    pub files: Vec<PathBuf>,
    /// Write every record with its score to this file.
    #[arg(long, value_name = "OUT.csv")]
    pub output: Option<PathBuf>,
    /// Draw the series with scores, alerts and labels into this file.
    #[arg(long, value_name = "OUT.png")]
    pub plot: Option<PathBuf>,
    /// Labelled windows to score the detection against, as the Numenta Anomaly Benchmark does (standard profile).
    #[arg(long, value_name = "windows.json")]
    pub labels: Option<PathBuf>,
    /// Lowest score that is an alert, from 0 to 1. A score of 0.5 breaks a record of the series.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, default_value_t = detector::THRESHOLD, value_parser = crate::arguments::score)]
    pub threshold: f64,
    /// Print the result as one JSON document.
    #[arg(long)]
    pub json: bool,
    /// Where the detectors run. Their scores are the same on every backend.
    #[arg(long, value_enum, default_value_t = Backend::Cpu)]
    pub backend: Backend,
}
