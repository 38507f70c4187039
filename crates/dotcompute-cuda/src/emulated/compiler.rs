//! Compiling a ring kernel with the host's C++ compiler.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use dotcompute_core::backend::device_port::DeviceProgram;
use libloading::Library;
use tempfile::TempDir;

use crate::compile::Source;
use crate::device_code::{HEADERS, host_sources};
use crate::protocol::Launch;

/// The environment variable with more flags for the compiler, such as `-fsanitize=thread`, separated by spaces.
pub const CXXFLAGS_ENV_VAR: &str = "DOTCOMPUTE_EMULATED_CXXFLAGS";

/// The environment variable with a folder to keep what was compiled in, for debuggers and sanitizers that look for it while it runs.
pub const KEEP_DIR_ENV_VAR: &str = "DOTCOMPUTE_EMULATED_KEEP";

/// Why a handler could not be compiled for the emulated device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompilerError {
    /// There is no compiler.
    #[error(
        "no C++ compiler: looked for {looked}; install one (g++ or clang++), or name it in the environment variable CXX"
    )]
    Missing {
        /// The names that were tried.
        looked: String,
    },
    /// The compiler refused the text.
    #[error("{compiler} refused ring kernel `{kernel}`:\n{log}")]
    Rejected {
        /// The compiler.
        compiler: String,
        /// The ring kernel.
        kernel: String,
        /// What it said, with the user's own files and lines.
        log: String,
    },
    /// The code is of a kind that cannot be compiled here.
    #[error("its code is no text; give CUDA C++")]
    NoText,
    /// What was compiled could not be loaded, or files could not be written.
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

/// Who a thread is: `EmulatedThread` in `device/emulated.cuh`.
#[repr(C)]
pub(super) struct Thread {
    pub(super) thread: u32,
    pub(super) threads: u32,
    pub(super) block: u32,
    pub(super) blocks: u32,
    pub(super) home: *const Home,
}

/// What the threads of a block share: `EmulatedBlock` in `device/emulated.cuh`.
#[repr(C)]
pub(super) struct Home {
    pub(super) arrived: AtomicU32,
    pub(super) round: AtomicU32,
    pub(super) shared: u64,
}

/// A ring kernel, compiled and loaded.
pub(super) struct Code {
    pub(super) run: unsafe extern "C" fn(*const Launch, *const Thread),
    /// Bytes of a block's shared memory.
    pub(super) block_bytes: usize,
    /// Last, since the function is in it.
    _library: Library,
}

/// Compiles a ring kernel, or finds the same text compiled before in this process.
pub(super) fn compile(kernel: &str, program: &DeviceProgram) -> Result<Arc<Code>, CompilerError> {
    type Known = Mutex<HashMap<String, Arc<Code>>>;
    static KNOWN: OnceLock<Known> = OnceLock::new();
    let text = text(&host_sources(program).ok_or(CompilerError::NoText)?);
    let flags = std::env::var(CXXFLAGS_ENV_VAR).unwrap_or_default();
    let key = format!("{flags}\n{text}");
    let known = KNOWN.get_or_init(Known::default);
    let find = || known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).map(Arc::clone);
    if let Some(code) = find() {
        return Ok(code);
    }
    // Not under the lock: several may compile at once, and of two that compile the same the later one is kept.
    let code = Arc::new(build(kernel, &text, &flags)?);
    known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, Arc::clone(&code));
    Ok(code)
}

fn text(sources: &[Source]) -> String {
    let mut text = String::new();
    sources.iter().for_each(|source| source.write(&mut text));
    text
}

fn build(kernel: &str, text: &str, flags: &str) -> Result<Code, CompilerError> {
    let folder = folder().map_err(|error| CompilerError::machine("making a folder", error))?;
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text)
            .map_err(|error| CompilerError::machine("writing what is to be compiled", error))
    };
    for (name, text) in HEADERS {
        write(name, text)?;
    }
    write("kernel.cpp", text)?;
    let library = folder.path().join("kernel.so");
    run_compiler(kernel, folder.path(), &library, flags)?;
    // The file may go once it is loaded.
    load(&library)
}

/// The names under which a compiler is looked for, the first that works first.
fn names() -> impl Iterator<Item = String> {
    std::env::var("CXX").into_iter().chain(["c++", "g++", "clang++"].map(String::from))
}

/// The host's C++ compiler, by the first line that it says of itself; none if there is none.
pub fn find_compiler() -> Option<String> {
    names().find_map(|name| {
        let said = Command::new(&name).arg("--version").output().ok().filter(|said| said.status.success())?;
        let said = String::from_utf8_lossy(&said.stdout);
        Some(format!("{name}: {}", said.lines().next().unwrap_or_default()))
    })
}

/// A folder for one ring kernel, which goes when it is dropped unless it is to be kept.
fn folder() -> std::io::Result<TempDir> {
    match std::env::var_os(KEEP_DIR_ENV_VAR) {
        None => tempfile::tempdir(),
        Some(kept) => tempfile::Builder::new().prefix("kernel-").disable_cleanup(true).tempdir_in(kept),
    }
}

fn run_compiler(kernel: &str, folder: &Path, output: &Path, flags: &str) -> Result<(), CompilerError> {
    let mut looked = Vec::new();
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
            // As the text says: whoever wants products fused with sums writes that.
            "-ffp-contract=off",
            "-DDOTCOMPUTE_EMULATED",
        ]);
        command.args(flags.split_whitespace()).arg("-I").arg(folder).arg("-o").arg(output);
        match command.arg(folder.join("kernel.cpp")).output() {
            Ok(made) if made.status.success() => return Ok(()),
            Ok(made) => {
                let log = String::from_utf8_lossy(&made.stderr).trim_end().to_owned();
                return Err(CompilerError::Rejected { compiler: name, kernel: kernel.to_owned(), log });
            }
            Err(_) => looked.push(name),
        }
    }
    Err(CompilerError::Missing { looked: looked.join(", ") })
}

fn load(path: &Path) -> Result<Code, CompilerError> {
    // The error itself says only that it failed; its source has the linker's reason.
    let wrong = |error: libloading::Error| {
        let reason = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
        CompilerError::machine("loading what was compiled", reason)
    };
    // SAFETY: the library was compiled from the framework's text and the user's. It has no initialisers but those that the user wrote;
    // what a device function of the user does when it runs is the user's to answer for, as on a GPU.
    let library = unsafe { Library::new(path) }.map_err(wrong)?;
    // SAFETY: `DC_RING_KERNEL` defines both functions with these types.
    let (run, block_bytes) = unsafe {
        let run = *library
            .get::<unsafe extern "C" fn(*const Launch, *const Thread)>(crate::device_code::KERNEL)
            .map_err(wrong)?;
        let block_bytes = library.get::<unsafe extern "C" fn() -> usize>("dc_block_bytes").map_err(wrong)?;
        (run, block_bytes())
    };
    Ok(Code { run, block_bytes, _library: library })
}
