//! The [detector](crate::detector) as a ring kernel on a device: the state of many series, and the arithmetic, are there.
//!
//! The device's text, `device/detector.cu`, does what the Rust code does in the same order, so that scores are equal to the last bit.
//! Readings go in matrices, a column for each series, as many as a message holds.

use std::time::Duration;

use dotcompute::cuda::device_selection;
use dotcompute::prelude::*;
use dotcompute::telemetry::KernelStats;

use crate::detector::{Detector, DetectorState};
use crate::error::CliError;

/// The detector as a device function.
const SOURCE: &str = include_str!("../device/detector.cu");
/// Series of a message.
pub const SERIES_PER_MESSAGE: usize = 32;
/// Readings of a message. With its head it just fits into the largest slot of a device's ring.
pub const READINGS_PER_MESSAGE: usize = 480;
/// Series of a ring kernel.
pub const SERIES_PER_KERNEL: usize = 256;
/// A message takes microseconds; this long means that something is wrong.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Where ring kernels run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// On threads of this machine.
    Cpu,
    /// The detector on the first GPU.
    Cuda,
    /// The detector on the emulated device: the GPU's code, on threads of this machine.
    Emulated,
}

impl Backend {
    /// Its name, as it is given.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::Emulated => "emulated",
        }
    }

    /// A runtime with this device.
    ///
    /// # Errors
    ///
    /// [`CliError::Device`] if this machine has none that can be used, with what to install.
    pub fn runtime(self) -> Result<Runtime, CliError> {
        let chosen = device_selection::by_name(self.name())?;
        let options = chosen.device.into_iter().fold(RuntimeOptions::new(), RuntimeOptions::device);
        Ok(Runtime::with_options(options)?)
    }

    /// Threads of the detector, each with series of its own: a warp, or one where each would be a thread of the processor.
    fn threads(self) -> u32 {
        if self == Self::Cuda { SERIES_PER_MESSAGE as u32 } else { 1 }
    }
}

/// A matrix of readings: `rows` of each of `columns` series, row by row.
#[derive(Debug, Clone, Copy, Message)]
#[message(record)]
#[repr(C)]
pub struct Readings {
    columns: u32,
    rows: u32,
    /// The number of each column's series.
    series: [u32; SERIES_PER_MESSAGE],
    values: [f64; READINGS_PER_MESSAGE],
}

/// The score of each reading, in the same order.
#[derive(Debug, Clone, Copy, Message)]
#[message(record)]
#[repr(C)]
pub struct Scores {
    values: [f64; READINGS_PER_MESSAGE],
}

/// What stays on the device.
#[derive(Debug, Clone, Copy, Message)]
#[message(record)]
#[repr(C)]
pub struct DetectorStates {
    /// A place for the answer that all threads can write to.
    scores: [f64; READINGS_PER_MESSAGE],
    of: [DetectorState; SERIES_PER_KERNEL],
}

/// The detector of up to [`SERIES_PER_KERNEL`] series on a device.
pub struct DeviceDetector {
    kernel: KernelHandle<Readings, Scores>,
}

