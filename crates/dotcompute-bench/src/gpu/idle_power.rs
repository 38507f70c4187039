//! Power draw of idle ring kernels.

use std::thread;
use std::time::{Duration, Instant};

use dotcompute::cuda::driver::Driver;
use dotcompute::prelude::*;
use nvml_wrapper::Nvml;

use super::fixture::{Fixture, GpuBenchConfig, ResidencyPolicy};
use crate::bench::{Bench, Subject};
use crate::error::BenchError;
use crate::measurement::Sample;
use crate::payload::Payload;

pub const BENCH: &str = "gpu_idle_power";

const ANSWER: &str = include_str!("../../device/answer.cu");

const EMPTY: &str = "none";
const ONE: &str = "1-resident";
const MANY: &str = "64-resident";
const OFF_DEVICE: &str = "64-away";

/// Interval between two readings; the device updates the value about as often.
const SAMPLING_INTERVAL: Duration = Duration::from_millis(50);

pub fn bench() -> Bench<GpuBenchConfig> {
    Bench {
        name: BENCH,
        unit: "W",
        about: "the board's power as NVML reports it, with the context open: no ring kernel; the given number, resident and polling; 64 \
                that have left the device after their idle timeout",
        samples_per_round: 1,
        subjects: vec![
            Subject::new(EMPTY, |config| power(EMPTY, config, 0, ResidencyPolicy::Always)),
            Subject::new(ONE, |config| power(ONE, config, 1, ResidencyPolicy::Always)),
            Subject::new(MANY, |config| power(MANY, config, 64, ResidencyPolicy::Always)),
            Subject::new(OFF_DEVICE, |config| {
                power(OFF_DEVICE, config, 64, ResidencyPolicy::IdleTimeout(Duration::from_millis(1)))
            }),
        ],
    }
}

/// Reads the power draw of the first device.
pub struct PowerMeter {
    nvml: Nvml,
    pci: String,
}

impl PowerMeter {
    /// Opens NVML and finds the device.
    ///
    /// # Errors
    ///
    /// The reason why the power cannot be read.
    pub fn new() -> Result<Self, String> {
        let device = Driver::open().and_then(|driver| driver.device(0)).map_err(|error| error.to_string())?;
        let nvml = Nvml::init().map_err(|error| format!("opening NVML: {error}"))?;
        let meter = Self { nvml, pci: device.pci };
        meter.watts()?;
        Ok(meter)
    }

    fn watts(&self) -> Result<f64, String> {
        let device = self.nvml.device_by_pci_bus_id(self.pci.as_str());
        let power = device.and_then(|device| device.power_usage());
        power
            .map(|milliwatts| f64::from(milliwatts) / 1e3)
            .map_err(|error| format!("reading the power of {}: {error}", self.pci))
    }
}

/// Measures the mean power draw with `kernels` idle ring kernels.
fn power(
    subject: &'static str,
    config: &GpuBenchConfig,
    kernels: usize,
    stays: ResidencyPolicy,
) -> Result<Sample, BenchError> {
    let meter = PowerMeter::new().map_err(BenchError::subject(subject, "reading the power"))?;
    let fixture = Fixture::new(subject, config, stays)?;
    for index in 0..kernels {
        let kernel = DeviceKernel::<Payload, Payload>::cuda_cpp("answer.cu", ANSWER).entry("answer");
        fixture.launch(&format!("answer-{index}"), kernel.shape(Shape::Block { threads: 1 }))?;
    }
    // NVML averages over up to a second, so earlier activity must have left the average.
    thread::sleep(config.idle);
    let deadline = Instant::now() + config.idle;
    let mut readings = Vec::new();
    while Instant::now() < deadline {
        readings.push(meter.watts().map_err(BenchError::subject(subject, "reading the power"))?);
        thread::sleep(SAMPLING_INTERVAL);
    }
    fixture.end()?;
    Ok(Sample::plain(readings.iter().sum::<f64>() / readings.len() as f64))
}
