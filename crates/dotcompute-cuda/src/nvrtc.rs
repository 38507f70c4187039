//! The runtime compiler, NVRTC, as safe calls.
//!
//! These are its functions and no more: a [`Program`] is created, compiled once, and asked for its log and what came out. The module
//! [`compile`](crate::compile) is what most callers want.
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

/// An option, or the text, is wrong; the log says where.
const ERROR_INVALID_OPTION: c_int = 5;
const ERROR_COMPILATION: c_int = 6;

functions! {
    /// The functions of `nvrtc.h` that are called. A program is a pointer to something of NVRTC's own.
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

/// A function that tells how many bytes there are, and the one that writes them.
type Size = unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int;
type Bytes = unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int;

/// NVRTC, loaded.
///
/// It may be shared between threads: NVRTC allows concurrent calls as long as no two are about the same program.
#[derive(Clone, Debug)]
pub struct Nvrtc {
    functions: Functions,
    identity: Identity,
}

/// NVRTC refused a call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("NVRTC, {doing}: {name} (code {code}){}", advice(*.code))]
pub struct NvrtcError {
    /// What was being done.
    pub doing: &'static str,
    /// NVRTC's number for what went wrong.
    pub code: i32,
    /// NVRTC's name for it.
    pub name: String,
}

impl NvrtcError {
    /// Whether it is the text or an option that is wrong: then the log says where.
    pub fn is_rejection(&self) -> bool {
        matches!(self.code, ERROR_COMPILATION | ERROR_INVALID_OPTION)
    }
}

/// What to do about an error of this number.
fn advice(code: i32) -> &'static str {
    match code {
        1 => "; free some of this machine's memory",
        ERROR_INVALID_OPTION => "; this NVRTC does not know an option or the architecture: the log names it",
        7 => {
            "; its builtins are missing or of another version: libnvrtc-builtins belongs beside libnvrtc, from the same wheel or toolkit"
        }
        ERROR_COMPILATION => "; the log says where",
        _ => "",
    }
}

impl Nvrtc {
    /// Finds and loads it.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] with every place where it was looked for.
    pub fn load(search: &Search) -> Result<Self, Unavailable> {
        library::load(Component::Nvrtc, search, Self::bind)
    }

    fn bind(object: SharedObject) -> Result<Self, String> {
        let functions = Functions::bind(&object)?;
        let (mut major, mut minor) = (0, 0);
        // SAFETY: both may be written to, and nothing else is asked of them.
        let code = unsafe { (functions.version)(&raw mut major, &raw mut minor) };
        if code != 0 {
            return Err(format!("it does not tell its version (code {code})"));
        }
        let version = Version { major: major.unsigned_abs(), minor: minor.unsigned_abs() };
        Ok(Self { functions, identity: Identity::of(version, &object, c"nvrtcVersion") })
    }

    /// Which one it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A program of `source`, called `name` in its log, which may `#include` the `headers`: names and texts.
    ///
    /// # Errors
    ///
    /// [`NvrtcError`] when NVRTC refuses, for want of memory say.
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
        // SAFETY: every pointer is to a string with a NUL at its end, or to `count` of them. The strings
        // outlive the program, whenever it reads them; the two lists are read during the call.
        let code = unsafe {
            let (source, name) = (source.as_ptr(), name.as_ptr());
            (self.functions.create)(&raw mut handle, source, name, count, texts.as_ptr(), names.as_ptr())
        };
        self.check(code, doing)?;
        match NonNull::new(handle) {
            Some(handle) => Ok(Program { nvrtc: self, handle }),
            None => Err(NvrtcError { doing, code, name: "no program, and no error either".into() }),
        }
    }

    fn check(&self, code: c_int, doing: &'static str) -> Result<(), NvrtcError> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: it takes any number, and gives a string of its own that stays, or null.
        let name = unsafe { (self.functions.error_string)(code) };
        let name = if name.is_null() {
            "an unknown error".into()
        } else {
            // SAFETY: a string with a NUL at its end.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        };
        Err(NvrtcError { doing, code, name })
    }
}

