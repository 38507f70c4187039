//! Safe bindings of the linker, nvJitLink.
//!
//! A [`Link`] is created with options, receives its parts, and is completed once, which returns the cubin. Most callers use the module
//! [`compile`](crate::compile) instead.
//!
//! ```no_run
//! use dotcompute_cuda::library::Search;
//! use dotcompute_cuda::nvjitlink::NvJitLink;
//!
//! # let lto_ir: Vec<u8> = Vec::new();
//! let linker = NvJitLink::load(&Search::from_environment())?;
//! let mut link = linker.link(&[c"-arch=sm_90", c"-lto", c"-O3"])?;
//! link.add_lto_ir(&lto_ir, c"handler")?;
//! let cubin = link.complete()?;
//! # let _ = cubin;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::ptr::{self, NonNull};

use crate::driver::request_resident_settings;
use crate::library::{self, Component, Identity, Search, SharedObject, Unavailable, Version, functions};

/// The input type for LTO-IR.
const INPUT_LTO_IR: c_int = 3;

functions! {
    /// The functions of `nvJitLink.h` that this module calls. A handle is an opaque pointer.
    struct Functions {
        version = c"nvJitLinkVersion": fn(*mut c_uint, *mut c_uint) -> c_int;
        create = c"nvJitLinkCreate": fn(*mut *mut c_void, u32, *const *const c_char) -> c_int;
        destroy = c"nvJitLinkDestroy": fn(*mut *mut c_void) -> c_int;
        add = c"nvJitLinkAddData": fn(*mut c_void, c_int, *const c_void, usize, *const c_char) -> c_int;
        complete = c"nvJitLinkComplete": fn(*mut c_void) -> c_int;
        cubin_size = c"nvJitLinkGetLinkedCubinSize": fn(*mut c_void, *mut usize) -> c_int;
        cubin = c"nvJitLinkGetLinkedCubin": fn(*mut c_void, *mut c_char) -> c_int;
        error_log_size = c"nvJitLinkGetErrorLogSize": fn(*mut c_void, *mut usize) -> c_int;
        error_log = c"nvJitLinkGetErrorLog": fn(*mut c_void, *mut c_char) -> c_int;
        info_log_size = c"nvJitLinkGetInfoLogSize": fn(*mut c_void, *mut usize) -> c_int;
        info_log = c"nvJitLinkGetInfoLog": fn(*mut c_void, *mut c_char) -> c_int;
    }
}

/// A function that returns the size of an output, and the function that writes the output.
type Size = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
type Bytes = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;

/// The loaded nvJitLink library. It may be shared between threads; a link belongs to one thread.
#[derive(Clone, Debug)]
pub struct NvJitLink {
    functions: Functions,
    identity: Identity,
}

/// A call to nvJitLink failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nvJitLink, {doing}: {} (code {code}){}{log}", name_of(*.code), if .log.is_empty() { "" } else { "\n" })]
pub struct NvJitLinkError {
    /// What was being done.
    pub doing: &'static str,
    /// nvJitLink's error code.
    pub code: i32,
    /// The error log; may be empty.
    pub log: String,
}

/// Returns the name of a code, as in the header: nvJitLink has no function that returns it.
fn name_of(code: i32) -> &'static str {
    const NAMES: [&str; 19] = [
        "no error",
        "unrecognized option",
        "no architecture given",
        "invalid input",
        "assembling the PTX failed",
        "compiling the LTO-IR failed; it may come from a newer toolkit than nvJitLink, which must be the newest",
        "internal error",
        "issue with its threads",
        "unrecognized input",
        "finalizer error",
        "null input",
        "incompatible options",
        "incorrect type of input",
        "the parts are for different architectures",
        "the library is outdated",
        "missing fatbin",
        "unrecognized architecture",
        "unsupported architecture",
        "LTO-IR without -lto",
    ];
    usize::try_from(code).ok().and_then(|index| NAMES.get(index)).copied().unwrap_or("an unknown error")
}

impl NvJitLink {
    /// Finds and loads nvJitLink. Requests the driver's settings first ([`request_resident_settings`]), because some versions, such as 12.4, initialise
    /// the driver.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] with every location that was searched.
    pub fn load(search: &Search) -> Result<Self, Unavailable> {
        request_resident_settings();
        library::load(Component::NvJitLink, search, Self::bind)
    }

    fn bind(object: SharedObject) -> Result<Self, String> {
        let functions = Functions::bind(&object)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are to writable integers; the function has no other preconditions.
        let code = unsafe { (functions.version)(&raw mut major, &raw mut minor) };
        if code != 0 {
            return Err(format!("it does not report its version (code {code})"));
        }
        let identity = Identity::of(Version { major, minor }, &object, c"nvJitLinkVersion");
        Ok(Self { functions, identity })
    }

