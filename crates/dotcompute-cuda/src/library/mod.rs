//! Finding and loading the libraries of NVIDIA's compiler.
//!
//! They are looked for in this order, and the first that works is taken:
//!
//! 1. the file or folder that the program names: [`Search::at`];
//! 2. the file or folder that `DOTCOMPUTE_NVRTC` or `DOTCOMPUTE_NVJITLINK` names;
//! 3. `$CUDA_HOME/lib64`, then `$CUDA_PATH/lib64`, and `lib` beside either: a toolkit;
//! 4. the folders of NVIDIA's wheels from PyPI, below the site-packages folders that the program names
//!    ([`Search::site_packages`]) and below that of `$VIRTUAL_ENV`;
//! 5. wherever the system's loader looks (`LD_LIBRARY_PATH`, `ld.so.conf`), by name.
//!
//! In each place, that of CUDA 13 is tried before that of CUDA 12. A place that is named (1 and 2) is the only place: a library that is
//! missing there, or does not load, is an error and never silently replaced by another.
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

pub use search::Search;
pub(crate) use search::load;
pub(crate) use shared_object::{SharedObject, functions};

/// A library of NVIDIA's compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// Compiles CUDA C++ text.
    Nvrtc,
    /// Links what was compiled, and optimises across the parts.
    NvJitLink,
}

impl Component {
    /// The environment variable that names its file, or the folder that it is in.
    ///
    /// ```
    /// assert_eq!(dotcompute_cuda::library::Component::Nvrtc.variable(), "DOTCOMPUTE_NVRTC");
    /// ```
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Nvrtc => "DOTCOMPUTE_NVRTC",
            Self::NvJitLink => "DOTCOMPUTE_NVJITLINK",
        }
    }

    /// What its file may be called, the preferred name first.
    const fn file_names(self) -> [&'static str; 2] {
        match self {
            Self::Nvrtc => ["libnvrtc.so.13", "libnvrtc.so.12"],
            Self::NvJitLink => ["libnvJitLink.so.13", "libnvJitLink.so.12"],
        }
    }

    /// The wheel of CUDA 13 that has it.
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

/// The version of a library: what it says of itself.
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

/// Which library it is that was loaded.
///
/// The libraries tell major and minor version, but not which build it is; so the size of the file stands beside it. What was compiled by
/// another build is then not taken for this one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The version that it tells.
    pub version: Version,
    /// Its file, where the system's loader knows it.
    pub path: Option<PathBuf>,
    /// Bytes of its file; 0 where the file is not known.
    pub bytes: u64,
}

impl Identity {
    /// That of an opened library, by the file that one of its functions came from.
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

/// A place where a library was looked for, and why it was not taken from there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchAttempt {
    /// The file, folder or name.
    pub place: PathBuf,
    /// Why this place: a variable, a wheel, the system's loader.
    pub because: String,
    /// What was wrong with it.
    pub outcome: String,
}

/// A library that is not to be had on this machine: where was looked, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Unavailable {
    /// Which.
    pub component: Component,
    /// Where was looked, in that order.
    pub looked: Vec<SearchAttempt>,
    /// What to install or set.
    pub advice: String,
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} could not be loaded:", self.component)?;
        for SearchAttempt { place, because, outcome } in &self.looked {
            write!(f, "\n  {} ({because}): {outcome}", place.display())?;
        }
        if self.looked.is_empty() {
            write!(f, "\n  there was no place to look in")?;
        }
        write!(f, "\n{}", self.advice)
    }
}
