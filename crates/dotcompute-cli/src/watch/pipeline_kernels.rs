//! The pipeline: sampler → detector → reporter, each a ring kernel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dotcompute::prelude::*;
use hdrhistogram::Histogram;

use super::report::{Alert, Latency, Report, Series};
use super::system_metrics::{BusyProcess, SystemSampler};
use crate::detector::Detector;
use crate::device_detector::{DeviceDetector, SERIES_PER_MESSAGE};

/// Maximum number of timeline points per series. At the limit, every other point is dropped and from then on every other
/// reading is skipped, so memory stays bounded.
const MAX_POINTS: usize = 4096;
/// Maximum number of alerts stored per series. All alerts are counted.
const MAX_ALERTS: usize = 1000;

/// Requests a sample of all metrics.
#[derive(Debug, Clone, Copy, Message)]
pub struct Tick {
    /// Seconds since the watch began.
    pub at: f64,
}

/// Output of the sampler: one message per series and tick, and a last message for the tick.
#[derive(Debug, Clone, Message)]
#[message(no_serde)]
pub enum Sample {
    /// A reading of one series.
    Reading {
        /// Index of the series.
        series: u32,
        /// Name of the series, such as `cpu0 [%]`; only in its first reading.
        name: Option<Box<str>>,
        /// Seconds since the watch began.
        at: f64,
        /// The value.
        value: f64,
        /// Time of the reading.
        taken: Instant,
    },
    /// All readings of a tick have been sent.
    EndOfTick {
        /// The busiest processes of this tick.
        busiest: Vec<BusyProcess>,
    },
}

/// Input of the reporter: scored readings from the detector, and the program's request for the report.
#[derive(Debug, Clone, Message)]
#[message(no_serde)]
pub enum Finding {
    /// A reading with its score.
    Scored {
        /// The reading.
        sample: Sample,
        /// Score, from 0 to 1.
        score: f64,
        /// Whether the score is an alert.
        alert: bool,
    },
    /// All readings of a tick have been sent.
    EndOfTick {
        /// The busiest processes of this tick.
        busiest: Vec<BusyProcess>,
    },
    /// Requests the report.
    Conclude,
}

/// Output of the reporter.
#[derive(Debug, Clone, Message)]
#[message(no_serde)]
pub enum ReporterOutput {
    /// Counts, sent after each tick.
    Progress {
        /// Readings so far.
        readings: u64,
        /// Alerts so far.
        alerts: u64,
    },
    /// The reply to [`Finding::Conclude`].
    Report(Box<Report>),
}

/// Samples the system metrics at every tick.
pub struct Sampler {
    system: Option<SystemSampler>,
    named: bool,
}

impl Sampler {
    /// Creates a sampler; activation takes the first sample.
    #[must_use]
    pub fn new() -> Self {
        Self { system: None, named: false }
    }
}

impl Default for Sampler {
    fn default() -> Self {
        Self::new()
    }
}

impl RingKernel for Sampler {
    type Input = Tick;
    type Output = Sample;

    fn on_activate(&mut self, _ctx: &mut Context<Sample>) -> HandlerResult {
        self.system = Some(SystemSampler::new()?);
        Ok(())
    }

    fn handle(&mut self, tick: Tick, ctx: &mut Context<Sample>) -> HandlerResult {
        let system = self.system.as_mut().ok_or("the sampler is not active")?;
        let (metrics, busiest) = system.sample();
        for (series, metric) in (0..).zip(metrics) {
            let name = (!self.named).then(|| format!("{} [{}]", metric.name, metric.unit).into());
            ctx.send(Sample::Reading {
                series,
                name,
                at: tick.at,
                value: metric.value,
                taken: Instant::now(),
            });
        }
        self.named = true;
        ctx.send(Sample::EndOfTick { busiest });
        Ok(())
    }
}

/// Scores readings with one detector per series.
pub struct Detection {
    threshold: f64,
    make: fn() -> Detector,
    detectors: BTreeMap<u32, Detector>,
}

impl Detection {
    /// Creates a kernel that raises alerts at scores of `threshold` and above. `make` creates the detector of each series.
    #[must_use]
    pub fn new(threshold: f64, make: fn() -> Detector) -> Self {
        Self { threshold, make, detectors: BTreeMap::new() }
    }
}

impl RingKernel for Detection {
    type Input = Sample;
    type Output = Finding;

    fn handle(&mut self, sample: Sample, ctx: &mut Context<Finding>) -> HandlerResult {
        let finding = match sample {
            Sample::Reading { series, value, .. } => {
                let score = self.detectors.entry(series).or_insert_with(self.make).update(value);
                Finding::Scored { sample, score, alert: score >= self.threshold }
            }
            Sample::EndOfTick { busiest } => Finding::EndOfTick { busiest },
        };
        ctx.send(finding);
        Ok(())
    }
}

