//! `dotcompute watch`: this machine's live metrics through a pipeline of ring kernels.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets};
use dotcompute::prelude::*;
use dotcompute::telemetry::KernelStats;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::detector::Detector;
use crate::device_detector::{Backend, DeviceDetector};
use crate::error::CliError;
use crate::plot::{self, Panel};
use pipeline_kernels::{
    Detection, DeviceDetection, Finding, Reporter, ReporterOutput, Sample, Sampler, Tick,
};
use report::Report;

pub mod pipeline_kernels;
pub mod report;
pub mod system_metrics;

const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Watch this machine's CPUs, memory, disks, network and processes for unusual readings.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// How long to watch. Without it, the command runs until Ctrl-C.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = crate::arguments::seconds)]
    pub seconds: Option<f64>,
    /// Sampling interval in milliseconds. Operating systems update CPU usage about 5 times per second.
    #[arg(long, value_name = "MS", allow_negative_numbers = true, default_value_t = 250, value_parser = clap::value_parser!(u64).range(200..=3_600_000))]
    pub interval: u64,
    /// Lowest score that is an alert, from 0 to 1.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, default_value_t = crate::detector::LIVE_THRESHOLD, value_parser = crate::arguments::score)]
    pub threshold: f64,
    /// Draw the timeline into this file.
    #[arg(long, value_name = "FILE.png", default_value = "timeline.png")]
    pub plot: PathBuf,
    /// Print the result as one JSON document.
    #[arg(long)]
    pub json: bool,
    /// Where the detectors run. Their scores are the same on every backend.
    #[arg(long, value_enum, default_value_t = Backend::Cpu)]
    pub backend: Backend,
}

/// The three connected ring kernels.
struct Pipeline {
    runtime: Runtime,
    sampler: KernelHandle<Tick, Sample>,
    detector: KernelHandle<Sample, Finding>,
    reporter: KernelHandle<Finding, ReporterOutput>,
    /// The detector on the device, if the backend is not `cpu`.
    device: Option<Arc<DeviceDetector>>,
}

impl Pipeline {
    fn start(threshold: f64, backend: Backend) -> Result<Self, CliError> {
        let runtime = backend.runtime()?;
        // With a few hundred messages per second, timing every message is cheap.
        let options = KernelOptions::new().telemetry(Telemetry::EVERY);
        let sampler = runtime.launch_with("sampler", options.clone(), Sampler::new)?;
        let device = match backend {
            Backend::Cpu => None,
            _ => Some(Arc::new(DeviceDetector::launch(&runtime, backend, "on-device", &Detector::live())?)),
        };
        let detector = match device.clone() {
            None => {
                let make = move || Detection::new(threshold, Detector::live);
                runtime.launch_with("detector", options.clone(), make)?
            }
            Some(device) => {
                let make = move || DeviceDetection::new(threshold, Arc::clone(&device));
                // The handler blocks on the device, which must not happen on a pool worker.
                runtime.launch_with("detector", options.clone().dedicated(), make)?
            }
        };
        let reporter = runtime.launch_with("reporter", options, Reporter::new)?;
        sampler.connect(&detector)?;
        detector.connect(&reporter)?;
        reporter.activate()?;
        detector.activate()?;
        sampler.activate()?;
        Ok(Self { runtime, sampler, detector, reporter, device })
    }

    /// Terminates the ring kernels in topological order, so that the report contains every sample.
    fn conclude(self) -> Result<(Report, Vec<KernelStats>), CliError> {
        self.sampler.terminate(SHUTDOWN_TIMEOUT)?;
        self.detector.terminate(SHUTDOWN_TIMEOUT)?;
        let reply = self.reporter.ask_timeout(Finding::Conclude, SHUTDOWN_TIMEOUT);
        let report =
            match reply.map_err(|error| CliError::internal("asking for the report", error.to_string()))? {
                ReporterOutput::Report(report) => *report,
                ReporterOutput::Progress { .. } => {
                    return Err(CliError::internal("asking for the report", "got progress instead"));
                }
            };
        self.reporter.terminate(SHUTDOWN_TIMEOUT)?;
        let mut stats = vec![self.sampler.stats(), self.detector.stats(), self.reporter.stats()];
        if let Some(device) = self.device {
            device.end()?;
            stats.push(device.stats());
        }
        self.runtime
            .shutdown(SHUTDOWN_TIMEOUT)
            .map_err(|error| CliError::internal("ending the pipeline", error))?;
        Ok((report, stats))
    }
}

