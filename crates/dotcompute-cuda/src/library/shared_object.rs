//! A library that was opened: its symbols and its file.

use std::ffi::{CStr, OsStr};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

#[cfg(unix)]
use libloading::os::unix::Library;

#[cfg(not(unix))]
use libloading::Library;

/// A library that was opened, and stays so until the process ends.
///
/// NVIDIA's compilers leave destructors of threads and of the process behind that run code in them: to unload them is to crash later.
/// So nothing is unloaded, and the functions taken out of it are good for ever.
pub(crate) struct SharedObject {
    library: ManuallyDrop<Library>,
}

impl SharedObject {
    /// Opens a file, or what the system's loader finds by a bare name.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let library = open(path.as_os_str()).map_err(|error| describe(&error))?;
        Ok(Self { library: ManuallyDrop::new(library) })
    }

    /// A function of the library.
    ///
    /// # Safety
    ///
    /// `F` is an `unsafe extern "C" fn` type with the parameters and the result that the library's header gives the function.
    pub(crate) unsafe fn function<F: Copy>(&self, name: &CStr) -> Result<F, String> {
        // SAFETY: the caller vouches for the type. The copy outlives the symbol, as it may: the library is never unloaded.
        let symbol = unsafe { self.library.get::<F>(name) };
        symbol.map(|symbol| *symbol).map_err(|_| {
            format!("it lacks {}: it is too old, or something else of the same name", name.to_string_lossy())
        })
    }

    /// The file that `name`, a function of the library, was loaded from, where the system tells.
    #[cfg(unix)]
    pub(crate) fn path(&self, name: &CStr) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStrExt;

        // SAFETY: a symbol's address is asked for, and neither called nor read through; any type of pointer will do.
        let address = unsafe { self.library.get::<*const std::ffi::c_void>(name) }.ok()?.as_raw_ptr();
        let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: `info` may be written to; any address may be asked about.
        if unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
            return None;
        }
        // SAFETY: all zeros are a valid `Dl_info` (pointers and null), and `dladdr` has filled it in.
        let file = unsafe { info.assume_init() }.dli_fname;
        if file.is_null() {
            return None;
        }
        // SAFETY: a string of the loader's own, with a NUL at its end, that stays while the library is loaded: for ever.
        let file = unsafe { CStr::from_ptr(file) };
        Path::new(OsStr::from_bytes(file.to_bytes())).canonicalize().ok()
    }

    /// The file that the library was loaded from: not known here.
    #[cfg(not(unix))]
    pub(crate) fn path(&self, _name: &CStr) -> Option<PathBuf> {
        None
    }
}

/// Opens it with its symbols visible to libraries opened later, which look for one another by name only.
#[cfg(unix)]
fn open(name: &OsStr) -> Result<Library, libloading::Error> {
    // SAFETY: the initialisers of a library run. Only NVIDIA's libraries, by their names, and what the user has named are opened;
    // their initialisers register tables and expect nothing of the process.
    unsafe { Library::open(Some(name), libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL) }
}

/// Opens it.
#[cfg(not(unix))]
fn open(name: &OsStr) -> Result<Library, libloading::Error> {
    // SAFETY: as above.
    unsafe { Library::new(name) }
}

/// The error's text with that of its cause, which is where the system's loader says what was wrong.
fn describe(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Declares a table of a library's functions, and `bind`, which fills it from an opened library.
///
/// The types are the header's own, and whoever writes such a table answers for them: `bind` is sound if they are right.
macro_rules! functions {
    ($(#[$meta:meta])* struct $table:ident { $($field:ident = $symbol:literal: fn($($argument:ty),*) -> $result:ty;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        struct $table {
            $($field: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl $table {
            fn bind(object: &$crate::library::SharedObject) -> Result<Self, String> {
                Ok(Self {
                    // SAFETY: the types are those of the library's header.
                    $($field: unsafe { object.function($symbol) }?,)*
                })
            }
        }
    };
}
pub(crate) use functions;

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    #[test]
    fn a_library_tells_its_file_and_what_it_lacks() {
        let object = SharedObject::open(Path::new("libc.so.6")).unwrap();
        let path = object.path(c"getpid").unwrap();
        assert!(path.is_absolute() && path.is_file(), "{}", path.display());
        // SAFETY: that is what getpid looks like.
        let getpid = unsafe { object.function::<unsafe extern "C" fn() -> i32>(c"getpid") }.unwrap();
        // SAFETY: it takes nothing and always succeeds.
        assert_eq!(unsafe { getpid() }, std::process::id() as i32);
        // SAFETY: never called.
        let missing = unsafe { object.function::<unsafe extern "C" fn()>(c"nvrtcVersion") };
        assert!(missing.unwrap_err().contains("nvrtcVersion"));
    }

    #[test]
    fn what_cannot_be_opened_is_told_with_the_loaders_reason() {
        let error = SharedObject::open(Path::new("/no/such/library.so")).map(drop).unwrap_err();
        assert!(error.contains("/no/such/library.so") && error.contains("No such file"), "{error}");
    }
}
