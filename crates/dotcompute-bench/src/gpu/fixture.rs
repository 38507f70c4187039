//! Where the subjects of `gpu` run: a device, and a runtime on it for each sample.

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

/// Messages in a device's own ring, where there may be many.
pub const QUEUE: usize = 1024;

/// The kernels that ring kernels are compared with; the entry is to be named.
pub const BASELINE: baseline::KernelSource =
    baseline::KernelSource { file: "baseline.cu", text: include_str!("../../device/baseline.cu"), entry: "" };

/// How long a runtime has to come to its end.
const TIMEOUT: Duration = Duration::from_secs(20);

/// The devices that can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DeviceKind {
    /// The first GPU
    Cuda,
    /// Threads in a GPU's place: shows that everything works, and no figure of a GPU
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

/// The amounts and the device of one run.
#[derive(Clone)]
pub struct GpuBenchConfig {
    pub common: BenchConfig,
    pub device: DeviceKind,
    /// How often a ring kernel that has left is woken.
    pub wakes: u64,
    /// How long the device's power is measured.
    pub idle: Duration,
}

/// When ring kernels leave the device.
#[derive(Clone, Copy)]
pub enum ResidencyPolicy {
    /// As where nobody has said anything.
    Default,
    /// After so long without a message.
    IdleTimeout(Duration),
    /// They stay until they are terminated.
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
    /// How a thread that has a core to itself waits, and one that may not: the emulated device needs the cores too.
    pub fn wait(&self) -> WaitStrategy {
        match self.device {
            DeviceKind::Cuda => WaitStrategy::Spin,
            DeviceKind::Emulated => WaitStrategy::Adaptive,
        }
    }

    /// The GPU, for what is compared with ring kernels.
    ///
    /// # Errors
    ///
    /// When there is none.
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

/// A runtime on the device.
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
    /// When there is no such device, or no runtime.
    pub fn new(
        subject: &'static str,
        config: &'a GpuBenchConfig,
        stays: ResidencyPolicy,
    ) -> Result<Self, BenchError> {
        let options = RuntimeOptions::new().device(config.device(subject, stays)?);
        let runtime =
            Runtime::with_options(options).map_err(BenchError::subject(subject, "making a runtime"))?;
        Ok(Fixture { subject, config, runtime })
    }

    /// Launches and activates a ring kernel.
    ///
    /// # Errors
    ///
    /// What the runtime reports.
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

    /// Ends all ring kernels, so that none is on the device while the next subject is measured.
    ///
    /// # Errors
    ///
    /// When one does not end.
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

    /// With the compiler of `cargo xtask test --only cubins`, or another that is found; elsewhere it says that there is none.
    #[test]
    fn what_ring_kernels_are_compared_with_compiles() {
        let wheels = env::var_os("DOTCOMPUTE_TEST_WHEELS").map(PathBuf::from);
        let must_be_there = wheels.is_some();
        let search =
            wheels.map_or_else(Search::from_environment, |folder| Search::empty().site_packages(folder));
        let toolchain = match Toolchain::load(&search) {
            Err(error) if must_be_there => panic!("{error}"),
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
                assert!(code.contains(&format!(".text.{entry}\0")), "{entry} is not in it");
            }
        }
    }
}
