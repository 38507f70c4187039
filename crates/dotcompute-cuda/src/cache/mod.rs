//! On-disk cache of compiled kernels, so that a restarted program does not compile again.
//!
//! The key of an entry is a hash of everything that determines the output: names and texts of headers and sources, parts, options,
//! architecture, and the identities of compiler and linker. An entry is one file, written to a temporary file and then renamed, so no
//! process sees a partial entry. Each entry carries a checksum. An entry that is corrupt, truncated, of another version of this crate, or
//! under another key is compiled again and replaced.
//!
//! The folder is `$DOTCOMPUTE_CACHE` if that is set, else `dotcompute` in the user's cache folder (`$XDG_CACHE_HOME` or `~/.cache`). If
//! there is no such folder, or it is not writable, kernels are compiled and not stored; [`CachedCompilation::store_error`] has the reason.
//! Any process with write access to the folder can replace the code that runs on the device: only the user should have it.
//!
//! ```no_run
//! use dotcompute_cuda::Architecture;
//! use dotcompute_cuda::cache::Cache;
//! use dotcompute_cuda::compile::{Input, Source, Toolchain};
//! use dotcompute_cuda::library::Search;
//!
//! let toolchain = Toolchain::load(&Search::from_environment())?;
//! let input = Input::new("nothing", Architecture { major: 9, minor: 0 })
//!     .source(Source::new("nothing.cu", "extern \"C\" __global__ void nothing() {}"));
//! let outcome = Cache::from_environment().compile(&toolchain, &input)?;
//! println!("{:?}: {} bytes", outcome.origin, outcome.kernel.cubin.as_bytes().len());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod entry;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use dotcompute_core::environment;
use etcetera::BaseStrategy as _;
use tempfile::NamedTempFile;

use crate::compile::{CompileError, CompiledKernel, Input, Toolchain};
use entry::Key;

/// A folder of compiled kernels. Threads and processes may share it.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
}

/// A compiled kernel, its origin, and the error of storing it if there was one.
#[derive(Clone, Debug)]
pub struct CachedCompilation {
    /// The kernel. It does not depend on `origin`.
    pub kernel: CompiledKernel,
    /// Where the kernel came from.
    pub origin: Origin,
    /// Why the kernel could not be stored: the operation and the error of the operating system.
    pub store_error: Option<String>,
}

/// The origin of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A valid cache entry.
    Cache,
    /// The compiler: the cache had no entry.
    Compiler,
    /// The compiler: the cache entry was invalid or could not be read.
    Replaced {
        /// Why the entry was not used.
        problem: String,
    },
}

impl Cache {
    /// Opens the cache in `$DOTCOMPUTE_CACHE` or in the user's cache folder.
    pub fn from_environment() -> Self {
        Self::from_variable(env::var_os(environment::CACHE))
    }

    fn from_variable(from_env: Option<OsString>) -> Self {
        let from_env = from_env.filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let user_cache = || Some(etcetera::choose_base_strategy().ok()?.cache_dir().join("dotcompute"));
        Self { folder: from_env.or_else(user_cache) }
    }

    /// Opens the cache in `folder`. The folder is created when the first kernel is stored.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()) }
    }

    /// Creates a disabled cache: every kernel is compiled, none is stored.
    pub fn none() -> Self {
        Self::default()
    }

    /// Returns the folder, or `None` if the cache is disabled.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Returns the kernel from the cache, or compiles and stores it.
    ///
    /// # Errors
    ///
    /// [`CompileError`] of the compilation. Errors of the cache itself are reported in the result.
    pub fn compile(&self, toolchain: &Toolchain, input: &Input) -> Result<CachedCompilation, CompileError> {
        let Some(folder) = &self.folder else {
            let kernel = toolchain.compile(input)?;
            return Ok(CachedCompilation { kernel, origin: Origin::Compiler, store_error: None });
        };
        let key = Key::of(toolchain, input);
        let path = folder.join(key.file_name());
        let origin = match fs::read(&path) {
            Ok(bytes) => match entry::decode(&key, &bytes) {
                Ok(kernel) => {
                    return Ok(CachedCompilation { kernel, origin: Origin::Cache, store_error: None });
                }
                Err(problem) => Origin::Replaced { problem: format!("{}: {problem}", path.display()) },
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Origin::Compiler,
            Err(error) => Origin::Replaced { problem: format!("reading {}: {error}", path.display()) },
        };
        let kernel = toolchain.compile(input)?;
        let stored = store(folder, &path, &entry::encode(&key, &kernel));
        let store_error = stored.err().map(|error| format!("writing {}: {error}", path.display()));
        Ok(CachedCompilation { kernel, origin, store_error })
    }
}

/// Writes a file atomically. After a power failure the file may be incomplete; the checksum detects that.
fn store(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(path).map(drop).map_err(|error| error.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_names_the_folder_and_an_empty_one_does_not() {
        let from_env = Cache::from_variable(Some("/some/where".into()));
        assert_eq!(from_env.folder(), Some(Path::new("/some/where")));
        let default = Cache::from_variable(None);
        assert_ne!(default.folder(), Some(Path::new("")));
        assert_eq!(default.folder(), Cache::from_variable(Some("".into())).folder());
        assert!(default.folder().is_none_or(|folder| folder.ends_with("dotcompute")));
        assert_eq!(Cache::none().folder(), None);
    }

    #[test]
    fn a_file_is_replaced_atomically_and_no_temporary_file_remains() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("made/on/demand");
        let path = folder.join("entry");
        store(&folder, &path, b"one").unwrap();
        store(&folder, &path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
