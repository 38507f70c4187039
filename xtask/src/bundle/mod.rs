//! A folder with the tests and benchmarks of the CUDA backend and of the Python package, for a machine with a GPU but without Rust and
//! network access.
//!
//! `run.sh` in it runs everything. It can be copied anywhere; nothing in it refers to this workspace.

mod program;
mod python;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::command::{Failure, Invocation};
use crate::workspace::Workspace;

use program::{Program, add_program};

/// The script that runs the bundle.
const SCRIPT: &str = include_str!("run.sh");

/// Tests of `dotcompute-cuda` that do not depend on a GPU: they use the fake driver or the emulated device.
const WITHOUT_A_GPU: [&str; 2] = ["driver", "emulated"];

/// Size limit of the bundle.
const MAX_BYTES: u64 = 60 << 20;

/// Builds the programs with the profile `dist`, strips them, and puts them into `target/gpu-bundle`, with the script. Returns that folder.
///
/// # Errors
///
/// When something cannot be built or copied, or the bundle is too large.
pub fn make(workspace: &Workspace) -> Result<PathBuf, Failure> {
    let folder = workspace.target_dir().join("gpu-bundle");
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(Failure::io(format!("clearing {}", folder.display())))?;
    }
    let mut programs = Vec::new();
    for (place, build) in builds(workspace)? {
        let place = folder.join(place);
        fs::create_dir_all(&place).map_err(Failure::io(format!("creating {}", place.display())))?;
        for (name, program) in workspace.build_executables(&build)? {
            programs.push(add_program(workspace, &program, &place.join(name))?);
        }
    }
    programs.push(python::add_package(workspace, &folder)?);
    write_about(workspace, &folder, &programs)?;
    write_script(&folder.join("run.sh"))?;
    let bytes = bytes_in(&folder)?;
    if bytes > MAX_BYTES {
        return Err(Failure::TooLarge { folder, bytes, max: MAX_BYTES });
    }
    println!(
        "{}: {} programs, {:.1} MiB",
        folder.display(),
        programs.len(),
        bytes as f64 / f64::from(1 << 20)
    );
    Ok(folder)
}

/// Total size of the files in a folder and below.
fn bytes_in(folder: &Path) -> Result<u64, Failure> {
    let reading = || Failure::io(format!("reading {}", folder.display()));
    let mut bytes = 0;
    for entry in fs::read_dir(folder).map_err(reading())? {
        let entry = entry.map_err(reading())?;
        let about = entry.metadata().map_err(reading())?;
        bytes += if about.is_dir() { bytes_in(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}

/// The builds, and the folder for each.
fn builds(workspace: &Workspace) -> Result<Vec<(&'static str, Invocation)>, Failure> {
    let mut tests =
        Invocation::cargo(["test", "--profile", "dist", "--no-run", "--package", "dotcompute-cuda"]);
    for name in workspace.targets("dotcompute-cuda", "test")? {
        if !WITHOUT_A_GPU.contains(&name.as_str()) {
            tests = tests.arg("--test").arg(name);
        }
    }
    let programs = Invocation::cargo(["build", "--profile", "dist", "--bins"]).args([
        "--package",
        "dotcompute-bench",
        "--package",
        "dotcompute-cli",
    ]);
    let examples = ["--example", "device", "--example", "memory"];
    let examples =
        Invocation::cargo(["build", "--profile", "dist", "--package", "dotcompute"]).args(examples);
    Ok(vec![("tests", tests), ("bin", programs), ("examples", examples)])
}

/// Writes the commit and the required glibc to `bundle.txt`, which the script prints.
fn write_about(workspace: &Workspace, folder: &Path, programs: &[Program]) -> Result<(), Failure> {
    let commit = Invocation::new("git").args(["describe", "--always", "--dirty"]).capture(workspace);
    let commit = commit.unwrap_or_else(|_| String::from("unknown"));
    let newest = programs.iter().map(|program| program.glibc).max().unwrap_or_default();
    let about = format!("bundle: commit {}, needs glibc {newest} or newer\n", commit.trim_end());
    print!("{about}");
    for Program { name, bytes, glibc } in programs {
        println!("  {name}: {:.1} MiB, glibc {glibc}", *bytes as f64 / f64::from(1 << 20));
    }
    let file = folder.join("bundle.txt");
    fs::write(&file, about).map_err(Failure::io(format!("writing {}", file.display())))
}

fn write_script(file: &Path) -> Result<(), Failure> {
    let writing = || Failure::io(format!("writing {}", file.display()));
    fs::write(file, SCRIPT).map_err(writing())?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755)).map_err(writing())
}

#[cfg(test)]
mod tests;
