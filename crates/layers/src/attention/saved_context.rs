use std::sync::{Arc, Mutex};

use tch::Tensor;

use autograd::BoxError;

use crate::{SavePolicy, SavedActivation, Scope, Site};

/// Takes the output's `SavedActivation` out to the caller.
pub(super) type SavedOutput = Arc<Mutex<Option<SavedActivation>>>;

/// What either way of computing attention saves for backward.
pub(super) struct SavedContext {
    pub policy: SavePolicy,
    pub scope: Scope,
    pub output: SavedOutput,
    pub tensors: Option<SavedTensors>,
}

pub(super) struct SavedTensors {
    pub q: SavedActivation,
    pub k: SavedActivation,
    pub v: SavedActivation,
    /// `[batch, tokens, heads · e]`.
    pub out: SavedActivation,
    /// Log of the sum of exponentials, `[batch, heads, tokens]`, in f32 or better.
    pub log_sums: SavedActivation,
}

impl SavedContext {
    /// Saves what backward reads: the `inputs` q, k and v, the output, and the log sums.
    pub fn save(
        &mut self,
        inputs: &[&Tensor],
        out: &Tensor,
        log_sums: &Tensor,
    ) -> Result<(), BoxError> {
        let core = self.scope.site(Site::Core);
        let exact = |x: &Tensor| SavePolicy::Exact.save(x, &core);
        let out = self.policy.save(out, &self.scope.site(Site::AttnOut))?;
        *self.output.lock().map_err(|_| "a thread panicked")? = Some(out.clone());
        self.tensors = Some(SavedTensors {
            q: exact(inputs[0])?,
            k: exact(inputs[1])?,
            v: exact(inputs[2])?,
            out,
            log_sums: exact(log_sums)?,
        });
        Ok(())
    }
}
