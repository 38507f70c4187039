//! What ends a command early, and the exit code it ends with.

use std::path::PathBuf;

use dotcompute::cuda::device_selection::DeviceSelectionError;
use dotcompute::error::{HandlerError, LaunchError, LifecycleError};

use crate::nab::LabelError;
use crate::plot::PlotError;
use crate::series::SeriesError;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CliError {
    /// The input or the way it was asked is at fault.
    #[error("{0}")]
    Input(String),
    /// A recorded series cannot be used.
    #[error(transparent)]
    Series(#[from] SeriesError),
    /// Labels cannot be used.
    #[error(transparent)]
    Labels(#[from] LabelError),
    /// A file could not be written.
    #[error("writing {}: {source}; check that its folder exists and can be written to", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: std::io::Error,
    },
    /// A picture could not be drawn.
    #[error(transparent)]
    Plot(#[from] PlotError),
    /// Standard output was closed by its reader, who has seen enough.
    #[error("standard output was closed")]
    BrokenPipe,
    /// This machine has no such device, or it cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceSelectionError),
    /// A ring kernel could not be launched.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A ring kernel could not be activated or ended.
    #[error(transparent)]
    Lifecycle(#[from] LifecycleError),
    /// Something that should not happen.
    #[error("{doing}: {source}")]
    Internal {
        /// What was being done.
        doing: &'static str,
        /// What went wrong.
        source: HandlerError,
    },
}

impl CliError {
    /// An error while doing something that should not fail.
    pub fn internal(doing: &'static str, source: impl Into<HandlerError>) -> Self {
        Self::Internal { doing, source: source.into() }
    }

    /// 2 where the user can mend it, 1 where not; 0 for a reader that has seen enough.
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
}

impl From<std::io::Error> for CliError {
    /// From writing to standard output.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::internal("writing to standard output", error)
        }
    }
}
