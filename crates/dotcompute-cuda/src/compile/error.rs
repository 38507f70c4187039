//! Errors of the compilation.

use std::fmt::Write as _;

use thiserror::Error;

use super::{Diagnostic, Severity, diagnostic};
use crate::Architecture;
use crate::library::{Identity, Unavailable};
use crate::nvjitlink::NvJitLinkError;
use crate::nvrtc::NvrtcError;

/// The failed step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// NVRTC compiles the source text.
    Compiling,
    /// nvJitLink links the parts.
    Linking,
}

impl Stage {
    const fn verb(self) -> &'static str {
        match self {
            Self::Compiling => "compiling",
            Self::Linking => "linking",
        }
    }
}

/// The reason why the toolchain has no linker.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoLinker {
    /// nvJitLink is not installed, or not at the configured location.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// nvJitLink is older than NVRTC and cannot read its LTO-IR.
    #[error(
        "nvJitLink {linker} is older than NVRTC {compiler} and cannot read its LTO-IR; install `nvidia-nvjitlink` of the same version or newer"
    )]
    TooOld {
        /// The linker that was found.
        linker: Identity,
        /// The compiler that was found.
        compiler: Identity,
    },
    /// The caller disabled it with [`Toolchain::without_linker`](super::Toolchain::without_linker).
    #[error("nvJitLink is disabled by `Toolchain::without_linker`")]
    Disabled,
}

/// The error of [`Toolchain::compile`](super::Toolchain::compile).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CompileError {
    /// The input cannot be passed to the compiler.
    #[error("compiling kernel `{kernel}`: {problem}")]
    Unusable {
        /// The kernel.
        kernel: String,
        /// The problem with the input.
        problem: String,
    },
    /// The compiler or the linker rejected the text, an option or a part.
    #[error("{} kernel `{kernel}` for {architecture} failed:{}", .stage.verb(), listed(*.stage, .diagnostics, .log))]
    Rejected {
        /// The kernel.
        kernel: String,
        /// The target architecture.
        architecture: Architecture,
        /// The failed step.
        stage: Stage,
        /// The messages that are errors.
        diagnostics: Vec<Diagnostic>,
        /// The complete log.
        log: String,
    },
    /// The input has parts in LTO-IR, and the toolchain has no linker.
    #[error("compiling kernel `{kernel}`: it has parts in LTO-IR, which need nvJitLink: {reason}")]
    NeedsLinker {
        /// The kernel.
        kernel: String,
        /// The reason why there is no linker.
        reason: NoLinker,
    },
    /// NVRTC failed for a reason other than the input.
    #[error("compiling kernel `{kernel}`: {source}{}{log}", if .log.is_empty() { "" } else { "\n" })]
    Nvrtc {
        /// The kernel.
        kernel: String,
        /// The error of NVRTC.
        source: NvrtcError,
        /// The log of NVRTC; may be empty.
        log: String,
    },
    /// The output of the compiler is not a cubin.
    #[error("compiling kernel `{kernel}`: the output of {compiler} is not a cubin; reinstall it")]
    NoCubin {
        /// The kernel.
        kernel: String,
        /// The program that produced the output.
        compiler: &'static str,
    },
}

impl CompileError {
    pub(super) fn rejected(kernel: &str, architecture: Architecture, stage: Stage, log: String) -> Self {
        let mut diagnostics = diagnostic::parse(&log);
        diagnostics.retain(|diagnostic| diagnostic.severity == Severity::Error);
        Self::Rejected { kernel: kernel.to_owned(), architecture, stage, diagnostics, log }
    }

    pub(super) fn link(kernel: &str, architecture: Architecture, error: &NvJitLinkError) -> Self {
        Self::rejected(kernel, architecture, Stage::Linking, error.to_string())
    }

    /// Returns the errors, with the user's own files and lines. Empty if the input was not rejected.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            Self::Rejected { diagnostics, .. } => diagnostics,
            _ => &[],
        }
    }

    /// Returns the complete log of compiler and linker.
    pub fn log(&self) -> &str {
        match self {
            Self::Rejected { log, .. } | Self::Nvrtc { log, .. } => log,
            _ => "",
        }
    }
}

/// Formats the diagnostics. Returns the whole log if it has none that could be parsed, and for the linker, whose log is short and varies in
/// form.
fn listed(stage: Stage, diagnostics: &[Diagnostic], log: &str) -> String {
    if stage == Stage::Linking || diagnostics.is_empty() {
        return format!("\n{}", log.trim_end());
    }
    let mut text = String::new();
    for diagnostic in diagnostics {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "\n{diagnostic}");
    }
    text
}
