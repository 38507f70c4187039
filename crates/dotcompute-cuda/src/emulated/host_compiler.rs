//! Compilation of a ring kernel with the host's C++ compiler.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use dotcompute_core::backend::device_port::DeviceProgram;
use dotcompute_core::environment;
use libloading::Library;
use tempfile::TempDir;

use crate::compile::Source;
use crate::device_code::{HEADERS, host_sources};
use crate::protocol::Launch;

/// Environment variable with additional compiler flags, such as `-fsanitize=thread`, separated by spaces.
pub const CXXFLAGS_ENV_VAR: &str = environment::EMULATED_CXXFLAGS;

/// Environment variable with a seed: stores of the device become visible late, and its fences take long, at random.
pub const STRETCH_ENV_VAR: &str = environment::EMULATED_STRETCH;

/// Environment variable with a directory that stores compiled files, for debuggers and sanitizers that read them at run time.
pub const KEEP_DIR_ENV_VAR: &str = environment::EMULATED_KEEP;

/// Why a handler could not be compiled for the emulated device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompilerError {
    /// No compiler was found.
    #[error(
        "no C++ compiler: tried {looked}; install one (g++ or clang++), or name it in the environment variable CXX"
    )]
    Missing {
        /// The names that were tried.
        looked: String,
    },
    /// The compiler reported errors.
    #[error("{compiler} could not compile ring kernel `{kernel}`:\n{log}")]
    Rejected {
        /// The compiler.
        compiler: String,
        /// The ring kernel.
        kernel: String,
        /// The compiler's output, with the user's own files and lines.
        log: String,
    },
    /// The handler is not given as text.
    #[error("the handler's code is not text; pass CUDA C++")]
    NoText,
    /// The seed of the environment variable is not a number.
    #[error(
        "{STRETCH_ENV_VAR} is `{value}`, which is not a seed; set it to a number from 0 to 18446744073709551615, or unset it"
    )]
    Seed {
        /// The value of the variable.
        value: String,
    },
    /// The compiled library could not be loaded, or files could not be written.
    #[error("{doing}: {problem}")]
    Machine {
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        problem: String,
    },
}

impl CompilerError {
    fn machine(doing: &'static str, problem: impl ToString) -> Self {
        Self::Machine { doing, problem: problem.to_string() }
    }
}

/// The coordinates of a device thread: `EmulatedThread` in `device/emulated.cuh`.
#[repr(C)]
pub(super) struct DeviceThread {
    pub(super) thread: u32,
    pub(super) threads: u32,
    pub(super) block: u32,
    pub(super) blocks: u32,
    pub(super) block_state: *const BlockShared,
}

/// The barrier and the shared memory of a block: `EmulatedBlock` in `device/emulated.cuh`.
#[repr(C)]
pub(super) struct BlockShared {
    pub(super) arrived: AtomicU32,
    pub(super) round: AtomicU32,
    pub(super) shared: u64,
}

/// A ring kernel, compiled for the host and loaded.
pub(super) struct HostKernel {
    pub(super) run: unsafe extern "C" fn(*const Launch, *const DeviceThread),
    /// Bytes of a block's shared memory.
    pub(super) block_bytes: usize,
    /// The library that contains `run`. Declared last, so that it is unloaded last.
    _library: Library,
}

/// Compiles a ring kernel, or returns the one that this process compiled before from the same text and flags. With `stretch_seed`, or the seed
/// of [`STRETCH_ENV_VAR`], its stores are delayed and its fences stretched.
pub(super) fn compile(
    name: &str,
    program: &DeviceProgram,
    stretch_seed: Option<u64>,
) -> Result<Arc<HostKernel>, CompilerError> {
    type LoadedKernels = Mutex<HashMap<String, Arc<HostKernel>>>;
    static LOADED: OnceLock<LoadedKernels> = OnceLock::new();
    let text = text(&host_sources(program).ok_or(CompilerError::NoText)?);
    let mut flags = std::env::var(CXXFLAGS_ENV_VAR).unwrap_or_default();
    if let Some(seed) = stretch_seed.map_or_else(seed_from_environment, |seed| Ok(Some(seed)))? {
        flags.push_str(&format!(" -DDOTCOMPUTE_STRETCHED={seed}ull"));
    }
    let key = format!("{flags}\n{text}");
    let loaded = LOADED.get_or_init(LoadedKernels::default);
    let find = || loaded.lock().unwrap_or_else(PoisonError::into_inner).get(&key).map(Arc::clone);
    if let Some(kernel) = find() {
        return Ok(kernel);
    }
    // The lock is not held during compilation, so that different kernels compile in parallel. If two threads compile the same text, the
    // later result replaces the earlier one.
    let kernel = Arc::new(build(name, &text, &flags)?);
    loaded.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&kernel));
    Ok(kernel)
}