    /// Returns the identity of the library.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Creates a link with these options, which must include `-arch=sm_XX`.
    ///
    /// # Errors
    ///
    /// [`NvJitLinkError`] if an option or the architecture is not supported.
    pub fn link(&self, options: &[&CStr]) -> Result<Link<'_>, NvJitLinkError> {
        let doing = "creating a link";
        let options: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let count = u32::try_from(options.len()).unwrap_or(u32::MAX);
        let mut handle = ptr::null_mut();
        // SAFETY: `options` has at least `count` NUL-terminated strings; `handle` is writable.
        let code = unsafe { (self.functions.create)(&raw mut handle, count, options.as_ptr()) };
        match NonNull::new(handle) {
            // A failed call also returns a handle: it has the log and must be destroyed.
            Some(handle) => {
                let link = Link { linker: self, handle };
                link.check(code, doing).map(|()| link)
            }
            None => Err(NvJitLinkError { doing, code, log: String::new() }),
        }
    }
}

/// A link in progress. Dropping it destroys it.
#[derive(Debug)]
pub struct Link<'a> {
    linker: &'a NvJitLink,
    handle: NonNull<c_void>,
}

impl<'a> Link<'a> {
    /// Adds a part in LTO-IR, which the log calls `name`. Both must outlive the link.
    ///
    /// # Errors
    ///
    /// [`NvJitLinkError`] if the data is not LTO-IR, or is from a newer toolkit.
    pub fn add_lto_ir(&mut self, data: &'a [u8], name: &'a CStr) -> Result<(), NvJitLinkError> {
        // SAFETY: the handle is a live link, and `&mut self` excludes concurrent use. `data` and `name` outlive the link through `'a`, so
        // nvJitLink may read them at any time.
        let code = unsafe {
            let data_at = data.as_ptr().cast();
            (self.linker.functions.add)(
                self.handle.as_ptr(),
                INPUT_LTO_IR,
                data_at,
                data.len(),
                name.as_ptr(),
            )
        };
        self.check(code, "adding a part in LTO-IR")
    }

    /// Links the parts and returns the cubin.
    ///
    /// # Errors
    ///
    /// [`NvJitLinkError`] if a symbol is undefined or defined twice, or the parts are incompatible.
    pub fn complete(&mut self) -> Result<Vec<u8>, NvJitLinkError> {
        let doing = "linking";
        // SAFETY: the handle is a live link, and `&mut self` excludes concurrent use.
        let code = unsafe { (self.linker.functions.complete)(self.handle.as_ptr()) };
        self.check(code, doing)?;
        let Functions { cubin_size, cubin, .. } = self.linker.functions;
        self.read_output(cubin_size, cubin).map_err(|code| self.error(code, "reading the cubin"))
    }

    /// Returns the log of the linker; empty if there is none.
    pub fn info_log(&self) -> String {
        let Functions { info_log_size, info_log, .. } = self.linker.functions;
        text(self.read_output(info_log_size, info_log).unwrap_or_default())
    }

    fn error_log(&self) -> String {
        let Functions { error_log_size, error_log, .. } = self.linker.functions;
        text(self.read_output(error_log_size, error_log).unwrap_or_default())
    }

    fn read_output(&self, size: Size, bytes: Bytes) -> Result<Vec<u8>, c_int> {
        let mut length = 0;
        // SAFETY: the handle is a live link; `length` is writable.
        let code = unsafe { size(self.handle.as_ptr(), &raw mut length) };
        if code != 0 {
            return Err(code);
        }
        // One byte more than reported: the header does not say whether the length counts the NUL that ends a log.
        let mut buffer = vec![0_u8; length + 1];
        if length > 0 {
            // SAFETY: the handle is a live link; nvJitLink writes the `length` bytes that it has just reported and perhaps a NUL, and
            // `buffer` has space for both.
            let code = unsafe { bytes(self.handle.as_ptr(), buffer.as_mut_ptr().cast()) };
            if code != 0 {
                return Err(code);
            }
        }
        buffer.truncate(length);
        Ok(buffer)
    }

    fn check(&self, code: c_int, doing: &'static str) -> Result<(), NvJitLinkError> {
        if code == 0 { Ok(()) } else { Err(self.error(code, doing)) }
    }

    fn error(&self, code: c_int, doing: &'static str) -> NvJitLinkError {
        NvJitLinkError { doing, code, log: self.error_log() }
    }
}

impl Drop for Link<'_> {
    fn drop(&mut self) {
        let mut handle = self.handle.as_ptr();
        // SAFETY: the link was created and is destroyed only here. The call sets `handle` to null. A failure has no remedy.
        unsafe { (self.linker.functions.destroy)(&raw mut handle) };
    }
}

/// Returns the log without its final NUL, if it has one, and without trailing white space.
fn text(bytes: Vec<u8>) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned()
}
