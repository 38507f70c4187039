//! The fixture of the `gpu` subjects: a device, and a runtime on it for each sample.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use dotcompute::backend::Backend;
use dotcompute::cuda::cuda::{CudaBackend, CudaOptions, baseline};
use dotcompute::cuda::emulated::{EmulatedBackend, EmulatedOptions};
use dotcompute::message::record::RecordMessage;
use dotcompute::prelude::*;

use crate::config::BenchConfig;
use crate::error::BenchError;

/// Capacity of the device ring, in benches with many messages in flight.
pub const QUEUE: usize = 1024;

/// The source of the baseline kernels; the user sets `entry`.
pub const BASELINE: baseline::KernelSource =
    baseline::KernelSource { file: "baseline.cu", text: include_str!("../../device/baseline.cu"), entry: "" };

/// Time allowed for a runtime to shut down.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The devices that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceKind {
    /// The first GPU
    Cuda,
    /// Host threads instead of a GPU: checks that everything works, but measures no GPU
    Emulated,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeviceKind::Cuda => "cuda",
            DeviceKind::Emulated => "emulated",
        })
    }
}

/// The configuration of one run on a device.
#[derive(Clone)]
pub struct GpuBenchConfig {
    pub common: BenchConfig,
    pub device: DeviceKind,
    /// Number of wake-ups of a ring kernel that is off the device.
    pub wakes: u64,
    /// Duration of a power measurement.
    pub idle: Duration,
}

/// When ring kernels leave the device.
#[derive(Clone, Copy)]
pub enum ResidencyPolicy {
    /// The default of the backend.
    Default,
    /// After this time without a message.
    IdleTimeout(Duration),
    /// Never, until they are terminated.
    Always,
}

impl ResidencyPolicy {
    fn apply(self, idle_timeout: &mut Duration, max_residency: &mut Duration) {
        match self {
            ResidencyPolicy::Default => {}
            ResidencyPolicy::IdleTimeout(grace) => *idle_timeout = grace,
            ResidencyPolicy::Always => (*idle_timeout, *max_residency) = (Duration::ZERO, Duration::ZERO),
        }
    }
}

impl GpuBenchConfig {
    /// Returns the wait strategy of callers: spinning on a GPU, adaptive on the emulated device, whose threads need the cores too.
    pub fn wait(&self) -> WaitStrategy {
        match self.device {
            DeviceKind::Cuda => WaitStrategy::Spin,
            DeviceKind::Emulated => WaitStrategy::Adaptive,
        }
    }

    /// Opens the GPU for a baseline.
    ///
    /// # Errors
    ///
    /// [`BenchError::Subject`] without a GPU.
    pub fn gpu(&self, subject: &'static str) -> Result<Arc<CudaBackend>, BenchError> {
        CudaBackend::new().map_err(BenchError::subject(subject, OPENING))
    }

    fn device(&self, subject: &'static str, stays: ResidencyPolicy) -> Result<Arc<dyn Backend>, BenchError> {
        match self.device {
            DeviceKind::Cuda => {
                let mut options = CudaOptions::default();
                stays.apply(&mut options.idle_timeout, &mut options.max_residency);
                let backend = CudaBackend::with_options(options);
                Ok(backend.map_err(BenchError::subject(subject, OPENING))?)
            }
            DeviceKind::Emulated => {
                let mut options = EmulatedOptions::default();
                stays.apply(&mut options.idle_timeout, &mut options.max_residency);
                let backend = EmulatedBackend::with_options(options);
                Ok(backend.map_err(BenchError::subject(subject, OPENING))?)
            }
        }
    }
}

const OPENING: &str = "opening the device";

/// A runtime on the device, for one sample.
pub struct Fixture<'a> {
    subject: &'static str,
    config: &'a GpuBenchConfig,
    runtime: Runtime,
}

impl<'a> Fixture<'a> {
    /// Opens the device for one sample of `subject`.
    ///
    /// # Errors
    ///
    /// [`BenchError::Subject`] if the device or the runtime cannot be created.
    pub fn new(
        subject: &'static str,
        config: &'a GpuBenchConfig,
        stays: ResidencyPolicy,
    ) -> Result<Self, BenchError> {
        let options = RuntimeOptions::new().device(config.device(subject, stays)?);
        let runtime =
            Runtime::with_options(options).map_err(BenchError::subject(subject, "creating a runtime"))?;
        Ok(Fixture { subject, config, runtime })
    }

    /// Launches and activates a ring kernel.
    ///
    /// # Errors
    ///
    /// The error of the runtime.
    pub fn launch<I: RecordMessage, O: RecordMessage>(
        &self,
        name: &str,
        kernel: DeviceKernel<I, O>,
    ) -> Result<KernelHandle<I, O>, BenchError> {
        let options = KernelOptions::new().supervision(Supervision::Resume).wait(self.config.wait());
        let handle = self.runtime.launch_on_device(name, options, kernel);
        let handle = handle.map_err(BenchError::subject(self.subject, "launching a ring kernel"))?;
        handle.activate().map_err(BenchError::subject(self.subject, "activating a ring kernel"))?;
        Ok(handle)
    }

    /// Terminates all ring kernels, so that none is on the device while the next subject is measured.
    ///
    /// # Errors
    ///
    /// [`BenchError::Subject`] if one does not terminate in time.
    pub fn end(self) -> Result<(), BenchError> {
        self.runtime.shutdown(TIMEOUT).map_err(BenchError::subject(self.subject, "shutting down"))
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::path::PathBuf;

    use dotcompute::cuda::Architecture;
    use dotcompute::cuda::compile::{Input, Source, Toolchain};
    use dotcompute::cuda::device_code::HEADERS;
    use dotcompute::cuda::library::Search;

    use super::BASELINE;

    /// Uses the compiler of `cargo xtask test --only cubins`, or another that is found; is skipped if there is none.
    #[test]
    fn the_baseline_kernels_compile() {
        let wheels = env::var_os("DOTCOMPUTE_TEST_WHEELS").map(PathBuf::from);
        let is_required = wheels.is_some();
        let search =
            wheels.map_or_else(Search::from_environment, |folder| Search::empty().site_packages(folder));
        let toolchain = match Toolchain::load(&search) {
            Err(error) if is_required => panic!("{error}"),
            Err(error) => return println!("skipped: {error}"),
            Ok(toolchain) => toolchain,
        };
        for major in [8, 9, 10] {
            let input = Input::new("baseline", Architecture { major, minor: 0 });
            let input =
                HEADERS.iter().fold(input, |input, &(name, text)| input.header(Source::new(name, text)));
            let input = input.source(Source::new(BASELINE.file, BASELINE.text));
            let kernel = toolchain.compile(&input).unwrap();
            assert!(kernel.diagnostics().is_empty(), "{}", kernel.log);
            let code = String::from_utf8_lossy(kernel.cubin.as_bytes());
            for entry in ["flag", "answer"] {
                assert!(code.contains(&format!(".text.{entry}\0")), "{entry} is missing");
            }
        }
    }
}
