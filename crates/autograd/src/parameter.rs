use std::ops::Deref;

use tch::Tensor;

/// A weight of a model: a tensor with its name, which several threads may read.
///
/// [`tch::Tensor`] is `Send` but not `Sync`, so that a block that backward has to run again (on
/// CUDA, on a thread of libtorch's) could not be shared by an `Arc`.
#[derive(Debug)]
pub struct Parameter {
    name: String,
    tensor: Tensor,
}

// SAFETY: through `&Parameter` only methods that take `&Tensor` can be called. libtorch's const
// methods may run concurrently: its reference counts, version counters and lazily made gradient
// accumulators are atomic or locked. `.grad` is written by the engine and read by the optimiser,
// never at the same time.
unsafe impl Sync for Parameter {}

impl Parameter {
    /// A weight that is frozen or trained as `tensor.requires_grad()` says.
    pub fn new(name: impl Into<String>, tensor: Tensor) -> Self {
        Self { name: name.into(), tensor }
    }

    /// The name under which checkpoints hold it, e.g. `model.layers.0.self_attn.q_proj.weight`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The tensor.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }
}

impl Deref for Parameter {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        &self.tensor
    }
}
