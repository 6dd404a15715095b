use std::path::{Path, PathBuf};

/// Why a checkpoint cannot be written, found or loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is not that of the run that wrote the checkpoint.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// There is no such checkpoint, or it is damaged.
    #[error("{0}")]
    Input(String),
    /// A file of a checkpoint cannot be read as tensors.
    #[error(transparent)]
    Tensors(#[from] models::Error),
    /// A checkpoint does not fit what is to be restored from it.
    #[error("{} {problem}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
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
    /// The owner of the state could not copy or restore it.
    #[error(transparent)]
    State(Box<dyn std::error::Error + Send + Sync>),
    /// The ranks cannot communicate.
    #[error(transparent)]
    Collective(#[from] collective::Error),
    /// An error of libtorch.
    #[error(transparent)]
    Tch(#[from] tch::TchError),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Wraps an error of the owner of the state, for [`crate::Checkpointable`].
    pub fn state(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::State(Box::new(error))
    }

    /// Whether the user's input is at fault, rather than the machine or the run.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Config(_) | Self::Input(_) => true,
            Self::Tensors(error) => !matches!(error, models::Error::Torch { .. }),
            _ => false,
        }
    }

    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}
