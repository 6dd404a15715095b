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
        /// The site where it was to be saved.
        site_id: SiteId,
        /// Why not.
        source: compression::Error,
    },
    /// A saved tensor holds a NaN or an infinity (found at the end of the step, on a GPU).
    #[error(
        "{site_id}: the activation holds NaN or infinity; look for what overflowed before it (the learning rate, f16 range)"
    )]
    NotFinite {
        /// The site where it was saved.
        site_id: SiteId,
    },
    /// An exactly saved tensor was edited in place afterwards.
    #[error("{site_id}: the saved tensor was edited in place before backward read it; edit a copy")]
    Edited {
        /// The site where it was saved.
        site_id: SiteId,
    },
    /// The input of a block that is saved as its delta from the one before was asked for twice, or
    /// before those of later blocks.
    #[error(
        "{site_id}: inputs saved as deltas are restored once, from the last block to the first; a second backward through the same graph needs \
         another save policy"
    )]
    OutOfOrder {
        /// The site where it was saved.
        site_id: SiteId,
    },
    /// A saved state has a name that no site has.
    #[error("{name} is not part of a site's state; it was written by another version")]
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
