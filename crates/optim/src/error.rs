/// Why an optimizer step failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ranks could not exchange the parameters that each of them stepped.
    #[error(transparent)]
    Collective(#[from] collective::Error),
    /// An error of libtorch.
    #[error(transparent)]
    Tch(#[from] tch::TchError),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
