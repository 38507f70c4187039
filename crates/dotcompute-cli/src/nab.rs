//! The Numenta Anomaly Benchmark's score of a detector.
//!
//! Lavin and Ahmad, *Evaluating Real-Time Anomaly Detection Algorithms: the Numenta Anomaly Benchmark*, ICMLA 2015
//! ([arXiv:1510.03336](https://arxiv.org/abs/1510.03336)), section III, with the details that the paper leaves
//! open settled as the published scorer settles them:
//!
//! - The first 15 % of a series, 750 records at most, are probation: detections there count for nothing.
//! - A labelled window counts once, by its earliest detection: almost 1 at its left edge, falling along a scaled
//!   sigmoid to almost 0 at its right edge. A window without a detection costs [`Profile::missed`].
//! - Every detection outside all windows costs up to [`Profile::false_positive`], less the sooner it follows a window.
//! - The sum over all series is put on a scale on which a detector that reports nothing has 0 and a perfect one,
//!   which reports every window at its first record and nothing else, has 100.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::{Path, PathBuf};

use crate::hint::Hint;
use crate::time::{self, Timestamp};

/// Share of a series that is probation, in percent.
const PROBATION_PERCENT: usize = 15;
/// Number of records above which the probation no longer grows.
const PROBATION_REFERENCE: usize = 5000;
/// Steepness of the sigmoid.
const STEEPNESS: f64 = 5.0;
/// Distance from a window, in window widths, from which a false positive has its full cost.
const MAX_COST_DISTANCE: f64 = 3.0;

/// Weights of outcomes. True negatives have no weight in the benchmark's score.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    /// Value of a window detected at its first record.
    pub detected: f64,
    /// Cost of a detection far from any window.
    pub false_positive: f64,
    /// Cost of a window without a detection.
    pub missed: f64,
}

/// The benchmark's standard profile.
pub const STANDARD: Profile = Profile { detected: 1.0, false_positive: 0.11, missed: 1.0 };

/// A labelled window as indices into the series, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// The index of the first record in the window.
    pub first: usize,
    /// The index of the last record in the window.
    pub last: usize,
}

/// The outcome of one series, or the sum over several.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Outcome {
    /// The weighted sum.
    pub raw: f64,
    /// The weighted sum of a detector that reports nothing.
    pub null: f64,
    /// The weighted sum of a perfect detector.
    pub perfect: f64,
    /// Number of windows with a detection.
    pub detected: usize,
    /// Number of windows without a detection.
    pub missed: usize,
    /// Number of detections outside all windows.
    pub false_positives: usize,
}

impl Outcome {
    /// Returns the score on the scale from 0 (no detections) to 100 (perfect); it can be negative.
    /// `None` without windows, because then the scale has no extent.
    #[must_use]
    pub fn normalised(&self) -> Option<f64> {
        let span = self.perfect - self.null;
        (span > 0.0).then(|| (self.raw - self.null) / span * 100.0)
    }
}

impl std::iter::Sum for Outcome {
    fn sum<I: Iterator<Item = Self>>(outcomes: I) -> Self {
        outcomes.fold(Self::default(), |sum, one| Self {
            raw: sum.raw + one.raw,
            null: sum.null + one.null,
            perfect: sum.perfect + one.perfect,
            detected: sum.detected + one.detected,
            missed: sum.missed + one.missed,
            false_positives: sum.false_positives + one.false_positives,
        })
    }
}

/// Returns the number of probation records at the start of a series of `records` records.
///
/// ```
/// # use dotcompute_cli::nab::probation;
/// assert_eq!(probation(4032), 604);
/// assert_eq!(probation(22_695), 750);
/// ```
#[must_use]
pub fn probation(records: usize) -> usize {
    records.min(PROBATION_REFERENCE) * PROBATION_PERCENT / 100
}

/// Scores one series of `records` records. `windows` are in order and disjoint; `alerts` are the indices of the records that
/// the detector reported, in any order.
///
/// ```
/// use dotcompute_cli::nab::{STANDARD, Window, score};
/// let windows = [Window { first: 500, last: 599 }];
/// assert_eq!(score(1000, &windows, &[500], &STANDARD).normalised(), Some(100.0));
/// assert_eq!(score(1000, &windows, &[], &STANDARD).normalised(), Some(0.0));
/// ```
#[must_use]
pub fn score(records: usize, windows: &[Window], alerts: &[usize], profile: &Profile) -> Outcome {
    let probation = probation(records);
    // A window that ends in probation counts neither as detected nor as missed.
    let counted = windows.iter().filter(|window| window.last >= probation).count();
    let mut outcome = Outcome {
        null: -profile.missed * counted as f64,
        perfect: profile.detected * windows.len() as f64,
        ..Outcome::default()
    };
    let mut best: Vec<Option<f64>> = vec![None; windows.len()];
    for &alert in alerts.iter().filter(|&&alert| (probation..records).contains(&alert)) {
        match detection_value(windows, alert, profile) {
            DetectionValue::Inside(index, worth) => {
                best[index] = Some(best[index].map_or(worth, |best| best.max(worth)));
            }
            DetectionValue::Outside(worth) => {
                outcome.false_positives += 1;
                outcome.raw += worth;
            }
        }
    }
    for (window, best) in windows.iter().zip(best) {
        match best {
            Some(worth) => {
                outcome.detected += 1;
                outcome.raw += worth;
            }
            None if window.last >= probation => {
                outcome.missed += 1;
                outcome.raw -= profile.missed;
            }
            None => {}
        }
    }
    outcome
}

