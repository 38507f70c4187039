//! `dotcompute doctor`: checks what this machine offers to ring kernels and what is missing.

use std::io::{self, Write};
use std::path::Path;
use std::thread;

use clap::Args;
use dotcompute::cuda::compile::Toolchain;
use dotcompute::cuda::device_selection;
use dotcompute::cuda::driver::{Driver, DriverError};
use dotcompute::cuda::library::Search;
use sysinfo::System;

use crate::error::CliError;
use check::size;

mod check;
#[cfg(target_os = "linux")]
mod linux;

pub use check::{Check, Status};

/// Check what this machine offers to ring kernels and what is missing.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print the result as one JSON document.
    #[arg(long)]
    pub json: bool,
}

/// Runs the command.
///
/// # Errors
///
/// [`CliError`] if standard output cannot be written to.
pub fn run(args: &DoctorArgs) -> Result<(), CliError> {
    let checks = run_checks();
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

/// Runs all checks.
#[must_use]
pub fn run_checks() -> Vec<Check> {
    let mut checks = cpu();
    checks.extend(memory());
    checks.push(panics());
    #[cfg(target_os = "linux")]
    checks.extend(linux::checks());
    checks.extend(cuda());
    checks
}

fn cpu() -> Vec<Check> {
    let brand = System::new().ok().map(|mut system| {
        system.refresh_cpu_all();
        system.cpus().first().map_or_else(String::new, |cpu| cpu.brand().trim().to_owned())
    });
    let brand = brand.filter(|brand| !brand.is_empty());
    let cores = thread::available_parallelism();
    let found = match &cores {
        Ok(cores) => format!("{cores} usable"),
        Err(error) => format!("unknown: {error}"),
    };
    let several = cores.is_ok_and(|cores| cores.get() >= 2);
    vec![
        Check::new(
            "processor",
            brand.is_some(),
            brand.unwrap_or_else(|| String::from("not reported by the operating system")),
            "ring kernels of the cpu backend run on it",
        ),
        Check::new(
            "cores",
            several,
            found,
            "a spinning ring kernel needs a core of its own, and so does a spinning caller",
        )
        .with_advice("give this process two or more cores, or wait with `WaitStrategy::Park`"),
    ]
}

fn memory() -> Vec<Check> {
    let total = System::new().ok().map(|mut system| {
        system.refresh_memory();
        (system.total_memory(), system.available_memory())
    });
    let found = total.map_or_else(
        || String::from("unknown"),
        |(total, available)| format!("{}, {} available", size(total), size(available)),
    );
    vec![Check::new(
        "memory",
        total.is_some(),
        found,
        "mailboxes and output rings use it; capacity and message size decide how much",
    )]
}

/// How this program was built. A program that uses the crate has a profile of its own.
fn panics() -> Check {
    let unwinds = cfg!(panic = "unwind");
    Check::new(
        "panics",
        unwinds,
        if unwinds { "unwind in this program" } else { "abort this program" },
        "a panic that unwinds is supervised; with `panic = \"abort\"` it ends the process, and only errors are supervised",
    )
    .with_advice("remove `panic = \"abort\"` from the profile in Cargo.toml")
}

fn cuda() -> Vec<Check> {
    let mut checks = vec![driver()];
    checks.extend(hardware_queues());
    if cfg!(unix) {
        let devices = ["/dev/nvidiactl", "/dev/nvidia-uvm"];
        let absent: Vec<_> = devices.into_iter().filter(|path| !Path::new(path).exists()).collect();
        let found =
            if absent.is_empty() { devices.join(", ") } else { format!("no {}", absent.join(", no ")) };
        checks.push(
            Check::new("GPU device files", absent.is_empty(), found, "the driver library accesses the GPU through them")
                .with_advice("load the kernel modules (`nvidia-smi`, `nvidia-modprobe -u`) or pass the GPU to the container"),
        );
    }
    checks.extend([gpu_compiler(), host_compiler(), device()]);
    checks
}

fn driver() -> Check {
    let devices = Driver::open().and_then(|driver| Ok((driver.version(), driver.devices()?)));
    let meaning = "the cuda backend uses the GPU through it; without it ring kernels run on the CPU";
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
            Check::new("CUDA driver", false, missing, meaning).with_advice(advice)
        }
        Err(error) => Check::new("CUDA driver", false, error.to_string(), meaning),
    }
}

/// How many ring kernels may be resident on each GPU. None without a driver.
fn hardware_queues() -> Option<Check> {
    let queues = Driver::open().ok()?.hardware_queues();
    let meaning = "each ring kernel on a GPU takes one, and buffers, copies and one-shot kernels take a few";
    Some(
        Check::new("hardware queues", queues.count == 32, queues.to_string(), meaning)
            .with_advice(queues.advice()),
    )
}

fn gpu_compiler() -> Check {
    let meaning = "compiles handlers for the GPU; with nvJitLink it also links code from other front ends";
    match Toolchain::load(&Search::from_environment()) {
        Ok(toolchain) => {
            let linker = match toolchain.linker() {
                Ok(linker) => format!("nvJitLink {linker}"),
                Err(_) => String::from("no matching nvJitLink"),
            };
            Check::new("NVRTC", true, format!("{}; {linker}", toolchain.compiler()), meaning)
        }
        Err(error) => {
            Check::new("NVRTC", false, format!("not found in {} locations", error.attempts.len()), meaning)
                .with_advice(error.advice)
        }
    }
}

fn host_compiler() -> Check {
    let found = dotcompute::cuda::emulated::find_compiler();
    Check::new(
        "C++ compiler",
        found.is_some(),
        found.unwrap_or_else(|| String::from("none of $CXX, c++, g++, clang++")),
        "compiles handlers for the emulated device, which runs them on CPU threads",
    )
    .with_advice("install g++ or clang++, or name one in CXX")
}

fn device() -> Check {
    let meaning = "device that ring kernels run on; DOTCOMPUTE_DEVICE selects cuda, emulated or cpu";
    match device_selection::from_environment() {
        Ok(selection) => {
            Check::new("device", true, format!("{}: {}", selection.kind, selection.reason), meaning)
        }
        Err(error) => Check::new("device", false, error.to_string(), meaning)
            .with_advice("unset DOTCOMPUTE_DEVICE, or install what is missing"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_checks_have_advice() {
        for check in run_checks() {
            assert!(!check.found.is_empty() && !check.meaning.is_empty(), "{check:?}");
            assert!(check.status == Status::Missing || check.advice.is_none(), "{check:?}");
        }
        assert_eq!(Check::new("a", false, "b", "c").with_advice("d").advice.as_deref(), Some("d"));
    }
}
