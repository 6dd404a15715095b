/// What can go wrong in a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration cannot be used, in itself or with this model and data.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The model, or an adapter, cannot be used.
    #[error(transparent)]
    Model(#[from] models::Error),
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// Something else that the user gave cannot be used.
    #[error("{0}")]
    Input(String),
    /// The operating system refused to read or write a file.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What was tried.
        action: &'static str,
        /// The system's own reason.
        source: std::io::Error,
    },
    /// The loss or the gradient is no longer a number.
    #[error(
        "step {step} is not finite (loss {loss}, gradient norm {grad_norm}); lower [optimizer] learning_rate, raise [schedule] warmup_steps, \
         or look for broken samples in the data"
    )]
    NotFinite {
        /// The step, from 1.
        step: u64,
        /// Its loss.
        loss: f64,
        /// The norm of its gradients.
        grad_norm: f64,
    },
    /// A loss that was asked for is not a number.
    #[error("the loss is not finite ({loss}); these weights, or the model in this dtype, give no numbers on this data")]
    NoLoss {
        /// The loss.
        loss: f64,
    },
    /// There is not enough memory.
    #[error("out of memory: tensors held up to {held} when more was asked for{advice} ({cause})")]
    OutOfMemory {
        /// The most that tensors held.
        held: String,
        /// Of what, and what would have fitted.
        advice: String,
        /// libtorch's own words. Not a source: the message has it.
        cause: Box<Error>,
    },
    /// A step failed.
    #[error("step {step}: {cause}")]
    Step {
        /// The step, from 1.
        step: u64,
        /// Why. Not a source: the message has it.
        cause: Box<Error>,
    },
    /// A checkpoint cannot be taken up.
    #[error("{} {problem}", path.display())]
    Checkpoint {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A signal asked to save and stop, and nothing could be saved.
    #[error("a signal ({signal}) asked to stop after step {step}, and its checkpoint could not be written: {reason}")]
    NotSaved {
        /// The signal's number.
        signal: i32,
        /// The step, from 1.
        step: u64,
        /// Why not.
        reason: String,
    },
    /// The ranks no longer have the same parameters.
    #[error("{0}")]
    Diverged(String),
    /// A fault that was asked for.
    #[error("LORACT_INJECT_FAULT asked for an error")]
    InjectedFault,
    /// An operation of the model failed.
    #[error(transparent)]
    Layers(#[from] layers::Error),
    /// A decomposition failed.
    #[error(transparent)]
    LowRank(#[from] compression::Error),
    /// Backward failed.
    #[error(transparent)]
    Autograd(#[from] autograd::Error),
    /// The ranks cannot talk to each other.
    #[error(transparent)]
    Collective(#[from] collective::Error),
    /// The gradients could not be summed.
    #[error(transparent)]
    Reduce(#[from] reduce::Error),
    /// An error of libtorch.
    #[error(transparent)]
    Tch(#[from] tch::TchError),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// Whether the user's input is at fault, rather than the machine or the run.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Config(_) | Self::Data(_) | Self::Input(_) => true,
            Self::Model(error) => !matches!(error, models::Error::Torch { .. }),
            Self::Step { cause, .. } => cause.is_input(),
            _ => false,
        }
    }

    pub(crate) fn in_step(self, step: u64) -> Self {
        Self::Step { step, cause: Box::new(self) }
    }

    pub(crate) fn io(path: &std::path::Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, action, source }
    }
}
