//! The [detector](crate::detector) as a ring kernel on a device, which holds the state of many series and scores them.
//!
//! The device code, `device/detector.cu`, does the operations of the Rust code in the same order, so scores are bit-identical.
//! A message carries a matrix of readings with one column per series.

use std::time::Duration;

use dotcompute::cuda::device_selection;
use dotcompute::prelude::*;
use dotcompute::telemetry::KernelStats;

use crate::detector::{Detector, DetectorState};
use crate::error::CliError;

/// The detector as a device function.
const SOURCE: &str = include_str!("../device/detector.cu");
/// Maximum number of series in a message.
pub const SERIES_PER_MESSAGE: usize = 32;
/// Maximum number of readings in a message. With its header the message just fits the largest slot of a device ring.
pub const READINGS_PER_MESSAGE: usize = 480;
/// Maximum number of series of a ring kernel.
pub const SERIES_PER_KERNEL: usize = 256;
/// Timeout of a request. A message takes microseconds, so reaching the timeout means a fault.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Where ring kernels run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// CPU threads.
    Cpu,
    /// The first GPU.
    Cuda,
    /// The emulated device: the GPU code on CPU threads.
    Emulated,
}

impl Backend {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Emulated => "emulated",
        }
    }

    /// Creates a runtime with this device.
    ///
    /// # Errors
    ///
    /// [`CliError::Device`] if this machine has no usable device; the message says what to install.
    pub fn runtime(self) -> Result<Runtime, CliError> {
        let selection = device_selection::by_name(self.name())?;
        let options = selection.device.into_iter().fold(RuntimeOptions::new(), RuntimeOptions::device);
        Ok(Runtime::with_options(options)?)
    }

    /// Threads of the detector, each with its own series: a warp on a GPU, otherwise one, because each would be a CPU thread.
    fn threads(self) -> u32 {
        if self == Self::Cuda { SERIES_PER_MESSAGE as u32 } else { 1 }
    }
}

/// A row-major matrix of `rows` readings of each of `columns` series.
#[derive(Debug, Clone, Copy, Message)]
#[message(record)]
#[repr(C)]
pub struct Readings {
    columns: u32,
    rows: u32,
    /// Index of each column's series.
    series: [u32; SERIES_PER_MESSAGE],
    values: [f64; READINGS_PER_MESSAGE],
}

/// The score of each reading, in the order of the readings.
#[derive(Debug, Clone, Copy, Message)]
#[message(record)]
#[repr(C)]
pub struct Scores {
    values: [f64; READINGS_PER_MESSAGE],
}

/// State that stays on the device.
#[derive(Debug, Clone, Copy, Message)]
#[message(record)]
#[repr(C)]
pub struct DetectorStates {
    /// Buffer for the reply that all threads write to.
    scores: [f64; READINGS_PER_MESSAGE],
    detectors: [DetectorState; SERIES_PER_KERNEL],
}

/// The detector of up to [`SERIES_PER_KERNEL`] series on a device.
pub struct DeviceDetector {
    kernel: KernelHandle<Readings, Scores>,
}

impl DeviceDetector {
    /// Launches and activates the ring kernel, with a copy of `detector` for each series.
    ///
    /// # Errors
    ///
    /// [`CliError::Launch`] if the device lacks free blocks or the compiler is missing; [`CliError::Lifecycle`] if activation fails.
    pub fn launch(
        runtime: &Runtime,
        backend: Backend,
        name: &str,
        detector: &Detector,
    ) -> Result<Self, CliError> {
        let kernel = DeviceKernel::cuda_cpp("detector.cu", SOURCE)
            .entry("detect")
            .state(DetectorStates {
                scores: [0.0; READINGS_PER_MESSAGE],
                detectors: [detector.new_state(); SERIES_PER_KERNEL],
            })
            .shape(Shape::Block { threads: backend.threads() })
            .queue_capacity(8);
        let kernel =
            runtime.launch_on_device(name, KernelOptions::new().telemetry(Telemetry::EVERY), kernel)?;
        kernel.activate()?;
        Ok(Self { kernel })
    }