/// Runs the command.
///
/// # Errors
///
/// [`CliError`] if the system metrics are not available or the timeline cannot be written.
pub fn run(args: &WatchArgs) -> Result<(), CliError> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || {
        if flag.swap(true, Ordering::Relaxed) {
            // A second Ctrl-C exits at once, without the report.
            std::process::exit(130);
        }
    })
    .map_err(|error| CliError::internal("installing the Ctrl-C handler", error))?;

    // Check the path before sampling, so that a mistyped path fails at once.
    plot::check_writable(&args.plot)?;
    let pipeline = Pipeline::start(args.threshold, args.backend)?;
    let watched = watch(args, &pipeline, &interrupted)?;
    let (report, stats) = pipeline.conclude()?;
    let plotted = draw(args, &report, watched);
    // Print the report even if drawing failed.
    let plot = plotted.is_ok().then_some(args.plot.as_path());
    if args.json {
        print_json(args, &report, &stats, watched, plot)?;
    } else {
        print_tables(&report, &stats, watched, plot)?;
    }
    plotted
}

/// Sends ticks until the end time or Ctrl-C, and shows the progress. Returns the elapsed time.
fn watch(args: &WatchArgs, pipeline: &Pipeline, interrupted: &AtomicBool) -> Result<Duration, CliError> {
    let start = Instant::now();
    let end = args.seconds.map(|seconds| start + Duration::from_secs_f64(seconds));
    let interval = Duration::from_millis(args.interval);
    let bar = progress_bar(args);
    // The first tick comes after one interval: CPU usage is measured between two samples.
    let mut next_tick = start + interval;
    while !interrupted.load(Ordering::Relaxed) && end.is_none_or(|end| Instant::now() < end) {
        let now = Instant::now();
        if now >= next_tick {
            let at = now.duration_since(start).as_secs_f64();
            match pipeline.sampler.try_tell(Tick { at }) {
                Ok(()) => {}
                // The operating system is slow: skip this sample.
                Err(error) if matches!(error.reason, dotcompute::error::Refusal::Full { .. }) => {}
                Err(error) => {
                    return Err(CliError::internal(
                        "asking for a sample",
                        with_dead_letter(pipeline, &error.to_string()),
                    ));
                }
            }
            next_tick = (next_tick + interval).max(now);
        }
        while let Ok(news) = pipeline.reporter.try_receive() {
            if let ReporterOutput::Progress { readings, alerts } = news {
                bar.set_message(format!("{readings} readings, {alerts} alerts"));
            }
        }
        bar.set_position(now.duration_since(start).as_millis() as u64);
        // Sleep briefly, so that Ctrl-C takes effect at once.
        let remaining = end.map_or(interval, |end| end.saturating_duration_since(Instant::now()));
        std::thread::sleep(
            next_tick.saturating_duration_since(Instant::now()).min(remaining).min(Duration::from_millis(50)),
        );
    }
    bar.finish_and_clear();
    Ok(start.elapsed())
}

/// Appends the reason why the pipeline stopped, taken from its dead letters.
fn with_dead_letter(pipeline: &Pipeline, error: &str) -> String {
    match pipeline.runtime.dead_letters().first() {
        Some(letter) => format!("{error}: {}", letter.fault),
        None => error.to_owned(),
    }
}

