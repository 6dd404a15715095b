use tch::TchError;

use crate::SiteId;

/// What an operation gives, or why it cannot.
pub type Result<T> = std::result::Result<T, Error>;

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
    /// A tensor could not be compressed.
    #[error("{site_id}: {source}")]
    Compression {
        /// Where it was to be kept.
        site_id: SiteId,
        /// Why not.
        source: compression::Error,
    },
    /// A tensor that was kept holds a NaN or an infinity (found at the end of the step, on a GPU).
    #[error("{site_id}: the activation holds NaN or infinity; look for what overflowed before it (the learning rate, f16 range)")]
    NotFinite {
        /// Where it was kept.
        site_id: SiteId,
    },
    /// A tensor that was kept as it is was edited in place afterwards.
    #[error("{site_id}: the kept tensor was edited in place before backward read it; edit a copy")]
    Edited {
        /// Where it was kept.
        site_id: SiteId,
    },
    /// The input of a block that is kept by its difference from the one before was asked for twice, or before those behind it.
    #[error(
        "{site_id}: inputs kept as differences come back once, from the last block to the first; a second backward through the same graph needs \
         another way of keeping"
    )]
    OutOfOrder {
        /// Where it was kept.
        site_id: SiteId,
    },
    /// What sites remembered was written down under a name that is none of theirs.
    #[error("{name} is no part of a site's memory; it was written by another version")]
    State {
        /// The name.
        name: String,
    },
    /// A backward or a custom function failed.
    #[error(transparent)]
    Autograd(#[from] autograd::Error),
    /// A decomposition failed.
    #[error(transparent)]
    LowRank(#[from] compression::Error),
    /// An error of libtorch.
    #[error(transparent)]
    Tch(#[from] TchError),
}
