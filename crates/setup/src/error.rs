use std::path::{Path, PathBuf};

/// Why a run cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used, in itself or with this model and data.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The model, or an adapter, cannot be used.
    #[error(transparent)]
    Model(#[from] models::Error),
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// Something else that the user gave cannot be used.
    #[error("{0}")]
    Input(String),
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A fault that `LORACT_INJECT_FAULT` asked for.
    #[error("LORACT_INJECT_FAULT asked for an error")]
    InjectedFault,
    /// An error of libtorch.
    #[error(transparent)]
    Tch(#[from] tch::TchError),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the user's input is at fault, rather than the machine.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Config(_) | Self::Data(_) | Self::Input(_) => true,
            Self::Model(error) => !matches!(error, models::Error::Torch { .. }),
            Self::Io { .. } | Self::InjectedFault | Self::Tch(_) => false,
        }
    }

    /// Adds path and action to an error of the operating system.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}

impl From<files::Unwritten> for Error {
    fn from(files::Unwritten { path, action, source }: files::Unwritten) -> Self {
        Self::Io { path, action, source }
    }
}