/// A program of NVRTC's: a text, then what it was compiled to. Destroyed when it is dropped.
#[derive(Debug)]
pub struct Program<'a> {
    nvrtc: &'a Nvrtc,
    handle: NonNull<c_void>,
}

impl Program<'_> {
    /// Compiles it. To LTO-IR with `-dlto`, else to a cubin for `-arch=sm_XX` or PTX for `-arch=compute_XX`.
    ///
    /// # Errors
    ///
    /// [`NvrtcError`]; the [log](Self::log) says more, and is worth reading after a success too.
    pub fn compile(&mut self, options: &[&CStr]) -> Result<(), NvrtcError> {
        let doing = "compiling a program";
        let options: Vec<_> = options.iter().map(|option| option.as_ptr()).collect();
        let count = count(options.len(), doing)?;
        // SAFETY: the handle is a program's, used by nobody else meanwhile (`&mut`); there are `count` strings.
        let code = unsafe { (self.nvrtc.functions.compile)(self.handle.as_ptr(), count, options.as_ptr()) };
        self.nvrtc.check(code, doing)
    }

    /// What the compiler had to say; empty if nothing.
    ///
    /// # Errors
    ///
    /// [`NvrtcError`] when NVRTC has no log of it.
    pub fn log(&self) -> Result<String, NvrtcError> {
        let Functions { log_size, log, .. } = self.nvrtc.functions;
        Ok(text(self.take(log_size, log, "reading the log")?))
    }

    /// The program as LTO-IR, for the linker.
    ///
    /// # Errors
    ///
    /// [`NvrtcError`] when it was not compiled with `-dlto`.
    pub fn lto_ir(&self) -> Result<Vec<u8>, NvrtcError> {
        let Functions { lto_ir_size, lto_ir, .. } = self.nvrtc.functions;
        self.take(lto_ir_size, lto_ir, "reading the LTO-IR")
    }

    /// The program as code for one architecture.
    ///
    /// # Errors
    ///
    /// [`NvrtcError`] when it was compiled for none.
    pub fn cubin(&self) -> Result<Vec<u8>, NvrtcError> {
        let Functions { cubin_size, cubin, .. } = self.nvrtc.functions;
        self.take(cubin_size, cubin, "reading the cubin")
    }

    /// The program as PTX.
    ///
    /// # Errors
    ///
    /// [`NvrtcError`] when there is none.
    pub fn ptx(&self) -> Result<String, NvrtcError> {
        let Functions { ptx_size, ptx, .. } = self.nvrtc.functions;
        Ok(text(self.take(ptx_size, ptx, "reading the PTX")?))
    }

    fn take(&self, size: Size, bytes: Bytes, doing: &'static str) -> Result<Vec<u8>, NvrtcError> {
        let mut length = 0;
        // SAFETY: the handle is a program's; `length` may be written to.
        self.nvrtc.check(unsafe { size(self.handle.as_ptr(), &raw mut length) }, doing)?;
        let mut buffer = vec![0_u8; length];
        if length > 0 {
            // SAFETY: as above; NVRTC writes as many bytes as it has just told, and there is room for them.
            self.nvrtc.check(unsafe { bytes(self.handle.as_ptr(), buffer.as_mut_ptr().cast()) }, doing)?;
        }
        Ok(buffer)
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        let mut handle = self.handle.as_ptr();
        // SAFETY: a program that was created and not yet destroyed. It sets the handle to null. There is nothing to do on failure.
        unsafe { (self.nvrtc.functions.destroy)(&raw mut handle) };
    }
}

/// How many, as NVRTC counts.
fn count(length: usize, doing: &'static str) -> Result<c_int, NvrtcError> {
    c_int::try_from(length).map_err(|_| NvrtcError {
        doing,
        code: 3,
        name: format!("{length} is more than it can count"),
    })
}

/// What stands before the NUL that NVRTC writes after its texts.
fn text(mut bytes: Vec<u8>) -> String {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
