use std::error::Error as _;
use std::path::Path;

use tch::Device;

/// What can go wrong in a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Configuration, model or data cannot be used.
    #[error(transparent)]
    Setup(#[from] setup::Error),
    /// The budget of activations could not be allocated.
    #[error(transparent)]
    Analysis(#[from] analysis::Error),
    /// A checkpoint cannot be found, loaded or written.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// Something else that the user gave cannot be used.
    #[error("{0}")]
    Input(String),
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
    /// The validation loss is not a number.
    #[error(
        "the loss is not finite ({loss}); these weights, or the model in this dtype, give no numbers on this data"
    )]
    NoLoss {
        /// The loss.
        loss: f64,
    },
    /// There is not enough memory.
    #[error("out of memory: tensors held up to {} when more was asked for{advice} ({cause})", config::units::bytes(*.held as f64))]
    OutOfMemory {
        /// The peak of tensor memory, in bytes.
        held: u64,
        /// What the memory is used for, and what would fit; see [`Error::with_memory_advice`].
        advice: String,
        /// libtorch's message. Not a source: the message has it.
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
    /// A signal asked to save and stop, and nothing could be saved.
    #[error(
        "a signal ({signal}) asked to stop after step {step}, and its checkpoint could not be written: {reason}"
    )]
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
    /// An operation of the model failed.
    #[error(transparent)]
    Layers(#[from] layers::Error),
    /// Backward failed.
    #[error(transparent)]
    Autograd(#[from] autograd::Error),
    /// The ranks cannot communicate.
    #[error(transparent)]
    Collective(#[from] collective::Error),
    /// The gradients could not be summed.
    #[error(transparent)]
    Reduce(#[from] reduce::Error),
    /// The optimizer failed.
    #[error(transparent)]
    Optim(#[from] optim::Error),
    /// An error of libtorch.
    #[error(transparent)]
    Tch(#[from] tch::TchError),
}

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// The words of libtorch, of the CPU's allocator and of CUDA's.
const OUT_OF_MEMORY: [&str; 3] = ["out of memory", "can't allocate memory", "not enough memory"];

impl Error {
    /// Whether the user's input is at fault, rather than the machine or the run.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Setup(error) => error.is_input(),
            Self::Analysis(error) => error.is_input(),
            Self::Checkpoint(error) => error.is_input(),
            Self::Input(_) => true,
            Self::Step { cause, .. } => cause.is_input(),
            _ => false,
        }
    }

    /// Adds advice to an error of memory that ran out. `advice` receives the peak of tensor memory,
    /// in bytes.
    #[must_use]
    pub fn with_memory_advice(self, advice: impl FnOnce(u64) -> String) -> Self {
        match self {
            Self::OutOfMemory { held, cause, .. } => {
                Self::OutOfMemory { held, advice: advice(held), cause }
            }
            Self::Step { step, cause } => {
                Self::Step { step, cause: Box::new(cause.with_memory_advice(advice)) }
            }
            other => other,
        }
    }

    /// Turns an error that says that memory ran out into [`Error::OutOfMemory`], with the peak of
    /// `device`.
    pub(crate) fn with_memory_peak(self, device: Device) -> Self {
        let mut texts = vec![self.to_string()];
        let mut cause = self.source();
        while let Some(error) = cause {
            texts.push(error.to_string());
            cause = error.source();
        }
        if !texts.iter().any(|text| OUT_OF_MEMORY.iter().any(|words| text.contains(words))) {
            return self;
        }
        let held = autograd::memory::peak(device).unwrap_or(0);
        Self::OutOfMemory { held, advice: String::new(), cause: Box::new(self) }
    }

    pub(crate) fn in_step(self, step: u64) -> Self {
        Self::Step { step, cause: Box::new(self) }
    }

    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let error = setup::Error::io(path, action);
        move |source| error(source).into()
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

impl From<data::Error> for Error {
    fn from(error: data::Error) -> Self {
        Self::Setup(error.into())
    }
}

impl From<files::Unwritten> for Error {
    fn from(error: files::Unwritten) -> Self {
        Self::Setup(error.into())
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    #[test]
    fn libtorchs_message_is_recognized_and_advice_is_added() {
        let refused = Tensor::f_empty([1 << 50], (Kind::Uint8, Device::Cpu)).unwrap_err();
        let error = Error::Tch(refused)
            .with_memory_peak(Device::Cpu)
            .in_step(3)
            .with_memory_advice(|_| "; buy more".to_owned());
        let message = error.to_string();
        assert!(
            message.starts_with("step 3: out of memory: tensors held up to ")
                && message.contains("; buy more ("),
            "{message}"
        );
        let other = Error::Input("no".into()).with_memory_peak(Device::Cpu);
        assert!(matches!(other, Error::Input(_)));
    }
}