    /// Scores `rows` values of each of `series`, row by row: at most [`SERIES_PER_MESSAGE`] series and [`READINGS_PER_MESSAGE`] values.
    ///
    /// # Errors
    ///
    /// [`CliError::Internal`] if the device does not reply, or a limit is exceeded.
    pub fn score(
        &self,
        series: &[usize],
        rows: usize,
        value: impl Fn(usize, usize) -> f64,
    ) -> Result<Vec<f64>, CliError> {
        let count = series.len() * rows;
        if series.len() > SERIES_PER_MESSAGE
            || count > READINGS_PER_MESSAGE
            || series.iter().any(|&one| one >= SERIES_PER_KERNEL)
        {
            let problem = format!(
                "{rows} values of each of the series {series:?} do not fit a message: the limits are {SERIES_PER_MESSAGE} series, numbered below {SERIES_PER_KERNEL}, and {READINGS_PER_MESSAGE} values"
            );
            return Err(CliError::internal("asking the device for scores", problem));
        }
        let mut message = Readings {
            columns: series.len() as u32,
            rows: rows as u32,
            series: [0; SERIES_PER_MESSAGE],
            values: [0.0; READINGS_PER_MESSAGE],
        };
        for (slot, &series) in message.series.iter_mut().zip(series) {
            *slot = series as u32;
        }
        for (index, slot) in message.values[..count].iter_mut().enumerate() {
            *slot = value(index / series.len(), index % series.len());
        }
        let reply = self.kernel.ask_timeout(message, TIMEOUT);
        // As text: the error owns the message, which the user does not need.
        let reply =
            reply.map_err(|error| CliError::internal("asking the device for scores", error.to_string()))?;
        Ok(reply.values[..count].to_vec())
    }

    /// Returns the counters of the ring kernel.
    #[must_use]
    pub fn stats(&self) -> KernelStats {
        self.kernel.stats()
    }

    /// Terminates the ring kernel.
    ///
    /// # Errors
    ///
    /// [`CliError::Lifecycle`] if the ring kernel does not end before the timeout.
    pub fn end(&self) -> Result<(), CliError> {
        Ok(self.kernel.terminate(TIMEOUT)?)
    }
}

/// Scores whole series, [`SERIES_PER_MESSAGE`] at a time.
///
/// # Errors
///
/// Those of [`Backend::runtime`], [`DeviceDetector::launch`], [`DeviceDetector::score`] and [`DeviceDetector::end`].
pub fn score_all(backend: Backend, all: &[&[f64]], detector: &Detector) -> Result<Vec<Vec<f64>>, CliError> {
    let runtime = backend.runtime()?;
    let mut scores: Vec<Vec<f64>> = all.iter().map(|values| Vec::with_capacity(values.len())).collect();
    for (group, (values, scores)) in
        all.chunks(SERIES_PER_MESSAGE).zip(scores.chunks_mut(SERIES_PER_MESSAGE)).enumerate()
    {
        let name = format!("detector {group}");
        let kernel = DeviceDetector::launch(&runtime, backend, &name, detector)?;
        loop {
            let remaining = |&one: &usize| values[one].len() - scores[one].len();
            let open: Vec<usize> = (0..values.len()).filter(|one| remaining(one) > 0).collect();
            let Some(shortest) = open.iter().map(remaining).min() else { break };
            let rows = shortest.min(READINGS_PER_MESSAGE / open.len());
            let found = kernel.score(&open, rows, |row, column| {
                let one = open[column];
                values[one][scores[one].len() + row]
            })?;
            for (at, score) in found.into_iter().enumerate() {
                scores[open[at % open.len()]].push(score);
            }
        }
        kernel.end()?;
    }
    runtime.shutdown(TIMEOUT).map_err(|error| CliError::internal("ending the ring kernels", error))?;
    Ok(scores)
}

#[cfg(test)]
mod tests {
    use dotcompute::cuda::compile::{Input, Source, Toolchain};
    use dotcompute::cuda::library::Search;
    use dotcompute::cuda::{Architecture, device_code};
    use dotcompute::message::record::RecordMessage as _;

    use super::*;
    use crate::detector::{LIVE, Settings, THRESHOLD};

