//! The result of a detection run.

use std::time::Duration;

use crate::nab::{Outcome, Window};
use crate::series::Series;

/// A series with its scores and alerts.
pub(super) struct Finding {
    pub(super) series: Series,
    pub(super) scores: Vec<f64>,
    /// Indices of the records that are alerts.
    pub(super) alerts: Vec<usize>,
    /// Labelled windows and the outcome of the alerts against them, if there are labels.
    pub(super) labelled: Option<(Vec<Window>, Outcome)>,
}

/// The findings in all series.
pub(super) struct Findings {
    pub(super) each: Vec<Finding>,
    pub(super) threshold: f64,
    /// Outcome over all series, if there are labels.
    pub(super) outcome: Option<Outcome>,
    /// Best threshold in hindsight and the score with it, if there are windows.
    pub(super) best: Option<(f64, f64)>,
    /// Time that the ring kernels needed.
    pub(super) elapsed: Duration,
}

impl Findings {
    pub(super) fn records(&self) -> usize {
        self.each.iter().map(|finding| finding.series.len()).sum()
    }
}
