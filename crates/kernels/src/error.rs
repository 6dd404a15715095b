use tch::TchError;

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// CUDA did not take a kernel.
    #[error(
        "coded: CUDA refused kernel {kernel}: {reason}; it may tell of an earlier fault on this GPU, which CUDA_LAUNCH_BLOCKING=1 shows where it happens"
    )]
    Kernel {
        /// Its name.
        kernel: String,
        /// What the driver says.
        reason: String,
    },
    /// An error of libtorch.
    #[error(transparent)]
    Tch(#[from] TchError),
}
