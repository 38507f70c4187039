//! pydotcompute in the bundle: its wheel, pytest, the tests, the benchmarks.
//!
//! NumPy, msgpack, Numba and CuPy are not included: their wheels are large and for one version of Python each. A machine with a GPU
//! usually has them beside PyTorch; otherwise the tests that need them are skipped.

use std::fs;
use std::path::Path;

use super::program::{Glibc, Program, required_glibc};
use crate::command::{Failure, Invocation};
use crate::python;
use crate::virtual_environment::Environment;
use crate::workspace::Workspace;

/// pytest and its plugins; pure Python, so for any version.
const TOOLS: [&str; 3] = ["pytest>=8.4", "pytest-asyncio>=1.2", "pytest-timeout>=2.4"];

/// Files and folders that are copied unchanged; the tests read their settings from `pyproject.toml`.
const SOURCES: [&str; 4] = ["pyproject.toml", "tests", "benchmarks", "examples"];

/// Copies everything into `folder/python` and returns the extension as one of the bundle's programs.
///
/// # Errors
///
/// When the wheel cannot be built, the tools cannot be downloaded, or a file cannot be copied.
pub fn add_package(workspace: &Workspace, folder: &Path) -> Result<Program, Failure> {
    let python = folder.join("python");
    let wheels = python.join("wheels");
    fs::create_dir_all(&wheels).map_err(Failure::io(format!("creating {}", wheels.display())))?;
    let wheel = python::build_wheel(workspace)?;
    copy(&wheel, &wheels.join(wheel.file_name().unwrap_or_default()))?;
    let download =
        ["download", "--quiet", "--only-binary=:all:", "--implementation=py", "--abi=none", "--platform=any"];
    let pip = Environment::developers(workspace)?.program("python").args(["-m", "pip"]);
    pip.args(download).args(TOOLS).arg("--dest").arg(&wheels).run(workspace)?;
    for file in tracked(workspace)? {
        copy(&workspace.root().join(&file), &python.join(&file))?;
    }
    Ok(Program { name: "pydotcompute".into(), bytes: size(&wheel)?, glibc: extensions_glibc(workspace)? })
}

/// The tracked files of [`SOURCES`], without caches.
fn tracked(workspace: &Workspace) -> Result<Vec<String>, Failure> {
    let listed = Invocation::new("git").args(["ls-files", "--"]).args(SOURCES).capture(workspace)?;
    Ok(listed.lines().map(str::to_owned).collect())
}

/// The glibc that the extension needs. Installing the package leaves the extension in the source tree.
fn extensions_glibc(workspace: &Workspace) -> Result<Glibc, Failure> {
    let extension = workspace.root().join("pydotcompute/_core.abi3.so");
    let symbols = Invocation::new("objdump").arg("-T").arg(extension).capture(workspace)?;
    Ok(required_glibc(&symbols))
}

fn copy(from: &Path, to: &Path) -> Result<(), Failure> {
    let copying = || Failure::io(format!("copying {} to {}", from.display(), to.display()));
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(copying())?;
    }
    fs::copy(from, to).map_err(copying())?;
    Ok(())
}

fn size(file: &Path) -> Result<u64, Failure> {
    Ok(fs::metadata(file).map_err(Failure::io(format!("looking at {}", file.display())))?.len())
}