/// As [`Detection`], with the detectors on a device. The readings of a tick go to the device together.
pub struct DeviceDetection {
    threshold: f64,
    device: Arc<DeviceDetector>,
    readings: Vec<Sample>,
}

impl DeviceDetection {
    /// Creates a kernel that raises alerts at scores of `threshold` and above.
    #[must_use]
    pub fn new(threshold: f64, device: Arc<DeviceDetector>) -> Self {
        Self { threshold, device, readings: Vec::new() }
    }
}

impl RingKernel for DeviceDetection {
    type Input = Sample;
    type Output = Finding;

    fn handle(&mut self, sample: Sample, ctx: &mut Context<Finding>) -> HandlerResult {
        let busiest = match sample {
            Sample::Reading { .. } => {
                self.readings.push(sample);
                return Ok(());
            }
            Sample::EndOfTick { busiest } => busiest,
        };
        let readings = std::mem::take(&mut self.readings);
        let points: Vec<(usize, f64)> = readings
            .iter()
            .filter_map(|sample| match sample {
                Sample::Reading { series, value, .. } => Some((*series as usize, *value)),
                Sample::EndOfTick { .. } => None,
            })
            .collect();
        let mut scores = Vec::with_capacity(points.len());
        for columns in points.chunks(SERIES_PER_MESSAGE) {
            let series: Vec<usize> = columns.iter().map(|&(series, _)| series).collect();
            scores.extend(self.device.score(&series, 1, |_, column| columns[column].1)?);
        }
        for (sample, score) in readings.into_iter().zip(scores) {
            ctx.send(Finding::Scored { sample, score, alert: score >= self.threshold });
        }
        ctx.send(Finding::EndOfTick { busiest });
        Ok(())
    }
}

/// Collects the statistics for the report.
pub struct Reporter {
    series: Vec<Series>,
    busiest: BTreeMap<u32, BusyProcess>,
    latency: Histogram<u64>,
    readings: u64,
    alerts: u64,
}

impl Reporter {
    /// Creates a reporter without readings.
    #[expect(
        clippy::missing_panics_doc,
        reason = "three significant digits are within the histogram's range"
    )]
    #[must_use]
    pub fn new() -> Self {
        let mut latency = Histogram::new(3).expect("three significant digits are within the crate's 0 to 5");
        latency.auto(true);
        Self { series: Vec::new(), busiest: BTreeMap::new(), latency, readings: 0, alerts: 0 }
    }

    fn add(&mut self, sample: Sample, score: f64, alert: bool) -> HandlerResult {
        let Sample::Reading { series, name, at, value, taken } = sample else { return Ok(()) };
        let index = series as usize;
        if index == self.series.len() {
            self.series.push(Series::new(name.map_or_else(|| format!("series {series}"), String::from)));
        }
        let series = self.series.get_mut(index).ok_or("the readings of a new series arrived out of order")?;
        series.add(at, value, MAX_POINTS);
        self.readings += 1;
        if alert {
            self.alerts += 1;
            series.alert(Alert { at, value, score }, MAX_ALERTS);
        }
        let nanos = u64::try_from(taken.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.latency.record(nanos)?;
        Ok(())
    }

    fn report(&self) -> Report {
        let at = |quantile| Duration::from_nanos(self.latency.value_at_quantile(quantile));
        let mut busiest: Vec<BusyProcess> = self.busiest.values().cloned().collect();
        busiest.sort_by(|a, b| b.cpu_percent.total_cmp(&a.cpu_percent));
        busiest.truncate(5);
        Report {
            series: self.series.clone(),
            busiest,
            readings: self.readings,
            alerts: self.alerts,
            latency: Latency::of(at(0.5), at(0.99), Duration::from_nanos(self.latency.max())),
        }
    }
}

impl Default for Reporter {
    fn default() -> Self {
        Self::new()
    }
}

impl RingKernel for Reporter {
    type Input = Finding;
    type Output = ReporterOutput;

    fn handle(&mut self, finding: Finding, ctx: &mut Context<ReporterOutput>) -> HandlerResult {
        match finding {
            Finding::Scored { sample, score, alert } => self.add(sample, score, alert)?,
            Finding::EndOfTick { busiest } => {
                for process in busiest {
                    // Keep each process at its highest CPU usage.
                    let stored = self.busiest.entry(process.pid).or_insert_with(|| process.clone());
                    if process.cpu_percent > stored.cpu_percent {
                        *stored = process;
                    }
                }
                // Keep the list bounded: remove the process with the lowest CPU usage.
                while self.busiest.len() > 64 {
                    let least_busy =
                        self.busiest.values().min_by(|a, b| a.cpu_percent.total_cmp(&b.cpu_percent));
                    let Some(pid) = least_busy.map(|process| process.pid) else { break };
                    self.busiest.remove(&pid);
                }
                ctx.send(ReporterOutput::Progress { readings: self.readings, alerts: self.alerts });
            }
            Finding::Conclude => ctx.reply(ReporterOutput::Report(Box::new(self.report()))),
        }
        Ok(())
    }
}
