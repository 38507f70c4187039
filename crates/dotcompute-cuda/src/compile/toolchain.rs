//! The compiler together with the linker.

use std::ffi::{CStr, CString};

use super::{CompileError, CompiledKernel, Cubin, Input, NoLinker, Stage};
use crate::Architecture;
use crate::library::{Identity, Search, Unavailable};
use crate::nvjitlink::NvJitLink;
use crate::nvrtc::{Nvrtc, NvrtcError, Program};

/// The compiler, and the linker if a compatible one is installed.
#[derive(Clone, Debug)]
pub struct Toolchain {
    nvrtc: Nvrtc,
    linker: Result<NvJitLink, NoLinker>,
}

impl Toolchain {
    /// Finds and loads compiler and linker.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if there is no compiler. A missing linker is not an error: see [`Toolchain::linker`].
    pub fn load(search: &Search) -> Result<Self, Unavailable> {
        let nvrtc = Nvrtc::load(search)?;
        let linker = NvJitLink::load(search).map_err(NoLinker::Unavailable);
        let linker = linker.and_then(|linker| check_linker(&nvrtc, linker));
        Ok(Self { nvrtc, linker })
    }

    /// Disables the linker, as on a machine without nvJitLink.
    #[must_use]
    pub fn without_linker(mut self) -> Self {
        self.linker = Err(NoLinker::Disabled);
        self
    }

    /// Returns the identity of the compiler.
    pub fn compiler(&self) -> &Identity {
        self.nvrtc.identity()
    }

    /// Returns the identity of the linker.
    ///
    /// # Errors
    ///
    /// [`NoLinker`]: the reason why there is none.
    pub fn linker(&self) -> Result<&Identity, &NoLinker> {
        self.linker.as_ref().map(NvJitLink::identity)
    }

    /// Compiles and links `input`.
    ///
    /// # Errors
    ///
    /// [`CompileError`]. [`CompileError::Rejected`] has the diagnostics with file and line.
    pub fn compile(&self, input: &Input) -> Result<CompiledKernel, CompileError> {
        match &self.linker {
            Ok(linker) => self.compile_and_link(linker, input),
            Err(_) if input.lto_parts.is_empty() => self.compile_whole(input),
            Err(reason) => {
                Err(CompileError::NeedsLinker { kernel: input.name.clone(), reason: reason.clone() })
            }
        }
    }

    /// Compiles the text, without its LTO-IR parts, to PTX for inspection. The PTX is neither linked nor assembled, so it is not the code
    /// that runs.
    ///
    /// # Errors
    ///
    /// As [`Toolchain::compile`].
    pub fn ptx(&self, input: &Input) -> Result<String, CompileError> {
        let (ptx, _) = self.run_nvrtc(input, Output::Ptx)?;
        Ok(String::from_utf8_lossy(&ptx).into_owned())
    }

    fn compile_and_link(&self, linker: &NvJitLink, input: &Input) -> Result<CompiledKernel, CompileError> {
        let (lto_ir, mut log) = self.run_nvrtc(input, Output::LtoIr)?;
        let architecture = input.architecture;
        let rejected = |error| CompileError::link(&input.name, architecture, &error);
        let name = input.c_string(&*input.name, "its name")?;
        let names: Result<Vec<CString>, _> =
            input.lto_parts.iter().map(|part| input.c_string(&*part.name, "the name of a part")).collect();
        let names = names?;

        let option = input.c_string(format!("-arch={architecture}"), "its architecture")?;
        // The linker generates the code, so it decides about arithmetic, also in parts of other front ends.
        let arithmetic: &[&CStr] = if input.fast_math {
            &[c"-fma=1", c"-ftz=1", c"-prec-div=0", c"-prec-sqrt=0"]
        } else {
            &[c"-fma=0", c"-ftz=0", c"-prec-div=1", c"-prec-sqrt=1"]
        };
        let options = [&[&*option, c"-lto", c"-O3", c"-Xptxas=-v"], arithmetic].concat();
        let mut link = linker.link(&options).map_err(rejected)?;
        link.add_lto_ir(&lto_ir, &name).map_err(rejected)?;
        for (part, name) in input.lto_parts.iter().zip(&names) {
            link.add_lto_ir(&part.bytes, name).map_err(rejected)?;
        }
        let cubin = link.complete().map_err(rejected)?;
        if !log.is_empty() && !log.ends_with('\n') {
            log.push('\n');
        }
        log.push_str(&link.info_log());
        kernel(input, cubin, log, "nvJitLink")
    }

    fn compile_whole(&self, input: &Input) -> Result<CompiledKernel, CompileError> {
        let (cubin, log) = self.run_nvrtc(input, Output::Cubin)?;
        kernel(input, cubin, log, "NVRTC")
    }

    /// Runs NVRTC and returns its output and its log.
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
            Ok(()) => Ok((output.read_output(&program).map_err(failed)?, log)),
            Err(error) if error.is_rejection() => {
                Err(CompileError::rejected(&input.name, input.architecture, Stage::Compiling, log))
            }
            Err(error) => Err(failed_with(error, &log)),
        }
    }
}

/// Returns the linker if it can read the compiler's output: it reads LTO-IR of its own version and older.
fn check_linker(nvrtc: &Nvrtc, linker: NvJitLink) -> Result<NvJitLink, NoLinker> {
    if linker.identity().version >= nvrtc.identity().version {
        return Ok(linker);
    }
    Err(NoLinker::TooOld { linker: linker.identity().clone(), compiler: nvrtc.identity().clone() })
}

/// The output format of NVRTC.
#[derive(Clone, Copy)]
enum Output {
    LtoIr,
    Cubin,
    Ptx,
}

impl Output {
    /// Returns the options that select this format.
    fn options(self, architecture: Architecture) -> Vec<String> {
        let real = format!("-arch={architecture}");
        match self {
            Self::LtoIr => vec![real, "-dlto".into(), "-rdc=true".into()],
            Self::Cubin => vec![real, "-Xptxas=-v".into()],
            Self::Ptx => vec![format!("-arch={}", architecture.virtual_name())],
        }
    }

    fn read_output(self, program: &Program<'_>) -> Result<Vec<u8>, NvrtcError> {
        match self {
            Self::LtoIr => program.lto_ir(),
            Self::Cubin => program.cubin(),
            Self::Ptx => program.ptx().map(String::into_bytes),
        }
    }
}

/// Returns NVRTC's options: language, output format and those of the input.
fn options(input: &Input, output: Output) -> Result<Vec<CString>, CompileError> {
    let mut options = output.options(input.architecture);
    options.insert(0, "-std=c++17".into());
    // By default NVRTC fuses products with sums, which no other compiler of the same text does.
    options.push(if input.fast_math { "-use_fast_math" } else { "-fmad=false" }.into());
    options.extend(input.options.iter().cloned());
    // Without this option, `#include "name"` also reads a file of that name from the current directory, which the cache does not see. It is
    // left out with include directories: files there may include their neighbours, which the option forbids.
    let is_include_dir = |option: &String| option.starts_with("-I") || option.starts_with("--include-path");
    if !input.options.iter().any(is_include_dir) {
        options.push("-no-source-include".into());
    }
    options.into_iter().map(|option| input.c_string(option, "an option")).collect()
}

fn kernel(
    input: &Input,
    cubin: Vec<u8>,
    log: String,
    compiler: &'static str,
) -> Result<CompiledKernel, CompileError> {
    let no_cubin = || CompileError::NoCubin { kernel: input.name.clone(), compiler };
    Ok(CompiledKernel { cubin: Cubin::new(cubin).ok_or_else(no_cubin)?, log })
}
