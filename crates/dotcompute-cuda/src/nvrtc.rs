//! Safe bindings of the runtime compiler, NVRTC.
//!
//! They map NVRTC's functions one to one: a [`Program`] is created, compiled once, and queried for its log and its output. Most callers use
//! the module [`compile`](crate::compile) instead.
//!
//! ```no_run
//! use dotcompute_cuda::library::Search;
//! use dotcompute_cuda::nvrtc::Nvrtc;
//!
//! let nvrtc = Nvrtc::load(&Search::from_environment())?;
//! let mut program = nvrtc.program(c"extern \"C\" __global__ void nothing() {}", c"nothing.cu", &[])?;
//! program.compile(&[c"-arch=sm_90"])?;
//! assert!(program.cubin()?.starts_with(b"\x7fELF"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};

use crate::library::{self, Component, Identity, Search, SharedObject, Unavailable, Version, functions};

/// The codes for a rejected option or text; the log has the location.
const ERROR_INVALID_OPTION: c_int = 5;
const ERROR_COMPILATION: c_int = 6;

functions! {
    /// The functions of `nvrtc.h` that this module calls. A program is an opaque pointer.
    struct Functions {
        version = c"nvrtcVersion": fn(*mut c_int, *mut c_int) -> c_int;
        error_string = c"nvrtcGetErrorString": fn(c_int) -> *const c_char;
        create = c"nvrtcCreateProgram":
            fn(*mut *mut c_void, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char) -> c_int;
        destroy = c"nvrtcDestroyProgram": fn(*mut *mut c_void) -> c_int;
        compile = c"nvrtcCompileProgram": fn(*mut c_void, c_int, *const *const c_char) -> c_int;
        log_size = c"nvrtcGetProgramLogSize": fn(*mut c_void, *mut usize) -> c_int;
        log = c"nvrtcGetProgramLog": fn(*mut c_void, *mut c_char) -> c_int;
        ptx_size = c"nvrtcGetPTXSize": fn(*mut c_void, *mut usize) -> c_int;
        ptx = c"nvrtcGetPTX": fn(*mut c_void, *mut c_char) -> c_int;
        cubin_size = c"nvrtcGetCUBINSize": fn(*mut c_void, *mut usize) -> c_int;
        cubin = c"nvrtcGetCUBIN": fn(*mut c_void, *mut c_char) -> c_int;
        lto_ir_size = c"nvrtcGetLTOIRSize": fn(*mut c_void, *mut usize) -> c_int;
        lto_ir = c"nvrtcGetLTOIR": fn(*mut c_void, *mut c_char) -> c_int;
    }
}

/// A function that returns the size of an output, and the function that writes the output.
type Size = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
type Bytes = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;

/// The loaded NVRTC library.
///
/// It may be shared between threads: NVRTC allows concurrent calls on different programs.
#[derive(Clone, Debug)]
pub struct Nvrtc {
    functions: Functions,
    identity: Identity,
}

/// A call to NVRTC failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("NVRTC, {doing}: {name} (code {code}){}", advice(*.code))]
pub struct NvrtcError {
    /// What was being done.
    pub doing: &'static str,
    /// NVRTC's error code.
    pub code: i32,
    /// NVRTC's name for the code.
    pub name: String,
}

impl NvrtcError {
    /// Returns whether the text or an option was rejected; the log then has the location.
    pub fn is_rejection(&self) -> bool {
        matches!(self.code, ERROR_COMPILATION | ERROR_INVALID_OPTION)
    }
}

/// Returns the advice for an error code.
fn advice(code: i32) -> &'static str {
    match code {
        1 => "; free some host memory",
        ERROR_INVALID_OPTION => {
            "; this NVRTC does not support an option or the architecture: the log names it"
        }
        7 => {
            "; its builtins are missing or have another version: libnvrtc-builtins belongs beside libnvrtc, from the same wheel or toolkit"
        }
        ERROR_COMPILATION => "; the log has the location",
        _ => "",
    }
}

impl Nvrtc {
    /// Finds and loads NVRTC.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] with every location that was searched.
    pub fn load(search: &Search) -> Result<Self, Unavailable> {
        library::load(Component::Nvrtc, search, Self::bind)
    }

    fn bind(object: SharedObject) -> Result<Self, String> {
        let functions = Functions::bind(&object)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both pointers are to writable integers; the function has no other preconditions.
        let code = unsafe { (functions.version)(&raw mut major, &raw mut minor) };
        if code != 0 {
            return Err(format!("it does not report its version (code {code})"));
        }
        let version = Version { major: major.unsigned_abs(), minor: minor.unsigned_abs() };
        Ok(Self { functions, identity: Identity::of(version, &object, c"nvrtcVersion") })
    }

