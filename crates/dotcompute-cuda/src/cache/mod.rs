//! Compiled kernels on disk, so that a program that starts again does not compile again.
//!
//! An entry is found by a hash of everything that decides what comes out: names and texts of headers and sources, parts, options,
//! architecture, and which compiler and linker there are. It is one file, written beside its place and then renamed, so that no
//! other process ever sees half of it. It carries a checksum and is read with suspicion: an entry that is corrupt, cut off, of
//! another version of this crate, or not what its name says, is compiled again and replaced.
//!
//! The folder is `$DOTCOMPUTE_CACHE` if that is set, else `dotcompute` in the user's cache folder (`$XDG_CACHE_HOME` or `~/.cache`).
//! Without such a folder, or if it cannot be written to, everything works and nothing is kept; the [`Outcome`] says why.
//! Whoever may write to the folder decides what code runs on the device: it is to be the user's own.
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

use etcetera::BaseStrategy as _;
use tempfile::NamedTempFile;

use crate::compile::{CompileError, Input, Kernel, Toolchain};
use entry::Key;

/// A folder of compiled kernels. Any number of threads and processes may use the same one.
#[derive(Clone, Debug, Default)]
pub struct Cache {
    folder: Option<PathBuf>,
}

/// A kernel, and what the cache had to do with it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The kernel; it is the same wherever it came from.
    pub kernel: Kernel,
    /// Where it came from.
    pub origin: Origin,
    /// Why it was not kept, if it should have been: what could not be done, and what the system says.
    pub unsaved: Option<String>,
}

/// Where a kernel came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was in the cache.
    Cache,
    /// It was compiled: the cache had none.
    Compiler,
    /// It was compiled: what the cache had could not be trusted or read.
    Replaced {
        /// Why not.
        problem: String,
    },
}

impl Cache {
    /// The cache in `$DOTCOMPUTE_CACHE` or in the user's cache folder.
    pub fn from_environment() -> Self {
        Self::from_variable(env::var_os("DOTCOMPUTE_CACHE"))
    }

    fn from_variable(named: Option<OsString>) -> Self {
        let named = named.filter(|folder| !folder.is_empty()).map(PathBuf::from);
        let users_own = || Some(etcetera::choose_base_strategy().ok()?.cache_dir().join("dotcompute"));
        Self { folder: named.or_else(users_own) }
    }

    /// The cache in `folder`, which is created when there is something to keep.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: Some(folder.into()) }
    }

    /// No cache: everything is compiled, nothing is kept.
    pub fn none() -> Self {
        Self::default()
    }

    /// Where it is; none if there is none.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The kernel from the cache, or compiled and put into it.
    ///
    /// # Errors
    ///
    /// [`CompileError`], from compiling. The cache itself never fails.
    pub fn compile(&self, toolchain: &Toolchain, input: &Input) -> Result<Outcome, CompileError> {
        let Some(folder) = &self.folder else {
            let kernel = toolchain.compile(input)?;
            return Ok(Outcome { kernel, origin: Origin::Compiler, unsaved: None });
        };
        let key = Key::of(toolchain, input);
        let path = folder.join(key.file_name());
        let origin = match fs::read(&path) {
            Ok(bytes) => match entry::decode(&key, &bytes) {
                Ok(kernel) => return Ok(Outcome { kernel, origin: Origin::Cache, unsaved: None }),
                Err(problem) => Origin::Replaced { problem: format!("{}: {problem}", path.display()) },
            },
            Err(error) if error.kind() == ErrorKind::NotFound => Origin::Compiler,
            Err(error) => Origin::Replaced { problem: format!("reading {}: {error}", path.display()) },
        };
        let kernel = toolchain.compile(input)?;
        let saved = save(folder, &path, &entry::encode(&key, &kernel));
        let unsaved = saved.err().map(|error| format!("writing {}: {error}", path.display()));
        Ok(Outcome { kernel, origin, unsaved })
    }
}

/// Writes a file that is there as a whole or not at all, even if the machine stops meanwhile: a checksum tells the rest.
fn save(folder: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
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
        let named = Cache::from_variable(Some("/some/where".into()));
        assert_eq!(named.folder(), Some(Path::new("/some/where")));
        let default = Cache::from_variable(None);
        assert_ne!(default.folder(), Some(Path::new("")));
        assert_eq!(default.folder(), Cache::from_variable(Some("".into())).folder());
        assert!(default.folder().is_none_or(|folder| folder.ends_with("dotcompute")));
        assert_eq!(Cache::none().folder(), None);
    }

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_else_is_left() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("made/on/demand");
        let path = folder.join("entry");
        save(&folder, &path, b"one").unwrap();
        save(&folder, &path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    }
}