impl DeviceDetector {
    /// Launches it, with a copy of `detector` for each series.
    ///
    /// # Errors
    ///
    /// [`CliError::Launch`]: the device has no room for it, or its compiler is missing.
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
                of: [detector.new_state(); SERIES_PER_KERNEL],
            })
            .shape(Shape::Block { threads: backend.threads() })
            .queue_capacity(8);
        let kernel =
            runtime.launch_on_device(name, KernelOptions::new().telemetry(Telemetry::EVERY), kernel)?;
        kernel.activate()?;
        Ok(Self { kernel })
    }

    /// Scores `rows` values of each of these series (at most [`SERIES_PER_MESSAGE`] of them, and [`READINGS_PER_MESSAGE`] values), row by row.
    ///
    /// # Errors
    ///
    /// [`CliError::Internal`]: it does not answer, or there are too many.
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
                "{rows} values of each of the series {series:?} are no message: it takes {SERIES_PER_MESSAGE} series, numbered below {SERIES_PER_KERNEL}, and {READINGS_PER_MESSAGE} values"
            );
            return Err(CliError::internal("asking the device for scores", problem));
        }
        let mut message = Readings {
            columns: series.len() as u32,
            rows: rows as u32,
            series: [0; SERIES_PER_MESSAGE],
            values: [0.0; READINGS_PER_MESSAGE],
        };
        for (place, &series) in message.series.iter_mut().zip(series) {
            *place = series as u32;
        }
        for (at, place) in message.values[..count].iter_mut().enumerate() {
            *place = value(at / series.len(), at % series.len());
        }
        let answer = self.kernel.ask_timeout(message, TIMEOUT);
        // As text: the error owns the message, which is of no use to the reader.
        let answer =
            answer.map_err(|error| CliError::internal("asking the device for scores", error.to_string()))?;
        Ok(answer.values[..count].to_vec())
    }

    /// Its counters.
    #[must_use]
    pub fn stats(&self) -> KernelStats {
        self.kernel.stats()
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// [`CliError::Lifecycle`] if it does not end in time.
    pub fn end(&self) -> Result<(), CliError> {
        Ok(self.kernel.terminate(TIMEOUT)?)
    }
}

/// Scores whole series, as many at once as a message has columns.
///
/// # Errors
///
/// As for [`DeviceDetector`].
pub fn score_all(backend: Backend, all: &[&[f64]], detector: &Detector) -> Result<Vec<Vec<f64>>, CliError> {
    let runtime = backend.runtime()?;
    let mut scores: Vec<Vec<f64>> = all.iter().map(|values| Vec::with_capacity(values.len())).collect();
    for (group, (values, scores)) in
        all.chunks(SERIES_PER_MESSAGE).zip(scores.chunks_mut(SERIES_PER_MESSAGE)).enumerate()
    {
        let name = format!("detector {group}");
        let kernel = DeviceDetector::launch(&runtime, backend, &name, detector)?;
        loop {
            let left = |&one: &usize| values[one].len() - scores[one].len();
            let open: Vec<usize> = (0..values.len()).filter(|one| left(one) > 0).collect();
            let Some(shortest) = open.iter().map(left).min() else { break };
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

    /// Reproducible values of all magnitudes, some of which are no numbers.
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
    fn its_scores_are_those_of_the_processor_to_the_last_bit() {
        let plain = Settings { warm_up: 60, settling: 20, quiet: 3, ..LIVE };
        for detector in [Detector::new(THRESHOLD), Detector::live(), Detector::with(plain, 0.3)] {
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
    fn what_is_no_message_is_refused() {
        let runtime = Backend::Emulated.runtime().unwrap();
        let detector = Detector::live();
        let device = DeviceDetector::launch(&runtime, Backend::Emulated, "detector", &detector).unwrap();
        for (series, rows) in [
            (vec![0; SERIES_PER_MESSAGE + 1], 1),
            (vec![0], READINGS_PER_MESSAGE + 1),
            (vec![SERIES_PER_KERNEL], 1),
        ] {
            let refused = device.score(&series, rows, |_, _| 0.0).unwrap_err().to_string();
            assert!(refused.contains("are no message: it takes 32 series"), "{refused}");
        }
        assert_eq!(device.score(&[SERIES_PER_KERNEL - 1], 1, |_, _| 1.0).unwrap(), [0.0]);
        device.end().unwrap();
        assert_eq!(device.stats().handled, 1);
    }

    /// With NVIDIA's compiler, where there is one; `cargo xtask test --only cubins` brings it.
    #[test]
    fn its_text_compiles_for_gpus() {
        let wheels = std::env::var_os("DOTCOMPUTE_TEST_WHEELS");
        let must_be_there = wheels.is_some();
        let search = wheels.map_or_else(Search::from_environment, |folder| {
            Search::empty().site_packages(std::path::PathBuf::from(folder))
        });
        let toolchain = match Toolchain::load(&search) {
            Err(error) if must_be_there => panic!("{error}"),
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
