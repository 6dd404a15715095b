/// What can go wrong when gradients are reduced.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A key of the configuration has a value without meaning.
    #[error("gradients: {key} = {value} has no meaning; it must be {valid}")]
    Config {
        /// The key.
        key: &'static str,
        /// Its value.
        value: String,
        /// What is allowed.
        valid: &'static str,
    },

    /// A parameter whose gradients cannot be reduced.
    #[error(
        "parameter `{name}` cannot be reduced: {reason}; pass dense leaf tensors of f32 or bf16 on one device, each with its own name"
    )]
    Parameter {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },

    /// The ranks were set up differently.
    #[error(
        "the ranks cannot reduce gradients together: {ranks}; start all ranks with the same program, model and configuration"
    )]
    Setup {
        /// Which ranks, and what is the matter there.
        ranks: String,
    },

    /// Gradients are not of their parameter's kind on some ranks.
    #[error("step {step}: {ranks}; leave gradients as backward makes them")]
    Gradient {
        /// The step.
        step: u64,
        /// Which ranks and parameters, and what is the matter there.
        ranks: String,
    },

    /// The ranks are at different steps.
    #[error(
        "this rank is at step {step}, while steps from {first} to {last} are going on; resume all ranks from the same checkpoint"
    )]
    Step {
        /// This rank's step.
        step: u64,
        /// The smallest step of all ranks.
        first: u64,
        /// The largest.
        last: u64,
    },

    /// A saved state does not fit.
    #[error(
        "the saved state of the gradients does not fit: `{name}`: {reason}; load what this configuration saved, or start without it"
    )]
    State {
        /// The tensor's name in the state.
        name: String,
        /// What is wrong with it.
        reason: String,
    },

    /// Backward began to send the gradients of another step.
    #[error(
        "gradients of step {began} are on their way, and step {step} cannot be reduced; call `reduce` with the step that `begin` was given"
    )]
    Begun {
        /// The step that is being reduced.
        step: u64,
        /// The step of [`GradientReducer::begin`](crate::GradientReducer::begin).
        began: u64,
    },

    /// An earlier failure left gradients behind.
    #[error(
        "an earlier failure left the reducer without its buffers; end the job and start again from a checkpoint"
    )]
    Broken,

    /// The thread that sends gradients could not be started.
    #[error("the thread that sends gradients cannot be started")]
    Thread(#[source] std::io::Error),

    /// A gradient hook could not be set, or a gradient not put in its place.
    #[error(transparent)]
    Autograd(#[from] autograd::Error),

    /// A collective failed.
    #[error(transparent)]
    Collective(#[from] collective::Error),

    /// libtorch failed.
    #[error("libtorch failed while gradients were reduced")]
    Torch(#[from] tch::TchError),
}

/// The result of reducing.
pub type Result<T, E = Error> = std::result::Result<T, E>;
