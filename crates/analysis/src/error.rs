/// Why an analysis failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The run cannot be set up.
    #[error(transparent)]
    Setup(#[from] setup::Error),
    /// The recorded values cannot be used.
    #[error("{0}")]
    Input(String),
    /// An operation of the model failed.
    #[error(transparent)]
    Layers(#[from] layers::Error),
    /// A decomposition failed.
    #[error(transparent)]
    LowRank(#[from] compression::Error),
    /// Backward failed.
    #[error(transparent)]
    Autograd(#[from] autograd::Error),
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
    /// Whether the user's input is at fault, rather than the machine.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Setup(error) => error.is_input(),
            Self::Input(_) => true,
            _ => false,
        }
    }
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Self::Setup(error.into())
    }
}

impl From<models::Error> for Error {
    fn from(error: models::Error) -> Self {
        Self::Setup(error.into())
    }
}