/// Value of a single detection.
enum DetectionValue {
    /// Inside the window with this index.
    Inside(usize, f64),
    /// Outside all windows.
    Outside(f64),
}

fn detection_value(windows: &[Window], alert: usize, profile: &Profile) -> DetectionValue {
    // The last window that starts at or before the alert: the alert lies in it, after it, or before all windows.
    let previous = windows.partition_point(|window| window.first <= alert).checked_sub(1);
    match previous {
        Some(index) if alert <= windows[index].last => {
            DetectionValue::Inside(index, profile.detected * window_value(windows[index], alert))
        }
        _ => DetectionValue::Outside(
            profile.false_positive * false_positive_value(previous.map(|index| windows[index]), alert),
        ),
    }
}

/// A series with its labels and a detector's scores, one per record.
#[derive(Debug, Clone, Copy)]
pub struct ScoredSeries<'a> {
    /// The labelled windows, in order and disjoint.
    pub windows: &'a [Window],
    /// The detector's scores.
    pub scores: &'a [f64],
}

/// Returns the best threshold in hindsight over all series, and the normalised score with it.
///
/// The benchmark publishes this score for each detector. `None` if there are no windows.
#[must_use]
pub fn best_threshold(corpus: &[ScoredSeries<'_>], profile: &Profile) -> Option<(f64, f64)> {
    let mut sum: Outcome =
        corpus.iter().map(|series| score(series.scores.len(), series.windows, &[], profile)).sum();
    sum.normalised()?;
    let mut records: Vec<(f64, usize, usize)> = Vec::new();
    for (index, series) in corpus.iter().enumerate() {
        let scored = probation(series.scores.len())..series.scores.len();
        records.extend(scored.map(|record| (series.scores[record], index, record)));
    }
    records.sort_by(|left, right| right.0.total_cmp(&left.0));
    // Each window's contribution to the sum so far: the cost of a missed window until a detection falls into it.
    let mut parts: Vec<Vec<f64>> =
        corpus.iter().map(|series| vec![-profile.missed; series.windows.len()]).collect();
    let mut best = (f64::INFINITY, sum.raw);
    for (position, &(threshold, index, record)) in records.iter().enumerate() {
        match detection_value(corpus[index].windows, record, profile) {
            DetectionValue::Inside(window, worth) => {
                let part = &mut parts[index][window];
                sum.raw += (worth - *part).max(0.0);
                *part = part.max(worth);
            }
            DetectionValue::Outside(worth) => sum.raw += worth,
        }
        // Records with equal scores pass a threshold together.
        let last_of_equals = records.get(position + 1).is_none_or(|next| next.0 < threshold);
        if last_of_equals && sum.raw > best.1 {
            best = (threshold, sum.raw);
        }
    }
    sum.raw = best.1;
    sum.normalised().map(|normalised| (best.0, normalised))
}

/// Value of a detection in a window: 1 at the left edge, just above 0 at the right edge.
fn window_value(window: Window, alert: usize) -> f64 {
    let width = (window.last - window.first + 1) as f64;
    let position = -((window.last - alert + 1) as f64) / width;
    scaled_sigmoid(position) / scaled_sigmoid(-1.0)
}

/// Value of a detection outside all windows: from 0 to -1, falling with the distance from the preceding window.
fn false_positive_value(previous: Option<Window>, alert: usize) -> f64 {
    let Some(window) = previous else { return -1.0 };
    // A window of one record has width 0 here, so every distance from it is infinite.
    let position = (alert - window.last) as f64 / (window.last - window.first) as f64;
    if position >= MAX_COST_DISTANCE { -1.0 } else { scaled_sigmoid(position) }
}

fn scaled_sigmoid(position: f64) -> f64 {
    2.0 / (1.0 + (STEEPNESS * position).exp()) - 1.0
}

/// The labelled windows of a corpus, keyed by the series' path within it.
#[derive(Debug, Clone)]
pub struct Labels {
    path: PathBuf,
    windows: BTreeMap<String, Vec<(Timestamp, Timestamp)>>,
}

/// The reason why labels are not usable.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// The file cannot be read.
    #[error("reading the labels {}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The file does not contain windows.
    #[error("reading the labels {}", .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The position in the file and the reason.
        source: serde_json::Error,
    },
    /// A timestamp in the file has an unknown format.
    #[error("reading the labels {}: `{found}` in a window of {key} is not a timestamp", .path.display())]
    Timestamp {
        /// The file.
        path: PathBuf,
        /// The series.
        key: String,
        /// The text in the file.
        found: String,
    },
    /// The windows of a series are not in order, overlap, or contain no record of it.
    #[error(
        "the labels {} do not fit {key}: the window from {first} to {last} {problem}",
        .path.display()
    )]
    Window {
        /// The file.
        path: PathBuf,
        /// The series.
        key: String,
        /// The start of the window.
        first: Timestamp,
        /// The end of the window.
        last: Timestamp,
        /// What is wrong with the window.
        problem: &'static str,
    },
    /// The file has no entry for a series.
    #[error("the labels {} have no entry for {}", .path.display(), .series.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// The series.
        series: PathBuf,
        /// A key that matches the series.
        example: String,
    },
}

