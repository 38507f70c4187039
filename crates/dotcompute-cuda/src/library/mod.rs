//! Locates and loads the libraries of NVIDIA's compiler.
//!
//! The search order is as follows; the first library that loads is used:
//!
//! 1. the file or folder that the program names: [`Search::at`];
//! 2. the file or folder that `DOTCOMPUTE_NVRTC` or `DOTCOMPUTE_NVJITLINK` names;
//! 3. a toolkit: `$CUDA_HOME/lib64` and `$CUDA_HOME/lib`, then the same below `$CUDA_PATH`;
//! 4. NVIDIA's wheels from PyPI, below the site-packages folders that the program names ([`Search::site_packages`]) and below those of
//!    `$VIRTUAL_ENV`;
//! 5. the search path of the system's loader (`LD_LIBRARY_PATH`, `ld.so.conf`), by name.
//!
//! At each location, the library of CUDA 13 is tried before that of CUDA 12. A named location (1 and 2) is exclusive: if the library is
//! missing there or does not load, that is an error, and no other location is tried.
//!
//! ```no_run
//! use dotcompute_cuda::library::Search;
//! use dotcompute_cuda::nvrtc::Nvrtc;
//!
//! let nvrtc = Nvrtc::load(&Search::from_environment())?;
//! println!("NVRTC {}", nvrtc.identity());
//! # Ok::<(), dotcompute_cuda::library::Unavailable>(())
//! ```

mod search;
mod shared_object;

use std::ffi::CStr;
use std::fmt;
use std::fs;
use std::path::PathBuf;

use dotcompute_core::environment;

pub use search::Search;
pub(crate) use search::load;
pub(crate) use shared_object::{SharedObject, functions};

/// A library of NVIDIA's compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// The runtime compiler for CUDA C++.
    Nvrtc,
    /// The linker, which also optimises across the linked parts.
    NvJitLink,
}

impl Component {
    /// Returns the environment variable that names the library's file or its folder.
    ///
    /// ```
    /// assert_eq!(dotcompute_cuda::library::Component::Nvrtc.variable(), "DOTCOMPUTE_NVRTC");
    /// ```
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Nvrtc => environment::NVRTC,
            Self::NvJitLink => environment::NVJITLINK,
        }
    }

    /// Returns the accepted file names, the preferred one first.
    const fn file_names(self) -> [&'static str; 2] {
        match self {
            Self::Nvrtc => ["libnvrtc.so.13", "libnvrtc.so.12"],
            Self::NvJitLink => ["libnvJitLink.so.13", "libnvJitLink.so.12"],
        }
    }

    /// Returns the name of the CUDA 13 wheel that contains the library.
    const fn wheel(self) -> &'static str {
        match self {
            Self::Nvrtc => "nvidia-cuda-nvrtc",
            Self::NvJitLink => "nvidia-nvjitlink",
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nvrtc => "NVRTC",
            Self::NvJitLink => "nvJitLink",
        })
    }
}

/// The version that a library reports.
///
/// ```
/// use dotcompute_cuda::library::Version;
///
/// assert!(Version { major: 12, minor: 9 } < Version { major: 13, minor: 0 });
/// assert_eq!(Version { major: 13, minor: 0 }.to_string(), "13.0");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// The toolkit's major version.
    pub major: u32,
    /// The toolkit's minor version.
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The identity of a loaded library.
///
/// The libraries report major and minor version, but not the build. The size of the file stands in for it, so that output of another build
/// is not taken for the output of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The reported version.
    pub version: Version,
    /// The path of its file, if the system's loader reports it.
    pub path: Option<PathBuf>,
    /// The size of its file in bytes; 0 if the path is not known.
    pub bytes: u64,
}

impl Identity {
    /// Determines the identity of an opened library from the file that `function` was loaded from.
    pub(crate) fn of(version: Version, object: &SharedObject, function: &CStr) -> Self {
        let path = object.path(function);
        let bytes = path.as_ref().and_then(|path| fs::metadata(path).ok()).map_or(0, |file| file.len());
        Self { version, path, bytes }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.path {
            Some(path) => write!(f, "{} ({})", self.version, path.display()),
            None => write!(f, "{}", self.version),
        }
    }
}

/// A location that was searched without success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchAttempt {
    /// The file, folder or library name.
    pub location: PathBuf,
    /// Why this location was searched: a variable, a wheel, the system's loader.
    pub origin: String,
    /// Why the library was not loaded from there.
    pub outcome: String,
}

/// The error of loading a library: the locations that were searched, and what to install or set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unavailable {
    /// The library.
    pub component: Component,
    /// The locations, in search order.
    pub attempts: Vec<SearchAttempt>,
    /// What to install or set.
    pub advice: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} could not be loaded:", self.component)?;
        for SearchAttempt { location, origin, outcome } in &self.attempts {
            write!(f, "\n  {} ({origin}): {outcome}", location.display())?;
        }
        if self.attempts.is_empty() {
            write!(f, "\n  there was no location to search")?;
        }
        write!(f, "\n{}", self.advice)
    }
}