    /// Returns the identity of the library.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Creates a program from `source`, which its log calls `name`. The source may `#include` the `headers`, given as names and texts.
    ///
    /// # Errors
    ///
    /// [`NvrtcError`], for example if there is not enough memory.
    pub fn program<'a>(
        &'a self,
        source: &'a CStr,
        name: &'a CStr,
        headers: &[(&'a CStr, &'a CStr)],
    ) -> Result<Program<'a>, NvrtcError> {
        let doing = "creating a program";
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_ptr()).collect();
        let texts: Vec<_> = headers.iter().map(|(_, text)| text.as_ptr()).collect();
        let count = count(headers.len(), doing)?;
        let mut handle = ptr::null_mut();
        // SAFETY: every string is NUL-terminated, and both lists have `count` strings. The strings outlive the program through `'a`, so
        // NVRTC may read them at any time; it reads the lists only during the call.
        let code = unsafe {
            let (source, name) = (source.as_ptr(), name.as_ptr());
            (self.functions.create)(&raw mut handle, source, name, count, texts.as_ptr(), names.as_ptr())
        };
        self.check(code, doing)?;
        match NonNull::new(handle) {
            Some(handle) => Ok(Program { nvrtc: self, handle }),
            None => Err(NvrtcError { doing, code, name: "neither a program nor an error".into() }),
        }
    }

    fn check(&self, code: c_int, doing: &'static str) -> Result<(), NvrtcError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the function accepts any code and returns null or a static string.
        let name = unsafe { (self.functions.error_string)(code) };
        let name = if name.is_null() {
            "an unknown error".into()
        } else {
            // SAFETY: `name` is not null, so it is a NUL-terminated static string.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        };
        Err(NvrtcError { doing, code, name })
    }
}

/// An NVRTC program: a text and, after compilation, its outputs. Dropping it destroys it.
#[derive(Debug)]
pub struct Program<'a> {
    nvrtc: &'a Nvrtc,
    handle: NonNull<c_void>,
}

impl Program<'_> {
    /// Compiles the program: to LTO-IR with `-dlto`, else to a cubin with `-arch=sm_XX` or to PTX with `-arch=compute_XX`.
    ///
    /// # Errors
    ///
    /// [`NvrtcError`]; the [log](Self::log) has the details, and may have warnings after a success.
    pub fn compile(&mut self, options: &[&CStr]) -> Result<(), NvrtcError> {
        let doing = "compiling a program";
        let options: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let count = count(options.len(), doing)?;
        // SAFETY: the handle is a live program, and `&mut self` excludes concurrent use; `options` has `count` NUL-terminated strings.
        let code = unsafe { (self.nvrtc.functions.compile)(self.handle.as_ptr(), count, options.as_ptr()) };
        self.nvrtc.check(code, doing)
    }

    /// Returns the log of the compiler; empty if there is none.
    ///
    /// # Errors
    ///
    /// [`NvrtcError`] if the log cannot be read.
    pub fn log(&self) -> Result<String, NvrtcError> {
        let Functions { log_size, log, .. } = self.nvrtc.functions;
        Ok(text(self.read_output(log_size, log, "reading the log")?))
    }

    /// Returns the program as LTO-IR, for the linker.
    ///
    /// # Errors
    ///
    /// [`NvrtcError`] if the program was not compiled with `-dlto`.
    pub fn lto_ir(&self) -> Result<Vec<u8>, NvrtcError> {
        let Functions { lto_ir_size, lto_ir, .. } = self.nvrtc.functions;
        self.read_output(lto_ir_size, lto_ir, "reading the LTO-IR")
    }

    /// Returns the program as machine code for one architecture.
    ///
    /// # Errors
    ///
    /// [`NvrtcError`] if the program was not compiled for a real architecture.
    pub fn cubin(&self) -> Result<Vec<u8>, NvrtcError> {
        let Functions { cubin_size, cubin, .. } = self.nvrtc.functions;
        self.read_output(cubin_size, cubin, "reading the cubin")
    }

    /// Returns the program as PTX.
    ///
    /// # Errors
    ///
    /// [`NvrtcError`] if there is no PTX.
    pub fn ptx(&self) -> Result<String, NvrtcError> {
        let Functions { ptx_size, ptx, .. } = self.nvrtc.functions;
        Ok(text(self.read_output(ptx_size, ptx, "reading the PTX")?))
    }

    fn read_output(&self, size: Size, bytes: Bytes, doing: &'static str) -> Result<Vec<u8>, NvrtcError> {
        let mut length = 0;
        // SAFETY: the handle is a live program; `length` is writable.
        self.nvrtc.check(unsafe { size(self.handle.as_ptr(), &raw mut length) }, doing)?;
        let mut buffer = vec![0_u8; length];
        if length > 0 {
            // SAFETY: the handle is a live program; NVRTC writes the `length` bytes that it has just reported, and `buffer` has that
            // length.
            self.nvrtc.check(unsafe { bytes(self.handle.as_ptr(), buffer.as_mut_ptr().cast()) }, doing)?;
        }
        Ok(buffer)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        let mut handle = self.handle.as_ptr();
        // SAFETY: the program was created and is destroyed only here. The call sets `handle` to null. A failure has no remedy.
        unsafe { (self.nvrtc.functions.destroy)(&raw mut handle) };
    }
}

/// Converts a length to NVRTC's count type.
fn count(length: usize, doing: &'static str) -> Result<c_int, NvrtcError> {
    c_int::try_from(length).map_err(|_| NvrtcError {
        doing,
        code: 3,
        name: format!("{length} exceeds the range of its counts"),
    })
}

/// Returns the text before the NUL that NVRTC appends.
fn text(mut bytes: Vec<u8>) -> String {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
