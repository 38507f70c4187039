//! The compiler and the linker together.

use std::ffi::{CStr, CString};

use super::{CompileError, Cubin, Input, Kernel, NoLinker, Stage};
use crate::Architecture;
use crate::library::{Identity, Search, Unavailable};
use crate::nvjitlink::NvJitLink;
use crate::nvrtc::{Nvrtc, NvrtcError, Program};

/// The compiler, and the linker where there is one that suits it.
#[derive(Clone, Debug)]
pub struct Toolchain {
    nvrtc: Nvrtc,
    linker: Result<NvJitLink, NoLinker>,
}

impl Toolchain {
    /// Finds and loads both.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] when there is no compiler. That there is no linker is no error: see [`Toolchain::linker`].
    pub fn load(search: &Search) -> Result<Self, Unavailable> {
        let nvrtc = Nvrtc::load(search)?;
        let linker = NvJitLink::load(search).map_err(NoLinker::Unavailable);
        let linker = linker.and_then(|linker| suits(&nvrtc, linker));
        Ok(Self { nvrtc, linker })
    }

    /// The compiler alone, as on a machine without the linker.
    #[must_use]
    pub fn without_linker(mut self) -> Self {
        self.linker = Err(NoLinker::LeftOut);
        self
    }

    /// Which compiler it is.
    pub fn compiler(&self) -> &Identity {
        self.nvrtc.identity()
    }

    /// Which linker it is.
    ///
    /// # Errors
    ///
    /// Why there is none: [`NoLinker`].
    pub fn linker(&self) -> Result<&Identity, &NoLinker> {
        self.linker.as_ref().map(NvJitLink::identity)
    }

    /// Compiles and links.
    ///
    /// # Errors
    ///
    /// [`CompileError`]; [`CompileError::Rejected`] has what is wrong with the text, by file and line.
    pub fn compile(&self, input: &Input) -> Result<Kernel, CompileError> {
        match &self.linker {
            Ok(linker) => self.compile_and_link(linker, input),
            Err(_) if input.parts.is_empty() => self.compile_whole(input),
            Err(reason) => {
                Err(CompileError::NeedsLinker { kernel: input.name.clone(), reason: reason.clone() })
            }
        }
    }

    /// Compiles the text, without its parts, to PTX: for reading. Neither linked nor assembled, it is not what runs.
    ///
    /// # Errors
    ///
    /// As [`Toolchain::compile`].
    pub fn ptx(&self, input: &Input) -> Result<String, CompileError> {
        let (ptx, _) = self.run_nvrtc(input, Output::Ptx)?;
        Ok(String::from_utf8_lossy(&ptx).into_owned())
    }

    fn compile_and_link(&self, linker: &NvJitLink, input: &Input) -> Result<Kernel, CompileError> {
        let (lto_ir, mut log) = self.run_nvrtc(input, Output::LtoIr)?;
        let architecture = input.architecture;
        let rejected = |error| CompileError::link(&input.name, architecture, &error);
        let name = input.c_string(&*input.name, "its name")?;
        let names: Result<Vec<CString>, _> =
            input.parts.iter().map(|part| input.c_string(&*part.name, "the name of a part")).collect();
        let names = names?;

        let option = input.c_string(format!("-arch={architecture}"), "its architecture")?;
        let mut link = linker.link(&[&option, c"-lto", c"-O3", c"-Xptxas=-v"]).map_err(rejected)?;
        link.add_lto_ir(&lto_ir, &name).map_err(rejected)?;
        for (part, name) in input.parts.iter().zip(&names) {
            link.add_lto_ir(&part.bytes, name).map_err(rejected)?;
        }
        let cubin = link.complete().map_err(rejected)?;
        if !log.is_empty() && !log.ends_with('\n') {
            log.push('\n');
        }
        log.push_str(&link.info_log());
        kernel(input, cubin, log, "nvJitLink")
    }