fn seed_from_environment() -> Result<Option<u64>, CompilerError> {
    let Ok(value) = std::env::var(STRETCH_ENV_VAR) else { return Ok(None) };
    value.parse().map(Some).map_err(|_| CompilerError::Seed { value })
}

fn text(sources: &[Source]) -> String {
    let mut text = String::new();
    sources.iter().for_each(|source| source.write(&mut text));
    text
}

fn build(name: &str, text: &str, flags: &str) -> Result<HostKernel, CompilerError> {
    let folder = folder().map_err(|error| CompilerError::machine("creating a directory", error))?;
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text)
            .map_err(|error| CompilerError::machine("writing the source files", error))
    };
    for (name, text) in HEADERS {
        write(name, text)?;
    }
    write("kernel.cpp", text)?;
    let library = folder.path().join("kernel.so");
    run_compiler(name, folder.path(), &library, flags)?;
    // The file may be deleted once it is loaded.
    load(&library)
}

/// Returns the names under which a compiler is tried, in order.
fn names() -> impl Iterator<Item = String> {
    std::env::var(environment::CXX).into_iter().chain(["c++", "g++", "clang++"].map(String::from))
}

/// Returns the name of the host's C++ compiler and the first line of its version text, or `None` if there is no compiler.
pub fn find_compiler() -> Option<String> {
    names().find_map(|name| {
        let output = Command::new(&name).arg("--version").output().ok();
        let output = output.filter(|output| output.status.success())?;
        let version = String::from_utf8_lossy(&output.stdout);
        Some(format!("{name}: {}", version.lines().next().unwrap_or_default()))
    })
}

/// Creates a directory for one ring kernel. It is deleted on drop, unless [`KEEP_DIR_ENV_VAR`] is set.
fn folder() -> std::io::Result<TempDir> {
    match std::env::var_os(KEEP_DIR_ENV_VAR) {
        None => tempfile::tempdir(),
        Some(keep_dir) => {
            tempfile::Builder::new().prefix("kernel-").disable_cleanup(true).tempdir_in(keep_dir)
        }
    }
}

fn run_compiler(kernel: &str, folder: &Path, output: &Path, flags: &str) -> Result<(), CompilerError> {
    let mut tried = Vec::new();
    for name in names() {
        let mut command = Command::new(&name);
        command.args([
            "-std=c++17",
            "-O2",
            "-g1",
            "-fPIC",
            "-shared",
            "-Wall",
            "-Wextra",
            // Products are fused with sums only where the source text says so.
            "-ffp-contract=off",
            "-DDOTCOMPUTE_EMULATED",
        ]);
        command.args(flags.split_whitespace()).arg("-I").arg(folder).arg("-o").arg(output);
        match command.arg(folder.join("kernel.cpp")).output() {
            Ok(result) if result.status.success() => return Ok(()),
            Ok(result) => {
                let log = String::from_utf8_lossy(&result.stderr).trim_end().to_owned();
                return Err(CompilerError::Rejected { compiler: name, kernel: kernel.to_owned(), log });
            }
            Err(_) => tried.push(name),
        }
    }
    Err(CompilerError::Missing { looked: tried.join(", ") })
}

fn load(path: &Path) -> Result<HostKernel, CompilerError> {
    // The error itself says only that loading failed; its source has the dynamic linker's reason.
    let failed = |error: libloading::Error| {
        let reason = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
        CompilerError::machine("loading the compiled library", reason)
    };
    // SAFETY: the library was compiled from the framework's text and the user's. Its only initializers are those that the user wrote. As
    // on a GPU, the author of a device function is responsible for what it does.
    let library = unsafe { Library::new(path) }.map_err(failed)?;
    // SAFETY: `DC_RING_KERNEL` defines both functions with these types.
    let (run, block_bytes) = unsafe {
        let run = *library
            .get::<unsafe extern "C" fn(*const Launch, *const DeviceThread)>(crate::device_code::KERNEL)
            .map_err(failed)?;
        let block_bytes = library.get::<unsafe extern "C" fn() -> usize>("dc_block_bytes").map_err(failed)?;
        (run, block_bytes())
    };
    Ok(HostKernel { run, block_bytes, _library: library })
}
