//! An opened shared library: its symbols and its file.

use std::ffi::{CStr, OsStr};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

#[cfg(unix)]
use libloading::os::unix::Library;

#[cfg(not(unix))]
use libloading::Library;

/// A shared library that stays loaded until the process ends.
///
/// NVIDIA's compilers register thread-exit and process-exit destructors whose code is in the library: unloading it would crash later. So no
/// library is unloaded, and its functions stay valid.
pub(crate) struct SharedObject {
    library: ManuallyDrop<Library>,
}

impl SharedObject {
    /// Opens a file, or the library that the system's loader finds by a bare name.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        let library = open(path.as_os_str()).map_err(|error| describe(&error))?;
        Ok(Self { library: ManuallyDrop::new(library) })
    }

    /// Looks up a function of the library.
    ///
    /// # Safety
    ///
    /// `F` must be an `unsafe extern "C" fn` type with the parameters and the result from the library's header.
    pub(crate) unsafe fn function<F: Copy>(&self, name: &CStr) -> Result<F, String> {
        // SAFETY: the caller guarantees that `F` is the type of `name`. The copy may outlive the symbol, because the library is never
        // unloaded.
        let symbol = unsafe { self.library.get::<F>(name) };
        symbol.map(|symbol| *symbol).map_err(|_| {
            format!("it lacks {}: it is too old, or another library of the same name", name.to_string_lossy())
        })
    }

    /// Returns the file that the function `name` was loaded from, if the system reports it.
    #[cfg(unix)]
    pub(crate) fn path(&self, name: &CStr) -> Option<PathBuf> {
        use std::os::unix::ffi::OsStrExt;

        // SAFETY: only the address of the symbol is used, as a pointer that is neither called nor read through, so any pointer type is
        // valid.
        let address = unsafe { self.library.get::<*const std::ffi::c_void>(name) }.ok()?.as_raw_ptr();
        let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
        // SAFETY: `info` is writable, and `dladdr` accepts any address.
        if unsafe { libc::dladdr(address, info.as_mut_ptr()) } == 0 {
            return None;
        }
        // SAFETY: an all-zero `Dl_info` is valid (null pointers and integers), and `dladdr` has filled it.
        let file = unsafe { info.assume_init() }.dli_fname;
        if file.is_null() {
            return None;
        }
        // SAFETY: `dli_fname` is a NUL-terminated string of the loader. It is valid while the library is loaded, and the library is never
        // unloaded.
        let file = unsafe { CStr::from_ptr(file) };
        Path::new(OsStr::from_bytes(file.to_bytes())).canonicalize().ok()
    }

    /// Returns `None`: this platform does not report the file of a function.
    #[cfg(not(unix))]
    pub(crate) fn path(&self, _name: &CStr) -> Option<PathBuf> {
        None
    }
}

/// Opens a library with global symbols: NVIDIA's libraries look each other up by name.
#[cfg(unix)]
fn open(name: &OsStr) -> Result<Library, libloading::Error> {
    // SAFETY: opening runs the initialisers of the library. Only NVIDIA's libraries (by name) and files that the user names are opened.
    // Their initialisers register tables and have no requirements on the process.
    unsafe { Library::open(Some(name), libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL) }
}

/// Opens a library.
#[cfg(not(unix))]
fn open(name: &OsStr) -> Result<Library, libloading::Error> {
    // SAFETY: as in the Unix version: only NVIDIA's libraries and files that the user names are opened.
    unsafe { Library::new(name) }
}

/// Returns the error text with that of its cause, which contains the message of the system's loader.
fn describe(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Declares a table of a library's functions, and `bind`, which fills it from an opened library.
///
/// The types must be those of the library's header: `bind` is sound only if they are correct.
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
                    // SAFETY: the invocation of this macro declares the types of the library's header.
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
    fn a_library_reports_its_file_and_missing_functions() {
        let object = SharedObject::open(Path::new("libc.so.6")).unwrap();
        let path = object.path(c"getpid").unwrap();
        assert!(path.is_absolute() && path.is_file(), "{}", path.display());
        // SAFETY: `getpid` takes nothing and returns an `i32`.
        let getpid = unsafe { object.function::<unsafe extern "C" fn() -> i32>(c"getpid") }.unwrap();
        // SAFETY: `getpid` has no preconditions and always succeeds.
        assert_eq!(unsafe { getpid() }, std::process::id() as i32);
        // SAFETY: the function is never called.
        let missing = unsafe { object.function::<unsafe extern "C" fn()>(c"nvrtcVersion") };
        assert!(missing.unwrap_err().contains("nvrtcVersion"));
    }

    #[test]
    fn an_open_error_contains_the_message_of_the_loader() {
        let error = SharedObject::open(Path::new("/no/such/library.so")).map(drop).unwrap_err();
        assert!(error.contains("/no/such/library.so") && error.contains("No such file"), "{error}");
    }
}
