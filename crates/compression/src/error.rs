use tch::{Kind, TchError};

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor has the wrong number of dimensions or the wrong size.
    #[error("{operation}: expected {expected}, got a tensor of shape {got:?}")]
    Shape {
        /// The call that was made.
        operation: &'static str,
        /// What it takes.
        expected: String,
        /// What it was given.
        got: Vec<i64>,
    },
    /// A tensor's dtype is not supported.
    #[error("{operation}: expected {expected}, got {got:?}")]
    Kind {
        /// The call that was made.
        operation: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What it was given.
        got: Kind,
    },
    /// A rank outside `1..=min(rows, columns)`.
    #[error("{operation}: rank {rank} of a [{rows}, {columns}] matrix; it must lie between 1 and {}", rows.min(columns))]
    Rank {
        /// The call that was made.
        operation: &'static str,
        /// What was asked for.
        rank: i64,
        /// Rows of the matrix.
        rows: i64,
        /// Columns of the matrix.
        columns: i64,
    },
    /// An option outside its range.
    #[error("{operation}: {option} = {got}; it must be {expected}")]
    Setting {
        /// The call that was made.
        operation: &'static str,
        /// The option.
        option: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        got: String,
    },
    /// The matrix holds a NaN or an infinity.
    #[error(
        "{operation}: the [{rows}, {columns}] matrix holds NaN or infinity; look for what overflowed before it (the learning rate, f16 range)"
    )]
    NotFinite {
        /// The call that was made.
        operation: &'static str,
        /// Rows of the matrix.
        rows: i64,
        /// Columns of the matrix.
        columns: i64,
    },
    /// A kernel failed.
    #[error(transparent)]
    Kernel(#[from] kernels::Error),
    /// An error of libtorch.
    #[error(transparent)]
    Tch(#[from] TchError),
}
