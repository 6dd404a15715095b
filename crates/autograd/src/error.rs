use tch::TchError;

/// Whatever a custom function fails with; `?` turns any error into it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The forward of a custom function failed.
    #[error("forward of {function}: {source}")]
    Forward {
        /// The function's name.
        function: String,
        /// Its own error.
        source: BoxError,
    },
    /// libtorch refused, or a backward failed; the message names the function.
    #[error("{0}")]
    Torch(String),
    /// An error of tch.
    #[error(transparent)]
    Tch(#[from] TchError),
    /// Two lists that belong together have different lengths.
    #[error("{operation}: expected {expected} {what}, got {got}")]
    Length {
        /// The call that was made.
        operation: &'static str,
        /// What is counted.
        what: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        got: usize,
    },
    /// The device has no such counter or generator.
    #[error(
        "{operation}: no {device:?} device here; use the CPU, or a libtorch with CUDA on a machine with a GPU"
    )]
    Device {
        /// The call that was made.
        operation: &'static str,
        /// The device asked for.
        device: tch::Device,
    },
}
