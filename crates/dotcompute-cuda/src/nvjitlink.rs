//! The linker, nvJitLink, as safe calls.
//!
//! A [`Link`] is created with its options, given its parts, completed once, and then asked for the cubin. The module
//! [`compile`](crate::compile) is what most callers want.
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

use crate::driver::request_eager_loading;
use crate::library::{self, Component, Identity, Search, SharedObject, Unavailable, Version, functions};

/// The kind of a part: LTO-IR.
const INPUT_LTO_IR: c_int = 3;

functions! {
    /// The functions of `nvJitLink.h` that are called. A handle is a pointer to something of nvJitLink's own.
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

/// A function that tells how many bytes there are, and the one that writes them.
type Size = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
type Bytes = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;

/// nvJitLink, loaded. It may be shared between threads; each link is one thread's.
#[derive(Clone, Debug)]
pub struct NvJitLink {
    functions: Functions,
    identity: Identity,
}

/// nvJitLink refused a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nvJitLink, {doing}: {} (code {code}){}{log}", name_of(*.code), if .log.is_empty() { "" } else { "\n" })]
pub struct NvJitLinkError {
    /// What was being done.
    pub doing: &'static str,
    /// nvJitLink's number for what went wrong.
    pub code: i32,
    /// Its error log; may be empty.
    pub log: String,
}

/// The names in the header. nvJitLink has no function that tells them.
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
    /// Finds and loads it. Asks for eager loading before ([`request_eager_loading`]): some versions, 12.4 for one, initialise the driver
    /// where there is one.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] with every place where it was looked for.
    pub fn load(search: &Search) -> Result<Self, Unavailable> {
        request_eager_loading();
        library::load(Component::NvJitLink, search, Self::bind)
    }

    fn bind(object: SharedObject) -> Result<Self, String> {
        let functions = Functions::bind(&object)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both may be written to, and nothing else is asked of them.
        let code = unsafe { (functions.version)(&raw mut major, &raw mut minor) };
        if code != 0 {
            return Err(format!("it does not tell its version (code {code})"));
        }
        let identity = Identity::of(Version { major, minor }, &object, c"nvJitLinkVersion");
        Ok(Self { functions, identity })
    }

    /// Which one it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A link with these options; `-arch=sm_XX` must be among them.
    ///
    /// # Errors
    ///
    /// [`NvJitLinkError`] when an option or the architecture is not known to it.
    pub fn link(&self, options: &[&CStr]) -> Result<Link<'_>, NvJitLinkError> {
        let doing = "beginning to link";
        let options: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let count = u32::try_from(options.len()).unwrap_or(u32::MAX);
        let mut handle = ptr::null_mut();
        // SAFETY: there are at least `count` strings, each with a NUL at its end; the handle may be written to.
        let code = unsafe { (self.functions.create)(&raw mut handle, count, options.as_ptr()) };
        match NonNull::new(handle) {
            // There is one after a failure too: it has the log, and is to be destroyed.
            Some(handle) => {
                let link = Link { linker: self, handle };
                link.check(code, doing).map(|()| link)
            }
            None => Err(NvJitLinkError { doing, code, log: String::new() }),
        }
    }
}

/// A link under way. Destroyed when it is dropped.
#[derive(Debug)]
pub struct Link<'a> {
    linker: &'a NvJitLink,
    handle: NonNull<c_void>,
}

impl<'a> Link<'a> {
    /// Adds a part in LTO-IR, called `name` in the log. It must last as long as the link.
    ///
    /// # Errors
    ///
    /// [`NvJitLinkError`] when it is none, or one of a newer toolkit.
    pub fn add_lto_ir(&mut self, data: &'a [u8], name: &'a CStr) -> Result<(), NvJitLinkError> {
        // SAFETY: the handle is a link's, used by nobody else meanwhile (`&mut`); `data` and `name` outlive
        // the link, whenever it reads them.
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

    /// Links the parts and gives the cubin.
    ///
    /// # Errors
    ///
    /// [`NvJitLinkError`] when something is undefined or defined twice, or the parts do not go together.
    pub fn complete(&mut self) -> Result<Vec<u8>, NvJitLinkError> {
        let doing = "linking";
        // SAFETY: as above.
        let code = unsafe { (self.linker.functions.complete)(self.handle.as_ptr()) };
        self.check(code, doing)?;
        let Functions { cubin_size, cubin, .. } = self.linker.functions;
        self.take(cubin_size, cubin).map_err(|code| self.error(code, "reading the cubin"))
    }

    /// What the linker had to say; empty if nothing.
    pub fn info_log(&self) -> String {
        let Functions { info_log_size, info_log, .. } = self.linker.functions;
        text(self.take(info_log_size, info_log).unwrap_or_default())
    }

    fn error_log(&self) -> String {
        let Functions { error_log_size, error_log, .. } = self.linker.functions;
        text(self.take(error_log_size, error_log).unwrap_or_default())
    }

    fn take(&self, size: Size, bytes: Bytes) -> Result<Vec<u8>, c_int> {
        let mut length = 0;
        // SAFETY: the handle is a link's; `length` may be written to.
        let code = unsafe { size(self.handle.as_ptr(), &raw mut length) };
        if code != 0 {
            return Err(code);
        }
        // One more than it tells, for the NUL that ends a log: the header leaves open whether it is counted.
        let mut buffer = vec![0_u8; length + 1];
        if length > 0 {
            // SAFETY: as above; nvJitLink writes as many bytes as it has just told, perhaps a NUL too, and there is room for them.
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
        // SAFETY: a link that was created and not yet destroyed. It sets the handle to null. There is nothing to do on failure.
        unsafe { (self.linker.functions.destroy)(&raw mut handle) };
    }
}

/// The log without a NUL at its end, if there is one, and without blank space there.
fn text(bytes: Vec<u8>) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).trim_end().to_owned()
}