impl Hint for LabelError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Io { .. } => Some(String::from("check that the file exists and is readable")),
            Self::Json { .. } => Some(String::from(
                "the file must be an object that maps each series to a list of [first, last] timestamps",
            )),
            Self::Timestamp { .. } => Some(String::from(
                "write it as 2014-07-01 00:30:00, 2014-07-01T00:30:00 or seconds since 1970",
            )),
            Self::Window { .. } => Some(String::from(
                "list the windows of a series in order, apart, each with at least one record",
            )),
            Self::Missing { example, .. } => {
                Some(format!("a key must be the end of the series' path, such as `{example}`"))
            }
        }
    }
}

impl Labels {
    /// Reads a `windows.json`: for each series (`realKnownCause/nyc_taxi.csv`) a list of `[first, last]` timestamps.
    ///
    /// # Errors
    ///
    /// [`LabelError::Io`], [`LabelError::Json`], [`LabelError::Timestamp`].
    pub fn read(path: &Path) -> Result<Self, LabelError> {
        let file = File::open(path).map_err(|source| LabelError::Io { path: path.to_owned(), source })?;
        let text: BTreeMap<String, Vec<(String, String)>> = serde_json::from_reader(BufReader::new(file))
            .map_err(|source| LabelError::Json { path: path.to_owned(), source })?;
        let mut windows = BTreeMap::new();
        for (key, pairs) in text {
            let moment = |text: &str| {
                time::parse(text).ok_or_else(|| LabelError::Timestamp {
                    path: path.to_owned(),
                    key: key.clone(),
                    found: text.to_owned(),
                })
            };
            let parsed: Result<Vec<_>, LabelError> =
                pairs.iter().map(|(first, last)| Ok((moment(first)?, moment(last)?))).collect();
            windows.insert(key, parsed?);
        }
        Ok(Self { path: path.to_owned(), windows })
    }

    /// Returns the keys of the labelled series, which are the ends of their paths, in alphabetical order.
    pub fn series(&self) -> impl Iterator<Item = &str> {
        self.windows.keys().map(String::as_str)
    }

    /// Returns the windows of the series read from the file `series`, whose path must end with one of the keys.
    ///
    /// # Errors
    ///
    /// [`LabelError::Missing`] if no key matches; [`LabelError::Window`] if a window does not fit the timestamps.
    pub fn windows_of(&self, series: &Path, timestamps: &[Timestamp]) -> Result<Vec<Window>, LabelError> {
        // A relative name may lack the leading folders of the key, so match the absolute path too.
        let absolute = series.canonicalize().unwrap_or_default();
        let matches = |key: &str| series.ends_with(key) || absolute.ends_with(key);
        let entry = self.windows.iter().filter(|(key, _)| matches(key)).max_by_key(|(key, _)| key.len());
        let Some((key, bounds)) = entry else {
            let name = series.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(LabelError::Missing {
                path: self.path.clone(),
                series: series.to_owned(),
                example: name,
            });
        };
        let mut windows: Vec<Window> = Vec::with_capacity(bounds.len());
        for &(first, last) in bounds {
            let error = |problem| LabelError::Window {
                path: self.path.clone(),
                key: key.clone(),
                first,
                last,
                problem,
            };
            // A repeated timestamp starts or ends a window at its first record, as in the published scorer. A binary
            // search is not possible: the clock may have been set back within the series.
            let first_at_or_after =
                |moment| timestamps.iter().position(|&at| at >= moment).unwrap_or(timestamps.len());
            let (start, end) = (first_at_or_after(first), first_at_or_after(last));
            let after = if timestamps.get(end) == Some(&last) { end + 1 } else { end };
            if after <= start {
                return Err(error("contains no record"));
            }
            if windows.last().is_some_and(|previous| start <= previous.last) {
                return Err(error("is out of order or overlaps the previous window"));
            }
            windows.push(Window { first: start, last: after - 1 });
        }
        Ok(windows)
    }
}

#[cfg(test)]
mod tests;
