//! Why something could not be compiled.

use std::fmt::Write as _;

use thiserror::Error;

use super::{Diagnostic, Severity, diagnostic};
use crate::Architecture;
use crate::library::{Identity, Unavailable};
use crate::nvjitlink::NvJitLinkError;
use crate::nvrtc::NvrtcError;

/// The step that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Compiling the text.
    Compiling,
    /// Linking the parts.
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

/// Why there is no linker.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoLinker {
    /// It is not on this machine, or not where it should be.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// It would refuse what the compiler makes.
    #[error(
        "nvJitLink is {linker}, older than NVRTC, {compiler}, whose LTO-IR it cannot read; install `nvidia-nvjitlink` of the same version or newer"
    )]
    TooOld {
        /// Which linker.
        linker: Identity,
        /// Which compiler.
        compiler: Identity,
    },
    /// It was not to be used.
    #[error("nvJitLink was left out on purpose")]
    LeftOut,
}

/// Why a kernel was not compiled.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum CompileError {
    /// What is to be compiled cannot be given to the compiler.
    #[error("compiling kernel `{kernel}`: {problem}")]
    Unusable {
        /// The kernel.
        kernel: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The text, an option or a part is wrong; the compiler or the linker says where.
    #[error("{} kernel `{kernel}` for {architecture} failed:{}", .stage.verb(), listed(*.stage, .diagnostics, .log))]
    Rejected {
        /// The kernel.
        kernel: String,
        /// What it was compiled for.
        architecture: Architecture,
        /// The step that failed.
        stage: Stage,
        /// The messages that are errors.
        diagnostics: Vec<Diagnostic>,
        /// Everything that was said.
        log: String,
    },
    /// There are parts from other front ends and nothing to link them with.
    #[error("kernel `{kernel}` has parts in LTO-IR, and there is no linker for them: {reason}")]
    NeedsLinker {
        /// The kernel.
        kernel: String,
        /// Why there is none.
        reason: NoLinker,
    },
    /// NVRTC failed for another reason than the text.
    #[error("compiling kernel `{kernel}`: {source}{}{log}", if .log.is_empty() { "" } else { "\n" })]
    Nvrtc {
        /// The kernel.
        kernel: String,
        /// What it says.
        source: NvrtcError,
        /// What its log says; may be empty.
        log: String,
    },
    /// What came out is no machine code.
    #[error("compiling kernel `{kernel}`: {compiler} made something that is no cubin; reinstall it")]
    NoCubin {
        /// The kernel.
        kernel: String,
        /// Who made it.
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

    /// The messages that are errors, with the user's own files and lines; empty if it was not the text that is wrong.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        match self {
            Self::Rejected { diagnostics, .. } => diagnostics,
            _ => &[],
        }
    }

    /// Everything that compiler and linker said.
    pub fn log(&self) -> &str {
        match self {
            Self::Rejected { log, .. } | Self::Nvrtc { log, .. } => log,
            _ => "",
        }
    }
}

/// The messages; or the whole log where none could be told, and of the linker, whose log is short and of many forms.
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