    /// Reproducible values of all magnitudes, some of them NaN or infinite.
    fn values(seed: u64, count: usize) -> Vec<f64> {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 11
        };
        let value = |bits: u64| (bits as f64 / (1_u64 << 52) as f64 - 1.0) * 10_f64.powi((bits % 7) as i32);
        (0..count)
            .map(|_| match next() % 50 {
                0 => f64::NAN,
                1 => f64::NEG_INFINITY,
                2 => f64::from_bits(next() << 11),
                3 => -0.0,
                _ => value(next()),
            })
            .collect()
    }

    #[test]
    fn scores_are_bit_identical_to_those_of_the_cpu() {
        let short = Settings { warm_up: 60, settling: 20, quiet: 3, ..LIVE };
        for detector in [Detector::new(THRESHOLD), Detector::live(), Detector::with(short, 0.3)] {
            // More series than columns, of different lengths, one of them empty.
            let all: Vec<Vec<f64>> = (0..40).map(|one| values(one, (one as usize * 37) % 1500)).collect();
            let slices: Vec<&[f64]> = all.iter().map(Vec::as_slice).collect();
            let scores = score_all(Backend::Emulated, &slices, &detector).unwrap();
            for (values, scores) in all.iter().zip(scores) {
                let mut detector = detector.clone();
                let expected: Vec<u64> =
                    values.iter().map(|&value| detector.update(value).to_bits()).collect();
                assert_eq!(scores.into_iter().map(f64::to_bits).collect::<Vec<_>>(), expected);
            }
        }
    }

    #[test]
    fn readings_beyond_the_limits_are_rejected() {
        let runtime = Backend::Emulated.runtime().unwrap();
        let detector = Detector::live();
        let device = DeviceDetector::launch(&runtime, Backend::Emulated, "detector", &detector).unwrap();
        for (series, rows) in [
            (vec![0; SERIES_PER_MESSAGE + 1], 1),
            (vec![0], READINGS_PER_MESSAGE + 1),
            (vec![SERIES_PER_KERNEL], 1),
        ] {
            let error = device.score(&series, rows, |_, _| 0.0).unwrap_err();
            let rejected = std::error::Error::source(&error).unwrap().to_string();
            assert!(rejected.contains("do not fit a message: the limits are 32 series"), "{rejected}");
        }
        assert_eq!(device.score(&[SERIES_PER_KERNEL - 1], 1, |_, _| 1.0).unwrap(), [0.0]);
        device.end().unwrap();
        assert_eq!(device.stats().handled, 1);
    }

    /// Needs NVIDIA's compiler, which `cargo xtask test --only cubins` installs; skipped without it.
    #[test]
    fn the_device_code_compiles_for_gpus() {
        let wheels = std::env::var_os("DOTCOMPUTE_TEST_WHEELS");
        let is_required = wheels.is_some();
        let search = wheels.map_or_else(Search::from_environment, |folder| {
            Search::empty().site_packages(std::path::PathBuf::from(folder))
        });
        let toolchain = match Toolchain::load(&search) {
            Err(error) if is_required => panic!("{error}"),
            Err(error) => return println!("skipped: {error}"),
            Ok(toolchain) => toolchain,
        };
        for major in [8, 9, 10] {
            let input = Input::new("detect", Architecture { major, minor: 0 }).option("-default-device");
            let input = device_code::HEADERS
                .iter()
                .fold(input, |input, &(name, text)| input.header(Source::new(name, text)));
            let before = format!(
                "#include \"ring_kernel.cuh\"\n{}{}{}typedef dc::Context<Scores> Ctx;\n",
                Readings::c_struct(),
                Scores::c_struct(),
                DetectorStates::c_struct()
            );
            let input = input
                .source(Source::new("messages.cuh", before))
                .source(Source::new("detector.cu", SOURCE))
                .source(Source::new(
                    "kernel.cu",
                    "DC_RING_KERNEL(BlockShape, Readings, Scores, DetectorStates, detect)\n",
                ));
            let kernel = toolchain.compile(&input).unwrap();
            assert!(kernel.diagnostics().is_empty(), "{}", kernel.log);
        }
    }
}
