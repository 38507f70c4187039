//! `dotcompute doctor`: what this machine offers to ring kernels, and what is missing.

use std::io::{self, Write};
use std::path::Path;
use std::thread;

use clap::Args;
use dotcompute::cuda::compile::Toolchain;
use dotcompute::cuda::device_selection;
use dotcompute::cuda::driver::{Driver, DriverError};
use dotcompute::cuda::library::Search;
use serde::Serialize;
use sysinfo::System;

use crate::error::CliError;

/// Says what this machine offers and what is missing.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print the result as one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Whether something is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is there.
    Ok,
    /// It is not there, or too small.
    Missing,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// Whether it is there.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What it means for ring kernels.
    pub meaning: &'static str,
    /// What to do where it is missing.
    pub advice: Option<String>,
}

impl Check {
    fn new(name: &'static str, ok: bool, found: impl Into<String>, meaning: &'static str) -> Self {
        let status = if ok { Status::Ok } else { Status::Missing };
        Self { name, status, found: found.into(), meaning, advice: None }
    }

    /// What to do if it is missing.
    fn or(self, advice: impl Into<String>) -> Self {
        let advice = (self.status == Status::Missing).then(|| advice.into());
        Self { advice, ..self }
    }
}

/// Runs the command.
///
/// # Errors
///
/// [`CliError`] if standard output cannot be written to.
pub fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let checks = examine();
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{:#}", serde_json::json!({ "checks": checks }))?;
        return Ok(());
    }
    for check in &checks {
        let status = match check.status {
            Status::Ok => "ok     ",
            Status::Missing => "missing",
        };
        writeln!(out, "{status}  {:<18} {}", check.name, check.found)?;
        writeln!(out, "{:28}{}", "", check.meaning)?;
        if let Some(advice) = &check.advice {
            writeln!(out, "{:28}→ {advice}", "")?;
        }
    }
    Ok(())
}

/// Looks at everything.
#[must_use]
pub fn examine() -> Vec<Check> {
    let mut checks = processor();
    checks.extend(memory());
    #[cfg(target_os = "linux")]
    checks.extend(linux::checks());
    checks.extend(cuda());
    checks
}

fn processor() -> Vec<Check> {
    let brand = System::new().ok().map(|mut system| {
        system.refresh_cpu_all();
        system.cpus().first().map_or_else(String::new, |cpu| cpu.brand().trim().to_owned())
    });
    let brand = brand.filter(|brand| !brand.is_empty());
    let cores = thread::available_parallelism();
    let found = match &cores {
        Ok(cores) => format!("{cores} usable"),
        Err(error) => format!("cannot be told: {error}"),
    };
    let several = cores.is_ok_and(|cores| cores.get() >= 2);
    vec![
        Check::new(
            "processor",
            brand.is_some(),
            brand.unwrap_or_else(|| String::from("the operating system does not name it")),
            "where ring kernels of the cpu backend run",
        ),
        Check::new(
            "cores",
            several,
            found,
            "a ring kernel that spins needs one to itself, and so does who asks it",
        )
        .or("give this process two cores or more, or wait with `WaitStrategy::Park`"),
    ]
}

fn memory() -> Vec<Check> {
    let total = System::new().ok().map(|mut system| {
        system.refresh_memory();
        (system.total_memory(), system.available_memory())
    });
    let found = total.map_or_else(
        || String::from("cannot be told"),
        |(total, available)| format!("{}, {} available", size(total), size(available)),
    );
    vec![Check::new("memory", total.is_some(), found, "an idle ring kernel takes a few kilobytes of it")]
}

fn cuda() -> Vec<Check> {
    let mut checks = vec![driver()];
    if cfg!(unix) {
        let devices = ["/dev/nvidiactl", "/dev/nvidia-uvm"];
        let absent: Vec<_> = devices.into_iter().filter(|path| !Path::new(path).exists()).collect();
        let found =
            if absent.is_empty() { devices.join(", ") } else { format!("no {}", absent.join(", no ")) };
        checks.push(
            Check::new("GPU device files", absent.is_empty(), found, "the driver library reaches the GPU by them")
                .or("load the kernel modules (`nvidia-smi`, `nvidia-modprobe -u`) or pass the GPU to the container"),
        );
    }
    checks.extend([gpu_compiler(), host_compiler(), device()]);
    checks
}

fn driver() -> Check {
    let devices = Driver::open().and_then(|driver| Ok((driver.version(), driver.devices()?)));
    let meaning = "the cuda backend talks to the GPU through it; without it ring kernels run on the cpu";
    match devices {
        Ok((version, devices)) => {
            let names: Vec<_> = devices
                .iter()
                .map(|device| {
                    format!(
                        "{} ({}, {} multiprocessors)",
                        device.name, device.architecture, device.multiprocessors
                    )
                })
                .collect();
            Check::new("CUDA driver", true, format!("for CUDA {version}: {}", names.join(", ")), meaning)
        }
        Err(DriverError::Unavailable { missing, advice }) => {
            Check::new("CUDA driver", false, missing, meaning).or(advice)
        }
        Err(error) => Check::new("CUDA driver", false, error.to_string(), meaning),
    }
}

fn gpu_compiler() -> Check {
    let meaning = "compiles handlers for the GPU; with nvJitLink it also links what other front ends compile";
    match Toolchain::load(&Search::from_environment()) {
        Ok(toolchain) => {
            let linker = match toolchain.linker() {
                Ok(linker) => format!("nvJitLink {linker}"),
                Err(_) => String::from("no nvJitLink that suits it"),
            };
            Check::new("NVRTC", true, format!("{}; {linker}", toolchain.compiler()), meaning)
        }
        Err(error) => {
            Check::new("NVRTC", false, format!("in none of {} places", error.attempts.len()), meaning)
                .or(error.advice)
        }
    }
}

fn host_compiler() -> Check {
    let found = dotcompute::cuda::emulated::find_compiler();
    Check::new(
        "C++ compiler",
        found.is_some(),
        found.unwrap_or_else(|| String::from("none of $CXX, c++, g++, clang++")),
        "compiles handlers for the emulated device, which runs them on threads",
    )
    .or("install g++ or clang++, or name one in CXX")
}

fn device() -> Check {
    let meaning = "where ring kernels for a device run; DOTCOMPUTE_DEVICE chooses: cuda, emulated or cpu";
    match device_selection::from_environment() {
        Ok(chosen) => Check::new("device", true, format!("{}: {}", chosen.kind, chosen.reason), meaning),
        Err(error) => Check::new("device", false, error.to_string(), meaning)
            .or("leave DOTCOMPUTE_DEVICE away, or install what is missing"),
    }
}

/// `1.5 GB`, in powers of ten.
fn size(bytes: u64) -> String {
    let mut amount = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if amount < 1000.0 {
            return format!("{amount:.1} {unit}");
        }
        amount /= 1000.0;
    }
    format!("{amount:.1} TB")
}

#[cfg(target_os = "linux")]
mod linux;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(size(999), "999.0 B");
        assert_eq!(size(64_000_000), "64.0 MB");
        assert_eq!(size(2_500_000_000_000), "2.5 TB");
    }

    #[test]
    fn what_is_missing_comes_with_advice_and_what_is_there_without() {
        for check in examine() {
            assert!(!check.found.is_empty() && !check.meaning.is_empty(), "{check:?}");
            assert!(check.status == Status::Missing || check.advice.is_none(), "{check:?}");
        }
        assert_eq!(Check::new("a", false, "b", "c").or("d").advice.as_deref(), Some("d"));
    }
}
