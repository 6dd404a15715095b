use tch::TchError;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Tensors that do not fit together.
    #[error("{operation}: expected {expected}, got {got:?}")]
    Shape {
        /// The operation.
        operation: &'static str,
        /// What it takes.
        expected: String,
        /// The shape it was given.
        got: Vec<i64>,
    },
    /// A backward or a custom function failed.
    #[error(transparent)]
    Autograd(#[from] autograd::Error),
    /// A decomposition failed.
    #[error(transparent)]
    LowRank(#[from] lowrank::Error),
    /// An error of libtorch.
    #[error(transparent)]
    Tch(#[from] TchError),
}