fn progress_bar(args: &WatchArgs) -> ProgressBar {
    // A draw target on standard error draws only if it is a terminal.
    let target = if args.json { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = match args.seconds {
        Some(seconds) => ProgressBar::with_draw_target(Some((seconds * 1e3) as u64), target),
        None => ProgressBar::with_draw_target(None, target),
    };
    let template = if args.seconds.is_some() {
        "watching {bar:30} {elapsed}  {msg}"
    } else {
        "watching {spinner} {elapsed}  {msg}"
    };
    bar.with_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn draw(args: &WatchArgs, report: &Report, watched: Duration) -> Result<(), CliError> {
    let panels: Vec<Panel<'_>> = report
        .series
        .iter()
        .map(|series| Panel {
            title: series.name.clone(),
            points: &series.points,
            scores: None,
            alerts: series.alerts.iter().map(|alert| (alert.at, alert.value)).collect(),
            windows: &[],
        })
        .collect();
    let title = format!("{:.1} s of this machine, {} alerts", watched.as_secs_f64(), report.alerts);
    Ok(plot::draw(&args.plot, &title, &panels, |at| format!("{at:.1} s"))?)
}

fn print_json(
    args: &WatchArgs,
    report: &Report,
    stats: &[KernelStats],
    watched: Duration,
    plot: Option<&Path>,
) -> Result<(), CliError> {
    let micros = |duration: Duration| duration.as_nanos() as f64 / 1e3;
    let kernels: Vec<_> = stats
        .iter()
        .map(|stats| {
            serde_json::json!({
                "kernel": stats.kernel,
                "state": stats.state.to_string(),
                "sent": stats.sent,
                "handled": stats.handled,
                "dead_letters": stats.dead_letters,
                "queued": stats.queued,
                "queue_p50_us": micros(stats.queue_time.p50),
                "queue_p99_us": micros(stats.queue_time.p99),
                "handle_p50_us": micros(stats.handle_time.p50),
                "handle_p99_us": micros(stats.handle_time.p99),
            })
        })
        .collect();
    let document = serde_json::json!({
        "seconds": watched.as_secs_f64(),
        "interval_ms": args.interval,
        "threshold": args.threshold,
        "backend": args.backend.name(),
        "report": report,
        "kernels": kernels,
        "plot": plot,
    });
    writeln!(std::io::stdout().lock(), "{document:#}")?;
    Ok(())
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header.iter().map(Cell::new));
    table
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

fn print_tables(
    report: &Report,
    stats: &[KernelStats],
    watched: Duration,
    plot: Option<&Path>,
) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    let seconds = watched.as_secs_f64();
    writeln!(
        out,
        "Watched {seconds:.1} s: {} readings of {} series, {} alerts.\n",
        report.readings,
        report.series.len(),
        report.alerts
    )?;

    let mut series_table = table(&["series", "readings", "min", "mean", "max", "alerts"]);
    for series in &report.series {
        let number = |value: f64| right(format!("{value:.1}"));
        series_table.add_row(vec![
            Cell::new(&series.name),
            right(series.count),
            number(series.min),
            number(series.mean),
            number(series.max),
            right(series.alert_count),
        ]);
    }
    writeln!(out, "{series_table}\n")?;
    for series in &report.series {
        for alert in series.alerts.iter().take(3) {
            writeln!(
                out,
                "alert: {} was {:.1} at {:.1} s (score {:.3})",
                series.name, alert.value, alert.at, alert.score
            )?;
        }
    }
    if let Some(busiest) = report.busiest.first() {
        writeln!(
            out,
            "busiest process: {} (pid {}), {:.0} % of a core, {:.0} MB\n",
            busiest.name, busiest.pid, busiest.cpu_percent, busiest.memory_mb
        )?;
    }

    let mut kernel_table =
        table(&["ring kernel", "messages", "dead", "queued p50", "queued p99", "handled p50", "handled p99"]);
    for stats in stats {
        let number = |duration: Duration| right(format!("{:.1} µs", duration.as_nanos() as f64 / 1e3));
        kernel_table.add_row(vec![
            Cell::new(&stats.kernel),
            right(stats.handled),
            right(stats.dead_letters),
            number(stats.queue_time.p50),
            number(stats.queue_time.p99),
            number(stats.handle_time.p50),
            number(stats.handle_time.p99),
        ]);
    }
    writeln!(out, "{kernel_table}\n")?;
    let latency = &report.latency;
    writeln!(
        out,
        "From reading to report, through {} ring kernels: p50 {:.1} µs, p99 {:.1} µs, longest {:.1} µs.",
        stats.len(),
        latency.p50_us,
        latency.p99_us,
        latency.max_us
    )?;
    if let Some(plot) = plot {
        writeln!(out, "Timeline: {}", plot.display())?;
    }
    Ok(())
}
