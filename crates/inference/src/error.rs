/// Why text cannot be generated, or an adapter not be merged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model or the adapter cannot be used, or a file cannot be read or written.
    #[error(transparent)]
    Setup(#[from] setup::Error),
    /// Something else that the user gave cannot be used.
    #[error("{0}")]
    Input(String),
    /// An operation of the model failed.
    #[error(transparent)]
    Layers(#[from] layers::Error),
    /// A random number could not be drawn.
    #[error(transparent)]
    Autograd(#[from] autograd::Error),
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
            Self::Layers(_) | Self::Autograd(_) | Self::Tch(_) => false,
        }
    }

    pub(crate) fn io(
        path: &std::path::Path,
        action: &'static str,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let error = setup::Error::io(path, action);
        move |source| error(source).into()
    }
}

impl From<models::Error> for Error {
    fn from(error: models::Error) -> Self {
        Self::Setup(error.into())
    }
}

impl From<data::Error> for Error {
    fn from(error: data::Error) -> Self {
        Self::Setup(error.into())
    }
}
