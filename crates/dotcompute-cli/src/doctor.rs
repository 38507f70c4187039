//! `dotcompute doctor`: what this machine offers to ring kernels, and what is missing.

use std::io::{self, Write};
use std::path::Path;
use std::thread;

use clap::Args;
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
    pub advice: Option<&'static str>,
}

impl Check {
    fn new(name: &'static str, ok: bool, found: impl Into<String>, meaning: &'static str) -> Self {
        let status = if ok { Status::Ok } else { Status::Missing };
        Self { name, status, found: found.into(), meaning, advice: None }
    }

    /// What to do if it is missing.
    fn or(self, advice: &'static str) -> Self {
        let advice = (self.status == Status::Missing).then_some(advice);
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
        if let Some(advice) = check.advice {
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
    let names: &[&str] = if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };
    let library = names.iter().find(|name| {
        // SAFETY: opening a library runs its initialisers. This is NVIDIA's driver by its own well-known name, found
        // the way every CUDA program finds it; its initialisers need nothing of the process. Nothing in it is called.
        unsafe { libloading::Library::new(**name) }.is_ok()
    });
    let mut checks = vec![
        Check::new(
            "CUDA driver",
            library.is_some(),
            library.map_or_else(|| format!("{} cannot be loaded", names[0]), |name| (*name).to_owned()),
            "the cuda backend talks to the GPU through it; without it ring kernels run on the cpu",
        )
        .or("on a machine with an NVIDIA GPU, install its driver; in a container, start it with GPU support"),
    ];
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
    checks
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
        assert_eq!(Check::new("a", false, "b", "c").or("d").advice, Some("d"));
    }
}
