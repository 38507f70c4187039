//! Errors that end a command, and the exit code of each.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;

use dotcompute::cuda::device_selection::DeviceSelectionError;
use dotcompute::error::{HandlerError, LaunchError, LifecycleError};

use crate::hint::Hint;
use crate::nab::LabelError;
use crate::plot::PlotError;
use crate::series::SeriesError;

/// The reason why a command failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The input or an argument is invalid.
    #[error("{0}")]
    Input(String),
    /// A recorded series is not usable.
    #[error(transparent)]
    Series(#[from] SeriesError),
    /// Labels are not usable.
    #[error(transparent)]
    Labels(#[from] LabelError),
    /// A file was not written.
    #[error("writing {}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// A picture was not drawn.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// The reader of standard output closed the pipe.
    #[error("standard output was closed")]
    BrokenPipe,
    /// The device does not exist on this machine or is not usable.
    #[error(transparent)]
    Device(#[from] DeviceSelectionError),
    /// A ring kernel was not launched.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A ring kernel was not activated or did not end.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// A failure that the user cannot correct.
    #[error("{doing}")]
    Internal {
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        source: HandlerError,
    },
}

impl CliError {
    /// Creates a [`CliError::Internal`].
    pub fn internal(doing: &'static str, source: impl Into<HandlerError>) -> Self {
        Self::Internal { doing, source: source.into() }
    }

    /// Exit code: 2 if the user can correct the cause, 1 otherwise, 0 if the reader of standard output closed the pipe.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Input(_)
            | Self::Series(_)
            | Self::Labels(_)
            | Self::Write { .. }
            | Self::Plot(_)
            | Self::Device(_) => 2,
            Self::Launch(_) | Self::Lifecycle(_) | Self::Internal { .. } => 1,
        }
    }

    /// Writes the message, a `caused by:` line for each source, and the hint.
    ///
    /// Some messages contain their source's text already; such a source has no line of its own.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write_report(&self, out: &mut impl Write) -> io::Result<()> {
        let mut text = self.to_string();
        writeln!(out, "error: {text}")?;
        let mut source = self.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                writeln!(out, "caused by: {cause_text}")?;
                text = cause_text;
            }
            source = cause.source();
        }
        match self.hint() {
            Some(hint) => writeln!(out, "hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl Hint for CliError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Series(error) => error.hint(),
            Self::Labels(error) => error.hint(),
            Self::Plot(error) => error.hint(),
            Self::Write { .. } => Some(String::from("check that the folder exists and is writable")),
            // The messages of the runtime say what to do themselves.
            Self::Device(_)
            | Self::Launch(_)
            | Self::Lifecycle(_)
            | Self::Input(_)
            | Self::BrokenPipe
            | Self::Internal { .. } => None,
        }
    }
}

impl From<io::Error> for CliError {
    /// Converts an error of writing to standard output.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::internal("writing to standard output", error)
        }
    }
}