    fn compile_whole(&self, input: &Input) -> Result<Kernel, CompileError> {
        let (cubin, log) = self.run_nvrtc(input, Output::Cubin)?;
        kernel(input, cubin, log, "NVRTC")
    }

    /// Compiles the text; gives what came out, and the log.
    fn run_nvrtc(&self, input: &Input, output: Output) -> Result<(Vec<u8>, String), CompileError> {
        let text = input.text()?;
        let name = input.c_string(&*input.name, "its name")?;
        let headers = input.header_texts()?;
        let headers: Vec<(&CStr, &CStr)> = headers.iter().map(|(name, text)| (&**name, &**text)).collect();
        let options = options(input, output)?;
        let options: Vec<&CStr> = options.iter().map(|option| &**option).collect();

        let failed_with = |source, log: &str| {
            let log = log.trim_end().to_owned();
            CompileError::Nvrtc { kernel: input.name.clone(), source, log }
        };
        let failed = |source| failed_with(source, "");
        let mut program = self.nvrtc.program(&text, &name, &headers).map_err(failed)?;
        let outcome = program.compile(&options);
        let log = program.log().map_err(failed)?;
        match outcome {
            Ok(()) => Ok((output.take(&program).map_err(failed)?, log)),
            Err(error) if error.is_rejection() => {
                Err(CompileError::rejected(&input.name, input.architecture, Stage::Compiling, log))
            }
            Err(error) => Err(failed_with(error, &log)),
        }
    }
}

/// The linker, if it can read what the compiler makes: it reads LTO-IR of its own version and older.
fn suits(nvrtc: &Nvrtc, linker: NvJitLink) -> Result<NvJitLink, NoLinker> {
    if linker.identity().version >= nvrtc.identity().version {
        return Ok(linker);
    }
    Err(NoLinker::TooOld { linker: linker.identity().clone(), compiler: nvrtc.identity().clone() })
}

/// What NVRTC compiles to.
#[derive(Clone, Copy)]
enum Output {
    LtoIr,
    Cubin,
    Ptx,
}

impl Output {
    /// The options that lead to it.
    fn options(self, architecture: Architecture) -> Vec<String> {
        let real = format!("-arch={architecture}");
        match self {
            Self::LtoIr => vec![real, "-dlto".into(), "-rdc=true".into()],
            Self::Cubin => vec![real, "-Xptxas=-v".into()],
            Self::Ptx => vec![format!("-arch={}", architecture.virtual_name())],
        }
    }

    fn take(self, program: &Program<'_>) -> Result<Vec<u8>, NvrtcError> {
        match self {
            Self::LtoIr => program.lto_ir(),
            Self::Cubin => program.cubin(),
            Self::Ptx => program.ptx().map(String::into_bytes),
        }
    }
}

/// NVRTC's options: the language, what it compiles to, and what the input asks for.
fn options(input: &Input, output: Output) -> Result<Vec<CString>, CompileError> {
    let mut options = output.options(input.architecture);
    options.insert(0, "-std=c++17".into());
    options.extend(input.options.iter().cloned());
    // Else `#include "name"` takes a file of that name from the current folder: whatever lies there, unseen by the cache. But what is in
    // folders that are asked for may include its neighbours, and this option would forbid it.
    let asks_for_folders = |option: &String| option.starts_with("-I") || option.starts_with("--include-path");
    if !input.options.iter().any(asks_for_folders) {
        options.push("-no-source-include".into());
    }
    options.into_iter().map(|option| input.c_string(option, "an option")).collect()
}

fn kernel(
    input: &Input,
    cubin: Vec<u8>,
    log: String,
    compiler: &'static str,
) -> Result<Kernel, CompileError> {
    let no_cubin = || CompileError::NoCubin { kernel: input.name.clone(), compiler };
    Ok(Kernel { cubin: Cubin::new(cubin).ok_or_else(no_cubin)?, log })
}
